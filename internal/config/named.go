package config

import (
	"slices"
	"strings"
)

// maxNamed bounds the named sections of a file: each may make connections of its
// own at the end of a run.
const maxNamed = 64

// addNamed gives the [NAME word]s of a file a place in the table.
func (c *Config) addNamed(file *iniFile) {
	for _, s := range file.sections {
		base, word, ok := strings.Cut(s.name, " ")
		i := slices.IndexFunc(Sections(), func(t Section) bool { return t.Named && t.Name == base })
		if !ok || i < 0 || !isWord(word) || len(c.named) == maxNamed {
			continue
		}
		named := Sections()[i]
		named.Name = s.name
		for j := range named.Keys {
			named.Keys[j].Section = s.name
			c.keys[ref{s.name, named.Keys[j].Name}] = named.Keys[j]
		}
		c.named = append(c.named, named)
	}
}

// isWord says whether the user may call a section so: 1 to 32 letters, digits, - and _.
func isWord(word string) bool {
	return word != "" && len(word) <= 32 && !strings.ContainsFunc(word, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	})
}

// suggestNamed says, as the end of a sentence, why a name that looks like
// [NAME word] is none.
func (c *Config) suggestNamed(name string) string {
	base, word, ok := strings.Cut(name, " ")
	if !ok || !slices.ContainsFunc(Sections(), func(s Section) bool { return s.Named && s.Name == base }) {
		return ""
	}
	if isWord(word) {
		return "; there are too many of them"
	}
	return "; a word of letters, digits, - and _ has to follow " + base
}

// sections is the table, and what the file adds to it.
func (c *Config) sections() []Section { return slices.Concat(Sections(), c.named) }

// allKeys are those of sections, in their order.
func (c *Config) allKeys() []Key {
	keys := Keys()
	for _, s := range c.named {
		keys = append(keys, s.Keys...)
	}
	return keys
}

// SectionsOf returns a section that may be named, and the named ones of the file:
// "WEBHOOK", "WEBHOOK ops".
func (c *Config) SectionsOf(base string) []string {
	names := []string{base}
	for _, s := range c.named {
		if b, _, _ := strings.Cut(s.Name, " "); b == base {
			names = append(names, s.Name)
		}
	}
	return names
}
