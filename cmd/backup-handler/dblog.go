package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Logs of databases: how they are archived, and what they are good for.

func (a *app) dbBinlogCommand() *cobra.Command {
	var f backupFlags
	var every parsed[time.Duration]
	c := &cobra.Command{
		Use:   "binlog",
		Short: "Archive the binary logs of MySQL and MariaDB, now or every few minutes",
		Long: `Archive the binary logs of each [DATABASE] with logs = True, as 'backup' does, but
without a dump: everything that was committed until now can be restored afterwards.

With --every it goes on until it is stopped, and a failure is tried again at the
next time.

Exit codes: 0 archived · 1 usage or configuration · 2 refused · 3 something was not
archived · 130 interrupted`,
		Example: `  backup-handler db binlog --config /etc/backup-handler/config.ini
  backup-handler db binlog --every 1m`,
		Args: cobra.NoArgs,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if d := every.or(0); d > 0 {
			return a.dbBinlogEvery(cmd, d)
		}
		f.onlyLogs = true
		return a.backup(cmd.Context(), &f)
	}
	every = parsed[time.Duration]{kind: "duration", parse: parseLimit}
	c.Flags().Var(&every, "every", "go on, and archive again after this time, e.g. 1m")
	f.wait = waitFlag(c)
	return c
}

// dbBinlogEvery archives again and again, each time by a process of its own, as the daemon
// runs its jobs: each is a run, with the configuration as it is then.
func (a *app) dbBinlogEvery(cmd *cobra.Command, every time.Duration) error {
	if err := a.load(); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args := slices.DeleteFunc(a.flagsForJobs(cmd.Flags()), func(flag string) bool { return strings.HasPrefix(flag, "--every=") })
	ctx := cmd.Context()
	for {
		c := exec.CommandContext(ctx, program, append([]string{"db", "binlog"}, args...)...)
		c.Stdout, c.Stderr = a.stdout, a.stderr
		c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
		c.WaitDelay = binlogGrace
		err := c.Run() // which says itself what is wrong
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

// binlogGrace is how long a run may take to end when all is to end.
const binlogGrace = 30 * time.Second

func (a *app) dbWalPushCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "wal-push NAME PATH FILE",
		Short: "Store a file of a PostgreSQL server's log: what its archive_command runs",
		Long: `Store a file of a PostgreSQL server's log in every repository: what its
archive_command runs, with %p and %f. It is refused if the archive has another file
of this name, and succeeds again if it has the same. A write-only key cannot read
the archive: what this machine has stored with it is noted in the state directory.

Exit codes: 0 stored in every repository · another one: not; the server keeps the
file and tries again`,
		Example: `  archive_command = 'backup-handler --config /etc/backup-handler/config.ini db wal-push main %p %f'`,
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.dbWalPush(cmd.Context(), args[0], args[1], args[2])
		},
	}
	return c
}

func (a *app) dbWalPush(ctx context.Context, name, path, file string) error {
	if err := checkServerName(name); err != nil {
		return err
	}
	if err := a.load(); err != nil {
		return err
	}
	o, err := a.backupOptions(&backupFlags{bare: true})
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	o.Streams = []job.Stream{job.PushLog(name, path, file, func(line string) { a.warn("%s", line) })}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	defer acc.Close()
	res, err := job.Backup(ctx, acc, *o)
	if err != nil {
		return dbFailure(job.ExitPartial, err)
	}
	for i := range res.Streams {
		if s := &res.Streams[i]; s.Err != nil {
			return job.Fail(job.ExitPartial, s.Err, s.Hint())
		}
	}
	for _, d := range res.Destinations {
		if d.Err != nil {
			return job.Fail(job.ExitPartial, d.Err, job.Hint(d.Err))
		}
	}
	a.log.Info("archived", "server", name, "file", file)
	return nil
}

func checkServerName(name string) error {
	if name == "" || strings.ContainsAny(name, "/\\\x00") || name == "." || name == ".." {
		return usageError("it is that of [DATABASE NAME]", "%q is no name of a server", name)
	}
	return nil
}

