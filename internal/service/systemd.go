package service

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// credential is the name under which systemd hands over a passphrase.
const credential = "passphrase"

// unit is what the templates of systemd see.
type unit struct {
	Marker, Unit, Description string
	UserUnit, Sandbox, Drill  bool
	Command                   string
	StopSec                   string
	User                      string
	EnvironmentFile           string
	Environment               []string
	Credential                string
	CredentialEncrypted       bool
	Writable                  []string
	CoversTmp, CoversDev      bool
	Capabilities, Ambient     string

	Calendar  []string
	CatchUp   bool
	JitterSec int64
}

// Systemd renders units: one service, or a service and a timer for each kind of job.
func Systemd(o Options) ([]File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(o.Program, "\"'\\") {
		return nil, fmt.Errorf("systemd starts no program with a quote or backslash in its path: %s", o.Program)
	}
	if !o.Timers {
		u := o.unit(Name+".service", "")
		u.Description = "Backups by schedule"
		data, err := render("daemon.tmpl", u)
		return []File{{u.Unit, data, 0o644}}, err
	}
	var files []File
	for _, kind := range schedule.Kinds() {
		s, ok := o.Plan.Jobs[kind]
		if !ok {
			continue
		}
		u := o.unit(fmt.Sprintf("%s-%s.service", Name, kind), kind)
		u.Description = "backup-handler " + string(kind)
		u.Calendar, u.CatchUp, u.JitterSec = s.Calendar(o.Zone), o.Plan.CatchUp, int64(o.Plan.Jitter/time.Second)
		data, err := render("oneshot.tmpl", u)
		if err != nil {
			return nil, err
		}
		timer, err := render("timer.tmpl", u)
		if err != nil {
			return nil, err
		}
		files = append(files, File{u.Unit, data, 0o644}, File{strings.TrimSuffix(u.Unit, ".service") + ".timer", timer, 0o644})
	}
	return files, nil
}

// unit is that of the daemon, or of one kind of job.
func (o *Options) unit(name string, kind schedule.Kind) *unit {
	_, drills := o.Plan.Jobs[schedule.Drill]
	if kind != "" {
		drills = kind == schedule.Drill
	}
	u := &unit{
		Marker: "# " + Marker, Unit: name, UserUnit: o.UserUnit, Sandbox: !o.Unconfined, Drill: drills,
		User: o.User, EnvironmentFile: specifiers(o.EnvironmentFile),
		CoversTmp: o.covers("/tmp") || o.covers("/var/tmp") || within(o.Config, "/tmp") || within(o.Program, "/tmp"),
		CoversDev: o.covers("/dev"),
	}
	u.StopSec = fmt.Sprintf("%ds", int64((o.Plan.StopTimeout+killAfter)/time.Second))
	if kind == "" && o.Plan.Finish {
		u.StopSec = "infinity"
	}
	if u.User == "" && !u.UserUnit {
		u.User = "root" // so that $HOME is set
	}
	args := o.arguments(kind)
	words := []string{quote(o.Program)}
	for _, a := range args {
		words = append(words, argument(a))
	}
	if o.PassphraseFile != "" {
		u.Credential = credential + ":" + specifiers(o.PassphraseFile)
		u.CredentialEncrypted = strings.HasSuffix(o.PassphraseFile, ".cred")
		words = append(words, "--passphrase-file=${CREDENTIALS_DIRECTORY}/"+credential)
	}
	u.Command = strings.Join(words, " ")
	for _, v := range o.Environment {
		u.Environment = append(u.Environment, quote(v))
	}
	for _, dir := range o.Writable {
		if w := quote("-" + filepath.Clean(dir)); !slices.Contains(u.Writable, w) {
			u.Writable = append(u.Writable, w)
		}
	}
	// Reading everything; root writes to destinations that belong to others, too. What
	// can be written at all is bounded by the paths.
	capabilities := []string{"CAP_DAC_READ_SEARCH"}
	if u.User == "root" {
		capabilities = append(capabilities, "CAP_DAC_OVERRIDE", "CAP_FOWNER")
		if drills { // restores owners, modes and capabilities into its scratch directory
			capabilities = append(capabilities, "CAP_CHOWN", "CAP_FSETID", "CAP_SETFCAP")
			if u.CoversDev {
				capabilities = append(capabilities, "CAP_MKNOD")
			}
		}
	} else {
		u.Ambient = "CAP_DAC_READ_SEARCH"
	}
	u.Capabilities = strings.Join(capabilities, " ")
	return u
}

// specifiers keeps systemd from reading % as a specifier.
func specifiers(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// quote writes a word such that systemd reads it as it is; see "Quoting" in
// systemd.syntax(7).
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\"'\\;") {
		return specifiers(word)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(specifiers(word)) + `"`
}

// argument is a word of a command line, in which $ begins a variable.
func argument(word string) string { return quote(strings.ReplaceAll(word, "$", "$$")) }
