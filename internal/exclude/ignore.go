package exclude

import (
	"bytes"
	"fmt"
	"strings"
)

// A rule is one line of a .gitignore file, as git 2.39 reads it (dir.c and
// wildmatch.c are the reference, gitignore(5) the description).
type rule struct {
	reason  string
	negated bool // "!rule": brings back what an earlier rule left out
	dirOnly bool // "rule/"
	// base says that the rule holds no slash but a last one: it is matched
	// against the name, at any depth. All others are matched against the whole
	// relative path.
	base bool
	kind patternKind // literal, suffix or general
	// lit is the literal or suffix; of a general rule, the text before its
	// first special character, which must come first.
	lit  string
	glob glob // of a general rule, after lit
}

// A ruleList is in the order of the lines; the last rule that matches decides.
type ruleList []rule

// match returns the rule that decides about rel, or nil.
func (l ruleList) match(rel string, isDir bool) *rule {
	if len(l) == 0 {
		return nil
	}
	name := rel[strings.LastIndexByte(rel, '/')+1:]
	for i := len(l) - 1; i >= 0; i-- {
		r := &l[i]
		if r.dirOnly && !isDir {
			continue
		}
		s := rel
		if r.base {
			s = name
		}
		if r.match(s) {
			return r
		}
	}
	return nil
}

func (r *rule) match(s string) bool {
	switch r.kind {
	case literal:
		return s == r.lit
	case suffix:
		return strings.HasSuffix(s, r.lit)
	}
	return strings.HasPrefix(s, r.lit) && r.glob.match(s[len(r.lit):])
}

func (l ruleList) appendFile(f IgnoreFile) (ruleList, error) {
	// git passes over a UTF-8 byte order mark, and over a CR that ends a line.
	data := string(bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf")))
	lines := strings.Split(data, "\n")
	for i := range lines {
		if len(lines[i]) > 1 {
			lines[i] = strings.TrimSuffix(lines[i], "\r")
		}
	}
	return l.appendLines(f.Name, lines)
}

// appendLines compiles lines, which come from the file of that name ("" for
// the configuration).
func (l ruleList) appendLines(file string, lines []string) (ruleList, error) {
	for i, line := range lines {
		place := fmt.Sprintf("line %d", i+1)
		if file != "" {
			place = fmt.Sprintf("%s:%d", file, i+1)
		}
		r, ok, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("exclude rule %.200q (%s): %w", line, place, err)
		}
		if !ok {
			continue
		}
		if len(l) == MaxPatterns {
			return nil, fmt.Errorf("exclude rule %.200q (%s): more than %d rules", line, place, MaxPatterns)
		}
		r.reason = fmt.Sprintf("rule %q (%s)", line, place)
		l = append(l, r)
	}
	return l, nil
}

// parseRule compiles one line; ok is false for a comment or a blank line. A
// line that git accepts but that can never match is an error: whoever wrote it
// believes that something is left out.
func parseRule(line string) (r rule, ok bool, err error) {
	bad := func(why string) (rule, bool, error) {
		return rule{}, false, fmt.Errorf("%w: %s", ErrBadPattern, why)
	}
	if len(line) > MaxPatternBytes {
		return bad(fmt.Sprintf("longer than %d bytes", MaxPatternBytes))
	}
	if strings.HasPrefix(line, "#") {
		return rule{}, false, nil
	}
	if strings.ContainsAny(line, "\x00\n") {
		return bad("holds a NUL or a newline, which no name can match here")
	}
	p := trimTrailingSpaces(line)
	if p == "" {
		return rule{}, false, nil
	}
	if p[0] == '!' {
		r.negated = true
		p = p[1:]
	}
	if strings.HasSuffix(p, "/") {
		r.dirOnly = true
		p = p[:len(p)-1]
	}
	r.base = !strings.Contains(p, "/")
	p = strings.TrimPrefix(p, "/")
	if p == "" {
		return bad("names nothing")
	}

	special := strings.IndexAny(p, "*?[\\")
	switch {
	case special < 0:
		r.kind, r.lit = literal, p
		if strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.Contains(p, "//") {
			return bad("holds an empty path element")
		}
		return r, true, nil
	case r.base && special == 0 && p[0] == '*' && !strings.ContainsAny(p[1:], "*?[\\"):
		r.kind, r.lit = suffix, p[1:]
		return r, true, nil
	}
	r.kind, r.lit = general, p[:special]
	if r.base {
		// Within a name there is no slash to cross: all stars are alike.
		r.glob, err = compileGlob(p[special:], false)
	} else {
		r.glob, err = compileGlob(p[special:], true)
	}
	if err != nil {
		return rule{}, false, err
	}
	if s, ok := r.glob.literal(); ok { // "\#name"
		r.kind, r.lit, r.glob = literal, r.lit+s, nil
	}
	return r, true, nil
}

// trimTrailingSpaces removes the spaces that end s, except one quoted by a
// backslash and those before it.
func trimTrailingSpaces(s string) string {
	end := -1
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ':
			if end < 0 {
				end = i
			}
			continue
		case '\\':
			i++
			if i == len(s) {
				return s
			}
		}
		end = -1
	}
	if end < 0 {
		return s
	}
	return s[:end]
}
