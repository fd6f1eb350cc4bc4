package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// bytesText is a size for people: binary units, three digits.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	i := -1
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	digits := 1
	if f >= 100 {
		digits = 0
	}
	return fmt.Sprintf("%.*f %ciB", digits, f, units[i])
}

// countText groups the digits of a number.
func countText(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func durationText(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// ratioText is a quotient, such as 3.4, or "–".
func ratioText(a, b int64) string {
	if a <= 0 || b <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// quote makes a path safe to print: what is not printable or not UTF-8 is escaped,
// so that a name can neither break lines nor talk to the terminal. Backslashes are
// doubled, so that the name can be told from its escapes.
func quote(path string) string { return escape(path, true) }

// escape replaces what must not reach a terminal.
func escape(s string, backslash bool) string {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || backslash && r == '\\' }
	if utf8.ValidString(s) && strings.IndexFunc(s, bad) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !bad(r):
			b.WriteRune(r)
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// things counts things, whose plural is regular.
func things(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return countText(int64(n)) + " " + what
}
