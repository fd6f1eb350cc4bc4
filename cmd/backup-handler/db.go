package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Databases: what there is of them, and their restore. dbwal.go: the log of PostgreSQL.

// dbPasswordEnv has the password of the server that is restored to.
const dbPasswordEnv = "BACKUP_HANDLER_DB_PASSWORD"

func (a *app) dbCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "db",
		Short: "List, restore and check databases; archive their logs",
		Long: `List, restore and check databases; archive their logs.

'backup' dumps each [DATABASE] of the configuration. docs/databases.md and
docs/postgresql.md say how, and what to do at 3 a.m.`,
	}
	c.AddCommand(a.dbListCommand(), a.dbRestoreCommand(), a.dbVerifyCommand(), a.dbBinlogCommand(), a.dbRecoverCommand(), a.dbWalPushCommand(), a.dbWalFetchCommand())
	return c
}

// A dbTarget is which server's snapshots are meant, and how a server is reached.
type dbTarget struct {
	name string

	host, socket, user, tls, caFile, programs, runAs string
	port                                             int
}

// nameFlag chooses among the servers in a repository.
func (t *dbTarget) nameFlag(c *cobra.Command) {
	c.Flags().StringVar(&t.name, "name", "", "name of the [DATABASE NAME]; needed where the repository has several")
}

// serverFlags say which server is restored to.
func (t *dbTarget) serverFlags(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&t.host, "db-host", "", "restore to this server, instead of that of the configuration")
	fl.IntVar(&t.port, "db-port", 0, "its port")
	fl.StringVar(&t.socket, "db-socket", "", "its socket (PostgreSQL: the directory that it is in)")
	fl.StringVar(&t.user, "db-user", "", "user to log in as; the password is in $"+dbPasswordEnv)
	fl.StringVar(&t.tls, "db-tls", "", "preferred, off, required or verified")
	fl.StringVar(&t.caFile, "db-ca-file", "", "certificates of the authorities to trust")
	fl.StringVar(&t.programs, "db-programs", "", "directory of its programs")
	fl.StringVar(&t.runAs, "db-run-as", "", "PostgreSQL: account to run its programs as")
}

// server is that of the section with the name, or as the flags say.
func (a *app) dbServer(t *dbTarget, name string, isPostgres bool) (config.Database, error) {
	all, err := a.configuredDatabases()
	if err != nil {
		return config.Database{}, err
	}
	c := config.Database{Name: name, PostgreSQL: isPostgres, Host: "localhost", TLS: "preferred"}
	for _, o := range all {
		if o.Name == name && o.PostgreSQL == isPostgres {
			c = o
		}
	}
	if t.host != "" || t.socket != "" {
		// Another server: nothing of the configured one's address holds.
		c.Host, c.Port, c.Socket = t.host, 0, t.socket
		if c.Host == "" {
			c.Host = "localhost"
		}
	}
	if t.port != 0 {
		c.Port = t.port
	}
	set := func(to *string, text string) {
		if text != "" {
			*to = text
		}
	}
	set(&c.User, t.user)
	set(&c.TLS, t.tls)
	set(&c.CAFile, t.caFile)
	set(&c.Programs, t.programs)
	set(&c.RunAs, t.runAs)
	if !slices.Contains([]string{"preferred", "off", "required", "verified"}, c.TLS) {
		return c, usageError("", "--db-tls %q: want preferred, off, required or verified", c.TLS)
	}
	return c, nil
}

// dbPassword is that of the environment; false: there is none.
func (a *app) dbPassword() (config.SecretString, bool) {
	p, ok := a.env(dbPasswordEnv)
	return config.NewSecretString(p), ok
}

func (a *app) mysqlServer(t *dbTarget, name string) (mysql.Server, error) {
	c, err := a.dbServer(t, name, false)
	if err != nil {
		return mysql.Server{}, err
	}
	if p, ok := a.dbPassword(); ok {
		c.Password = config.Lazy[config.SecretString]{}
		s, err := job.MySQLServer(&c)
		s.Password = p
		return s, err
	}
	return job.MySQLServer(&c)
}

