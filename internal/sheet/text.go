package sheet

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// textWidth is what lines keep to, but for commands and addresses.
const textWidth = 78

// Text is the sheet as plain text, in UTF-8.
func (s *Sheet) Text() ([]byte, error) {
	c, err := newCode(s.Key.Text())
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%s\n%s\n", strings.ToUpper(title), strings.Repeat("=", len(title)))
	p("%s\n", wrap(s.intro(), ""))
	p("computer    %s\nmade        %s, by %s", printable(s.Host), s.Created.Format(time.DateOnly), printable(s.Program))
	for _, r := range s.Repositories {
		p("repository  %s\n            ID %s, key slot %s", printable(r.Address), r.ID, r.Slot)
	}
	p("")
	p("TO GET THE FILES BACK\n")
	for i, st := range s.steps() {
		p("%s", wrap(fmt.Sprintf("Step %d. %s", i+1, st.text), "  "))
		if st.command != "" {
			p("\n      %s\n", printable(st.command))
		}
		if st.after != "" {
			p("%s", wrap("  "+st.after, "  "))
		}
		p("")
	}
	p("THE KEY\n")
	for i, line := range s.Key.Lines() {
		p("    %d: %s", i+1, line)
	}
	p("\n%s", c.text())
	p("%s", wrap(s.ifLost(), ""))
	return []byte(b.String()), nil
}

// printable keeps what a name may hold from breaking lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// wrap breaks a text into lines, the later ones indented.
func wrap(text, indent string) string {
	var lines []string
	line := text[:len(text)-len(strings.TrimLeft(text, " "))]
	for i, word := range strings.Fields(printable(text)) {
		switch {
		case i == 0:
			line += word
		case len([]rune(line))+1+len([]rune(word)) > textWidth:
			lines = append(lines, line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	return strings.Join(append(lines, line), "\n")
}
