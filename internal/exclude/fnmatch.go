package exclude

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A pattern is one of 2.5: Python's fnmatch.fnmatchcase as of Python 3.11.
//
//   - any characters, none included, '/' and newline too
//     ?       one character
//     [seq]   one character of seq, with ranges a-z
//     [!seq]  one character not in seq
//
// There is no escape; a '[' without its ']' stands for itself; a ']' right
// after '[' or '[!' belongs to seq; a range that runs backwards is empty. A
// character is a UTF-8 sequence, or one byte that is not part of any, which
// sorts between U+DC80 and U+DCFF (Python's "surrogateescape").
type pattern struct {
	reason string
	kind   patternKind
	lit    string // of all kinds but general
	tokens []fnToken
}

type patternKind uint8

// Most patterns are of the first four kinds, which need one comparison.
const (
	literal  patternKind = iota // lit
	suffix                      // *lit
	prefix                      // lit*
	contains                    // *lit*
	general
)

type fnOp uint8

const (
	fnChar fnOp = iota
	fnAny
	fnStar
	fnClass
)

type fnToken struct {
	op      fnOp
	char    rune
	negated bool
	ranges  []fnRange
}

type fnRange struct{ lo, hi rune }

func compilePattern(text string) pattern {
	p := pattern{reason: fmt.Sprintf("pattern %q", text)}
	lit := strings.Trim(text, "*")
	stars := func(s string) bool { return strings.Trim(s, "*") == "" }
	head := strings.HasPrefix(text, "*")
	tail := strings.HasSuffix(text, "*")
	// A literal that is not UTF-8 could begin with a byte that ends a character
	// of the name: only whole characters match, so it takes the general way.
	if !strings.ContainsAny(lit, "*?[") && utf8.ValidString(lit) {
		p.lit = lit
		switch {
		case stars(text) && text != "":
			p.kind = contains
		case head && tail:
			p.kind = contains
		case head:
			p.kind = suffix
		case tail:
			p.kind = prefix
		default:
			p.kind = literal
		}
		return p
	}
	p.kind = general
	chars := decode(text)
	for i := 0; i < len(chars); {
		c := chars[i]
		i++
		switch c {
		case '*':
			if n := len(p.tokens); n == 0 || p.tokens[n-1].op != fnStar {
				p.tokens = append(p.tokens, fnToken{op: fnStar})
			}
		case '?':
			p.tokens = append(p.tokens, fnToken{op: fnAny})
		case '[':
			j := i
			if j < len(chars) && chars[j] == '!' {
				j++
			}
			if j < len(chars) && chars[j] == ']' {
				j++
			}
			for j < len(chars) && chars[j] != ']' {
				j++
			}
			if j >= len(chars) {
				p.tokens = append(p.tokens, fnToken{op: fnChar, char: '['})
				break
			}
			p.tokens = append(p.tokens, compileClass(chars[i:j]))
			i = j + 1
		default:
			p.tokens = append(p.tokens, fnToken{op: fnChar, char: c})
		}
	}
	return p
}

// compileClass translates what stands between '[' and ']'. A '-' makes a range
// unless it is the first or the last character or comes right after a range.
// Python drops backward ranges before it looks for the '!', so that one which
// then comes first negates, too ("[b-a!c]" is "[!c]").
func compileClass(seq []rune) fnToken {
	t := fnToken{op: fnClass}
	if seq[0] == '!' {
		t.negated = true
		seq = seq[1:]
	}
	dropped := false
	for i := 0; i < len(seq); {
		r := fnRange{seq[i], seq[i]}
		if i+2 < len(seq) && seq[i+1] == '-' {
			r.hi = seq[i+2]
			i += 3
		} else {
			i++
		}
		switch {
		case r.lo > r.hi:
			dropped = true
		case dropped && !t.negated && len(t.ranges) == 0 && r.lo == '!':
			t.negated = true
			if r.hi != '!' { // "!-x" has lost its '!'
				t.ranges = append(t.ranges, fnRange{'-', '-'}, fnRange{r.hi, r.hi})
			}
		default:
			t.ranges = append(t.ranges, r)
		}
	}
	return t
}

func (p *pattern) match(s string) bool {
	switch p.kind {
	case literal:
		return s == p.lit
	case suffix:
		return strings.HasSuffix(s, p.lit)
	case prefix:
		return strings.HasPrefix(s, p.lit)
	case contains:
		return strings.Contains(s, p.lit)
	}
	// On a mismatch only the last star needs to be tried again: whatever an
	// earlier one could take, the last can take too.
	ti, si := 0, 0
	starToken, starAt := -1, 0
	for {
		if ti < len(p.tokens) {
			t := &p.tokens[ti]
			if t.op == fnStar {
				ti++
				starToken, starAt = ti, si
				continue
			}
			if si < len(s) {
				c, n := decodeChar(s[si:])
				if t.match(c) {
					ti++
					si += n
					continue
				}
			}
		} else if si == len(s) {
			return true
		}
		if starToken < 0 || starAt >= len(s) {
			return false
		}
		_, n := decodeChar(s[starAt:])
		starAt += n
		ti, si = starToken, starAt
	}
}

func (t *fnToken) match(c rune) bool {
	switch t.op {
	case fnAny:
		return true
	case fnChar:
		return c == t.char
	}
	for _, r := range t.ranges {
		if r.lo <= c && c <= r.hi {
			return !t.negated
		}
	}
	return t.negated
}

// decodeChar returns the first character of s, which is not empty, and its
// length in bytes.
func decodeChar(s string) (rune, int) {
	if s[0] < utf8.RuneSelf {
		return rune(s[0]), 1
	}
	c, n := utf8.DecodeRuneInString(s)
	if c == utf8.RuneError && n == 1 {
		return 0xDC00 + rune(s[0]), 1
	}
	return c, n
}

func decode(s string) []rune {
	var chars []rune
	for len(s) > 0 {
		c, n := decodeChar(s)
		chars = append(chars, c)
		s = s[n:]
	}
	return chars
}
