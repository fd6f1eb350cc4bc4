// Package service writes what starts the daemon with the machine, or runs jobs by timers:
// units of systemd, a property list of launchd, a task of Windows. It knows paths and
// schedules and no configuration; it never holds a secret.
//
// service.go: what is to be run. systemd.go, launchd.go, task.go: as
// files. install.go: files on the machine.
package service

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// Name is that of units, and of all files that begin with it.
const Name = "backup-handler"

// Marker is in each file that is written; one without it belongs to somebody else.
const Marker = "Written by 'backup-handler service install'."

// killAfter is what is added to the time a run has to end, before the system kills it.
const killAfter = 30 * time.Second

// Options say what is to be run, and what it may do. All paths are absolute.
type Options struct {
	Program string
	Config  string   // "" for none
	Args    []string // more flags
	// User is who runs it; "" is root, or with UserUnit the user whose unit it is.
	User string
	// UserUnit makes a unit of a user's own manager.
	UserUnit bool
	// Timers makes a timer for each kind of job instead of the daemon; systemd only.
	Timers bool
	// Unconfined leaves out the sandbox.
	Unconfined bool

	Sources  []string
	Writable []string // directories that jobs write to; those that are missing do no harm
	StateDir string
	Plan     schedule.Plan
	Zone     string // IANA name, "" for the machine's
	// PassphraseFile is handed over as a credential of systemd: root's file, of which
	// the service gets a copy; encrypted, if its name ends in .cred.
	PassphraseFile string
	// Environment holds NAME=value; no secrets: everybody can read a unit. systemd only.
	Environment []string
	// EnvironmentFile may hold variables for ${NAME} in the configuration.
	EnvironmentFile string
}

// A File is one that an installation consists of.
type File struct {
	Name string // without directory
	Data []byte
	Perm fs.FileMode
}

// A text is a file that is being written, line by line. (text/template would do it, and
// makes the binary 12 MB larger: the linker has to keep all methods then.)
type text struct{ strings.Builder }

// lines writes lines.
func (t *text) lines(lines ...string) {
	for _, l := range lines {
		t.WriteString(l + "\n")
	}
}

// key writes NAME=value for each value.
func (t *text) key(name string, values ...string) {
	for _, v := range values {
		t.lines(name + "=" + v)
	}
}

func escapeXML(s string) string {
	var out strings.Builder
	xml.EscapeText(&out, []byte(s)) // a Builder takes everything
	return out.String()
}

// check refuses what no unit could hold.
func (o *Options) check() error {
	if len(o.Plan.Jobs) == 0 {
		return errors.New("nothing is scheduled")
	}
	if strings.ContainsFunc(o.User, func(r rune) bool { return unicode.IsSpace(r) || r == '%' || r == '"' || r < ' ' }) {
		return fmt.Errorf("%q is no name of a user", o.User)
	}
	paths := append([]string{o.Program, o.Config, o.StateDir, o.PassphraseFile, o.EnvironmentFile}, o.Writable...)
	for _, p := range slices.Concat(paths, o.Args, o.Environment) {
		if strings.ContainsFunc(p, unicode.IsControl) || !isText(p) {
			return fmt.Errorf("%q cannot be written into a unit: it holds a control character", p)
		}
	}
	return nil
}

// isText says whether a path is UTF-8, which the formats of all files here are.
func isText(s string) bool { return strings.ToValidUTF8(s, "") == s }

// arguments are those of the daemon, or of one job.
func (o *Options) arguments(kind schedule.Kind) []string {
	command := string(kind)
	if kind == "" {
		command = "daemon"
	}
	args := []string{command}
	if kind != "" {
		args = append(args, "--no-progress")
	}
	if o.Config != "" {
		args = append(args, "--config="+o.Config)
	}
	return append(args, o.Args...)
}

// covers says whether one of the sources holds dir, or lies in it.
func (o *Options) covers(dir string) bool {
	for _, s := range o.Sources {
		if within(s, dir) || within(dir, s) {
			return true
		}
	}
	return false
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
