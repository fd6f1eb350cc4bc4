// Package config reads the INI configuration file: text in, typed values out.
//
// Every key is declared once, in the table of keys.go. Reading, checking, the
// example file, the reference page and the redaction of secrets all come from
// it. The package knows what keys mean to a reader, and not what the program
// does with them: of the program only package schedule, the grammar of times, is
// imported here.
//
// Invariants:
//
//   - a file of BackupHandler 2.5 loads with the values that 2.5 saw;
//   - ${VARIABLES} are looked up when a value is read, never before, and one
//     that is not set is an error of that value only;
//   - no error, warning or listing ever holds the value of a secret, the value
//     of a variable, or a line of the file: they name file, line, section and
//     key.
//
// A percent sign is read as 2.5 read it if 2.5 could: "%%" is one percent sign
// and "%(name)s" the value of another key. Any other % would have stopped 2.5,
// so such a value stands for itself. A file that declares
//
//	[META]
//	schema_version = 6
//
// was not written for 2.5, and all its percent signs stand for themselves.
//
// Files: ini.go (the grammar), keys.go (the table), value.go (types), secret.go
// (secrets that do not print), config.go (loading and its warnings), settings.go
// (what the program asks for), destinations.go and notify.go (the same for what is
// on other machines, and for who is told), retention.go, schedule.go, named.go
// (sections with names of the user's), beside.go (files that 2.5 kept beside this
// one), find.go (where files are), trust.go (who can change them), show.go
// (listings), document.go (example and reference).
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A Config is what one file says, and the defaults for the rest. It does not
// change after Load and may be used concurrently if its Env may.
type Config struct {
	path     string
	env      Env
	keys     map[ref]Key
	values   map[ref]setting
	named    []Section // [NAME word] of the file, in its order
	distrust error     // why commands in the file must not be run; nil: they may
	exposed  bool      // others can read the file
	plain    bool      // a secret is written into it
}

type ref struct{ section, key string }

// A setting is what the file says about a key of the table.
type setting struct {
	text string // after interpolation; "" for nothing or None
	file string
	line int
}

// A Kind tells warnings apart.
type Kind string

// The kinds of warnings.
const (
	Unknown         Kind = "unknown"          // a section or key that is not in the table
	Deprecated      Kind = "deprecated"       // a key without effect, or with a better one
	Reserved        Kind = "reserved"         // a key this version does not act on
	PlaintextSecret Kind = "plaintext-secret" // a secret written into the file
	Permissions     Kind = "permissions"      // others can read or change the file
	Percent         Kind = "percent"          // a % that is read as 2.5 did
	Beside          Kind = "beside"           // a file of 2.5 beside this one that cannot be read
	Inherited       Kind = "inherited"        // a key of [DEFAULT] that only other sections know
)

