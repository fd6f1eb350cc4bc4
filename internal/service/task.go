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
	trigger := "BootTrigger"
	account := o.User
	if account == "" {
		account = "S-1-5-18" // the system
	}
	principal := []string{"      <UserId>" + escapeXML(account) + "</UserId>", "      <RunLevel>HighestAvailable</RunLevel>"}
	if o.UserUnit {
		trigger = "LogonTrigger"
		principal = []string{"      <LogonType>InteractiveToken</LogonType>", "      <RunLevel>LeastPrivilege</RunLevel>"}
	}
	var t text
	t.lines(`<?xml version="1.0" encoding="UTF-16"?>`,
		"<!-- "+Marker+" -->",
		`<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">`,
		"  <RegistrationInfo>",
		"    <Description>Backups by schedule</Description>",
		"  </RegistrationInfo>",
		"  <Triggers>",
		"    <"+trigger+">",
		"      <Enabled>true</Enabled>",
		"    </"+trigger+">",
		"  </Triggers>",
		"  <Principals>",
		`    <Principal id="Author">`)
	t.lines(principal...)
	t.lines("    </Principal>",
		"  </Principals>",
		"  <Settings>",
		"    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>",
		"    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>",
		"    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>",
		"    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>",
		"    <Priority>8</Priority>",
		"    <RestartOnFailure>",
		"      <Interval>PT1M</Interval>",
		"      <Count>255</Count>",
		"    </RestartOnFailure>",
		"  </Settings>",
		`  <Actions Context="Author">`,
		"    <Exec>",
		"      <Command>"+escapeXML(o.Program)+"</Command>",
		"      <Arguments>"+escapeXML(strings.Join(line, " "))+"</Arguments>",
		"    </Exec>",
		"  </Actions>",
		"</Task>")
	return []File{{Name + ".xml", encodeUTF16(strings.ReplaceAll(t.String(), "\n", "\r\n")), 0o644}}, nil
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
