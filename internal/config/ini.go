package config

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFileBytes bounds a configuration file. The longest ones seen are a few
// KiB; more is a wrong file given by mistake, and is refused before it is read
// into memory.
const maxFileBytes = 1 << 20

// defaultSection is the section whose keys all others inherit.
const defaultSection = "DEFAULT"

// An iniFile is what Python's configparser (3.11, strict, default delimiters
// and comment prefixes) makes of the same bytes, before interpolation:
//
//   - "[NAME]" starts a section; names are case-sensitive, and what follows
//     the last "]" of the line is ignored;
//   - "key = value" or "key: value", split at the first of either; keys are
//     lower-cased; an empty value is kept as "";
//   - a line whose first visible character is # or ; is a comment, wherever it
//     stands; there are no comments behind a value;
//   - a line indented deeper than its key continues the value, after a newline;
//     blank lines inside a value belong to it, those at its end do not;
//   - a section or a key that comes twice is an error, except that [DEFAULT]
//     may be opened again.
//
// Beyond Python, a UTF-8 byte order mark is skipped.
type iniFile struct {
	sections []*iniSection // in the order of the file
	byName   map[string]*iniSection
}

type iniSection struct {
	name    string
	line    int // of the header, counted from 1
	entries []iniEntry
	byKey   map[string]int // position in entries
}

type iniEntry struct {
	key   string // lower case
	value string // raw: no interpolation, no variables resolved
	line  int
}

func (f *iniFile) section(name string) *iniSection { return f.byName[name] }

func (s *iniSection) entry(key string) (iniEntry, bool) {
	if s != nil {
		if i, ok := s.byKey[key]; ok {
			return s.entries[i], true
		}
	}
	return iniEntry{}, false
}

// lookup finds key as configparser's get does: in the section, else in
// [DEFAULT], but only if the section exists.
func (f *iniFile) lookup(section, key string) (e iniEntry, inherited, ok bool) {
	s := f.section(section)
	if s == nil {
		return iniEntry{}, false, false
	}
	if e, ok := s.entry(key); ok {
		return e, false, true
	}
	e, ok = f.section(defaultSection).entry(key)
	return e, true, ok
}

// parseINI reads a file. name only appears in errors, which give the line and
// never its text: the text may be a secret that slipped out of its place.
func parseINI(name string, r io.Reader) (*iniFile, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", name, err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("read configuration %s: larger than %d bytes", name, maxFileBytes)
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	p := iniParser{name: name, file: &iniFile{byName: make(map[string]*iniSection)}}
	for line := range bytes.Lines(universalNewlines(data)) {
		p.line++
		if !utf8.Valid(line) {
			return nil, p.errorf("not UTF-8 text")
		}
		if err := p.parseLine(string(line)); err != nil {
			return nil, err
		}
	}
	p.endValue()
	return p.file, nil
}

// universalNewlines turns "\r\n" and a lone "\r" into "\n", as Python does when
// it opens a text file.
func universalNewlines(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(b, []byte("\r"), []byte("\n"))
}

type iniParser struct {
	name   string
	line   int
	file   *iniFile
	sect   *iniSection
	indent int // of the line that a continuation must exceed

	open  bool     // the last entry of sect may still be continued
	value []string // its lines so far
}

func (p *iniParser) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.name, p.line, fmt.Sprintf(format, args...))
}

// endValue joins the lines of the value that was being read.
func (p *iniParser) endValue() {
	if p.open {
		e := &p.sect.entries[len(p.sect.entries)-1]
		e.value = strings.TrimRightFunc(strings.Join(p.value, "\n"), isPythonSpace)
		p.open = false
	}
}

