package exclude

import (
	"fmt"
	"strings"
)

// A glob is a compiled pattern of git's wildmatch. It works on bytes: '?' and
// a class take one byte, never a '/'.
type glob []globToken

type globOp uint8

const (
	globText  globOp = iota // text, byte for byte
	globAny                 // ?
	globClass               // [...]
	globStar                // *: any bytes but '/'
	globDirs                // **/: nothing, or any number of whole directories
	globDirs1               // **\/: at least one directory (an accident of wildmatch)
	globRest                // ** at the end: anything
)

type globToken struct {
	op    globOp
	text  string
	class *byteSet
}

type byteSet [256 / 64]uint64

func (s *byteSet) add(c byte)      { s[c/64] |= 1 << (c % 64) }
func (s *byteSet) has(c byte) bool { return s[c/64]&(1<<(c%64)) != 0 }

// compileGlob compiles p. Where p is for whole paths, "**" that fills a path
// element crosses slashes; as in git, the beginning of p counts as the
// beginning of an element even where literal text was cut off before it.
func compileGlob(p string, paths bool) (glob, error) {
	var g glob
	text := func(c byte) {
		if n := len(g); n > 0 && g[n-1].op == globText {
			g[n-1].text += string([]byte{c})
			return
		}
		g = append(g, globToken{op: globText, text: string([]byte{c})})
	}
	for i := 0; i < len(p); {
		switch c := p[i]; c {
		case '\\':
			if i+1 == len(p) {
				return nil, fmt.Errorf("%w: ends in a backslash", ErrBadPattern)
			}
			text(p[i+1])
			i += 2
		case '?':
			g = append(g, globToken{op: globAny})
			i++
		case '[':
			class, n, err := compileByteClass(p[i:])
			if err != nil {
				return nil, err
			}
			g = append(g, globToken{op: globClass, class: class})
			i += n
		case '*':
			start := i
			for i < len(p) && p[i] == '*' {
				i++
			}
			op := globStar
			if paths && i-start >= 2 && (start == 0 || p[start-1] == '/') {
				switch rest := p[i:]; {
				case rest == "":
					op = globRest
				case rest[0] == '/':
					op = globDirs
					i++
				case strings.HasPrefix(rest, `\/`):
					op = globDirs1
					i += 2
				}
			}
			g = append(g, globToken{op: op})
		default:
			text(c)
			i++
		}
	}
	return g, nil
}

// compileByteClass compiles the class that begins p and returns its length.
func compileByteClass(p string) (*byteSet, int, error) {
	unclosed := func() (*byteSet, int, error) {
		return nil, 0, fmt.Errorf("%w: the class %.40q is not closed", ErrBadPattern, p)
	}
	var set byteSet
	i := 1
	negated := false
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		negated = true
		i++
	}
	prev := -1 // what a range may begin with
	for first := true; ; first = false {
		if i >= len(p) {
			return unclosed()
		}
		c := p[i]
		switch {
		case c == ']' && !first:
			if negated {
				for j := range set {
					set[j] = ^set[j]
				}
			}
			set['/'/64] &^= 1 << ('/' % 64)
			return &set, i + 1, nil
		case c == '\\':
			i++
			if i == len(p) {
				return unclosed()
			}
			set.add(p[i])
			prev = int(p[i])
		case c == '-' && prev > 0 && i+1 < len(p) && p[i+1] != ']':
			i++
			if p[i] == '\\' {
				i++
				if i == len(p) {
					return unclosed()
				}
			}
			for b := prev; b <= int(p[i]); b++ {
				set.add(byte(b))
			}
			prev = -1
		case c == '[' && i+1 < len(p) && p[i+1] == ':':
			end := strings.IndexByte(p[i+2:], ']')
			if end < 0 {
				return unclosed()
			}
			if name := p[i+2 : i+2+end]; strings.HasSuffix(name, ":") {
				in, ok := charClass(strings.TrimSuffix(name, ":"))
				if !ok {
					return nil, 0, fmt.Errorf("%w: unknown class [:%s]", ErrBadPattern, name)
				}
				for b := range 128 {
					if in(byte(b)) {
						set.add(byte(b))
					}
				}
				i += 2 + end
				prev = -1
				break
			}
			set.add('[')
			prev = '['
		default:
			set.add(c)
			prev = int(c)
		}
		i++
	}
}

// charClass returns the members, all ASCII, of a class such as [:digit:], as
// git defines them: [:space:] has no vertical tab and no form feed.
func charClass(name string) (func(byte) bool, bool) {
	lower := func(c byte) bool { return 'a' <= c && c <= 'z' }
	upper := func(c byte) bool { return 'A' <= c && c <= 'Z' }
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	alnum := func(c byte) bool { return lower(c) || upper(c) || digit(c) }
	graph := func(c byte) bool { return 0x21 <= c && c <= 0x7e }
	switch name {
	case "alnum":
		return alnum, true
	case "alpha":
		return func(c byte) bool { return lower(c) || upper(c) }, true
	case "blank":
		return func(c byte) bool { return c == ' ' || c == '\t' }, true
	case "cntrl":
		return func(c byte) bool { return c < 0x20 || c == 0x7f }, true
	case "digit":
		return digit, true
	case "graph":
		return graph, true
	case "lower":
		return lower, true
	case "print":
		return func(c byte) bool { return c == ' ' || graph(c) }, true
	case "punct":
		return func(c byte) bool { return graph(c) && !alnum(c) }, true
	case "space":
		return func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }, true
	case "upper":
		return upper, true
	case "xdigit":
		return func(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }, true
	}
	return nil, false
}

// literal returns the text of a glob that has nothing else.
func (g glob) literal() (string, bool) {
	if len(g) == 1 && g[0].op == globText {
		return g[0].text, true
	}
	return "", false
}

// match needs time in proportion to len(g)·len(s)² at worst, whatever the
// pattern. After a mismatch it tries the last '*' one byte further, as far as
// its path element goes, and else the last "**" one element further. Nothing
// before those needs another try: an earlier '*' of the same element could
// take nothing that the last cannot take, the end of an earlier element is
// fixed by its slash, and an earlier "**" is to the last "**" as '*' to '*'.
func (g glob) match(s string) bool {
	ti, si := 0, 0
	starToken, starAt := -1, 0
	dirsToken, dirsAt := -1, 0
	for {
		if ti < len(g) {
			t := &g[ti]
			switch t.op {
			case globStar:
				ti++
				starToken, starAt = ti, si
				continue
			case globDirs:
				ti++
				dirsToken, dirsAt = ti, si
				starToken = -1
				continue
			case globDirs1:
				ti++
				dirsToken, dirsAt = ti, si
				starToken = -1 // and on to the next slash
			case globRest:
				return true
			case globText:
				if strings.HasPrefix(s[si:], t.text) {
					ti++
					si += len(t.text)
					continue
				}
			case globAny:
				if si < len(s) && s[si] != '/' {
					ti++
					si++
					continue
				}
			case globClass:
				if si < len(s) && t.class.has(s[si]) {
					ti++
					si++
					continue
				}
			}
		} else if si == len(s) {
			return true
		}
		if starToken >= 0 && starAt < len(s) && s[starAt] != '/' {
			starAt++
			ti, si = starToken, starAt
			continue
		}
		if dirsToken < 0 {
			return false
		}
		n := strings.IndexByte(s[dirsAt:], '/')
		if n < 0 {
			return false
		}
		dirsAt += n + 1
		ti, si = dirsToken, dirsAt
		starToken = -1
	}
}
