package config

import (
	"bytes"
	"fmt"
	"strings"
)

// Example returns a configuration file in which every key of the table appears
// with its sentence; all but the few that a first backup needs are commented
// out. It is config/config.ini.example of the source tree.
func Example() []byte {
	var out bytes.Buffer
	out.WriteString(`# Configuration of backup-handler.
#
# Keep this file to yourself (chmod 600) and secrets out of it: ${NAME} stands
# for an environment variable, which is looked up when the value is needed.
# A comment has a line of its own. Lists are separated by commas; an item that
# holds a comma is put in "double quotes". Indented lines continue a value.
# An empty value, or None, is as good as none.
`)
	for _, s := range Sections() {
		out.WriteString("\n")
		comment(&out, s.Doc)
		if s.Named {
			comment(&out, "More of them are ["+s.Name+" WORD], with a word of yours.")
		}
		fmt.Fprintf(&out, "[%s]\n", s.Name)
		for _, k := range s.Keys {
			out.WriteString("\n")
			comment(&out, describe(k))
			line := strings.TrimSpace(k.Name + " = " + exampleValue(k))
			if !k.Active {
				line = "#" + line
			}
			out.WriteString(line + "\n")
		}
	}
	return out.Bytes()
}

func exampleValue(k Key) string {
	if k.Example != "" {
		return k.Example
	}
	return k.Default
}

// describe is what the example says above a key.
func describe(k Key) string {
	parts := []string{k.Doc}
	if k.Deprecated != "" {
		parts = append(parts, "Deprecated: "+k.Deprecated+".")
	}
	if k.Type == Enum {
		parts = append(parts, "One of "+strings.Join(k.Values, ", ")+".")
	} else if len(k.Values) > 0 {
		parts = append(parts, "Any of "+strings.Join(k.Values, ", ")+".")
	}
	if k.Unit != "" {
		parts = append(parts, "Unit: "+k.Unit+".")
	}
	if k.Default != "" {
		parts = append(parts, "Default: "+k.Default+".")
	}
	if k.Reserved {
		parts = append(parts, "Kept but not acted on.")
	}
	return strings.Join(parts, " ")
}

// comment writes text as comment lines of at most 79 columns.
func comment(out *bytes.Buffer, text string) {
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 79 && line != "#" {
			out.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	out.WriteString(line + "\n")
}

// Reference returns the reference of all keys as Markdown. It is
// docs/configuration.md of the source tree.
func Reference() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `# Configuration

This page is generated from the table of keys in internal/config; change it there.

The configuration is an INI file as Python's configparser reads it, so files of BackupHandler 2.5 load unchanged.

- `+"`[SECTION]`"+` names are case-sensitive, keys are not. Keys in `+"`[DEFAULT]`"+` are inherited by every section of the file.
- `+"`key = value`"+` or `+"`key: value`"+`. Indented lines continue a value. An empty value, or `+"`None`"+`, is unset.
- Comments have a line of their own and begin with `+"`#` or `;`"+`. Behind a value there are none: passwords may hold both.
- Lists are separated by commas or line ends. An item in double quotes may hold commas; in it, `+"`\\\"` and `\\\\`"+` are a quote and a backslash.
- `+"`${NAME}`"+` is an environment variable. It is looked up when the value is needed: a restore does not ask for the variables of a notification.
- Paths are relative to the working directory; `+"`~`"+` is the home directory.
- Booleans are True/False, yes/no, on/off or 1/0. Sizes are powers of 1024: 512K, 20MiB, 1G. Processors are a number (0.5, 2) or a share of the machine's (50%%). Durations are 90s, 5m, 2h, 7d, 4w.
- `+"`%%`"+` is read as BackupHandler 2.5 read it wherever it could: `+"`%%%%` is one percent sign, `%%(name)s`"+` the value of another key. Any other use stands for itself. With `+"`[META] schema_version = %d`"+` every percent sign stands for itself.
- The file is at most %d KiB of UTF-8. A section or key that comes twice is an error.

The first of these is read: `+"`--config FILE`; `--profile NAME` (`config.NAME.ini`"+` beside any of the following); `+"`$BACKUP_HANDLER_CONFIG`; `config/config.ini`; `$XDG_CONFIG_HOME/backup-handler/config.ini`; `/etc/backup-handler/config.ini`"+`.
A file that is asked for and missing is an error.

Secrets are marked; they are never printed. "Reserved" keys are read, checked and kept for features that this version does not have: it does not act on them, and `+"`config check`"+` says so.
`, literalSchema, maxFileBytes>>10)
	for _, s := range Sections() {
		fmt.Fprintf(&out, "\n## [%s]\n\n%s\n", s.Name, cell(s.Doc))
		if s.Named {
			fmt.Fprintf(&out, "More of them are `[%s WORD]`, with a word of letters, digits, - and _, which is what it is called.\n", s.Name)
		}
		out.WriteString("\n| key | type | default | meaning |\n|---|---|---|---|\n")
		for _, k := range s.Keys {
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", k.Name, typeCell(k), defaultCell(k), meaningCell(k))
		}
	}
	return out.Bytes()
}

func typeCell(k Key) string {
	text := string(k.Type)
	if k.Type == Enum {
		text = "`" + strings.Join(k.Values, "`, `") + "`"
	} else if len(k.Values) > 0 {
		text += " of `" + strings.Join(k.Values, "`, `") + "`"
	}
	if k.Unit != "" {
		text += ", " + k.Unit
	}
	if k.Secret {
		text += ", **secret**"
	}
	return text
}

func defaultCell(k Key) string {
	if k.Default == "" {
		return "–"
	}
	return "`" + cell(k.Default) + "`"
}

func meaningCell(k Key) string {
	text := cell(k.Doc)
	if k.Floor > 0 {
		text += fmt.Sprintf(" At least %d; smaller values mean that.", k.Floor)
	}
	if k.Max > 0 {
		text += fmt.Sprintf(" At most %d.", k.Max)
	}
	if k.Deprecated != "" {
		text += " **Deprecated**: " + cell(k.Deprecated) + "."
	}
	if k.Reserved {
		text += " Reserved."
	}
	return text
}

// cell makes text fit into a cell of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "\n", " ").Replace(text)
}
