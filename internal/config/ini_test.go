package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// iniSamples are files whose reading has a point.
func iniSamples() map[string]string {
	return map[string]string{
		"empty":                      "",
		"only comments":              "# a\n ; b\n\n",
		"plain":                      "[A]\nk = v\nj: w\n",
		"both delimiters":            "[A]\nk = a:b\nj: a=b\nurl = https://x/y?z=1\n",
		"no spaces":                  "[A]\nk=v\nj:w",
		"keys are folded":            "[A]\nKeY = v\n",
		"no inline comments":         "[A]\nk = v # not ; a comment\n",
		"comment lines everywhere":   "[A]\nk = one\n# c\n  two\n   ; c\n  three\n",
		"continuation":               "[A]\nk = one\n  two\n\tthree\nj = w\n",
		"continuation, empty start":  "[A]\nk =\n  one\n  two\n",
		"blank line inside a value":  "[A]\nk = one\n\n  two\n\n\nj = w\n",
		"blank lines at the end":     "[A]\nk = one\n\n \n\n",
		"indented keys":              "[A]\n  k = v\n  j = w\n    more\n i = x\n",
		"indented section":           "  [A]\n  k = v\n  [B]\n  k = w\n",
		"section as continuation":    "[A]\nk = v\n  [B]\nj = w\n",
		"no continuation of header":  "[A]\n  k = v\n",
		"text after header":          "[A] junk\nk = v\n",
		"brackets in name":           "[a]b]\nk = v\n[[c]]\nk = w\n",
		"DEFAULT":                    "[DEFAULT]\nk = d\nj = e\n[A]\nk = v\n[B]\n",
		"DEFAULT after":              "[A]\nk = v\n[DEFAULT]\nj = e\n",
		"DEFAULT twice":              "[DEFAULT]\nk = d\n[A]\n[DEFAULT]\nj = e\n",
		"DEFAULT twice, same key":    "[DEFAULT]\nk = d\n[A]\n[DEFAULT]\nk = e\n",
		"default is another section": "[default]\nk = d\n[A]\n",
		"duplicate section":          "[A]\nk = v\n[A]\nj = w\n",
		"duplicate key":              "[A]\nk = v\nK = w\n",
		"key in two sections":        "[A]\nk = v\n[B]\nk = w\n",
		"no header":                  "k = v\n",
		"no delimiter":               "[A]\nk\n",
		"no key":                     "[A]\n= v\n",
		"empty header":               "[]\nk = v\n",
		"empty header with a colon":  "[A]\n[]: v\n",
		"header is a space":          "[ ]\nk = v\n",
		"unclosed header":            "[A\nk = v\n",
		"unclosed header as key":     "[A]\n[B = v\n",
		"empty value":                "[A]\nk =\nj = \n",
		"None":                       "[A]\nk = None\n",
		"percent":                    "[A]\nk = 100%\nj = %%d %(x)s %\n",
		"carriage returns":           "[A]\r\nk = v\r\n  w\r\n",
		"lone carriage returns":      "[A]\rk = v\r",
		"no-break spaces":            "[A]\n\u00a0k\u00a0=\u00a0v\u00a0\n",
		"ASCII separators":           "[A]\nk = v\x1c\n\x1dj = w\n\x1e\n",
		"line separator":             "[A]\nk = v\u2028w\u0085x\n",
		"form feed":                  "[A]\nk = v\n\f\nj = w\f\n",
		"unicode":                    "[Ä]\nschlüssel = wért\n",
		"indentation in characters":  "[A]\n\u00a0k = v\n  w\n",
		"key with spaces":            "[A]\na key = v\n",
		"value looks like a header":  "[A]\nk = [B]\n",
	}
}

// pythonReads returns what configparser makes of each file: the items of every
// section, [DEFAULT] applied, or nil for an error.
func pythonReads(t *testing.T, parser string, files []string) []map[string]map[string]string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3, which is compared with, is not installed")
	}
	const script = `
import configparser, io, json, sys
out = []
for text in json.load(sys.stdin):
    p = getattr(configparser, sys.argv[1])()
    try:
        p.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        out.append({s: dict(p.items(s)) for s in p.sections() + ["DEFAULT"]})
    except configparser.Error:
        out.append(None)
json.dump(out, sys.stdout)
`
	cmd := exec.Command(python, "-c", script, parser)
	input, err := json.Marshal(files)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, stderr.Bytes())
	}
	var result []map[string]map[string]string
	if err := json.Unmarshal(output, &result); err != nil {
		t.Fatal(err)
	}
	return result
}

// items returns what a parsed file says, in the form of pythonReads.
func (f *iniFile) items(read func(section, value string) string) map[string]map[string]string {
	all := map[string]map[string]string{defaultSection: {}}
	for _, s := range f.sections {
		all[s.name] = map[string]string{}
	}
	for name, into := range all {
		for _, s := range []*iniSection{f.section(defaultSection), f.section(name)} {
			if s != nil {
				for _, e := range s.entries {
					into[e.key] = read(name, e.value)
				}
			}
		}
	}
	return all
}

func compareWithPython(t *testing.T, files []string) {
	t.Helper()
	for i, want := range pythonReads(t, "RawConfigParser", files) {
		f, err := parseINI("test", strings.NewReader(files[i]))
		if want == nil {
			if err == nil {
				t.Errorf("Python refuses this file, we do not:\n%q", files[i])
			}
			continue
		}
		if err != nil {
			t.Errorf("Python reads this file, we do not: %v\n%q", err, files[i])
			continue
		}
		got := f.items(func(_, value string) string { return value })
		if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
			t.Errorf("file   %q\nwe     %q\nPython %q", files[i], got, want)
		}
	}
}