func (a *app) postgresServer(t *dbTarget, name string) (*postgres.Server, error) {
	c, err := a.dbServer(t, name, true)
	if err != nil {
		return nil, err
	}
	if p, ok := a.dbPassword(); ok {
		c.Password = config.Lazy[config.SecretString]{}
		s, err := job.PostgresServer(&c)
		if err == nil {
			s.Password = p.Reveal()
		}
		return s, err
	}
	return job.PostgresServer(&c)
}

// dbSnapshots are those of some kinds, of the server with the name, of the hosts that
// flags ask for. The name may be left out where there is only one.
func (a *app) dbSnapshots(d *job.Destination, t *dbTarget, kinds ...tree.Kind) ([]*tree.Snapshot, error) {
	var names []string
	var found []*tree.Snapshot
	for _, s := range a.filter.Of(d.Snapshots) {
		name := job.DatabaseName(s)
		if name == "" || !slices.Contains(kinds, s.Kind) || t.name != "" && name != t.name {
			continue
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		found = append(found, s)
	}
	switch {
	case len(names) > 1:
		return nil, usageError("choose with --name: "+strings.Join(names, ", "), "%s has databases of several servers", d.Place)
	case len(found) == 0 && t.name != "":
		return nil, usageError("'backup-handler db list' lists what there is", "%s has none of the server %s", d.Place, t.name)
	case len(found) == 0:
		return nil, usageError("'backup-handler db list' lists what there is", "%s has none of a database", d.Place)
	}
	return found, nil
}

// dbSnapshot is the one that is meant.
func (a *app) dbSnapshot(d *job.Destination, t *dbTarget, args []string, kinds ...tree.Kind) (*tree.Snapshot, error) {
	all, err := a.dbSnapshots(d, t, kinds...)
	if err != nil {
		return nil, err
	}
	name := "latest"
	if len(args) > 0 {
		name = args[0]
	}
	s, note, err := a.filter.Resolve(all, name, hostName())
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "'backup-handler db list' lists what there is")
	}
	if note != "" {
		a.note(note)
	}
	return s, nil
}

// dbFailure adds to an error what to do about it.
func dbFailure(code int, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if f, ok := errors.AsType[*job.Failure](err); ok {
		return f
	}
	return job.Fail(code, err, dbdump.Hint(err))
}

// dbProgress counts for a meter.
type dbProgress struct {
	bytes, total, done, tables atomic.Int64
	mu                         sync.Mutex
	current                    []string // tables at work
}

func (p *dbProgress) Add(n int64) { p.bytes.Add(n) }

func (p *dbProgress) Table(name string, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !done {
		p.current = append(p.current, name)
		return
	}
	p.done.Add(1)
	p.current = slices.DeleteFunc(p.current, func(s string) bool { return s == name })
}

func (p *dbProgress) sample() sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := sample{bytes: p.bytes.Load(), totalBytes: p.total.Load(), files: p.done.Load(), totalFiles: p.tables.Load()}
	if len(p.current) > 0 {
		s.current = p.current[0]
	}
	return s
}

// expect says what is to be read: of one database, or, "", of all.
func (p *dbProgress) expect(m *dbdump.Manifest, database string) {
	for _, d := range m.Databases {
		if database != "" && d.Name != database {
			continue
		}
		for _, f := range d.Files {
			p.total.Add(f.Bytes)
			if f.Table != "" {
				p.tables.Add(1)
			}
		}
	}
}

