package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

// BackupHandler 2.5 had no commands, only flags. This file turns such a command
// line into one of commands. What 2.5 could do and this version cannot is an
// error that names the flag: a cron job must not go on in the belief that its
// backups are sent somewhere.

// A legacyFlag is a flag of 2.5.
type legacyFlag struct {
	name  string
	words int    // arguments: 0, 1, 2, or many for one and all words that follow
	lacks string // what to do instead, for what this version does not do
}

// many is a legacyFlag's number of arguments for Python's nargs='+'.
const many = -1

func legacyFlags() []legacyFlag {
	const inv = "this version takes no inventory of the machine"
	return []legacyFlag{
		{name: "version"}, {name: "status"}, {name: "show-setup"}, {name: "verify"}, {name: "restore"}, {name: "scheduled"}, {name: "help"},
		{name: "config", words: 1}, {name: "profile", words: 1},
		{name: "operation-modes", words: many}, {name: "ssh-servers", words: many}, {name: "source-dir", words: 1}, {name: "backup-dirs", words: many},
		{name: "backup-mode", words: 1}, {name: "exclude", words: 1},
		{name: "encrypt"}, {name: "dedup"}, {name: "dry-run"}, {name: "retain", words: 1},
		{name: "tailscale"}, {name: "tailscale-authkey", words: 1},
		{name: "from-dir", words: 1}, {name: "to-dir", words: 1}, {name: "restore-timestamp", words: 1},
		{name: "notifications"}, {name: "receiver", words: many},

		{name: "compress", words: 1, lacks: "repositories are always compressed; drop the flag"},
		{name: "snapshot", lacks: inv}, {name: "restore-snapshot", words: 1, lacks: inv},
		{name: "snapshot-diff", words: 2, lacks: inv}, {name: "snapshot-output", words: 1, lacks: inv},
		{name: "install", lacks: "this version does not set up the machine; mount the disk, and run 'backup-handler init'"},
	}
}

// translate turns the command line of 2.5 into one of commands. One that has a
// command, or nothing that only 2.5 knows, is returned as it is.
//
// An error is a *job.Failure.
func translate(args []string) ([]string, error) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return args, nil
	}
	root := newApp(nil, nil, io.Discard, io.Discard).rootCommand()
	if !isLegacy(root, args) {
		return args, nil
	}
	l := legacy{values: make(map[string][]string)}
	if err := l.parse(root, args); err != nil {
		return nil, err
	}
	return l.command()
}

// isLegacy says whether args have no command, and a flag that needs one.
func isLegacy(root *cobra.Command, args []string) bool {
	for i := 0; i < len(args); i++ {
		word := args[i]
		if !strings.HasPrefix(word, "--") {
			if strings.HasPrefix(word, "-") {
				continue // short flags are all without a value
			}
			return false
		}
		name, _, hasValue := strings.Cut(word[2:], "=")
		f := root.PersistentFlags().Lookup(name)
		if f == nil {
			return name != "help" && name != ""
		}
		if f.NoOptDefVal != "" || hasValue {
			continue
		}
		i++
		// As in 2.5, --backup-dirs may be followed by several.
		for f.Name == "backup-dirs" && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") && !isCommand(root, args[i+1]) {
			i++
		}
	}
	// Nothing but flags that any command has. Some of them were all that 2.5
	// needed for a backup.
	return slices.ContainsFunc(args, func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return name == "--backup-dirs" || name == "--tailscale" || name == "--tailscale-authkey"
	})
}

func isCommand(root *cobra.Command, word string) bool {
	return word == "help" || word == "completion" ||
		slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == word || c.HasAlias(word) })
}

// A legacy is a command line of 2.5, taken apart.
type legacy struct {
	values  map[string][]string // of each flag that is given
	globals []string            // flags of this version that every command has
}

func usageError(hint, format string, args ...any) error {
	return &job.Failure{Code: job.ExitUsage, Err: fmt.Errorf(format, args...), Hint: hint}
}

func (l *legacy) given(name string) bool { _, ok := l.values[name]; return ok }

