package seal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func paperKey(t testing.TB) *KeyFile {
	t.Helper()
	raw := make([]byte, KeySize)
	for i := range raw {
		raw[i] = byte(i * 37)
	}
	k, err := NewKeyFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPaperGolden pins the form: sheets lie in safes for decades.
func TestPaperGolden(t *testing.T) {
	k := paperKey(t)
	want := [PaperLines]string{goldenPaper1, goldenPaper2, goldenPaper3, goldenPaper4}
	if got := k.Lines(); got != want {
		t.Errorf("lines\n%q, want\n%q", got, want)
	}
	if got, want := k.Text(), "BHKEY1-"+strings.ReplaceAll(strings.Join(want[:], "-"), " ", ""); got != want || len(got) != 74 {
		t.Errorf("text %q, want %q", got, want)
	}
}

func TestPaperRoundTrip(t *testing.T) {
	for range 100 {
		k := GenerateKeyFile()
		l := k.Lines()
		four := strings.Join(l[:], "\n")
		for name, text := range map[string]string{
			"word":            k.Text(),
			"word in a file":  "\n  " + k.Text() + "\r\n",
			"lower-case word": strings.ToLower(k.Text()),
			"four lines":      four,
			"comment":         "# from the safe\n" + four + "\n",
			"lower case":      strings.ToLower(four),
			"no spaces":       strings.ReplaceAll(four, " ", ""),
			"hyphens":         strings.ReplaceAll(four, " ", "-"),
			"as it is read":   strings.NewReplacer("0", "o", "1", "l").Replace(four),
			"numbered":        fmt.Sprintf("  1: %s\r\n 2. %s\n3) %s \n4 : %s", l[0], l[1], l[2], l[3]),
			"in any order":    fmt.Sprintf("4: %s\n2: %s\n1: %s\n3: %s", l[3], l[1], l[0], l[2]),
			"in a sheet":      fmt.Sprintf("RECOVERY SHEET\nStep 1. Type it.\n1. Get it.\n2: nothing to do with it\n\n  1: %s\n  2: %s\n  3: %s\n  4: %s\n\n5: five\n", l[0], l[1], l[2], l[3]),
		} {
			got, err := ParsePaperKey([]byte(text))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !bytes.Equal(got.Bytes(), k.Bytes()) {
				t.Errorf("%s: another key", name)
			}
		}
	}
}

// TestPaperTypos: each single wrong character, each swap of neighbours and each lost
// character is found, in its line.
func TestPaperTypos(t *testing.T) {
	k := paperKey(t)
	lines := k.Lines()
	tried, missed := 0, 0
	for n := range lines {
		line := strings.ReplaceAll(lines[n], " ", "")
		var typos []string
		for at := range line {
			for _, c := range crockford + "U*" {
				if byte(c) != line[at] {
					typos = append(typos, line[:at]+string(c)+line[at+1:])
				}
			}
			typos = append(typos, line[:at]+line[at+1:], line[:at]+"7"+line[at:])
			if at > 0 && line[at] != line[at-1] {
				typos = append(typos, line[:at-1]+string(line[at])+string(line[at-1])+line[at+1:])
			}
		}
		for _, typo := range typos {
			tried++
			all := lines
			all[n] = typo
			_, err := ParsePaperKey([]byte(strings.Join(all[:], "\n")))
			wrong, ok := errors.AsType[*PaperError](err)
			if !ok {
				missed++
				continue
			}
			if wrong.Line != n+1 {
				t.Errorf("%q in line %d: %v", typo, n+1, err)
			}
			if strings.Contains(err.Error(), typo[:4]) {
				t.Errorf("the error quotes the key: %v", err)
			}
		}
	}
	if tried < 2000 || missed > 1 { // 1 of 65,536 is missed
		t.Errorf("%d of %d typos were not found", missed, tried)
	}
	swapped := []string{lines[0], lines[2], lines[1], lines[3]}
	_, err := ParsePaperKey([]byte(strings.Join(swapped, "\n")))
	if err == nil || err.Error() != "line 2 of the key is wrong: this is line 3" {
		t.Errorf("two lines swapped: %v", err)
	}
	_, err = ParsePaperKey([]byte("1: " + lines[0] + "\n2: " + lines[1] + "\n4: " + lines[3]))
	if wrong, ok := errors.AsType[*PaperError](err); !ok || wrong.Line != 3 {
		t.Errorf("line 3 is missing: %v", err)
	}
	_, err = ParsePaperKey([]byte(k.Text()[:50]))
	if wrong, ok := errors.AsType[*PaperError](err); !ok || wrong.Line != 3 {
		t.Errorf("half a word: %v", err)
	}
}

func TestNoPaperKey(t *testing.T) {
	for _, text := range []string{"", "\n\n", "correct horse battery staple", "1: one\n2: two\n3: three\n4: four", "a\nb\nc\nd", strings.Repeat("\x00", 32)} {
		if _, err := ParsePaperKey([]byte(text)); !errors.Is(err, ErrNoPaperKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParsePaperKey(f *testing.F) {
	k := paperKey(f)
	lines := k.Lines()
	f.Add([]byte(k.Text()))
	f.Add([]byte(strings.Join(lines[:], "\n")))
	f.Add([]byte("1: " + lines[0] + "\n2: x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParsePaperKey(text)
		if err != nil {
			if wrong, ok := errors.AsType[*PaperError](err); !errors.Is(err, ErrNoPaperKey) && (!ok || wrong.Line < 1 || wrong.Line > PaperLines) {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := ParsePaperKey([]byte(got.Text()))
		if err != nil || !bytes.Equal(again.Bytes(), got.Bytes()) {
			t.Fatalf("its own text reads as another key: %v", err)
		}
	})
}