func (a *app) dbListCommand() *cobra.Command {
	var t dbTarget
	c := &cobra.Command{
		Use:   "list",
		Short: "List what there is of databases",
		Long: `List what a repository has of databases, oldest first: dumps, archived logs,
base backups.

Exit codes: 0 listed, also if there is none · 1 usage, or nothing can be read
130 interrupted`,
		Example: `  backup-handler db list --config /etc/backup-handler/config.ini
  backup-handler db list --name shop --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dbList(cmd.Context(), &t) },
	}
	a.filterFlags(c)
	t.nameFlag(c)
	return c
}

// dbDump is one line of db list.
type dbDump struct {
	Snapshot string           `json:"snapshot"`
	Time     time.Time        `json:"time"`
	Host     string           `json:"host"`
	Name     string           `json:"name"`
	Kind     tree.Kind        `json:"kind"`
	Bytes    int64            `json:"bytes"`
	Manifest *dbdump.Manifest `json:"dump,omitempty"`
	Logs     *mysql.Logs      `json:"logs,omitempty"`
	Base     *postgres.Base   `json:"base,omitempty"`
	Files    []string         `json:"log_files,omitempty"`
	// Conflicts are files of a log that another snapshot has too, with other content.
	Conflicts []string `json:"conflicts,omitempty"`
	Error     string   `json:"error,omitempty"`
}

func (a *app) dbList(ctx context.Context, t *dbTarget) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	list := []dbDump{}
	for _, s := range a.filter.Of(d.Snapshots) {
		name := job.DatabaseName(s)
		if name == "" || t.name != "" && t.name != name {
			continue
		}
		dump := job.ReadDump(ctx, d, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e := dbDump{Snapshot: s.ID.String(), Time: s.Time, Host: s.Host, Name: name, Kind: s.Kind, Bytes: s.Counts.Bytes,
			Manifest: dump.Manifest, Logs: dump.Logs, Base: dump.Base, Files: dump.Log}
		if dump.Err != nil {
			e.Error = oneLine(dump.Err.Error())
		}
		list = append(list, e)
	}
	if err := a.dbConflicts(ctx, d, list); err != nil {
		return err
	}
	return a.print(list, func(w io.Writer) error {
		if len(list) == 0 {
			a.note("no databases in " + quote(d.Place))
			return nil
		}
		table := newTable("ID", "TIME", "HOST", "NAME", "KIND", "SIZE", "WHAT")
		table.right("SIZE")
		for i := range list {
			e := &list[i]
			table.row(e.Snapshot[:8], e.Time.Local().Format("2006-01-02 15:04"), quote(e.Host), quote(e.Name), string(e.Kind), bytesText(e.Bytes), e.what())
		}
		return table.write(w)
	})
}

// dbConflicts marks the snapshots of logs that have different files of one name.
func (a *app) dbConflicts(ctx context.Context, d *job.Destination, list []dbDump) error {
	type log struct {
		kind       tree.Kind
		host, name string
	}
	seen := make(map[log]bool)
	for i := range list {
		l := log{list[i].Kind, list[i].Host, list[i].Name}
		if seen[l] || l.kind != tree.KindMySQLLog && l.kind != tree.KindPostgreSQLLog {
			continue
		}
		seen[l] = true
		opened, err := job.OpenLog(ctx, d, l.kind, l.host, l.name)
		if err != nil {
			a.warn("the log of %s is not compared: %v", quote(l.name), err)
			continue
		}
		conflicts, err := opened.Conflicts(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			a.warn("the log of %s is not compared: %v", quote(l.name), err)
			continue
		}
		for _, err := range conflicts {
			c, ok := errors.AsType[*job.LogConflict](err)
			if !ok {
				continue
			}
			for _, s := range c.Snapshots {
				if i := slices.IndexFunc(list, func(e dbDump) bool { return e.Snapshot == s.ID.String() }); i >= 0 {
					list[i].Conflicts = append(list[i].Conflicts, c.File)
				}
			}
		}
		if len(conflicts) > 0 {
			a.warn("the log of %s has %s of which there are two that differ: none of them is used (docs/logs.md)", quote(l.name), things(len(conflicts), "file"))
		}
	}
	for i := range list {
		slices.Sort(list[i].Conflicts)
	}
	return nil
}

// what says in some words what a snapshot has.
func (e *dbDump) what() string {
	if len(e.Conflicts) > 0 {
		mine := *e
		mine.Conflicts = nil
		return strings.TrimPrefix(mine.what()+"; CONFLICT: "+shortList(e.Conflicts), "; ")
	}
	const when = "2006-01-02 15:04:05"
	switch {
	case e.Error != "":
		return "DAMAGED: " + e.Error
	case e.Manifest != nil:
		var names []string
		for _, d := range e.Manifest.Databases {
			names = append(names, d.Name)
		}
		text := shortList(names)
		if p := e.Manifest.Position; p != nil && p.File != "" {
			text += fmt.Sprintf(" at %s:%d", p.File, p.Offset)
		}
		return quote(text)
	case e.Logs != nil && len(e.Logs.Files) > 0:
		last := e.Logs.Files[len(e.Logs.Files)-1]
		text := things(len(e.Logs.Files), "log") + ", everything until " + last.Until.Local().Format(when)
		gaps := 0
		for i, f := range e.Logs.Files {
			if f.Gap && i > 0 {
				gaps++
			}
		}
		if gaps > 0 {
			text += ", " + things(gaps, "GAP")
		}
		return text
	case e.Base != nil:
		return "base backup, moments from " + e.Base.Ended.Local().Format(when) + " on"
	case len(e.Files) > 0:
		return things(len(e.Files), "file") + " of the log, the last " + e.Files[len(e.Files)-1]
	}
	return ""
}

// shortList names the first of some names.
func shortList(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
}

type dbRestoreFlags struct {
	dbTarget
	database, into, toTime, toPosition, stopBefore string
	tables                                         []string
	all, replace, createRoles, dryRun              bool
	parallel                                       int
}

func (a *app) dbRestoreCommand() *cobra.Command {
	var f dbRestoreFlags
	c := &cobra.Command{
		Use:   "restore [SNAPSHOT]",
		Short: "Restore a database from a dump, as of any moment since",
		Long: `Restore a database from a dump; SNAPSHOT is an ID, a time or latest (the default).

The database is loaded beside what is there, and gets its name when all of it is
there: --into NAME for a new one, or its own name if the server has none of it. One
that exists is replaced only with --replace. What fails half way is removed again.

MySQL and MariaDB: with archived binary logs ([DATABASE] logs), --to-time,
--to-position or --stop-before-statement restore the newest dump before, and then
what was written until that moment, into a new database. PostgreSQL reaches moments
by 'db recover'.

Exit codes: 0 restored · 1 usage, or it could not be restored · 130 interrupted`,
		Example: `  backup-handler db restore --into shop_restored
  backup-handler db restore 20260228_030000 --database shop --replace
  backup-handler db restore --into shop_then --to-time '2026-03-01 12:34:56'
  backup-handler db restore --into shop_then --stop-before-statement 'DROP TABLE orders'
  backup-handler db restore --all --db-host new.example.org --db-user root`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.dbRestoreRun(cmd.Context(), args, &f) },
	}
	fl := c.Flags()
	a.filterFlags(c)
	f.nameFlag(c)
	fl.StringVar(&f.database, "database", "", "database to restore; needed where the dump has several")
	fl.StringVar(&f.into, "into", "", "name that it gets (default: its own)")
	fl.BoolVar(&f.replace, "replace", false, "replace a database of this name, once the restored one is whole")
	fl.StringArrayVar(&f.tables, "table", nil, "restore only this table (repeat)")
	fl.BoolVar(&f.all, "all", false, "restore all databases of the dump, and its accounts if it has them, to an empty server")
	fl.StringVar(&f.toTime, "to-time", "", "MySQL: the moment to restore, e.g. '2026-03-01 12:34:56' (local time), or RFC 3339")
	fl.StringVar(&f.toPosition, "to-position", "", "MySQL: up to this position of the binary log, FILE:OFFSET")
	fl.StringVar(&f.stopBefore, "stop-before-statement", "", "MySQL: up to the first transaction with a statement that has these words")
	fl.BoolVar(&f.createRoles, "create-roles", false, "PostgreSQL: make roles that are missing; they cannot log in")
	fl.IntVar(&f.parallel, "parallel", 0, "tables to load side by side (default: as many as the machine has processors)")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be restored; change nothing")
	f.serverFlags(c)
	return c
}

func (a *app) dbRestoreRun(ctx context.Context, args []string, f *dbRestoreFlags) error {
	switch {
	case f.all && (f.database != "" || f.into != "" || len(f.tables) > 0):
		return usageError("", "--all excludes --database, --into and --table")
	case f.moment() && f.all:
		return usageError("restore one database after the other", "--all excludes --to-time, --to-position and --stop-before-statement")
	case f.moment() && len(f.tables) > 0:
		return usageError("restore the database with --into, and take the table out of it", "--table does not go with a moment")
	}
	n := 0
	for _, s := range []string{f.toTime, f.toPosition, f.stopBefore} {
		if s != "" {
			n++
		}
	}
	if n > 1 {
		return usageError("", "--to-time, --to-position and --stop-before-statement exclude each other")
	}
	return a.recorded(ctx, "restore", f.dryRun, nil, func(ctx context.Context, run *journal.Run) error { return a.dbRestore(ctx, args, f, run) })
}

// moment says whether a moment is asked for that is not that of a dump.
func (f *dbRestoreFlags) moment() bool { return f.toTime+f.toPosition+f.stopBefore != "" }

func (a *app) dbRestore(ctx context.Context, args []string, f *dbRestoreFlags, run *journal.Run) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, replay, err := a.dbChoose(ctx, d, args, f)
	if err != nil {
		return err
	}
	dump := job.ReadDump(ctx, d, snap)
	if dump.Err != nil {
		return job.Fail(job.ExitUsage, dump.Err, "'backup-handler verify' tells what is lost; 'backup-handler db list' lists other dumps")
	}
	fsys, err := job.OpenDatabase(ctx, d, snap)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	from, err := chooseDatabase(dump.Manifest, f)
	if err != nil {
		return err
	}
	into := f.into
	if into == "" {
		into = from
	}
	run.Snapshot = snap.ID.String()
	destination(run, d.Location, "")
	what := "database " + quote(from)
	if f.all {
		what = "all databases"
	}
	if f.dryRun {
		return a.dbWouldRestore(snap, dump, f, what, into, replay)
	}
	a.record("restore", slog.String("snapshot", snap.ID.String()), slog.String("database", from), slog.String("into", into), slog.Bool("replace", f.replace))
	p := &dbProgress{}
	p.expect(dump.Manifest, from)
	m := a.meter("restore", p.sample)
	begin := time.Now()
	warn := func(format string, args ...any) { a.warn(format, args...) }
	var at mysql.ReplayResult
	if snap.Kind == tree.KindMySQL {
		var s mysql.Server
		o := mysql.RestoreOptions{Database: from, Into: f.into, Replace: f.replace, Tables: f.tables, Parallel: f.parallel, Progress: p, Warn: warn}
		if s, err = a.mysqlServer(&f.dbTarget, dump.Name); err == nil {
			switch {
			case replay != nil:
				replay.o.Database, replay.o.Into, replay.o.Progress, replay.o.Warn = from, into, p, warn
				replay.o.Dumped = dump.Manifest.Start
				if dump.Manifest.Position != nil {
					replay.o.From = *dump.Manifest.Position
				}
				at, err = mysql.RestoreTo(ctx, s, fsys, replay.logs, o, replay.o)
			case f.all:
				err = mysql.RestoreAll(ctx, s, fsys, o)
			default:
				err = mysql.Restore(ctx, s, fsys, o)
			}
		}
	} else {
		var s *postgres.Server
		o := postgres.RestoreOptions{
			Database: from, Into: f.into, Replace: f.replace, Tables: f.tables, Parallel: f.parallel, CreateRoles: f.createRoles, Progress: p,
			Warn: func(line string) { a.warn("%s", line) },
		}
		if s, err = a.postgresServer(&f.dbTarget, dump.Name); err == nil && f.all {
			err = postgres.RestoreAll(ctx, s, fsys, o)
		} else if err == nil {
			err = postgres.Restore(ctx, s, fsys, o)
		}
	}
	m.stop()
	if err != nil {
		return dbFailure(job.ExitUsage, err)
	}
	run.Counts = journal.Counts{Files: p.done.Load(), Bytes: p.bytes.Load()}
	rep := dbRestoreReport{Snapshot: snap.ID.String(), Dumped: snap.Time, Database: from, Into: into, Bytes: p.bytes.Load(), Tables: p.done.Load(), Seconds: time.Since(begin).Seconds()}
	if replay != nil {
		rep.Replayed = &at
	}
	return a.print(rep, func(w io.Writer) error {
		fmt.Fprintf(w, "restored %s of snapshot %s, %s", what, snap.ID.Short(), snap.Time.Local().Format(time.DateTime))
		if !f.all {
			fmt.Fprintf(w, ", as %s", quote(into))
		}
		fmt.Fprintf(w, "\n  %s, %s in %s\n", things(int(rep.Tables), "table"), bytesText(rep.Bytes), durationText(time.Since(begin)))
		if replay != nil {
			fmt.Fprintf(w, "  and %s of its log, up to %s:%d", things(at.Transactions, "transaction"), at.At.File, at.At.Offset)
			if !at.Last.IsZero() {
				fmt.Fprintf(w, "; the last was committed at %s", at.Last.Local().Format(time.DateTime))
			}
			fmt.Fprintln(w)
		}
		return nil
	})
}

// dbRestoreReport is what a restore of a database did.
type dbRestoreReport struct {
	Snapshot string              `json:"snapshot"`
	Dumped   time.Time           `json:"dumped"`
	Database string              `json:"database,omitempty"` // "": all
	Into     string              `json:"into,omitempty"`
	DryRun   bool                `json:"dry_run,omitempty"`
	Tables   int64               `json:"tables"`
	Bytes    int64               `json:"bytes"`
	Seconds  float64             `json:"seconds"`
	Replayed *mysql.ReplayResult `json:"replayed,omitempty"`
}

// A dbReplay is what follows the dump.
type dbReplay struct {
	logs fs.FS
	snap *tree.Snapshot
	o    mysql.ReplayOptions
}

// dbChoose finds the dump to restore, and, for a moment, the logs.
func (a *app) dbChoose(ctx context.Context, d *job.Destination, args []string, f *dbRestoreFlags) (*tree.Snapshot, *dbReplay, error) {
	if !f.moment() {
		s, err := a.dbSnapshot(d, &f.dbTarget, args, tree.KindMySQL, tree.KindPostgreSQL)
		return s, nil, err
	}
	all, err := a.dbSnapshots(d, &f.dbTarget, tree.KindMySQL, tree.KindPostgreSQL)
	if err != nil {
		return nil, nil, err
	}
	if all[0].Kind != tree.KindMySQL {
		return nil, nil, usageError("'backup-handler db recover' restores the whole server as of a moment, from a base backup and the archived log", "a dump of PostgreSQL cannot be brought to another moment")
	}
	r := new(dbReplay)
	before := time.Now()
	switch {
	case f.toTime != "":
		if r.o.ToTime, err = job.ParseMoment(f.toTime); err != nil {
			return nil, nil, usageError("want '2026-03-01 12:34:56' or RFC 3339", "--to-time: %v", err)
		}
		before = r.o.ToTime
	case f.toPosition != "":
		if r.o.ToPosition, err = job.ParsePosition(f.toPosition); err != nil {
			return nil, nil, usageError("", "--to-position: %v", err)
		}
	default:
		r.o.StopBefore = f.stopBefore
	}
	snap, err := a.dbSnapshot(d, &f.dbTarget, args, tree.KindMySQL)
	if err != nil {
		return nil, nil, err
	}
	if len(args) == 0 && f.toTime != "" {
		// The newest that shows a moment before.
		host := snap.Host
		i := len(all) - 1
		for i >= 0 && (all[i].Host != host || all[i].End.After(before)) {
			i--
		}
		if i < 0 {
			return nil, nil, usageError("'backup-handler db list' lists the dumps: the oldest ends at "+all[0].End.Local().Format(time.DateTime), "there is no dump before %s", before.Local().Format(time.DateTime))
		}
		snap = all[i]
	}
	name := job.DatabaseName(snap)
	logs, err := job.OpenBinlogs(ctx, d, snap.Host, name, func(line string) { a.warn("%s", line) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, job.Fail(job.ExitUsage, fmt.Errorf("there are no binary logs of %s", name), "with [DATABASE] logs = True each backup archives them; until then only the moments of dumps can be restored")
	}
	if err != nil {
		return nil, nil, dbFailure(job.ExitUsage, err)
	}
	r.logs, r.snap = logs, logs.Newest()
	return snap, r, nil
}

// chooseDatabase is the one to restore; "": all.
func chooseDatabase(m *dbdump.Manifest, f *dbRestoreFlags) (string, error) {
	var names []string
	for _, d := range m.Databases {
		names = append(names, d.Name)
	}
	switch {
	case f.all:
		return "", nil
	case f.database != "" && !slices.Contains(names, f.database):
		return "", usageError("it has "+shortList(names), "the dump has no database %s", quote(f.database))
	case f.database != "":
		return f.database, nil
	case len(names) == 1:
		return names[0], nil
	}
	return "", usageError("choose with --database, or --all: "+shortList(names), "the dump has %s", things(len(names), "database"))
}

// dbWouldRestore is the dry run of dbRestore.
func (a *app) dbWouldRestore(snap *tree.Snapshot, dump *job.Dump, f *dbRestoreFlags, what, into string, replay *dbReplay) error {
	p := &dbProgress{}
	p.expect(dump.Manifest, f.database)
	rep := dbRestoreReport{Snapshot: snap.ID.String(), Dumped: snap.Time, Database: f.database, Into: into, DryRun: true, Tables: p.tables.Load(), Bytes: p.total.Load()}
	return a.print(rep, func(w io.Writer) error {
		fmt.Fprintf(w, "dry run: would restore %s of snapshot %s, %s", what, snap.ID.Short(), snap.Time.Local().Format(time.DateTime))
		if !f.all {
			fmt.Fprintf(w, ", as %s", quote(into))
		}
		fmt.Fprintf(w, "\n  %s, %s, dumped from %s\n", things(int(rep.Tables), "table"), bytesText(rep.Bytes), quote(dump.Manifest.Server))
		if replay != nil {
			fmt.Fprintf(w, "  and what its log has after that, of snapshot %s\n", replay.snap.ID.Short())
		}
		return nil
	})
}

func (a *app) dbVerifyCommand() *cobra.Command {
	var t dbTarget
	var database, scratch string
	c := &cobra.Command{
		Use:   "verify [SNAPSHOT]",
		Short: "Prove a dump: load it into a server of its own, and compare each table",
		Long: `Prove a dump: load it into a server that is started for it and reached by nobody
else, dump it again, and compare the data of each table. Nothing of it stays. The
server's program has to be installed on this machine.

Without SNAPSHOT the newest dump of each server in the repository is checked.

Exit codes: 0 every table is as it was dumped · 1 usage, or one is not, or a dump
cannot be loaded · 130 interrupted`,
		Example: `  backup-handler db verify
  backup-handler db verify 20260228_030000 --name shop --scratch /var/tmp`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.recorded(cmd.Context(), "verify", false, nil, func(ctx context.Context, run *journal.Run) error {
				return a.dbVerify(ctx, args, &t, database, scratch, run)
			})
		},
	}
	fl := c.Flags()
	a.filterFlags(c)
	t.nameFlag(c)
	fl.StringVar(&database, "database", "", "PostgreSQL: check this database only")
	fl.StringVar(&scratch, "scratch", "", "directory for the server's data (default: the system's for temporary files)")
	return c
}

// dbCheck is the result of checking one dump.
type dbCheck struct {
	Snapshot string         `json:"snapshot"`
	Time     time.Time      `json:"time"`
	Name     string         `json:"name"`
	Server   string         `json:"server,omitempty"` // that it was loaded into
	Tables   int            `json:"tables"`
	Bytes    int64          `json:"bytes"`
	Bad      []dbTableFault `json:"bad,omitempty"`
	Error    string         `json:"error,omitempty"`
	Seconds  float64        `json:"seconds"`
	hint     string
	// noProgram says that the server's program is not installed.
	noProgram bool
}

// ok says whether all is as it was dumped, and something was.
func (c *dbCheck) ok() bool { return c.Error == "" && len(c.Bad) == 0 }

type dbTableFault struct {
	Database string `json:"database"`
	Table    string `json:"table"`
	Text     string `json:"text"`
}

func (a *app) dbVerify(ctx context.Context, args []string, t *dbTarget, database, scratch string, run *journal.Run) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	var chosen []*tree.Snapshot
	if len(args) > 0 || t.name != "" {
		s, err := a.dbSnapshot(d, t, args, tree.KindMySQL, tree.KindPostgreSQL)
		if err != nil {
			return err
		}
		chosen = append(chosen, s)
	} else {
		dumps := slices.DeleteFunc(a.filter.Of(d.Snapshots), func(s *tree.Snapshot) bool { return s.Kind != tree.KindMySQL && s.Kind != tree.KindPostgreSQL })
		chosen = newest(dumps, 1)
	}
	if len(chosen) == 0 {
		return usageError("[DATABASE] makes 'backup' dump databases", "%s has no dump of a database", d.Place)
	}
	var checks []dbCheck
	bad := 0
	for _, s := range chosen {
		c := a.dbVerifyOne(ctx, d, s, database, scratch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		checks = append(checks, c)
		a.record("verify", slog.String("snapshot", c.Snapshot), slog.Bool("ok", c.ok()))
		if !c.ok() {
			bad++
		}
	}
	destination(run, d.Location, "")
	err = a.print(checks, func(w io.Writer) error {
		for i := range checks {
			checks[i].text(w)
		}
		return nil
	})
	if err != nil || bad == 0 {
		return err
	}
	for _, c := range checks {
		if c.hint != "" && !a.json {
			a.note("hint: " + c.hint)
			break
		}
	}
	return fail(run, job.ExitUsage, things(bad, "dump")+" of "+fmt.Sprint(len(checks))+" not as they should be: "+checks[slices.IndexFunc(checks, func(c dbCheck) bool { return !c.ok() })].fault())
}

// fault is what is wrong with a dump, in one line.
func (c *dbCheck) fault() string {
	if c.Error != "" {
		return c.Name + ": " + c.Error
	}
	if len(c.Bad) > 0 {
		return c.Name + ": " + c.Bad[0].Database + "." + c.Bad[0].Table + ": " + c.Bad[0].Text
	}
	return ""
}

func (c *dbCheck) text(w io.Writer) {
	head := fmt.Sprintf("%s  %s  %s", c.Snapshot[:8], c.Time.Local().Format(time.DateTime), quote(c.Name))
	switch {
	case c.Error != "":
		fmt.Fprintf(w, "%s  FAILED: %s\n", head, c.Error)
	case len(c.Bad) > 0:
		fmt.Fprintf(w, "%s  FAILED: %s of %d differ\n", head, things(len(c.Bad), "table"), c.Tables)
		for _, b := range c.Bad {
			fmt.Fprintf(w, "  %s.%s  %s\n", quote(b.Database), quote(b.Table), b.Text)
		}
	default:
		fmt.Fprintf(w, "%s  ok: %s, %s, loaded into %s and compared in %s\n", head, things(c.Tables, "table"), bytesText(c.Bytes), c.Server,
			durationText(time.Duration(c.Seconds*float64(time.Second))))
	}
}

// dbVerifyOne checks one dump.
func (a *app) dbVerifyOne(ctx context.Context, d *job.Destination, s *tree.Snapshot, database, scratch string) dbCheck {
	begin := time.Now()
	c := dbCheck{Snapshot: s.ID.String(), Time: s.Time, Name: job.DatabaseName(s)}
	broken := func(err error) dbCheck {
		c.Error, c.hint, c.noProgram = oneLine(err.Error()), dbdump.Hint(err), errors.Is(err, dbdump.ErrNoProgram)
		c.Seconds = time.Since(begin).Seconds()
		return c
	}
	dump := job.ReadDump(ctx, d, s)
	if dump.Err != nil {
		return broken(dump.Err)
	}
	fsys, err := job.OpenDatabase(ctx, d, s)
	if err != nil {
		return broken(err)
	}
	p := &dbProgress{}
	p.expect(dump.Manifest, database)
	m := a.meter("check", p.sample)
	defer m.stop()
	if s.Kind == tree.KindMySQL {
		r, err := mysql.Verify(ctx, fsys, mysql.VerifyOptions{TempDir: scratch, Progress: p, Warn: func(format string, args ...any) { a.warn(format, args...) }})
		if err != nil {
			return broken(err)
		}
		c.Server = r.Server
		for _, t := range r.Tables {
			c.Tables++
			if t.Problem != "" {
				c.Bad = append(c.Bad, dbTableFault{t.Database, t.Table, t.Problem})
			}
		}
	} else {
		r, err := postgres.Verify(ctx, fsys, postgres.VerifyOptions{Database: database, Dir: scratch, Progress: p, Warn: func(line string) { a.warn("%s", line) }})
		if err != nil {
			return broken(err)
		}
		c.Server = r.Server
		for _, t := range r.Tables {
			c.Tables++
			if !t.OK() {
				text := "its data is not what was dumped"
				if t.Got == "" {
					text = "it is not there"
				}
				c.Bad = append(c.Bad, dbTableFault{t.Database, t.Table, text})
			}
		}
	}
	c.Bytes, c.Seconds = dump.Manifest.Bytes(), time.Since(begin).Seconds()
	return c
}