// last is the value that counts of a flag with one argument.
func (l *legacy) last(name string) string {
	if v := l.values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func (l *legacy) parse(root *cobra.Command, args []string) error {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if word == "-h" {
			word = "--help"
		}
		if !strings.HasPrefix(word, "-") {
			return usageError("see 'backup-handler --help'", "unexpected argument %q", word)
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		f, err := findLegacy(name)
		if err != nil {
			return err
		}
		if f == nil || !strings.HasPrefix(word, "--") {
			if !l.global(root, word, &args) {
				return usageError("this is a command line without a command, as of BackupHandler 2.5; name one, e.g. 'backup-handler backup …'", "unknown flag %s", strings.SplitN(word, "=", 2)[0])
			}
			continue
		}
		if f.lacks != "" { // before its values, which may be secret or missing
			return usageError(f.lacks, "--%s of BackupHandler 2.5 is not in this version", f.name)
		}
		var words []string
		if hasValue {
			words = []string{value}
		}
		for len(args) > 0 && !strings.HasPrefix(args[0], "-") && (f.words == many && !hasValue || len(words) < f.words) {
			words, args = append(words, args[0]), args[1:]
		}
		switch {
		case f.words == 0 && hasValue:
			return usageError("", "--%s takes no value", f.name)
		case f.words != 0 && len(words) == 0:
			return usageError("", "--%s needs a value", f.name)
		}
		if f.words == many {
			words = slices.DeleteFunc(words, func(s string) bool { return s == "" })
			words = append(l.values[f.name], words...) // 2.5 forgot the earlier ones
		}
		l.values[f.name] = words // as in 2.5, the last one counts
	}
	return nil
}

// findLegacy finds a flag by its name or, as Python's argparse, by a beginning
// that no other has; nil if there is none.
func findLegacy(name string) (*legacyFlag, error) {
	var found []legacyFlag
	for _, f := range legacyFlags() {
		if f.name == name {
			return &f, nil
		}
		if name != "" && strings.HasPrefix(f.name, name) {
			found = append(found, f)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return &found[0], nil
	}
	var names []string
	for _, f := range found {
		names = append(names, "--"+f.name)
	}
	return nil, usageError("", "--%s may be %s", name, strings.Join(names, " or "))
}

// global takes over a flag that every command of this version has.
func (l *legacy) global(root *cobra.Command, word string, args *[]string) bool {
	if !strings.HasPrefix(word, "--") {
		for _, c := range []byte(word[1:]) {
			if c >= utf8.RuneSelf || root.PersistentFlags().ShorthandLookup(string(c)) == nil {
				return false
			}
		}
		l.globals = append(l.globals, word)
		return len(word) > 1
	}
	name, _, hasValue := strings.Cut(word[2:], "=")
	f := root.PersistentFlags().Lookup(name)
	if f == nil {
		return false
	}
	if f.NoOptDefVal == "" && !hasValue && len(*args) > 0 {
		word += "=" + (*args)[0]
		*args = (*args)[1:]
	}
	l.globals = append(l.globals, word)
	return true
}

// command writes the new command line.
func (l *legacy) command() ([]string, error) {
	if l.given("help") {
		return []string{"--help"}, nil
	}
	var actions []string
	for _, name := range []string{"version", "status", "show-setup", "verify", "restore", "scheduled"} {
		if l.given(name) {
			actions = append(actions, name)
		}
	}
	switch {
	case l.given("version"):
		return append([]string{"version"}, l.globals...), nil
	case len(actions) > 1:
		return nil, usageError("", "--%s and --%s exclude each other", actions[0], actions[1])
	case len(actions) == 1 && l.given("backup-mode") && !l.given("scheduled"):
		return nil, usageError("", "--%s and --backup-mode exclude each other", actions[0])
	case l.given("scheduled") && l.given("dry-run"):
		return nil, usageError("'backup-handler daemon next' prints what is due", "--scheduled and --dry-run exclude each other")
	case l.given("config") && l.given("profile"):
		return nil, usageError("", "--config and --profile exclude each other")
	}
	for _, m := range l.values["operation-modes"] {
		switch m {
		case "local", "ssh", "s3", "db":
		default:
			return nil, usageError("", "--operation-modes %q: want local, ssh, s3 or db", m)
		}
	}
	action := "backup"
	if len(actions) == 1 {
		action = actions[0]
	}
	if action != "restore" {
		for _, name := range []string{"from-dir", "to-dir", "restore-timestamp"} {
			if l.given(name) {
				return nil, usageError("", "--%s needs --restore", name)
			}
		}
	}
	var out, last []string
	var err error
	switch action {
	case "scheduled":
		out = []string{"daemon"}
		last, err = l.scheduled()
	case "status":
		out = []string{"status"}
	case "show-setup":
		out = []string{"config", "show"}
	case "verify":
		out = []string{"verify"}
	case "restore":
		out, err = l.restore()
	default:
		out, err = l.backup()
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"config", "profile"} {
		if l.given(name) {
			out = append(out, "--"+name+"="+l.last(name))
		}
	}
	if l.given("tailscale") {
		out = append(out, "--tailscale")
	}
	if l.given("tailscale-authkey") {
		out = append(out, "--tailscale-authkey="+l.last("tailscale-authkey"))
	}
	if action != "restore" {
		out = append(out, backupDirFlags(l.values["backup-dirs"])...)
	}
	return slices.Concat(out, l.globals, last), nil
}

// scheduled are the flags of a backup that were given to --scheduled, for each of its
// runs. 2.5 forgot about them.
func (l *legacy) scheduled() ([]string, error) {
	all, err := l.backup()
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(all[1:], func(arg string) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		return !l.given(name) // what stands for 2.5's defaults; here the configuration has them
	})
	if len(out) > 0 {
		out = slices.Insert(out, 0, "--")
	}
	return out, nil
}

func backupDirFlags(dirs []string) (out []string) {
	for _, d := range dirs {
		out = append(out, csvFlag("backup-dirs", d))
	}
	return out
}

// csvFlag writes one value of a flag that reads CSV: what would be split is quoted.
func csvFlag(name, value string) string {
	if strings.ContainsAny(value, ",\"\r\n") {
		value = `"` + strings.ReplaceAll(value, `"`, `""`) + `"`
	}
	return "--" + name + "=" + value
}

func (l *legacy) backup() ([]string, error) {
	mode := l.last("backup-mode")
	switch mode {
	case "":
		mode = "full" // what 2.5 did
	case "full", "incremental", "differential":
	default:
		return nil, usageError("", "--backup-mode %q: want full, incremental or differential", mode)
	}
	out := []string{"backup", "--backup-mode=" + mode}
	// As in 2.5: a command line without modes means directories, whatever the
	// configuration's [MODES] say.
	modes := l.values["operation-modes"]
	if len(modes) == 0 {
		modes = []string{"local"}
		if l.given("ssh-servers") {
			return nil, usageError("add --operation-modes ssh", "--ssh-servers needs --operation-modes ssh")
		}
	}
	out = append(out, "--operation-modes="+strings.Join(modes, ","))
	for _, s := range l.values["ssh-servers"] {
		out = append(out, csvFlag("ssh-servers", s))
	}
	if l.given("source-dir") {
		out = append(out, "--source-dir="+l.last("source-dir"))
	}
	for p := range strings.SplitSeq(l.last("exclude"), ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, csvFlag("exclude", p))
		}
	}
	if l.given("encrypt") {
		out = append(out, "--encrypt")
	}
	if l.given("retain") {
		out = append(out, "--retain="+l.last("retain"))
	}
	// Whoever the configuration names is told of anything else anyway.
	if l.given("notifications") {
		out = append(out, "--notifications")
	}
	for _, address := range l.values["receiver"] {
		out = append(out, "--receiver="+address)
	}
	if l.given("dry-run") {
		out = append(out, "--dry-run")
	}
	return out, nil
}

