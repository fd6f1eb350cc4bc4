package exclude

import (
	_ "embed"
	"encoding/hex"
	"strings"
	"testing"
)

// fnmatchCases is what Python says; testdata/fnmatch.py writes it.
//
//go:embed testdata/fnmatch.txt
var fnmatchCases string

func TestFnmatchAsPython(t *testing.T) {
	n := 0
	for line := range strings.Lines(fnmatchCases) {
		f := strings.Fields(line)
		p, err := hex.DecodeString(f[0])
		if err != nil {
			t.Fatal(err)
		}
		name, err := hex.DecodeString(strings.Trim(f[1], "-"))
		if err != nil {
			t.Fatal(err)
		}
		c := compilePattern(string(p))
		if got := c.match(string(name)); got != (f[2] == "1") {
			t.Errorf("pattern %q, name %q: %v, Python says %s", p, name, got, f[2])
		}
		n++
	}
	if n < 4000 {
		t.Errorf("only %d cases", n)
	}
}

// A pattern with many stars must not take exponential time.
func TestFnmatchManyStars(t *testing.T) {
	p := compilePattern(strings.Repeat("*a?", 200) + "b")
	if p.match(strings.Repeat("a", 4000)) {
		t.Error("matched")
	}
}

// The fast kinds must say what the general matcher says.
func FuzzFnmatchKinds(f *testing.F) {
	f.Add("*.tmp", "a.tmp")
	f.Add("ä*", "äx")
	f.Add("*\x80*", "ä\x80")
	f.Add("[", "[")
	f.Fuzz(func(t *testing.T, p, s string) {
		fast := compilePattern(p)
		// A class around the first character that is no star changes nothing
		// but the kind.
		chars := decode(p)
		i := 0
		for i < len(chars) && chars[i] == '*' {
			i++
		}
		if i == len(chars) || strings.ContainsAny(p, "[]!") || chars[i] == '?' {
			return
		}
		_, n := decodeChar(p[i:])
		slow := compilePattern(p[:i] + "[" + p[i:i+n] + "]" + p[i+n:])
		if slow.kind != general {
			t.Fatal("not general")
		}
		if a, b := fast.match(s), slow.match(s); a != b {
			t.Errorf("pattern %q, name %q: %v by kind %d, %v by the general matcher", p, s, a, fast.kind, b)
		}
	})
}
