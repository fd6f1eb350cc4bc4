package service

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// Task renders a task of the Windows Task Scheduler that starts the daemon with the
// machine, or with UserUnit when the user logs in. It is UTF-16, as schtasks wants it.
func Task(o Options) ([]File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var line []string
	for _, a := range o.arguments("") {
		line = append(line, quoteWindows(a))
	}
	text, err := render("task.tmpl", map[string]any{
		"Marker": Marker, "Description": "Backups by schedule", "Program": o.Program, "ArgumentLine": strings.Join(line, " "),
		"User": o.User, "UserUnit": o.UserUnit,
	})
	if err != nil {
		return nil, err
	}
	return []File{{Name + ".xml", encodeUTF16(strings.ReplaceAll(string(text), "\n", "\r\n")), 0o644}}, nil
}

func encodeUTF16(text string) []byte {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

func decodeUTF16(data []byte) string {
	if len(data) < 2 || data[0] != 0xff || data[1] != 0xfe {
		return string(data)
	}
	var units []uint16
	for i := 2; i+1 < len(data); i += 2 {
		units = append(units, binary.LittleEndian.Uint16(data[i:]))
	}
	return string(utf16.Decode(units))
}

// quoteWindows writes an argument as CommandLineToArgvW reads it.
func quoteWindows(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\"") {
		return arg
	}
	var out strings.Builder
	out.WriteByte('"')
	backslashes := 0
	for _, r := range arg {
		switch r {
		case '\\':
			backslashes++
		case '"': // those before a quote are doubled, and it gets one of its own
			out.WriteString(strings.Repeat(`\`, backslashes+1))
			backslashes = 0
		default:
			backslashes = 0
		}
		out.WriteRune(r)
	}
	out.WriteString(strings.Repeat(`\`, backslashes))
	out.WriteByte('"')
	return out.String()
}

// Text is the content of a file, for people.
func Text(data []byte) string { return strings.ReplaceAll(decodeUTF16(data), "\r\n", "\n") }
