package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/preflight"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

type backupFlags struct {
	sources, exclude, excludeFiles, ifPresent, recipients, tags []string
	modes, servers                                              []string
	mode, largerThan, host                                      string
	maxDuration                                                 parsed[time.Duration]
	retain                                                      parsed[int]
	wait                                                        *parsed[time.Duration]
	caches, oneFS, encrypt, allowEmpty, dryRun                  bool
	receivers                                                   []string
	notifications                                               bool
	stdin, fromCommand                                          bool
	onlyLogs                                                    bool // archive logs of databases, and nothing else
	bare                                                        bool // no sources: the caller has its own
	stdinName                                                   string
	args                                                        []string // the command of fromCommand
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	c := &cobra.Command{
		Use:   "backup",
		Short: "Back up the sources to every destination",
		Long: `Back up the sources to every destination.

The source is read once, into the first destination that can be reached; the
snapshot is then copied to the others. Each destination succeeds or fails alone.
A repository is created on first use. Every snapshot is complete; the mode says
what is read: incremental skips files unchanged since the last snapshot,
differential those unchanged since the last full one, full reads every byte and
reports files whose content changed while their metadata did not.

What the commands of [STREAM NAME] in the configuration print are snapshots of
their own, of kind stream, unless --source-dir names what to back up. With --stdin,
what comes from standard input is backed up, as the file /stdin, and nothing else;
with --stdin-from-command, what a command prints, if it ends with exit code 0. (A
shell does not tell --stdin that the program before the | has failed.)

A run that looks as if the source had been encrypted or deleted ([GUARD]) says so,
and tags its snapshot suspicious; older ones are kept until 'approve'.

Exit codes: 0 all done · 1 usage or configuration · 2 refused before anything was
written (a source or every destination is missing, a wrong key) · 3 a destination
file or stream failed, or the run is suspicious and [GUARD] fail is set · 130
interrupted`,
		Example: `  backup-handler backup --source-dir /home --backup-dirs /mnt/disk/backup --encrypt
  backup-handler backup --config /etc/backup-handler/config.ini
  backup-handler backup --source-dir /etc --backup-dirs /a,/b --exclude '*.tmp' --dry-run
  backup-handler backup --stdin-filename shop.sql --stdin-from-command -- pg_dump shop`,
		Args: func(cmd *cobra.Command, args []string) error {
			f.args = args
			return f.checkStdin(cmd)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return a.backup(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.sources, "source-dir", nil, "directory or file to back up (repeat)")
	fl.StringSliceVar(&f.modes, "operation-modes", nil, "use only these of the configured destinations: local, ssh, s3; db backs up each [DATABASE], too, or, alone, nothing else")
	fl.StringSliceVar(&f.servers, "ssh-servers", nil, "SSH servers, as host or user@host:port, instead of those of the configuration")
	fl.StringVar(&f.mode, "backup-mode", "", "full, incremental or differential (default: the configuration's, else incremental)")
	fl.StringSliceVar(&f.exclude, "exclude", nil, "leave out names or relative paths that match: *, ?, [seq]; * crosses / (repeat, or commas)")
	fl.StringArrayVar(&f.excludeFiles, "exclude-file", nil, "file of rules in the language of .gitignore (repeat)")
	fl.StringArrayVar(&f.ifPresent, "exclude-if-present", nil, "leave out what is in a directory with a file of this name, e.g. .nobackup (repeat)")
	fl.BoolVar(&f.caches, "exclude-caches", false, "leave out what is in directories marked by a CACHEDIR.TAG")
	fl.StringVar(&f.largerThan, "exclude-larger-than", "", "leave out files above this size, e.g. 500M")
	fl.BoolVar(&f.oneFS, "one-file-system", false, "do not enter other file systems")
	fl.BoolVar(&f.encrypt, "encrypt", false, "create encrypted repositories, and refuse unencrypted ones")
	fl.StringArrayVar(&f.recipients, "recipient", nil, "public key, or file with one, that opens new repositories (repeat)")
	fl.StringArrayVar(&f.tags, "tag", nil, "mark the snapshot (repeat)")
	fl.StringVar(&f.host, "host", "", "name of the host in the snapshot (default: this machine's)")
	f.maxDuration = parsed[time.Duration]{kind: "duration", parse: parseLimit}
	fl.Var(&f.maxDuration, "max-duration", "end a run that takes longer, e.g. 6h; what was stored is used by the next (0: no limit; default: the configuration's)")
	f.retain = parsed[int]{kind: "number", parse: parseCount}
	f.wait = waitFlag(c)
	fl.Var(&f.retain, "retain", "afterwards keep only the newest N snapshots of this host and these sources, and what other rules keep (as [RETENTION] max_count)")
	fl.StringArrayVar(&f.receivers, "receiver", nil, "mail this address about this run, too, from the account of [EMAIL] or [SMTP] (repeat)")
	fl.BoolVar(&f.notifications, "notifications", false, "of BackupHandler 2.5: an error if there is no Telegram bot")
	fl.MarkHidden("notifications")
	fl.BoolVar(&f.allowEmpty, "allow-empty", false, "accept a source without any entry, and a command or standard input without any output")
	fl.BoolVar(&f.stdin, "stdin", false, "back up standard input, and nothing else")
	fl.BoolVar(&f.fromCommand, "stdin-from-command", false, "back up what the command behind -- prints, and nothing else")
	fl.StringVar(&f.stdinName, "stdin-filename", "stdin", "name of the file with it: NAME is /NAME in the snapshot")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be backed up; write nothing")
	return c
}

// A backupPlan is what a backup is about to do.
type backupPlan struct {
	*job.BackupOptions
	keep   keeping
	acc    *job.Access
	verify bool // afterwards
}

func (a *app) backup(ctx context.Context, f *backupFlags) error {
	if err := a.load(); err != nil {
		return err
	}
	if err := a.toldBy(f.notifications, f.receivers); err != nil {
		return err
	}
	var p backupPlan
	alone := slices.Concat(f.sources, []string{""}, a.backupDirs, f.servers, f.modes)
	prepare := func(ctx context.Context, run *journal.Run) (err error) {
		if p.BackupOptions, err = a.backupOptions(f); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		run.Mode = string(p.Mode)
		for _, s := range p.Sources {
			if s, err = filepath.Abs(s); err != nil {
				return err
			}
			run.Sources = append(run.Sources, journal.SourceRun{Path: s, Pending: true})
		}
		for _, s := range p.Streams {
			run.Sources = append(run.Sources, journal.SourceRun{Path: s.Source, Kind: string(s.Kind), Pending: true})
		}
		for _, d := range p.Destinations {
			run.Destinations = append(run.Destinations, journal.DestinationRun{Location: location.Redact(d), Pending: true})
		}
		if p.keep, err = a.keeping(f.retain.or(0)); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		if p.verify, err = a.cfg.VerifyAfterBackup(); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		if p.acc, err = a.access(f.encrypt, f.recipients); err != nil {
			return err
		}
		return a.check(ctx, &p)
	}
	defer func() {
		if p.acc != nil {
			p.acc.Close()
		}
	}()
	adHoc := false
	if left := a.leftOut(f); len(left) > 0 && !f.dryRun {
		adHoc = true
		a.note("this is an ad-hoc backup, which does not count as one of the configuration: it leaves out " + shortList(left))
	}
	if f.stdin || f.fromCommand {
		alone = append(alone, "stdin", f.stdinName) // nobody waits for the run that backs up files
	}
	work := func(ctx context.Context, run *journal.Run) error { return a.makeBackup(ctx, f, &p, run) }
	if f.dryRun {
		run := &journal.Run{}
		if err := prepare(ctx, run); err != nil {
			return err
		}
		return work(ctx, run)
	}
	return a.asRun(ctx, runKind{
		command: f.command(), alone: alone, adHoc: adHoc, wait: f.wait.or(0), preflight: prepare,
	}, work)
}

// check makes the pre-flight checks. Destinations that are refused fail alone.
func (a *app) check(ctx context.Context, p *backupPlan) error {
	o, err := a.preflightOptions(p.BackupOptions)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	o.Mount, o.Keep = !p.DryRun, true
	rep := job.Preflight(ctx, p.acc, *o)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, r := range rep.With(preflight.Warning) {
		text := r.String()
		if r.Hint != "" {
			text += " (" + r.Hint + ")"
		}
		a.warn("%s", text)
	}
	p.Refused, err = job.Refusal(rep, p.Destinations)
	return err
}

// makeBackup is the run without what is around it.
func (a *app) makeBackup(ctx context.Context, f *backupFlags, p *backupPlan, run *journal.Run) error {
	start := time.Now()
	a.log.Info("backup starts", "mode", p.Mode, "sources", p.Sources, "streams", len(p.Streams), "destinations", p.Destinations, "dry_run", p.DryRun)
	m := a.meter("backup", func() sample {
		g := p.Progress
		return sample{g.Bytes.Load(), g.TotalBytes.Load(), g.Files.Load(), g.TotalFiles.Load(), g.Current()}
	})
	res, err := job.Backup(ctx, p.acc, *p.BackupOptions)
	m.stop()
	if res != nil {
		a.backupRecord(res, run)
	}
	if err != nil {
		a.record("backup_failed", slog.String("error", oneLine(err.Error())))
		return err
	}
	took := time.Since(start)
	var retained []forgetReport
	if made := res.Made(); !p.DryRun && len(made) > 0 {
		var places []string
		for _, d := range res.Destinations {
			if d.Err == nil {
				places = append(places, d.Place)
			}
		}
		begin := time.Now()
		if retained, err = a.retain(ctx, p.acc, made, places, p.keep); err != nil {
			return err
		}
		if retained != nil {
			run.Stages = append(run.Stages, journal.Stage{Name: "retention", Start: begin, Seconds: time.Since(begin).Seconds()})
		}
	}
	var checked []verifyReport
	if p.verify && !p.DryRun {
		begin := time.Now()
		if checked, err = a.verifyAfter(ctx, f, res.Destinations); err != nil {
			return err
		}
		run.Stages = append(run.Stages, journal.Stage{Name: "verify", Seconds: time.Since(begin).Seconds()})
	}
	return a.backupDone(res, p.BackupOptions, took, retained, checked, run)
}

// verifyAfter verifies the destinations of a backup. What it reads comes from them, not
// from what this machine keeps.
func (a *app) verifyAfter(ctx context.Context, f *backupFlags, to []*job.Destination) ([]verifyReport, error) {
	o := verify.Options{Workers: max(2, runtime.GOMAXPROCS(0))}
	days, err := a.cfg.ReadDataDays()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	a.proving = true
	defer func() { a.proving = false }()
	acc, err := a.access(f.encrypt, nil)
	if err != nil {
		return nil, err
	}
	defer acc.Close()
	var reports []verifyReport
	for _, d := range to {
		if d.Err != nil {
			continue
		}
		if d.Repo != nil && d.Repo.WriteOnly() {
			a.note(d.Location + ": the key is a write-only one: what is stored is verified by a host that can read it")
			continue
		}
		var hints []string // the report says what to do
		rep := a.verifyOne(ctx, acc, d.Location, o, days, false, &hints)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		a.record("verify", slog.String("repository", d.Location), slog.Bool("ok", rep.OK))
		reports = append(reports, rep)
	}
	return reports, nil
}

// backupRecord writes down what became of a backup.
func (a *app) backupRecord(res *job.BackupResult, run *journal.Run) {
	run.Destinations = nil
	for _, d := range res.Destinations {
		r := journal.DestinationRun{Location: location.Redact(d.Location), Copied: len(d.Copied), FreeBytes: d.Free}
		if d.Err != nil {
			r.Error = oneLine(d.Err.Error())
		}
		run.Destinations = append(run.Destinations, r)
	}
	run.Counts = journal.Counts{}
	for i, s := range res.Made() { // the files first: they are what is counted, where there are any
		c := s.Counts
		run.Counts.Read += c.BytesRead
		run.Counts.Stored += c.BytesStored
		run.Counts.Problems += c.Problems
		if i == 0 {
			run.Snapshot = s.ID.String()
		}
		if i == 0 || res.NoFiles {
			run.Counts.Files += c.Files
			run.Counts.New += c.New
			run.Counts.Changed += c.Changed
			run.Counts.Bytes += c.Bytes
		}
	}
	defer func() { run.Sources = append(run.Sources, streamRecords(run, res)...) }()
	s := res.Snapshot
	if s == nil {
		return
	}
	run.Sources = nil
	for _, p := range s.Sources {
		run.Sources = append(run.Sources, journal.SourceRun{Path: string(p)})
	}
	for i := range run.Sources {
		src := &run.Sources[i]
		for _, p := range s.Problems {
			if path := string(p.Path); path == src.Path || strings.HasPrefix(path, strings.TrimSuffix(src.Path, "/")+"/") {
				if src.Problems++; src.Problems == 1 {
					src.Error = oneLine(fmt.Sprintf("%s: %s: %s", path, p.Kind, p.Text))
				}
			}
		}
	}
}

// streamRecords takes the streams out of the sources of a run, and returns what became of
// them.
func streamRecords(run *journal.Run, res *job.BackupResult) (out []journal.SourceRun) {
	run.Sources = slices.DeleteFunc(run.Sources, func(s journal.SourceRun) bool { return s.Kind != "" })
	for _, s := range res.Streams {
		r := journal.SourceRun{Path: s.Source, Kind: string(s.Kind)}
		if s.Snapshot != nil {
			r.Snapshot = s.Snapshot.ID.String()
		}
		if s.Err != nil {
			r.Error = oneLine(s.Err.Error())
		}
		out = append(out, r)
	}
	return out
}

// backupFault is in one line why a backup that has made a snapshot has failed.
func backupFault(res *job.BackupResult, retained []forgetReport, checked []verifyReport) string {
	var why []string
	for _, d := range res.Destinations {
		if d.Err != nil {
			why = append(why, "destination "+d.Err.Error())
		}
	}
	for _, s := range res.Streams {
		if s.Err != nil {
			why = append(why, s.Source+": "+s.Err.Error())
		}
	}
	if s := res.Snapshot; s != nil && s.Counts.Problems > 0 {
		why = append(why, things(int(s.Counts.Problems), "file")+" could not be stored as they are, the first: "+string(s.Problems[0].Path))
	}
	for _, r := range retained {
		switch {
		case r.Error != "":
			why = append(why, "retention in "+r.Repository+": "+r.Error)
		case r.Prune != nil && r.Prune.damaged():
			why = append(why, r.Repository+" is damaged, as its prune has found")
		}
	}
	for i := range checked {
		if text := checked[i].fault(); text != "" {
			why = append(why, "verify of "+checked[i].Repository+": "+text)
		}
	}
	if res.Snapshot != nil {
		for _, s := range res.Snapshot.Suspicions {
			why = append(why, "suspicious: "+s)
		}
	}
	return strings.Join(why, "; ")
}

// backupOptions joins flags and configuration.
func (a *app) backupOptions(f *backupFlags) (*job.BackupOptions, error) {
	o := &job.BackupOptions{
		Sources: f.sources, Tags: f.tags, AllowEmpty: f.allowEmpty, DryRun: f.dryRun,
		User: userName(), Program: "backup-handler " + version, RunID: a.runID,
		Progress: new(backup.Progress), Note: a.note, Warn: func(line string) { a.warn("%s", line) }, Log: a.log, Now: time.Now, Known: a.known(),
	}
	var err error
	if o.Streams, err = a.streams(f); err != nil {
		return nil, err
	}
	if !f.files() {
		o.Sources = nil // as 2.5, whose source_dir is not about databases
	} else if len(o.Sources) == 0 {
		if o.Sources, err = a.cfg.Sources(); err != nil {
			return nil, err
		}
		if len(o.Sources)+len(o.Streams) == 0 {
			return nil, &job.Failure{Code: job.ExitUsage, Err: errors.New("no source is given"), Hint: "use --source-dir, or set [DEFAULT] source_dir in the configuration"}
		}
	}
	for _, m := range f.modes {
		if !slices.Contains([]string{"local", "ssh", "s3", "db"}, m) {
			return nil, fmt.Errorf("--operation-modes %q: want local, ssh, s3 or db", m)
		}
	}
	if o.Destinations, err = a.destinations(f.modes, f.servers); err != nil {
		return nil, err
	}
	o.Others = a.others(o.Destinations)
	if o.Mode, err = a.mode(f.mode); err != nil {
		return nil, err
	}
	if o.Rules, o.OneFS, err = a.rules(f); err != nil {
		return nil, err
	}
	db, err := a.cfg.SQLite()
	if err != nil {
		return nil, err
	}
	o.SQLite = sqlite.Options{Paths: db.Paths, Find: db.Find, Wait: db.Wait}
	if o.Host = f.host; o.Host == "" {
		if o.Host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find this host's name: %w", err)
		}
	}
	n, err := a.cfg.Network()
	if err != nil {
		return nil, err
	}
	o.MaxDuration = f.maxDuration.or(n.MaxDuration)
	rc, err := a.cfg.Repository()
	if err != nil {
		return nil, err
	}
	g, err := a.cfg.Guard()
	if err != nil {
		return nil, err
	}
	o.Guard, o.FailSuspicious = job.Guard(g), g.Fail
	o.Compression, o.FileSHA256 = repo.Compression(rc.Compression), rc.FileSHA256
	enc, err := a.cfg.Encryption()
	if err != nil {
		return nil, err
	}
	dc, err := a.cfg.Drill()
	if err != nil {
		return nil, err
	}
	o.ListFiles, o.Lists = dc.ListFiles, a.lists()
	copies, err := a.cfg.ParallelCopies()
	if err != nil {
		return nil, err
	}
	cpus := runtime.GOMAXPROCS(0)
	o.Readers = max(copies, min(cpus, 4))
	o.Sealers = max(enc.Workers, cpus)
	var mu sync.Mutex
	o.OnProblem = func(p tree.Problem) {
		mu.Lock()
		defer mu.Unlock()
		a.warn("%s: %s: %s", quote(string(p.Path)), p.Kind, p.Text)
	}
	logged := a.log.Enabled(context.Background(), slog.LevelDebug)
	if a.verbose || logged {
		o.OnFile = func(path, state string) {
			mu.Lock()
			defer mu.Unlock()
			if a.verbose {
				fmt.Fprintf(a.stderr, "%-10s %s\n", state, quote(path))
			}
			if logged {
				a.log.Debug("file", "state", state, "path", path)
			}
		}
	}
	return o, nil
}

// parseLimit reads a duration, as the configuration has them.
func parseLimit(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if text == "0" || err == nil && d >= 0 {
		return d, nil
	}
	return 0, errors.New("must be a duration such as 90m or 6h, or 0 for no limit")
}

// mode is the flag's, the configuration's, or incremental.
func (a *app) mode(flag string) (tree.Mode, error) {
	if flag == "" {
		if a.cfg.Path() == "" {
			return tree.Incremental, nil
		}
		m, err := a.cfg.Mode()
		return tree.Mode(m), err
	}
	switch m := tree.Mode(flag); m {
	case tree.Full, tree.Incremental, tree.Differential:
		return m, nil
	}
	return "", fmt.Errorf("--backup-mode %q: want full, incremental or differential", flag)
}

func (a *app) rules(f *backupFlags) (*exclude.Rules, bool, error) {
	e, err := a.cfg.Exclude()
	if err != nil {
		return nil, false, err
	}
	o := exclude.Options{
		Patterns: e.Patterns, IfPresent: append(e.IfPresent, f.ifPresent...), Caches: e.Caches || f.caches, MaxSize: e.LargerThan,
	}
	if len(f.exclude) > 0 { // as in 2.5, the flag replaces the configuration's list
		o.Patterns = f.exclude
	}
	read := func(name string, rules bool) error {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("exclude file: %w", err)
		}
		if rules {
			o.IgnoreFiles = append(o.IgnoreFiles, exclude.IgnoreFile{Name: name, Data: data})
			return nil
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimRight(line, "\r\n"); line != "" && !strings.HasPrefix(line, "#") {
				o.Patterns = append(o.Patterns, line)
			}
		}
		return nil
	}
	for _, name := range e.Files {
		if err := read(name, e.GitIgnore); err != nil {
			return nil, false, err
		}
	}
	for _, name := range f.excludeFiles {
		if err := read(name, true); err != nil {
			return nil, false, err
		}
	}
	if f.largerThan != "" {
		if o.MaxSize, err = config.ParseSize(f.largerThan); err != nil {
			return nil, false, fmt.Errorf("--exclude-larger-than %w", err)
		}
	}
	r, err := exclude.New(o)
	return r, e.OneFileSystem || f.oneFS, err
}

