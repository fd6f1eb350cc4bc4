package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Streams of a backup: what commands of the configuration print, standard input, and what
// a command of the command line prints.

// checkStdin checks the flags about standard input, and the arguments.
func (f *backupFlags) checkStdin(cmd *cobra.Command) error {
	one := "--stdin"
	if f.fromCommand {
		one = "--stdin-from-command"
	}
	switch {
	case !f.fromCommand && len(f.args) > 0:
		return usageError("a command to run goes behind --stdin-from-command --", "unexpected argument %q", f.args[0])
	case f.fromCommand && len(f.args) == 0:
		return usageError("write it behind --: backup-handler backup --stdin-from-command -- pg_dump shop", "--stdin-from-command needs a command")
	case f.stdin && f.fromCommand:
		return usageError("", "--stdin and --stdin-from-command exclude each other")
	case !f.stdin && !f.fromCommand:
		if cmd.Flags().Changed("stdin-filename") {
			return usageError("", "--stdin-filename needs --stdin or --stdin-from-command")
		}
		return nil
	case len(f.sources) > 0:
		return usageError("make two backups", "%s and --source-dir exclude each other", one)
	}
	if name := strings.TrimPrefix(f.stdinName, "/"); !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
		return usageError("want a name such as shop.sql", "--stdin-filename %q is no name of a file", f.stdinName)
	}
	return nil
}

// streams are those of a backup.
func (a *app) streams(f *backupFlags) ([]job.Stream, error) {
	if f.stdin || f.fromCommand {
		return []job.Stream{a.stdinStream(f)}, nil
	}
	if f.bare {
		return nil, nil
	}
	databases, err := a.databases(f)
	if f.onlyLogs {
		databases = slices.DeleteFunc(databases, func(s job.Stream) bool { return s.Kind != tree.KindMySQLLog })
		if err == nil && len(databases) == 0 {
			err = errors.New("there are no binary logs to archive: set [DATABASE] logs = True")
		}
		return databases, err
	}
	if err != nil || len(f.sources) > 0 || f.onlyDatabases() {
		return databases, err // they are all that is asked for
	}
	configured, err := a.cfg.Streams()
	if err != nil || len(configured) == 0 {
		return databases, err
	}
	if err := a.cfg.Trusted(); err != nil {
		return nil, &job.Failure{Code: job.ExitUsage, Err: fmt.Errorf("the commands of [STREAM NAME] are not run, and so nothing is: %w", err), Hint: job.TrustHint}
	}
	var streams []job.Stream
	for _, c := range configured {
		s := job.Stream{Name: "[STREAM " + c.Name + "]", Kind: tree.KindStream, Source: "/stream/" + c.Name, Tags: c.Tags, What: a.redactor()(c.Command)}
		p := a.program(s.Source)
		p.Line, p.File, p.Limit, p.AllowEmpty = c.Command, c.File, c.Limit, c.AllowEmpty || f.allowEmpty
		s.Produce = p.Produce
		streams = append(streams, s)
	}
	return append(databases, streams...), nil
}

// onlyDatabases says that no files are asked for.
func (f *backupFlags) onlyDatabases() bool {
	return len(f.modes) > 0 && !slices.ContainsFunc(f.modes, func(m string) bool { return m != "db" })
}

// command is what the run is called: the archive of a log, each minute perhaps, is no backup
// that status, hooks and notifications should take for one.
func (f *backupFlags) command() string {
	if f.onlyLogs {
		return "binlog"
	}
	return "backup"
}

// files says whether files are asked for, too.
func (f *backupFlags) files() bool {
	return !f.stdin && !f.fromCommand && !f.onlyLogs && !f.bare && !f.onlyDatabases()
}

// leftOut are the sources of the configuration that a backup has not, as the command line
// names others: it says nothing about whether the configuration's backups are well. What the
// schedule has started is what it should be.
func (a *app) leftOut(f *backupFlags) (left []string) {
	if f.onlyLogs || f.bare || a.trigger() != "cli" || !f.stdin && !f.fromCommand && len(f.sources) == 0 {
		return nil
	}
	plain := new(backupFlags)
	want, err := a.cfg.Sources()
	streams, serr := a.streams(plain)
	if err != nil || serr != nil {
		return []string{"all of it"} // which is wrong
	}
	sources := f.sources
	if f.files() && len(sources) == 0 {
		sources = want
	}
	here := func(path string) bool {
		path, _ = filepath.Abs(path)
		return slices.ContainsFunc(sources, func(s string) bool {
			s, _ = filepath.Abs(s)
			return s == path || strings.HasPrefix(path, strings.TrimSuffix(s, string(filepath.Separator))+string(filepath.Separator))
		})
	}
	for _, s := range want {
		if !here(s) {
			left = append(left, s)
		}
	}
	made, err := a.streams(f)
	for _, s := range streams {
		if err != nil || !slices.ContainsFunc(made, func(m job.Stream) bool { return m.Kind == s.Kind && m.Source == s.Source }) {
			left = append(left, s.Name)
		}
	}
	return left
}

// databases are the streams of [DATABASE].
func (a *app) databases(f *backupFlags) ([]job.Stream, error) {
	asked := slices.Contains(f.modes, "db")
	if !asked {
		m, err := a.cfg.Modes()
		if err != nil || !m.DB || len(f.modes)+len(f.sources) > 0 {
			return nil, err
		}
	}
	all, err := a.configuredDatabases()
	if err != nil {
		return nil, err
	}
	if asked && len(all) == 0 {
		return nil, errors.New("mode db has no database: set [DATABASE] database")
	}
	return job.Databases(all, func(line string) { a.warn("%s", line) }), nil
}

// configuredDatabases are those of the configuration, which has to be nobody else's if it
// says which programs are run, or with which arguments.
func (a *app) configuredDatabases() ([]config.Database, error) {
	all, err := a.cfg.Databases()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(all, func(d config.Database) bool { return d.Programs != "" || len(d.ExtraArgs) > 0 }) {
		if err := a.cfg.Trusted(); err != nil {
			return nil, &job.Failure{Code: job.ExitUsage, Err: fmt.Errorf("[DATABASE] programs and extra_args are not used, and so nothing is done: %w", err), Hint: job.TrustHint}
		}
	}
	return all, nil
}

// program is a command of a stream, which knows what hooks know but of the run.
func (a *app) program(source string) *job.Program {
	file, _ := absoluteConfig(a.cfg)
	return &job.Program{
		Env:    append(a.hookEnvironment(), "BACKUP_HANDLER_RUN_ID="+a.runID, "BACKUP_HANDLER_CONFIG="+file, "BACKUP_HANDLER_SOURCE="+source),
		Redact: a.redactor(), Log: a.log.With("stream", source),
	}
}

// stdinStream is the stream of standard input, or of the command in its place.
func (a *app) stdinStream(f *backupFlags) job.Stream {
	s := job.Stream{Name: "standard input", Kind: tree.KindStream, Source: path.Join("/", f.stdinName), What: "standard input"}
	if !f.fromCommand {
		in := &job.Input{From: a.stdin, File: ".", AllowEmpty: f.allowEmpty}
		s.Produce = in.Produce
		return s
	}
	p := a.program(s.Source)
	p.Args, p.File, p.AllowEmpty = f.args, ".", f.allowEmpty
	s.Name, s.Produce = "command", p.Produce
	s.What = a.redactor()(strings.Join(f.args, " "))
	return s
}
