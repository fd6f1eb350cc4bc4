package config

import (
	"strconv"
	"strings"
)

// A Setting is one key as [Config.Show] lists it.
type Setting struct {
	Section  string   `json:"section"`
	Key      string   `json:"key"`
	Value    string   `json:"value"`           // "" if there is none, "***" for a secret
	Set      bool     `json:"set"`             // by the file; otherwise Value is the default
	Line     int      `json:"line,omitempty"`  // in the file
	File     string   `json:"file,omitempty"`  // beside the configuration, that sets it; "" for the configuration
	Unit     string   `json:"unit,omitempty"`  // of Value
	Unset    []string `json:"unset,omitempty"` // variables that Value needs and that are not set
	Reserved bool     `json:"reserved,omitempty"`
}

// Settings lists every key of the table, in its order.
type Settings []Setting

// Show returns the effective values. Secrets are "***". A value that holds
// ${VARIABLES} is shown with their names: what they hold may be a secret too.
func (c *Config) Show() Settings {
	var all Settings
	for _, k := range c.allKeys() {
		v := c.Value(k.Section, k.Name)
		s := Setting{Section: k.Section, Key: k.Name, Set: v.IsSet(), Line: v.line, Unit: k.Unit, Reserved: k.Reserved,
			Value: v.show()}
		if v.IsSet() && v.file != c.path {
			s.File = v.file
		}
		for _, name := range variables(v.text) {
			if _, ok := c.env(name); !ok {
				s.Unset = append(s.Unset, name)
			}
		}
		all = append(all, s)
	}
	return all
}

// show returns what of a value may be seen.
func (v Value) show() string {
	text := v.text
	switch {
	case v.Key.Secret && text != "":
		return redacted
	case text == "":
		text = v.Key.Default
	case len(variables(text)) > 0:
		return redactAddress(text)
	}
	switch v.Key.Type {
	case Path:
		if path, err := v.Path(); err == nil {
			text = path
		}
	case List, PathList, Times:
		if items, err := v.List(); err == nil {
			text = joinList(items)
		}
	}
	return redactAddress(text)
}

// redactAddress hides the passwords of every scheme://user:password@host in
// text.
func redactAddress(text string) string {
	var out strings.Builder
	for {
		before, after, ok := strings.Cut(text, "://")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		out.WriteString("://")
		end := strings.IndexAny(after, "/?# \t\n,\"'")
		if end < 0 {
			end = len(after)
		}
		// Passwords that are not escaped as they should be may hold any of
		// the characters that end an authority.
		if at := strings.LastIndexByte(after, '@'); at > end && strings.Contains(after[:end], ":") {
			end = len(after)
		}
		authority := after[:end]
		user, _, hasPassword := strings.Cut(authority[:strings.LastIndexByte(authority, '@')+1], ":")
		if hasPassword {
			authority = user + ":" + redacted + authority[strings.LastIndexByte(authority, '@'):]
		}
		out.WriteString(authority)
		text = after[end:]
	}
}

// String lays the settings out like a file. Keys that have no value are left
// out; comments tell defaults and unset variables.
func (all Settings) String() string {
	var out strings.Builder
	section := ""
	for _, s := range all {
		if s.Value == "" {
			continue
		}
		if s.Section != section {
			if section != "" {
				out.WriteByte('\n')
			}
			section = s.Section
			out.WriteString("[" + section + "]\n")
		}
		for _, name := range s.Unset {
			out.WriteString("# the environment variable " + name + " is not set\n")
		}
		switch {
		case !s.Set:
			out.WriteString("# default\n")
		case s.Reserved:
			out.WriteString("# line " + strconv.Itoa(s.Line) + ", kept but not acted on by this version\n")
		case s.File != "":
			out.WriteString("# " + s.File + ", line " + strconv.Itoa(s.Line) + "\n")
		default:
			out.WriteString("# line " + strconv.Itoa(s.Line) + "\n")
		}
		out.WriteString(s.Key + " = " + strings.ReplaceAll(s.Value, "\n", "\n    ") + "\n")
	}
	return out.String()
}