// A backupReport is the JSON of a run.
type backupReport struct {
	DryRun       bool                `json:"dry_run,omitempty"`
	Snapshot     *repo.ID            `json:"snapshot"`
	Details      *tree.Snapshot      `json:"details"`
	Seconds      float64             `json:"seconds"`
	Streams      []streamReport      `json:"streams,omitempty"`
	Destinations []destinationReport `json:"destinations"`
	Retention    []forgetReport      `json:"retention,omitempty"`
	Verified     []verifyReport      `json:"verified,omitempty"`
	Unapproved   []repo.ID           `json:"unapproved,omitempty"` // suspicious ones before this
	Notes        []string            `json:"notes,omitempty"`
	ExitCode     int                 `json:"exit_code"`
}

// A streamReport is what became of a stream.
type streamReport struct {
	Name     string    `json:"name"`
	Kind     tree.Kind `json:"kind"`
	Source   string    `json:"source"`
	Snapshot *repo.ID  `json:"snapshot"`
	Files    int64     `json:"files"`
	Bytes    int64     `json:"bytes"`
	Added    int64     `json:"data_added"`
	Stored   int64     `json:"bytes_stored"`
	Command  string    `json:"command,omitempty"` // that would be run: a dry run
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
}

// streamReports tells of the streams of a run, and logs them.
func (a *app) streamReports(res *job.BackupResult, dryRun bool) (out []streamReport) {
	for _, s := range res.Streams {
		r := streamReport{Name: s.Name, Kind: s.Kind, Source: s.Source}
		if dryRun {
			r.Command = s.What
		}
		if x := s.Snapshot; x != nil {
			r.Snapshot, r.Files, r.Bytes, r.Added, r.Stored = &x.ID, x.Counts.Files, x.Counts.Bytes, x.Counts.DataAdded, x.Counts.BytesStored
			a.log.Info("stream done", "stream", s.Source, "snapshot", x.ID.String(), "files", r.Files, "bytes", r.Bytes, "bytes_stored", r.Stored)
			a.record("stream_complete", slog.String("source", s.Source), slog.String("snapshot", x.ID.String()))
		}
		if s.Err != nil {
			r.Error, r.Hint = oneLine(s.Err.Error()), s.Hint()
			a.log.Error("stream failed", "stream", s.Source, "error", r.Error)
			a.record("stream_failed", slog.String("source", s.Source), slog.String("error", r.Error))
		}
		out = append(out, r)
	}
	return out
}