func TestReadsLikePython(t *testing.T) {
	var files []string
	for _, text := range iniSamples() {
		files = append(files, text)
	}
	files = append(files, string(Example()), sample25)
	compareWithPython(t, files)
}

// TestReadsGeneratedFilesLikePython puts together files from pieces that make
// trouble.
func TestReadsGeneratedFilesLikePython(t *testing.T) {
	pieces := []string{
		"[A]", "[B]", "[DEFAULT]", "k", "j", "l2", "K", "=", ":", " = v", " = w x", "\n", "\n", "\n", "\n", "\n", "\n  ", "\n\t", "\n    ",
		"#", ";", "# c", " ", "]", "[", "%", "%%", "\r", "\n\n", "\u00a0", "\x1f", "é", "None", "\n[C]\n", "\nm = 1", "\nn: 2\n   more",
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var files []string
	for range 4000 {
		var text strings.Builder
		if rng.IntN(4) > 0 {
			text.WriteString("[A]\n")
		}
		for range rng.IntN(14) {
			text.WriteString(pieces[rng.IntN(len(pieces))])
		}
		files = append(files, text.String())
	}
	compareWithPython(t, files)
}

// TestInterpolatesLikePython compares the values of files that Python can read
// with BasicInterpolation, the way of 2.5.
func TestInterpolatesLikePython(t *testing.T) {
	pieces := []string{"%%", "%%", "%(a)s", "%(b)s", "%(D)s", "x", " y", "%", "(", ")s", "%(none)s"}
	rng := rand.New(rand.NewPCG(3, 4))
	value := func() string {
		var text strings.Builder
		text.WriteString(".")
		for range rng.IntN(4) {
			text.WriteString(pieces[rng.IntN(len(pieces))])
		}
		return text.String()
	}
	var files []string
	for range 3000 {
		files = append(files, fmt.Sprintf("[DEFAULT]\nd = %s\n[S]\na = %s\nb = %s\n", value(), value(), value()))
	}
	read := 0
	for i, want := range pythonReads(t, "ConfigParser", files) {
		f, err := parseINI("test", strings.NewReader(files[i]))
		if err != nil {
			t.Fatalf("%v\n%s", err, files[i])
		}
		readable := true
		got := f.items(func(section, value string) string {
			text, ok := f.interpolate(section, value)
			readable = readable && ok
			if !ok && text != value {
				t.Errorf("%q is not readable for Python and became %q", value, text)
			}
			return text
		})
		if readable != (want != nil) {
			t.Errorf("file %q: readable for us %v, for Python %v", files[i], readable, want != nil)
		} else if readable {
			read++
			if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
				t.Errorf("file   %q\nwe     %q\nPython %q", files[i], got, want)
			}
		}
	}
	if read < 100 {
		t.Errorf("only %d generated files were readable", read)
	}
}

func TestInterpolationIsBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("[S]\nk0 = " + strings.Repeat("%%", 1000) + "\n")
	for i := range 9 {
		fmt.Fprintf(&text, "k%d = %s\n", i+1, strings.Repeat(fmt.Sprintf("%%(k%d)s", i), 20))
	}
	text.WriteString("e0 = %(e1)s%(e1)s\ne1 = %(e0)s\n")
	f, err := parseINI("test", strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"k9", "e0"} {
		e, _ := f.section("S").entry(key)
		if got, ok := f.interpolate("S", e.value); ok || got != e.value {
			t.Errorf("%s grew to %d bytes", key, len(got))
		}
	}
}

func TestParseErrorsNameTheLineOnly(t *testing.T) {
	const secret = "hunter2secret"
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"no header":         {secret + "\n", "f.ini:1: text before the first [SECTION]"},
		"no delimiter":      {"[A]\nk = v\n\n" + secret + "\n", "f.ini:4: neither a [SECTION], a key = value, nor an indented continuation of the line above"},
		"no key":            {"[A]\n = " + secret + "\n", "f.ini:2: a value without a key"},
		"duplicate key":     {"[A]\nk = " + secret + "\nk = " + secret + "\n", "f.ini:3: [A] k is set already, on line 2"},
		"duplicate section": {"[A]\n\n[A]\n", "f.ini:3: section [A] exists already, on line 1"},
		"not UTF-8":         {"[A]\nk = " + secret + "\xff\n", "f.ini:2: not UTF-8 text"},
		"too large":         {"[A]\nk = " + strings.Repeat("x", maxFileBytes), "read configuration f.ini: larger than 1048576 bytes"},
	} {
		_, err := parseINI("f.ini", strings.NewReader(c.text))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: error %q, want %q", name, err, c.want)
		}
	}
}

func TestByteOrderMarkAndSizeLimit(t *testing.T) {
	text := "\uFEFF[A]\r\nk = v\r\n#"
	text += strings.Repeat("x", maxFileBytes-len(text))
	f, err := parseINI("f.ini", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := f.section("A").entry("k"); !ok || e.value != "v" || e.line != 2 {
		t.Errorf("entry %+v, %v", e, ok)
	}
}

func FuzzParseINI(f *testing.F) {
	for _, text := range iniSamples() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseINI("f.ini", bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, s := range file.sections {
			for _, e := range s.entries {
				if e.line < 1 || e.key == "" || e.key != strings.ToLower(e.key) {
					t.Errorf("entry %+v", e)
				}
				if text, ok := file.interpolate(s.name, e.value); ok && len(text) > maxInterpolatedBytes+len(data) {
					t.Errorf("interpolation made %d bytes of %d", len(text), len(data))
				}
				if items, err := splitList(e.value); err == nil {
					again, err := splitList(joinList(items))
					if err != nil || strings.Join(again, "\x00") != strings.Join(items, "\x00") {
						t.Errorf("list %q reads again as %q (%v)", items, again, err)
					}
				}
			}
		}
	})
}
