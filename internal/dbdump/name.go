package dbdump

import (
	"strings"
	"unicode/utf8"
)

// FileName makes the name of a database or a table one of a file, which is different for
// different names: what file systems or shells may not like is written as %XX.
func FileName(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		plain := r != utf8.RuneError || n > 1
		if r < 0x20 || r == 0x7f || strings.ContainsRune(`%/\:*?"<>|`, r) || r == '.' && i == 0 || r == ' ' && i+n == len(name) {
			plain = false
		}
		if plain {
			b.WriteString(name[i : i+n])
		} else {
			for _, c := range []byte(name[i : i+n]) {
				b.WriteByte('%')
				b.WriteByte(hex[c>>4])
				b.WriteByte(hex[c&15])
			}
		}
		i += n
	}
	return b.String()
}
