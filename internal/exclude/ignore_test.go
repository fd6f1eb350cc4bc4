package exclude

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Cases by hand, each agreed with git check-ignore.
func TestIgnoreRules(t *testing.T) {
	for _, c := range []struct {
		rules string // one a line
		rel   string // ends in '/' for a directory
		want  bool
	}{
		{"foo", "foo", true},
		{"foo", "a/foo/", true},
		{"foo", "a/foobar", false},
		{"/foo", "a/foo", false},
		{"a/foo", "b/a/foo", false},
		{"foo/", "foo", false},
		{"foo/", "a/foo/", true},
		{"*.o\n!keep.o", "a/keep.o", false},
		{"!keep.o\n*.o", "a/keep.o", true},
		{"foo ", "foo", true},
		{"foo\\ ", "foo ", true},
		{"foo\\  ", "foo ", true},
		{"\\#x", "#x", true},
		{"\\!x", "!x", true},
		{"a/**", "a/", false},
		{"a/**", "a/b/c", true},
		{"**/b", "b", true},
		{"**/b/c", "x/b/x/b/c", true},
		{"a/**/b", "a/b", true},
		{"a/**/b", "a/x/y/b", true},
		{"a/*/b", "a/x/y/b", false},
		{"a**/b", "ab", true}, // an accident of git, kept
		{"a**b", "axb", true},
		{"x/a**b", "x/a/b", false},
		{"[!a]b", "cb", true},
		{"[!a]b", "ab", false},
		{"[^a]b", "cb", true},
		{"[[:digit:]a-c]", "7", true},
		{"[[:digit:]a-c]", "b", true},
		{"[]-]", "]", true},
		{"[]-]", "-", true},
		{"[a\\]]", "]", true},
		{"?", "\xff", true},
		{"?", "ä", false}, // two bytes
		{"??", "ä", true},
		{"*.x", "a\nb.x", true},
		{"d/*", "d/e/f", false},
		{"\t", "\t", true},
		{"*", "anything", true},
		{"*/", "dir/", true},
		{"*/", "file", false},
	} {
		r := mustNew(t, Options{IgnoreRules: strings.Split(c.rules, "\n")})
		rel, isDir := strings.CutSuffix(c.rel, "/")
		if got, _ := r.Match(rel, isDir, 0); got != c.want {
			t.Errorf("rules %q, path %q: excluded %v", c.rules, c.rel, got)
		}
	}
}

func TestGlobManyStars(t *testing.T) {
	r := mustNew(t, Options{IgnoreRules: []string{
		strings.Repeat("**/*a*/", 50) + "b",
		strings.Repeat("*a", 500) + "b",
	}})
	if got, _ := r.Match(strings.Repeat("a/aaa/", 300)+"c", false, 0); got {
		t.Error("matched")
	}
}