func (p *iniParser) parseLine(line string) error {
	text := strings.TrimFunc(line, isPythonSpace)
	if text == "" {
		if p.open {
			p.value = append(p.value, "")
		}
		return nil
	}
	if text[0] == '#' || text[0] == ';' {
		return nil
	}
	indent := utf8.RuneCountInString(line[:strings.Index(line, text)])
	if p.open && indent > p.indent {
		p.value = append(p.value, text)
		return nil
	}
	p.endValue()
	p.indent = indent
	if end := strings.LastIndexByte(text, ']'); text[0] == '[' && end > 1 {
		return p.startSection(text[1:end])
	}
	if p.sect == nil {
		return p.errorf("text before the first [SECTION]")
	}
	at := strings.IndexAny(text, "=:")
	if at < 0 {
		return p.errorf("neither a [SECTION], a key = value, nor an indented continuation of the line above")
	}
	key := strings.ToLower(strings.TrimRightFunc(text[:at], isPythonSpace))
	if key == "" {
		return p.errorf("a value without a key")
	}
	if first, ok := p.sect.entry(key); ok {
		return p.errorf("[%s] %s is set already, on line %d", printable(p.sect.name), printable(key), first.line)
	}
	p.sect.byKey[key] = len(p.sect.entries)
	p.sect.entries = append(p.sect.entries, iniEntry{key: key, line: p.line})
	p.open = true
	p.value = append(p.value[:0], strings.TrimLeftFunc(text[at+1:], isPythonSpace))
	return nil
}

func (p *iniParser) startSection(name string) error {
	p.sect = p.file.section(name)
	if p.sect == nil {
		p.sect = &iniSection{name: name, line: p.line, byKey: make(map[string]int)}
		p.file.byName[name] = p.sect
		p.file.sections = append(p.file.sections, p.sect)
		return nil
	}
	if name != defaultSection {
		return p.errorf("section [%s] exists already, on line %d", printable(name), p.sect.line)
	}
	return nil
}

// isPythonSpace is str.isspace, which counts the four ASCII separators that
// unicode.IsSpace leaves out.
func isPythonSpace(r rune) bool {
	return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f
}

// printable makes a name from a file fit for a one-line message.
func printable(name string) string {
	const most = 64 // runes; longer than any name of the table
	out := make([]rune, 0, most)
	for _, r := range name {
		if len(out) == most {
			return string(out) + "…"
		}
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		out = append(out, r)
	}
	return string(out)
}

// Bounds of %-interpolation. The depth is Python's; the size keeps a few lines
// that refer to each other from growing without end.
const (
	maxInterpolationDepth = 10
	maxInterpolatedBytes  = 64 << 10
)

// interpolate reads a value as BackupHandler 2.5 did, through configparser's
// BasicInterpolation: "%%" is a percent sign, "%(name)s" the value of another
// key of the section or of [DEFAULT]. ok is false for what 2.5 could not read
// (any other use of %, an unknown name, a circle): such a value was not written
// for 2.5, and stands for itself.
func (f *iniFile) interpolate(section, value string) (text string, ok bool) {
	in := interpolation{file: f, section: section}
	if !in.expand(value, 1) {
		return value, false
	}
	return in.out.String(), true
}

type interpolation struct {
	file    *iniFile
	section string
	out     strings.Builder
	steps   int
}

func (in *interpolation) expand(rest string, depth int) bool {
	in.steps++
	if depth > maxInterpolationDepth || in.steps > maxInterpolatedBytes || in.out.Len() > maxInterpolatedBytes {
		return false
	}
	for {
		before, after, found := strings.Cut(rest, "%")
		in.out.WriteString(before)
		if !found {
			return true
		}
		switch {
		case strings.HasPrefix(after, "%"):
			in.out.WriteByte('%')
			rest = after[1:]
		case strings.HasPrefix(after, "("):
			end := strings.IndexByte(after, ')')
			if end < 2 || !strings.HasPrefix(after[end+1:], "s") {
				return false
			}
			e, _, ok := in.file.lookup(in.section, strings.ToLower(after[1:end]))
			if !ok {
				return false
			}
			if !strings.Contains(e.value, "%") {
				in.out.WriteString(e.value)
			} else if !in.expand(e.value, depth+1) {
				return false
			}
			rest = after[end+2:]
		default:
			return false
		}
	}
}