func streamText(w io.Writer, s *streamReport) {
	switch {
	case s.Error != "":
		fmt.Fprintf(w, "  stream    %s  FAILED, and not stored: %s\n", quote(s.Source), s.Error)
		if s.Hint != "" {
			fmt.Fprintf(w, "            hint: %s\n", s.Hint)
		}
	case s.Snapshot == nil:
		fmt.Fprintf(w, "  stream    %s  would be made by: %s\n", quote(s.Source), quote(s.Command))
	default:
		fmt.Fprintf(w, "  stream    %s  %s: %s in %s, of which %s new, %s stored\n", quote(s.Source), s.Snapshot.Short(), bytesText(s.Bytes),
			things(int(s.Files), "file"), bytesText(s.Added), bytesText(s.Stored))
	}
}

type destinationReport struct {
	Location string    `json:"location"`
	Place    string    `json:"repository"`
	Created  bool      `json:"created,omitempty"`
	Copied   []repo.ID `json:"copied,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// backupDone tells how a run ended.
func (a *app) backupDone(res *job.BackupResult, o *job.BackupOptions, took time.Duration, retained []forgetReport, checked []verifyReport, run *journal.Run) error {
	s := res.Snapshot
	rep := backupReport{DryRun: o.DryRun, Details: s, Seconds: took.Seconds(), Notes: res.Notes, Retention: retained, Verified: checked}
	unkept := slices.ContainsFunc(retained, func(r forgetReport) bool { return r.Error != "" || r.Prune != nil && r.Prune.damaged() })
	damaged := slices.ContainsFunc(checked, func(r verifyReport) bool { return !r.OK })
	if res.Failed() || unkept || damaged || o.FailSuspicious && res.Suspicious() {
		rep.ExitCode = job.ExitPartial
	}
	if !o.DryRun && s != nil {
		rep.Snapshot = &s.ID
	}
	rep.Streams = a.streamReports(res, o.DryRun)
	for _, d := range res.Destinations {
		dr := destinationReport{Location: d.Location, Place: d.Place, Created: d.Created, Copied: d.Copied}
		if d.Err != nil {
			dr.Error = oneLine(d.Err.Error())
			a.log.Error("destination failed", "destination", d.Location, "error", dr.Error)
		}
		rep.Destinations = append(rep.Destinations, dr)
	}
	end := []any{"exit_code", rep.ExitCode, "seconds", took.Seconds()}
	if s != nil {
		c := s.Counts
		end = append(end, "snapshot", s.ID.String(), "files", c.Files, "new", c.New, "changed", c.Changed,
			"unmodified", c.Unmodified, "bytes_read", c.BytesRead, "bytes_stored", c.BytesStored, "problems", c.Problems)
	}
	a.log.Info("backup done", end...)
	if !o.DryRun {
		event := "backup_complete"
		if rep.ExitCode != 0 {
			event = "backup_failed"
		}
		fields := []slog.Attr{slog.Int("exit_code", rep.ExitCode)}
		if s != nil {
			fields = slices.Insert(fields, 0, slog.String("snapshot", s.ID.String()))
		}
		a.record(event, fields...)
	}
	if res.Suspicious() && !o.DryRun {
		a.suspicious(s)
	}
	for _, u := range res.Unapproved {
		rep.Unapproved = append(rep.Unapproved, u.ID)
		a.warn("snapshot %s of %s is suspicious, and older ones are kept; if all is well, 'backup-handler approve %s'",
			u.ID.Short(), u.Time.Local().Format("2006-01-02 15:04"), u.ID.Short())
	}
	if a.quiet && !a.json {
		for _, d := range rep.Destinations {
			if d.Error != "" {
				a.warn("%s: %s", d.Location, d.Error)
			}
		}
		for i := range rep.Streams {
			if x := &rep.Streams[i]; x.Error != "" {
				a.warn("%s: not stored: %s", x.Source, x.Error)
				if x.Hint != "" {
					fmt.Fprintln(a.stderr, "hint: "+x.Hint)
				}
			}
		}
		for i := range retained {
			a.retainedText(a.stderr, &retained[i])
		}
		for i := range checked {
			a.verifyText(a.stderr, &checked[i])
		}
		return fail(run, rep.ExitCode, backupFault(res, retained, checked))
	}
	err := a.print(rep, func(w io.Writer) error {
		switch {
		case o.DryRun:
			fmt.Fprintf(w, "dry run: nothing was written (%s)\n", o.Mode)
		case s == nil:
			fmt.Fprintf(w, "%d of %s\n", len(res.Made()), things(len(res.Streams), "stream"))
		default:
			fmt.Fprintf(w, "snapshot %s  %s  %s\n", s.ID.Short(), s.Time.Local().Format(time.DateTime), s.Mode)
		}
		if s != nil {
			filesText(w, &s.Counts, o.DryRun)
		}
		for i := range rep.Streams {
			streamText(w, &rep.Streams[i])
		}
		fmt.Fprintf(w, "  duration  %s\n", durationText(took))
		for _, d := range rep.Destinations {
			state := "ok"
			if d.Error != "" {
				state = "FAILED: " + d.Error
			} else if n := len(d.Copied); n > 0 {
				state = "ok, " + strconv.Itoa(n) + " copied"
			}
			fmt.Fprintf(w, "  %s  %s\n", quote(d.Location), state)
		}
		for i := range retained {
			a.retainedText(w, &retained[i])
		}
		for i := range checked {
			a.verifyText(w, &checked[i])
		}
		if s == nil {
			return nil
		}
		for _, why := range s.Suspicions {
			fmt.Fprintf(w, "  SUSPICIOUS  %s\n", why)
		}
		if n := s.Counts.Problems; n > 0 {
			fmt.Fprintf(w, "  PROBLEMS  %s, listed above and in the snapshot\n", countText(n))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fail(run, rep.ExitCode, backupFault(res, retained, checked))
}

// filesText shows what was done with the files.
func filesText(w io.Writer, c *tree.Counts, dryRun bool) {
	fmt.Fprintf(w, "  files     %s (%s new, %s changed, %s unmodified), %s\n",
		countText(c.Files), countText(c.New), countText(c.Changed), countText(c.Unmodified), bytesText(c.Bytes))
	fmt.Fprintf(w, "  others    %s directories, %s symlinks, %s devices and FIFOs; %s left out\n",
		countText(c.Dirs), countText(c.Symlinks), countText(c.Others), countText(c.SkippedByRule))
	if !dryRun {
		fmt.Fprintf(w, "  read      %s, of which %s new to the repository (deduplication %s)\n",
			bytesText(c.BytesRead), bytesText(c.DataAdded), ratioText(c.BytesRead, c.DataAdded))
		fmt.Fprintf(w, "  stored    %s (compression %s)\n", bytesText(c.BytesStored), ratioText(c.BytesAdded, c.BytesStored))
	}
}

// suspicious warns of a run that looks as if the source had been damaged.
func (a *app) suspicious(s *tree.Snapshot) {
	for _, why := range s.Suspicions {
		a.warn("SUSPICIOUS: %s", why)
	}
	line := "snapshot " + s.ID.Short() + " is tagged " + guard.Tag + ", and older ones are kept. "
	if s.Parent != nil {
		line += "See 'backup-handler diff " + s.Parent.Short() + " " + s.ID.Short() + "'; "
	}
	a.warn("%sif all is well, 'backup-handler approve %s'", line, s.ID.Short())
	a.record("suspicious", slog.String("snapshot", s.ID.String()), slog.String("reasons", strings.Join(s.Suspicions, "; ")))
}