// A Warning is about something in the file that works, or is ignored, and that
// its owner should know.
type Warning struct {
	Kind    Kind   `json:"kind"`
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Section string `json:"section,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

// Note tells whether nothing is wrong: the warning is for information.
func (w Warning) Note() bool { return w.Kind == Reserved || w.Kind == Inherited }

// String is one line: place, section, key, message.
func (w Warning) String() string {
	s := position(w.File, w.Line)
	if w.Section != "" {
		s += "[" + w.Section + "] "
	}
	if w.Key != "" {
		s += w.Key + " "
	}
	return s + w.Message
}

// Load reads the file at path. Text that is not of its key's type is an error
// (all of them, joined), unless it holds a ${VARIABLE}: those are checked when
// they are read, or by [Config.Check]. Warnings are in the order of the file.
func Load(path string, env func(name string) (string, bool)) (*Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("open configuration: %w", err)
	}
	c, warnings, err := read(path, f, env)
	if err != nil {
		return nil, nil, err
	}
	c.distrust = distrust(path, info)
	warnings = append(warnings, c.readBeside(path)...)
	if w, ok := checkPermissions(path, info); ok {
		c.exposed = info.Mode().Perm()&0o044 != 0
		warnings = slices.Insert(warnings, 0, w)
	}
	return c, warnings, nil
}

// checkPermissions warns of a file that others can read or change. Windows has
// no such bits; its access lists are not looked at.
func checkPermissions(path string, info os.FileInfo) (Warning, bool) {
	mode := info.Mode()
	if runtime.GOOS == "windows" || !mode.IsRegular() || mode.Perm()&0o077 == 0 {
		return Warning{}, false
	}
	what := "can be read by others"
	if mode.Perm()&0o022 != 0 {
		what = "can be changed by others"
	}
	return Warning{Kind: Permissions, File: path,
		Message: fmt.Sprintf("the file %s (mode %04o); make it yours alone: chmod 600", what, mode.Perm())}, true
}

// Defaults returns a configuration without a file, in which nothing is set.
func Defaults(env func(name string) (string, bool)) *Config {
	c := &Config{env: env, keys: make(map[ref]Key), values: make(map[ref]setting)}
	for _, k := range Keys() {
		c.keys[ref{k.Section, k.Name}] = k
	}
	return c
}

// read does Load's work on an open file.
func read(path string, r io.Reader, env Env) (*Config, []Warning, error) {
	file, err := parseINI(path, r)
	if err != nil {
		return nil, nil, err
	}
	c := Defaults(env)
	c.path = path
	c.addNamed(file)
	l := loader{c: c, path: path, file: file}
	schema, _, _ := file.lookup("META", "schema_version")
	version, err := strconv.Atoi(schema.value)
	l.literal = err == nil && version >= literalSchema
	for _, s := range file.sections {
		l.section(s)
	}
	l.inherit()
	if err := errors.Join(l.errs...); err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(l.warnings, func(a, b Warning) int { return a.Line - b.Line })
	return c, l.warnings, nil
}

// A loader fills a Config from a parsed file.
type loader struct {
	c        *Config
	path     string
	file     *iniFile
	literal  bool // % stands for itself
	warnings []Warning
	errs     []error
}

func (l *loader) warn(kind Kind, line int, section, key, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{Kind: kind, File: l.path, Line: line,
		Section: printable(section), Key: printable(key), Message: fmt.Sprintf(format, args...)})
}

func (l *loader) section(s *iniSection) {
	if !slices.ContainsFunc(l.c.sections(), func(k Section) bool { return k.Name == s.name }) {
		l.warn(Unknown, s.line, s.name, "", "is not a known section%s; it is ignored", l.c.suggestSection(s.name))
		return
	}
	for _, e := range s.entries {
		if k, ok := l.c.keys[ref{s.name, e.key}]; ok {
			l.entry(k, e)
		} else if heirs := l.c.sectionsWith(e.key); s.name == defaultSection && heirs != nil {
			l.warn(Inherited, e.line, s.name, e.key, "is inherited by the sections of the file that know it: %s", strings.Join(heirs, ", "))
		} else {
			l.warn(Unknown, e.line, s.name, e.key, "is not a known key%s; it is ignored", l.c.suggestKey(s.name, e.key))
		}
	}
}

// entry takes over one key of the table that its section sets or inherits.
func (l *loader) entry(k Key, e iniEntry) {
	v := l.set(k, e)
	if !v.IsSet() {
		return
	}
	if len(variables(v.text)) == 0 {
		if err := v.check(); err != nil {
			l.errs = append(l.errs, err)
			return
		}
		if k.Secret || redactAddress(v.text) != v.text {
			l.c.plain = true
			l.warn(PlaintextSecret, e.line, k.Section, k.Name, "holds a secret in plain text; keep it in an environment variable and write ${NAME} here")
		}
	}
	off := slices.Contains([]string{"false", "no", "off", "0", "none"}, strings.ToLower(v.text))
	switch {
	case off, v.text == k.Default && k.Type != Bool:
		// What is switched off is not missed, nor a number that came with
		// the example file.
	case k.Deprecated != "":
		l.warn(Deprecated, e.line, k.Section, k.Name, "has no effect any more: %s", k.Deprecated)
	case k.Reserved:
		l.warn(Reserved, e.line, k.Section, k.Name, "is kept but this version does not act on it")
	}
}

// set records what the file says about k, read in k's section.
func (l *loader) set(k Key, e iniEntry) Value {
	text := e.value
	if !l.literal && strings.Contains(text, "%") {
		read, ok := l.file.interpolate(k.Section, text)
		if ok && read != text {
			l.warn(Percent, e.line, k.Section, k.Name, "is read as BackupHandler 2.5 did (%%%% means %%, %%(name)s the value of name); with [META] schema_version = %d, %% stands for itself", literalSchema)
		}
		text = read
	}
	if text == "None" {
		text = ""
	}
	l.c.values[ref{k.Section, k.Name}] = setting{text, l.path, e.line}
	return l.c.Value(k.Section, k.Name)
}

// inherit gives the keys of [DEFAULT] to the sections of the file that know
// them and do not set them.
func (l *loader) inherit() {
	for _, k := range l.c.allKeys() {
		if e, inherited, ok := l.file.lookup(k.Section, k.Name); ok && inherited && k.Section != defaultSection && !k.Own {
			l.entry(k, e)
		}
	}
}

func (c *Config) sectionsWith(key string) []string {
	var names []string
	for _, k := range Keys() {
		if k.Name == key {
			names = append(names, k.Section)
		}
	}
	return names
}

// suggestKey returns what was probably meant, as the end of a sentence.
func (c *Config) suggestKey(section, key string) string {
	if others := c.sectionsWith(key); others != nil {
		return "; it belongs in [" + strings.Join(others, "] or [") + "]"
	}
	var names []string
	for _, k := range Keys() {
		if k.Section == section {
			names = append(names, k.Name)
		}
	}
	if best := closest(key, names); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}

func (c *Config) suggestSection(name string) string {
	if hint := c.suggestNamed(name); hint != "" {
		return hint
	}
	var names []string
	for _, s := range Sections() {
		names = append(names, s.Name)
	}
	if best := closest(strings.ToUpper(name), names); best != "" {
		return "; did you mean [" + best + "]?"
	}
	return ""
}

// closest returns the name within two edits of word, and within a third of its
// length, or "".
func closest(word string, names []string) string {
	best, distance := "", 3
	for _, name := range names {
		if d := editDistance(word, name); d < distance && d*3 <= len(name) {
			best, distance = name, d
		}
	}
	return best
}

// editDistance is Levenshtein's; words far longer than any name are far away.
func editDistance(a, b string) int {
	if len(a) > len(b)+3 || len(b) > len(a)+3 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// Path returns the path that Load was given; "" for [Defaults].
func (c *Config) Path() string { return c.path }

// Exposed says whether others can read secrets that are written into the file.
func (c *Config) Exposed() bool { return c.exposed && c.plain }

// Value returns the setting of a key. It panics if the table has no such key.
func (c *Config) Value(section, key string) Value {
	k, ok := c.keys[ref{section, key}]
	if !ok {
		panic(fmt.Sprintf("config: [%s] %s is not in the table", section, key))
	}
	s := c.values[ref{section, key}]
	if s.file == "" {
		s.file = c.path
	}
	return Value{Key: k, c: c, text: s.text, file: s.file, line: s.line}
}

// Check reads every value, with its variables, and what values demand of each
// other. It returns all that is wrong, in the order of the table.
func (c *Config) Check() []error {
	var errs []error
	for _, k := range c.allKeys() {
		if v := c.Value(k.Section, k.Name); v.IsSet() {
			if err := v.check(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return errs // what follows from them would only repeat them
	}
	streams, err := c.Streams()
	if err != nil {
		errs = append(errs, err)
	}
	databases, err := c.Databases()
	if err != nil {
		errs = append(errs, err)
	}
	if m, err := c.Modes(); err == nil && m.DB && c.Value("MODES", "db").IsSet() && len(databases) == 0 {
		errs = append(errs, c.Value("MODES", "db").errorf("needs [DATABASE] database"))
	}
	if dirs, err := c.Sources(); err == nil && len(dirs)+len(streams)+len(databases) == 0 {
		errs = append(errs, c.Value("DEFAULT", "source_dir").errorf("nothing to back up: set it"))
	}
	errs = append(errs, c.checkDestinations()...)
	if e, err := c.Encryption(); err == nil && e.Enabled && !e.KeyFile.IsSet() && !e.Passphrase.IsSet() {
		errs = append(errs, c.Value("ENCRYPTION", "enabled").errorf("needs key_file or passphrase"))
	}
	if _, err := c.Metrics(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkDestinations finds modes without destinations, and the other way round.
func (c *Config) checkDestinations() (errs []error) {
	m, err := c.Modes()
	dirs, derr := c.BackupDirs()
	ssh, serr := c.SSH()
	s3, terr := c.S3()
	if err != nil || derr != nil || serr != nil || terr != nil {
		return nil // has been said
	}
	if m.SSH && len(ssh.Servers) == 0 {
		errs = append(errs, c.Value("MODES", "ssh").errorf("needs [SSH] ssh_servers"))
	}
	if m.S3 && s3.Bucket == "" {
		errs = append(errs, c.Value("MODES", "s3").errorf("needs [S3] bucket"))
	}
	if (!m.Local || len(dirs) == 0) && !m.SSH && !m.S3 {
		errs = append(errs, c.Value("BACKUPS", "backup_dirs").errorf("nowhere to back up to: set it, or one of [MODES] ssh and s3"))
	}
	return errs
}