// TestIgnoreAsGit compares the matcher with git check-ignore, over generated
// lists of rules and a tree of names that resemble them.
func TestIgnoreAsGit(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed; TestIgnoreRules holds the cases it was asked about")
	}
	dir := t.TempDir()
	run := func(stdin []byte, arg ...string) []byte {
		cmd := exec.Command(git, arg...)
		cmd.Dir = dir
		cmd.Stdin = bytes.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull, "HOME="+dir)
		out, err := cmd.Output()
		if e, ok := err.(*exec.ExitError); err != nil && (!ok || e.ExitCode() != 1) { // 1: none is ignored
			t.Fatalf("git %v: %v", arg, err)
		}
		return out
	}
	run(nil, "init", "-q")

	// A tree, three levels deep.
	names := []string{"a", "b", "ab", "aab", "abc", "a b", "b ", "#a", "!b", "a-b", "]", "a]", "[b]", "A1", "ä", "\xff", "a\nb", "a\\b", "*", "\t", ".x"}
	if os.PathSeparator == '\\' {
		t.Skip("names that Windows does not allow")
	}
	var paths []string
	isDir := map[string]bool{}
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for i, n := range names {
			p := prefix + n
			paths = append(paths, p)
			if depth < 3 && i%2 == depth%2 && (depth < 2 || i < 6) {
				isDir[p] = true
				if err := os.Mkdir(filepath.Join(dir, p), 0o755); err != nil {
					t.Fatal(err)
				}
				grow(p+"/", depth+1)
			} else if err := os.WriteFile(filepath.Join(dir, p), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	grow("", 0)
	stdin := []byte(strings.Join(paths, "\x00") + "\x00")

	parts := []string{"a", "b", "c", "ab", "*", "*", "**", "?", "/", "/", "/", "**/", "/**", "**/", "[ab]", "[!a]", "[^b]", "[a-c]", "[]]", "[]-]", "[a\\]]",
		"[[:alpha:]]", "[[:digit:][:punct:]]", "[[:space:]]", "[[:upper:]b]", "[[:x", "[b-", "\\", "\\a", "\\*", "\\/", " ", "\\ ", "#", "!", "-", "]", "[", "ä", "\xff", "\xc3", "\t", ".", "[\x80-\xff]", "[/]", "[!/]"}
	rng := rand.New(rand.NewPCG(7, 7))
	lists := 100
	if testing.Short() {
		lists = 20
	}
	compared, ignored := 0, 0
	for range lists {
		var lines []string
		for range 1 + rng.IntN(4) {
			line := ""
			if rng.IntN(4) == 0 {
				line = "!"
			}
			for range 1 + rng.IntN(6) {
				line += parts[rng.IntN(len(parts))]
			}
			lines = append(lines, line)
		}
		// Lines that we refuse are those that git never matches.
		var good []string
		for _, l := range lines {
			if _, _, err := parseRule(l); err == nil {
				good = append(good, l)
			}
		}
		file := []byte(strings.Join(lines, "\n") + "\n")
		if err := os.WriteFile(filepath.Join(dir, ".git/info/exclude"), file, 0o644); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for p := range strings.SplitSeq(string(run(stdin, "check-ignore", "--no-index", "-z", "--stdin")), "\x00") {
			got[p] = true
		}
		r := mustNew(t, Options{IgnoreRules: good})
		for _, p := range paths {
			ours, _ := r.MatchTree(p, isDir[p], 0)
			if ours != got[p] {
				t.Errorf("rules %q, path %q (directory: %v): we say %v, git says %v", lines, p, isDir[p], ours, got[p])
			}
			compared++
			if ours {
				ignored++
			}
		}
		if t.Failed() {
			break
		}
	}
	if ignored < compared/50 {
		t.Errorf("only %d of %d paths were ignored: the comparison says little", ignored, compared)
	}
	t.Logf("%d comparisons, %d ignored", compared, ignored)
}

// parseRule must not panic, and what it makes must match without looping.
func FuzzIgnoreRule(f *testing.F) {
	for _, s := range []string{"a/**/b", "[a-", "[[:alpha:]]", "**\\/x", "!a/", "\\ ", "*a*b*"} {
		f.Add(s, "a/x/b")
	}
	f.Fuzz(func(t *testing.T, line, rel string) {
		r, ok, err := parseRule(line)
		if err != nil || !ok {
			return
		}
		l := ruleList{r}
		first := l.match(rel, true) != nil
		if r.dirOnly && l.match(rel, false) != nil {
			t.Errorf("rule %q matches a file", line)
		}
		// A rule that begins with literal text matches nothing else.
		if first && r.kind == general && !r.base && !strings.HasPrefix(rel, r.lit) {
			t.Errorf("rule %q matches %q", line, rel)
		}
	})
}

// The glob matcher against the plainest one that could be written.
func FuzzGlob(f *testing.F) {
	f.Add("a/**/b*c", "a/x/bxc")
	f.Add("*a*b/**", "xaxb/c")
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 12 || len(s) > 20 {
			return
		}
		g, err := compileGlob(p, true)
		if err != nil {
			return
		}
		if got, want := g.match(s), slowMatch(g, s, map[string]bool{}); got != want {
			t.Errorf("glob %q, path %q: %v, want %v", p, s, got, want)
		}
	})
}

func slowMatch(g glob, s string, memo map[string]bool) bool {
	if len(g) == 0 {
		return s == ""
	}
	key := fmt.Sprintf("%d %s", len(g), s)
	if v, ok := memo[key]; ok {
		return v
	}
	memo[key] = false
	t, rest := g[0], g[1:]
	v := false
	switch t.op {
	case globText:
		after, ok := strings.CutPrefix(s, t.text)
		v = ok && slowMatch(rest, after, memo)
	case globAny:
		v = s != "" && s[0] != '/' && slowMatch(rest, s[1:], memo)
	case globClass:
		v = s != "" && t.class.has(s[0]) && slowMatch(rest, s[1:], memo)
	case globStar:
		v = slowMatch(rest, s, memo) || s != "" && s[0] != '/' && slowMatch(g, s[1:], memo)
	case globDirs, globDirs1:
		ends := []int{}
		if t.op == globDirs {
			ends = append(ends, 0)
		}
		for i := range len(s) {
			if s[i] == '/' {
				ends = append(ends, i+1)
			}
		}
		v = slices.ContainsFunc(ends, func(i int) bool { return slowMatch(rest, s[i:], memo) })
	case globRest:
		v = true
	}
	memo[key] = v
	return v
}