// restore puts the contents of the snapshot's source directly into --to-dir, as 2.5
// did.
func (l *legacy) restore() ([]string, error) {
	from, to := l.last("from-dir"), l.last("to-dir")
	if from == "" || to == "" {
		return nil, &job.Failure{Code: job.ExitUsage, Err: errors.New("--restore needs --from-dir and --to-dir")}
	}
	if strings.HasSuffix(strings.ToLower(from), ".zip") {
		return nil, usageError("unpack it with unzip or 7z", "--from-dir %s: this version does not restore from archives", from)
	}
	if remote := remoteDir(from); remote != "" {
		from = remote
	}
	return l.restoreFrom(from, to)
}

// restoreFrom writes the command that restores from a repository.
func (l *legacy) restoreFrom(from, to string) ([]string, error) {
	snapshot := "latest"
	if l.given("restore-timestamp") {
		snapshot = l.last("restore-timestamp")
		if _, err := time.Parse("20060102_150405", snapshot); err != nil {
			return nil, usageError("", "--restore-timestamp %q: want YYYYMMDD_HHMMSS", snapshot)
		}
	}
	out := []string{"restore", snapshot, "--to=" + to, "--strip-source"}
	if l.given("dry-run") {
		out = append(out, "--dry-run")
	}
	return append(out, backupDirFlags([]string{from})...), nil
}

// remoteDir turns user@host:/path and ssh://user@host/path of 2.5 into an address;
// "" for anything else.
func remoteDir(s string) string {
	if rest, ok := strings.CutPrefix(s, "ssh://"); ok {
		return "sftp://" + rest
	}
	host, path, ok := strings.Cut(s, ":")
	if ok && strings.Contains(host, "@") && !strings.Contains(host, "/") && strings.HasPrefix(path, "/") {
		return "sftp://" + host + path
	}
	return ""
}