func (a *app) dbWalFetchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "wal-fetch NAME FILE PATH",
		Short: "Get a file of a PostgreSQL server's log: what its restore_command runs",
		Long: `Get a file of a PostgreSQL server's log from the first repository that can be
opened: what its restore_command runs, with %f and %p; 'db recover' writes it.

Exit codes: 0 it is there · 1 the archive has none of this name: recovery ends here
above 125: it cannot be told, and recovery stops`,
		Example: `  restore_command = 'backup-handler --config /etc/backup-handler/config.ini db wal-fetch main %f %p'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return fetchFailed(fmt.Errorf("want NAME FILE PATH, not %d words", len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.dbWalFetch(cmd.Context(), args[0], args[1], args[2])
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fetchFailed(err) })
	c.Flags().StringVar(&a.filter.Host, "host", "", "the archive of this host")
	return c
}

// fetchFailed is whatever is wrong but that the archive, which was read, has no such file:
// PostgreSQL takes 1 for the end of the log, and opens the database there.
func fetchFailed(err error) error {
	hint := "recovery stops here, and can be started again"
	if h := dbdump.Hint(err); h != "" {
		hint = h + "; " + hint
	}
	return &job.Failure{Code: postgres.FetchStop, Err: err, Hint: hint}
}

func (a *app) dbWalFetch(ctx context.Context, name, file, path string) error {
	if err := checkServerName(name); err != nil {
		return fetchFailed(err)
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return fetchFailed(err)
	}
	defer d.Close()
	host, err := job.LogHost(d, name, a.filter.Host, hostName())
	if err != nil {
		return fetchFailed(err)
	}
	l, err := job.OpenLog(ctx, d, tree.KindPostgreSQLLog, host, name)
	if err != nil {
		return fetchFailed(err)
	}
	err = postgres.Fetch(ctx, l, file, path)
	switch {
	case err == nil:
		return nil
	case postgres.FetchExit(err) != postgres.FetchNone:
		return fetchFailed(err)
	case len(d.Unreadable) > 0:
		return fetchFailed(fmt.Errorf("%s is not in what can be read of the archive of %s: %s of the repository cannot be", file, name, things(len(d.Unreadable), "snapshot")))
	}
	return &job.Failure{Code: postgres.FetchNone, Err: fmt.Errorf("the archive of %s has no %s", name, file)}
}

type dbRecoverFlags struct {
	dbTarget
	to, toTime, toLSN, toName, action, owner string
	immediate, exclusive, dryRun             bool
	timeline                                 uint32
	port                                     int
}

func (a *app) dbRecoverCommand() *cobra.Command {
	var f dbRecoverFlags
	c := &cobra.Command{
		Use:   "recover [SNAPSHOT]",
		Short: "Restore a PostgreSQL server from a base backup, as of any moment since",
		Long: `Restore a whole PostgreSQL server from a base backup into a directory, ready to be
started: it then replays its archived log, through 'db wal-fetch', up to the end or
to the moment that is asked for. SNAPSHOT is a base backup, by its ID or a time;
without it, the newest before the moment is taken. That the log has no gap until
there is checked first.

