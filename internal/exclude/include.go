package exclude

import "strings"

// Includes select what a restore takes: the paths that a rule names, and
// everything below a directory that one names. They are immutable; a nil
// *Includes selects everything.
type Includes struct {
	rules ruleList
}

// NewIncludes compiles rules in the language of .gitignore, where a rule says
// what to take and "!rule" takes it back. No rule at all selects everything.
func NewIncludes(rules []string) (*Includes, error) {
	l, err := ruleList(nil).appendLines("", rules)
	if err != nil {
		return nil, err
	}
	return &Includes{l}, nil
}

// Match says whether rel is selected: the last rule that matches it decides,
// or where none does, what was decided about the directory it is in.
func (in *Includes) Match(rel string, isDir bool) bool {
	if in == nil || len(in.rules) == 0 {
		return true
	}
	for end, dir := len(rel), isDir; end > 0; {
		if r := in.rules.match(rel[:end], dir); r != nil {
			return !r.negated
		}
		end, dir = strings.LastIndexByte(rel[:end], '/'), true
	}
	return false
}

// Descend says whether something below the directory dir ("" for the top) can
// be selected, so that a walk may pass over the rest of the tree. It may say
// yes where nothing is, never no where something is.
func (in *Includes) Descend(dir string) bool {
	if dir == "" || in.Match(dir, true) {
		return true
	}
	for i := range in.rules {
		r := &in.rules[i]
		if r.negated {
			continue
		}
		if r.base || r.kind == general && r.lit == "" {
			return true
		}
		// A path that matches begins with lit: it can lie below dir only if
		// one of "dir/" and lit begins with the other.
		n := len(dir)
		if len(r.lit) > n && r.lit[:n] == dir && r.lit[n] == '/' {
			return true
		}
		if r.kind == general && strings.HasPrefix(dir, r.lit) {
			return true
		}
	}
	return false
}
