package exclude

import (
	"errors"
	"strings"
	"testing"
)

func mustNew(t testing.TB, o Options) *Rules {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMatch(t *testing.T) {
	o := Options{
		Patterns:    []string{"*.tmp", "", "cache/*", "[x]y"},
		IgnoreFiles: []IgnoreFile{{Name: "my.ignore", Data: []byte("# comment\r\n*.log\r\n!keep.log\r\n")}},
		IgnoreRules: []string{"build/", "/top", "doc/**/draft"},
		MaxSize:     100,
	}
	r := mustNew(t, o)
	for _, c := range []struct {
		rel    string
		isDir  bool
		size   int64
		reason string // "" for kept
	}{
		{"a.tmp", false, 0, `pattern "*.tmp"`},
		{"d/a.tmp", false, 0, `pattern "*.tmp"`},
		{"d.tmp", true, 0, `pattern "*.tmp"`},
		{"a.TMP", false, 0, ""},
		{"cache", true, 0, ""},
		{"cache/x/y", false, 0, `pattern "cache/*"`},
		{"d/cache/x", false, 0, ""},
		{"d/xy", false, 0, `pattern "[x]y"`},
		{"d/a.log", false, 0, `rule "*.log" (my.ignore:2)`},
		{"d/keep.log", false, 0, ""},
		{"d/keep.log", false, 101, "larger than 100 bytes"},
		{"d/build", true, 0, `rule "build/" (line 1)`},
		{"d/build", false, 0, ""},
		{"top", false, 0, `rule "/top" (line 2)`},
		{"d/top", false, 0, ""},
		{"doc/draft", false, 0, `rule "doc/**/draft" (line 3)`},
		{"doc/a/b/draft", true, 0, `rule "doc/**/draft" (line 3)`},
		{"big", false, 100, ""},
		{"big", false, 101, "larger than 100 bytes"},
		{"big", true, 1 << 40, ""},
		{"\xff\xfe.tmp", false, 0, `pattern "*.tmp"`},
		{"new\nline.log", false, 0, `rule "*.log" (my.ignore:2)`},
	} {
		got, reason := r.Match(c.rel, c.isDir, c.size)
		if got != (c.reason != "") || reason != c.reason {
			t.Errorf("Match(%q, %v, %d) = %v, %q; want reason %q", c.rel, c.isDir, c.size, got, reason, c.reason)
		}
	}
	// What is below an excluded directory is found by MatchTree only.
	if got, _ := r.Match("build/x", false, 0); got {
		t.Error("Match looks at parents")
	}
	if got, reason := r.MatchTree("build/x/y", false, 0); !got || reason != `rule "build/" (line 1)` {
		t.Errorf("MatchTree = %v, %q", got, reason)
	}
	if got, _ := r.MatchTree("building/x", false, 0); got {
		t.Error("MatchTree(building/x) excluded")
	}
}

func TestNilAndEmpty(t *testing.T) {
	var none *Rules
	for _, r := range []*Rules{none, mustNew(t, Options{}), mustNew(t, Options{Patterns: []string{""}, IgnoreRules: []string{"", "#x", "  "}})} {
		if got, _ := r.MatchTree("a/b", false, 1<<60); got || !r.Empty() || len(r.Markers()) != 0 {
			t.Errorf("%+v excludes something", r)
		}
	}
	for _, o := range []Options{{Patterns: []string{"a"}}, {IgnoreRules: []string{"a"}}, {Caches: true}, {MaxSize: 1}} {
		if mustNew(t, o).Empty() {
			t.Errorf("%+v is empty", o)
		}
	}
}

func TestMarkers(t *testing.T) {
	m := mustNew(t, Options{IfPresent: []string{".nobackup", "TAG:head: er"}, Caches: true}).Markers()
	if len(m) != 3 || m[0].Name != ".nobackup" || m[1].Name != "TAG" || m[2].Name != CacheTagName {
		t.Fatalf("markers %+v", m)
	}
	for _, c := range []struct {
		m    Marker
		head string
		want bool
	}{
		{m[0], "", true},
		{m[1], "head: er", true},
		{m[1], "head: er and more", true},
		{m[1], "head: e", false},
		{m[2], "Signature: 8a477f597d28d172789f06886806bc55\n# by x", true},
		{m[2], "Signature: 8a477f597d28d172789f06886806bc5", false},
		{m[2], "", false},
	} {
		if got := c.m.Matches([]byte(c.head)); got != c.want {
			t.Errorf("%q begins with %q: %v", c.m.Name, c.head, got)
		}
	}
}

func TestBadOptions(t *testing.T) {
	long := strings.Repeat("x", MaxPatternBytes+1)
	for _, c := range []struct {
		o    Options
		want []string // parts of the message
	}{
		{Options{IgnoreRules: []string{"ok", "a[b"}}, []string{`"a[b"`, "line 2", "not closed"}},
		{Options{IgnoreFiles: []IgnoreFile{{"/etc/x", []byte("ok\n\nfoo\\\n")}}}, []string{`"foo\\"`, "/etc/x:3", "backslash"}},
		{Options{IgnoreRules: []string{"[[:digits:]]"}}, []string{"line 1", "[:digits:]"}},
		{Options{IgnoreRules: []string{"/"}}, []string{"names nothing"}},
		{Options{IgnoreRules: []string{"!"}}, []string{"names nothing"}},
		{Options{IgnoreRules: []string{"a//b"}}, []string{"empty path element"}},
		{Options{IgnoreRules: []string{"a\nb"}}, []string{"newline"}},
		{Options{IgnoreRules: []string{long}}, []string{"line 1", "longer than 4096"}},
		{Options{Patterns: []string{"ok", long}}, []string{"pattern 2", "longer than 4096"}},
		{Options{IfPresent: []string{"a/b"}}, []string{`"a/b"`}},
		{Options{IfPresent: []string{":x"}}, []string{`":x"`}},
	} {
		_, err := New(c.o)
		if !errors.Is(err, ErrBadPattern) {
			t.Errorf("%+v: error %v", c.o, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q lacks %q", err, w)
			}
		}
	}
	if _, err := New(Options{MaxSize: -1}); err == nil {
		t.Error("negative size accepted")
	}
	if _, err := New(Options{Patterns: make([]string, MaxPatterns+1)}); err == nil {
		t.Error("too many patterns accepted")
	}
	if _, err := New(Options{IgnoreRules: strings.Split(strings.Repeat("a ", MaxPatterns+1), " ")}); err == nil {
		t.Error("too many rules accepted")
	}
}

func TestIncludes(t *testing.T) {
	in, err := NewIncludes([]string{"/etc/nginx", "*.conf", "!secret.conf", "home/*/mail/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rel   string
		isDir bool
		want  bool
	}{
		{"etc", true, false},
		{"etc/nginx", true, true},
		{"etc/nginx/sites/a", false, true},
		{"etc/nginx/secret.conf", false, false},
		{"var/x.conf", false, true},
		{"home/u/mail", true, true},
		{"home/u/mail", false, false},
		{"home/u/mail/1", false, true},
		{"home/u/other", false, false},
	} {
		if got := in.Match(c.rel, c.isDir); got != c.want {
			t.Errorf("Match(%q) = %v", c.rel, got)
		}
	}
	in, err = NewIncludes([]string{"/etc/nginx/x", "home/*/mail"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir  string
		want bool
	}{
		{"", true}, {"etc", true}, {"et", false}, {"etc/nginx", true}, {"etc/nginx/x", true},
		{"etc/nginx/x/y", true}, {"etc/ssh", false}, {"home", true}, {"home/u", true},
		{"home/u/mail/x", true}, {"homes", false}, {"var", false},
	} {
		if got := in.Descend(c.dir); got != c.want {
			t.Errorf("Descend(%q) = %v", c.dir, got)
		}
	}
	var all *Includes
	if !all.Match("x", false) || !all.Descend("x") {
		t.Error("nil Includes select nothing")
	}
	if _, err := NewIncludes([]string{"["}); !errors.Is(err, ErrBadPattern) {
		t.Errorf("bad include: %v", err)
	}
}

// Descend must never hide a path that Match selects.
func FuzzIncludesDescend(f *testing.F) {
	f.Add("a/*/c", "a/b/c/d")
	f.Add("**/x", "a/b/x")
	f.Add("a\\b/c", "ab/c")
	f.Fuzz(func(t *testing.T, rule, rel string) {
		in, err := NewIncludes([]string{rule})
		if err != nil || rel == "" || !in.Match(rel, false) {
			return
		}
		for i := range rel {
			if rel[i] == '/' && i > 0 && !in.Descend(rel[:i]) {
				t.Fatalf("rule %q selects %q but Descend(%q) is false", rule, rel, rel[:i])
			}
		}
	})
}

func TestMatchDoesNotAllocate(t *testing.T) {
	r := benchRules(t)
	for _, p := range benchPaths {
		if n := testing.AllocsPerRun(100, func() { r.Match(p, false, 10) }); n != 0 {
			t.Errorf("Match(%q) allocates %v times", p, n)
		}
	}
}

func benchRules(t testing.TB) *Rules {
	return mustNew(t, Options{
		Patterns:    []string{"*.tmp", "*.pyc", "*~", ".DS_Store", "*/.cache/*", "core.[0-9]*", "lost+found"},
		IgnoreRules: []string{"node_modules/", "*.o", "*.swp", "/proc", "/sys", "/var/cache/**", "**/target/debug", "!keep.o", "Thumbs.db", "*.log.[0-9]", "build/", "*.bak", "/tmp/*"},
		MaxSize:     1 << 40,
		Caches:      true,
	})
}

var benchPaths = []string{
	"home/user/src/project/internal/module/file.go",
	"usr/share/doc/package/changelog.Debian.gz",
	"var/lib/service/0123456789abcdef0123456789abcdef",
	"home/user/Bilder/2019/Größe/IMG_0001.JPG",
}

func BenchmarkMatch(b *testing.B) {
	r := benchRules(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Match(benchPaths[i%len(benchPaths)], false, 10)
	}
}