Exit codes: 0 restored · 1 usage, or it could not be restored · 130 interrupted`,
		Example: `  backup-handler db recover --to /var/lib/postgresql/15/restored --to-time '2026-03-01 12:34:56'
  backup-handler db recover --to /srv/pg --to-lsn 0/3000028 --action promote`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.recorded(cmd.Context(), "restore", f.dryRun, nil, func(ctx context.Context, run *journal.Run) error {
			return a.dbRecover(ctx, cmd, args, &f, run)
		})
	}
	fl := c.Flags()
	a.filterFlags(c)
	f.nameFlag(c)
	fl.StringVar(&f.to, "to", "", "directory of the server's data: new, or empty")
	fl.StringVar(&f.toTime, "to-time", "", "the moment to recover to, e.g. '2026-03-01 12:34:56' (local time), or RFC 3339")
	fl.StringVar(&f.toLSN, "to-lsn", "", "the position in the log to recover to")
	fl.StringVar(&f.toName, "to-name", "", "the restore point to recover to, of pg_create_restore_point()")
	fl.BoolVar(&f.immediate, "immediate", false, "recover no further than the base backup itself")
	fl.BoolVar(&f.exclusive, "exclusive", false, "stop just before the moment")
	fl.StringVar(&f.action, "action", "pause", "what the server does there: pause, promote or shutdown")
	fl.Uint32Var(&f.timeline, "timeline", 0, "the timeline to follow (default: the latest)")
	fl.IntVar(&f.port, "port", 0, "port that the server will have (default: as its configuration says)")
	fl.StringVar(&f.owner, "owner", "", "account that the server will run as (default: postgres, for root)")
	fl.StringVar(&f.programs, "db-programs", "", "directory of PostgreSQL's programs (default: the newest that are installed)")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be restored, and up to which moment; change nothing")
	return c
}

// dbRecoverReport is what was restored, and how far it can go.
type dbRecoverReport struct {
	Snapshot string          `json:"snapshot"`
	Base     *postgres.Base  `json:"base"`
	Reach    *postgres.Reach `json:"reach,omitempty"`
	To       string          `json:"to,omitempty"`
	DryRun   bool            `json:"dry_run,omitempty"`
	Seconds  float64         `json:"seconds"`
}

func (a *app) dbRecover(ctx context.Context, cmd *cobra.Command, args []string, f *dbRecoverFlags, run *journal.Run) error {
	if f.to == "" && !f.dryRun {
		return usageError("add --to DIR", "recover where to?")
	}
	o := postgres.RecoverOptions{
		TargetLSN: f.toLSN, TargetName: f.toName, Immediate: f.immediate, Exclusive: f.exclusive, Timeline: f.timeline, Action: f.action, Port: f.port, Owner: f.owner,
	}
	var err error
	if f.toTime != "" {
		if o.TargetTime, err = job.ParseMoment(f.toTime); err != nil {
			return usageError("want '2026-03-01 12:34:56' or RFC 3339", "--to-time: %v", err)
		}
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, err := a.dbSnapshot(d, &f.dbTarget, args, tree.KindPostgreSQLBase)
	if err != nil {
		return err
	}
	if len(args) == 0 && !o.TargetTime.IsZero() {
		all, err := a.dbSnapshots(d, &f.dbTarget, tree.KindPostgreSQLBase)
		if err != nil {
			return err
		}
		i := len(all) - 1
		for i >= 0 && (all[i].Host != snap.Host || all[i].End.After(o.TargetTime)) {
			i--
		}
		if i < 0 {
			return usageError("'backup-handler db list' lists them: the oldest ends at "+all[0].End.Local().Format(time.DateTime), "there is no base backup before %s", o.TargetTime.Local().Format(time.DateTime))
		}
		snap = all[i]
	}
	name := job.DatabaseName(snap)
	fsys, err := job.OpenDatabase(ctx, d, snap)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	host, err := job.LogHost(d, name, a.filter.Host, snap.Host)
	if err != nil {
		return err
	}
	l, err := job.OpenLog(ctx, d, tree.KindPostgreSQLLog, host, name)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	s := &postgres.Server{Bin: f.programs}
	rep := dbRecoverReport{Snapshot: snap.ID.String(), To: f.to, DryRun: f.dryRun}
	begin := time.Now()
	if f.dryRun {
		if rep.Base, err = postgres.OpenBase(fsys); err != nil {
			return dbFailure(job.ExitUsage, err)
		}
		rep.Reach, err = postgres.Reachable(ctx, s, rep.Base, l, f.timeline)
		if gap, ok := errors.AsType[*postgres.GapError](err); ok {
			a.warn("%v", gap)
		} else if err != nil {
			return dbFailure(job.ExitUsage, err)
		}
		return a.dbRecovered(&rep, nil)
	}
	if o.RestoreCommand, err = a.fetchCommand(cmd, host, name); err != nil {
		return err
	}
	run.Snapshot = snap.ID.String()
	destination(run, d.Location, "")
	a.record("restore", slog.String("snapshot", snap.ID.String()), slog.String("server", name), slog.String("to", f.to))
	p := &dbProgress{}
	p.total.Store(snap.Counts.Bytes)
	o.Progress = p.Add
	m := a.meter("recover", p.sample)
	rep.Base, rep.Reach, err = postgres.RestoreBase(ctx, s, fsys, l, f.to, o)
	m.stop()
	if err != nil {
		return dbFailure(job.ExitUsage, err)
	}
	rep.Seconds = time.Since(begin).Seconds()
	run.Counts = journal.Counts{Files: int64(rep.Base.Files), Bytes: rep.Base.Bytes}
	return a.dbRecovered(&rep, &o)
}

// dbRecovered tells what was restored; without options, what would be.
func (a *app) dbRecovered(rep *dbRecoverReport, o *postgres.RecoverOptions) error {
	return a.print(rep, func(w io.Writer) error {
		if rep.DryRun {
			fmt.Fprintf(w, "dry run: would restore the base backup %s of %s\n", rep.Snapshot[:8], rep.Base.Ended.Local().Format(time.DateTime))
		} else {
			fmt.Fprintf(w, "restored the base backup %s of %s to %s\n", rep.Snapshot[:8], rep.Base.Ended.Local().Format(time.DateTime), quote(rep.To))
		}
		fmt.Fprintf(w, "  %s, %s\n", things(rep.Base.Files, "file"), bytesText(rep.Base.Bytes))
		if r := rep.Reach; r != nil {
			fmt.Fprintf(w, "  the archived log reaches to %s", r.LSN)
			if !r.Commit.IsZero() {
				fmt.Fprintf(w, ", the last transaction in it was committed at %s", r.Commit.Local().Format("2006-01-02 15:04:05.000"))
			}
			fmt.Fprintln(w)
		}
		if o == nil {
			return nil
		}
		dir := rep.To
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		account := o.Owner
		if account == "" && os.Geteuid() == 0 {
			account = "postgres"
		}
		start := "pg_ctl -D " + shellQuote(dir) + " start"
		if account != "" {
			start = "runuser -u " + account + " -- " + start
		}
		fmt.Fprintf(w, "  start it: %s\n", start)
		if o.Action == "" || o.Action == "pause" {
			fmt.Fprintln(w, "  it stops at the moment and can be looked at; 'select pg_wal_replay_resume()' then opens it for writing")
		}
		return nil
	})
}

// fetchCommand is what the server that is recovered runs for each file of its log.
func (a *app) fetchCommand(cmd *cobra.Command, host, name string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	words := []string{program}
	for _, flag := range a.flagsForJobs(cmd.InheritedFlags()) {
		words = append(words, absoluteFlag(flag)) // the server has another working directory
	}
	words = append(words, "db", "wal-fetch", "--host="+host, name)
	for i, w := range words {
		// PostgreSQL replaces %f and the like; %% is one percent sign.
		words[i] = shellQuote(strings.ReplaceAll(w, "%", "%%"))
	}
	if !slices.ContainsFunc(words, func(w string) bool {
		return strings.Contains(w, "--key-file") || strings.Contains(w, "--passphrase-file")
	}) {
		if _, ok := a.env(job.PassphraseEnv); ok {
			a.note("the server has to be started with $" + job.PassphraseEnv + " set, or the configuration to name a key file: restore_command opens the repository")
		}
	}
	return strings.Join(words, " ") + " %f %p", nil
}

// absoluteFlag makes the path of a flag absolute.
func absoluteFlag(flag string) string {
	name, value, ok := strings.Cut(flag, "=")
	if !ok || !slices.Contains([]string{"--backup-dirs", "--key-file", "--passphrase-file", "--identity-file"}, name) || location.IsURL(value) || strings.HasPrefix(value, `"`) {
		return flag
	}
	if abs, err := filepath.Abs(value); err == nil {
		value = abs
	}
	return name + "=" + value
}

// shellQuote makes a word one for the shell.
func shellQuote(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_-./=:,@+%", r))
	}) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
