package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Where databases are in snapshots: dumps, logs and base backups of a server.
const (
	dumpRoot = "/db/"
	logRoot  = "/log/"
	baseRoot = "/base/"
)

// DatabaseSource is the source of snapshots of a kind of the server with a name.
func DatabaseSource(kind tree.Kind, name string) string {
	switch kind {
	case tree.KindMySQLLog, tree.KindPostgreSQLLog:
		return logRoot + name
	case tree.KindPostgreSQLBase:
		return baseRoot + name
	}
	return dumpRoot + name
}

// DatabaseKinds are those of snapshots of databases.
var DatabaseKinds = []tree.Kind{tree.KindMySQL, tree.KindPostgreSQL, tree.KindMySQLLog, tree.KindPostgreSQLBase, tree.KindPostgreSQLLog}

// DatabaseName is that of the server that a snapshot is of; "": it is of none.
func DatabaseName(s *tree.Snapshot) string {
	if !slices.Contains(DatabaseKinds, s.Kind) || len(s.Sources) != 1 {
		return ""
	}
	return path.Base(string(s.Sources[0]))
}

// OpenDatabase opens what a snapshot of a database holds. When ctx ends, nothing is read
// any more.
func OpenDatabase(ctx context.Context, d *Destination, s *tree.Snapshot) (fs.FS, error) {
	n, err := tree.Lookup(ctx, d.Repo, s.RootNode(), string(s.Sources[0]))
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s.ID.Short(), err)
	}
	return restore.NewFS(ctx, d.Repo, n), nil
}

// MySQLServer is the server of a section.
func MySQLServer(c *config.Database) (mysql.Server, error) {
	s := mysql.Server{Host: c.Host, Port: c.Port, Socket: c.Socket, User: c.User, TLS: c.TLS, CAFile: c.CAFile, Programs: c.Programs}
	var err error
	if c.Password.IsSet() {
		s.Password, err = c.Password.Get()
	}
	return s, err
}

// PostgresServer is the server of a section.
func PostgresServer(c *config.Database) (*postgres.Server, error) {
	s := &postgres.Server{Host: c.Host, Port: c.Port, User: c.User, SSLRootCert: c.CAFile, Bin: c.Programs, Account: c.RunAs}
	if c.Socket != "" {
		s.Host = c.Socket
	} else if s.Host == "localhost" && c.Port == 0 {
		s.Host = "" // where its programs look by themselves: its usual socket
	}
	s.SSLMode = map[string]string{"preferred": "prefer", "off": "disable", "required": "require", "verified": "verify-full"}[c.TLS]
	if c.Password.IsSet() {
		p, err := c.Password.Get()
		if err != nil {
			return nil, err
		}
		s.Password = p.Reveal()
	}
	return s, nil
}

// Databases are the streams of what the configuration says of database servers. warn
// receives what their owner should know.
func Databases(all []config.Database, warn func(string)) []Stream {
	var streams []Stream
	for i := range all {
		c := &all[i]
		tell := func(line string) { warn("[" + c.Section + "] " + line) }
		add := func(kind tree.Kind, what string, produce func(ctx context.Context, to *backup.Sink, before fs.FS) error) {
			streams = append(streams, Stream{
				Name: "[" + c.Section + "]", Kind: kind, Source: DatabaseSource(kind, c.Name), Tags: c.Tags,
				What: what, Produce: produce,
			})
		}
		switch {
		case c.PostgreSQL:
			if c.Dump {
				add(tree.KindPostgreSQL, "a dump of "+strings.Join(c.Databases, ", "), func(ctx context.Context, to *backup.Sink, _ fs.FS) error {
					s, err := PostgresServer(c)
					if err != nil {
						return err
					}
					_, err = postgres.Dump(ctx, s, to, postgres.DumpOptions{
						Databases: c.Databases, Globals: c.Grants, ExcludeTables: c.ExcludeTables, ExtraArgs: c.ExtraArgs, Parallel: c.Parallel, Warn: tell,
					})
					return err
				})
			}
			if c.Base {
				add(tree.KindPostgreSQLBase, "a base backup", func(ctx context.Context, to *backup.Sink, _ fs.FS) error {
					s, err := PostgresServer(c)
					if err != nil {
						return err
					}
					_, err = postgres.BaseBackup(ctx, s, to, postgres.BaseOptions{Fast: true, Warn: tell})
					return err
				})
			}
		default:
			if c.Dump {
				add(tree.KindMySQL, "a dump of "+strings.Join(c.Databases, ", "), func(ctx context.Context, to *backup.Sink, _ fs.FS) error {
					s, err := MySQLServer(c)
					if err != nil {
						return err
					}
					_, err = mysql.Dump(ctx, s, to, mysql.DumpOptions{
						Databases: c.Databases, Exclude: c.ExcludeTables, SkipRoutines: !c.Routines, SkipTriggers: !c.Triggers, SkipEvents: !c.Events,
						Grants: c.Grants, LockTables: !c.SingleTransaction, RequirePosition: c.BinlogPosition || c.Logs, ExtraArgs: c.ExtraArgs,
						Warn: func(format string, args ...any) { tell(fmt.Sprintf(format, args...)) },
					})
					return err
				})
			}
			if c.Logs {
				add(tree.KindMySQLLog, "its binary logs", nil)
				s := &streams[len(streams)-1]
				s.Piles = true
				oldest := watchOldest(s, tree.KindMySQL, c.Name)
				s.Produce = func(ctx context.Context, to *backup.Sink, before fs.FS) error {
					return archiveLogs(ctx, c, to, before, *oldest, tell)
				}
			}
		}
	}
	return streams
}

// logMargin is how much older than the oldest snapshot that needs it a part of a log has
// to be before it is left out: clocks of servers differ.
const logMargin = 24 * time.Hour

// oldestOf returns when the oldest snapshot of a kind of the server with a name was made;
// zero: there is none, or one that cannot be read may be older.
func oldestOf(d *Destination, kind tree.Kind, name string) (oldest time.Time) {
	if len(d.Unreadable) > 0 {
		return time.Time{}
	}
	for _, s := range d.Snapshots {
		if s.Kind == kind && DatabaseName(s) == name && (oldest.IsZero() || s.Time.Before(oldest)) {
			oldest = s.Time
		}
	}
	return oldest
}

// watchOldest finds out, before the stream is made in a destination, when the oldest
// snapshot there was made that needs the log; zero: all of the log is kept.
func watchOldest(s *Stream, kind tree.Kind, name string) *time.Time {
	oldest := new(time.Time)
	s.Look = func(d *Destination) { *oldest = oldestOf(d, kind, name) }
	return oldest
}

// unneeded says whether a file of a log, archived at some time, is needed by no base backup
// or dump from oldest on. Histories of timelines are, always.
func unneeded(file string, archived, oldest time.Time) bool {
	return !oldest.IsZero() && archived.Before(oldest.Add(-logMargin)) && !strings.HasSuffix(file, ".history")
}

// archiveLogs archives the binary logs of a server, and takes over those of before that a
// dump may still need.
func archiveLogs(ctx context.Context, c *config.Database, to *backup.Sink, before fs.FS, oldest time.Time, tell func(string)) error {
	s, err := MySQLServer(c)
	if err != nil {
		return err
	}
	var have *mysql.Logs
	if before != nil {
		have, err = mysql.ReadLogs(before)
		if err != nil && !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
			return err // the next run takes them over
		}
		if err != nil {
			tell("the logs archived before are damaged in the repository, and are archived anew as far as the server has them: " + err.Error())
			have = nil
		}
	}
	if have != nil {
		needed := have.Files[:0:0]
		for _, f := range have.Files {
			if !oldest.IsZero() && !f.Last.IsZero() && f.Last.Before(oldest.Add(-logMargin)) {
				continue
			}
			if !f.Closed { // it is read again, if the server has it still
				needed = append(needed, f)
				continue
			}
			if ok, err := to.Keep(f.File); err != nil {
				return err
			} else if !ok {
				tell("the archived log " + f.Name + " is damaged in the repository: moments that need it cannot be reached")
				f.Gap = true
				needed = needed[:0] // what is before it leads nowhere
				continue
			}
			needed = append(needed, f)
		}
		have.Files = needed
	}
	w := &watchedSink{Sink: to, created: make(map[string]bool)}
	logs, err := mysql.Archive(ctx, s, have, w, mysql.ArchiveOptions{
		Flush: true, Warn: func(format string, args ...any) { tell(fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		return err
	}
	for _, f := range logs.Files {
		if f.Closed || w.created[f.File] {
			continue
		}
		if ok, err := to.Keep(f.File); err != nil {
			return err
		} else if !ok {
			tell("the archived log " + f.Name + " is damaged in the repository: moments that need it cannot be reached")
		}
	}
	return nil
}

// A watchedSink remembers what was created in it.
type watchedSink struct {
	*backup.Sink
	created map[string]bool
}

func (w *watchedSink) Create(name string) (io.WriteCloser, error) {
	w.created[name] = true
	return w.Sink.Create(name)
}

// keepLog takes over the archived log of a PostgreSQL server, but for what no base backup
// needs any more.
func keepLog(ctx context.Context, to *backup.Sink, before fs.FS, oldest time.Time, tell func(string)) error {
	entries, err := fs.ReadDir(before, ".")
	if err != nil {
		return err
	}
	old := func(e fs.DirEntry) (bool, error) {
		info, err := e.Info()
		return err == nil && unneeded(e.Name(), info.ModTime(), oldest), err
	}
	any := false
	for _, e := range entries {
		is, err := old(e)
		if err != nil {
			return err
		}
		any = any || is
	}
	if !any {
		if ok, err := to.Keep("."); ok || err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if is, err := old(e); is || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if ok, err := to.Keep(e.Name()); err != nil {
			return err
		} else if !ok {
			tell("the file " + e.Name() + " of the archived log is damaged in the repository: moments that need it cannot be reached")
		}
	}
	return nil
}

// A Log is the archived log of a PostgreSQL server in a repository, to read from: what any
// of its snapshots has.
type Log struct{ snapshots []fs.FS } // the newest first

// LogHost chooses the machine whose archive of the log of the server with a name is meant:
// the one that was given, else the preferred one if it has one, else the only one.
func LogHost(d *Destination, name, given, preferred string) (string, error) {
	logs := slices.DeleteFunc(slices.Clone(d.Snapshots), func(s *tree.Snapshot) bool { return s.Kind != tree.KindPostgreSQLLog || DatabaseName(s) != name })
	hosts := Hosts(logs)
	switch {
	case given != "" && slices.Contains(hosts, given):
		return given, nil
	case given == "" && slices.Contains(hosts, preferred):
		return preferred, nil
	case given == "" && len(hosts) == 1:
		return hosts[0], nil
	case given == "" && len(hosts) > 1:
		return "", Fail(ExitUsage, fmt.Errorf("several machines archive the log of a server %s", name), "add --host NAME: "+strings.Join(hosts, ", "))
	case given != "":
		name += " of " + given
	}
	return "", Fail(ExitUsage, fmt.Errorf("%s has no archived log of the server %s", d.Place, name), "'backup-handler db list' lists what there is")
}

// OpenLog opens the archived log of the server with a name, as a host has archived it.
// That a file is not there is certain only if the destination has no snapshots that cannot
// be read.
func OpenLog(ctx context.Context, d *Destination, host, name string) (*Log, error) {
	l := new(Log)
	for _, s := range slices.Backward(d.Snapshots) {
		if s.Kind == tree.KindPostgreSQLLog && DatabaseName(s) == name && s.Host == host {
			fsys, err := OpenDatabase(ctx, d, s)
			if err != nil {
				return nil, err
			}
			l.snapshots = append(l.snapshots, fsys)
		}
	}
	return l, nil
}

// Names implements [postgres.WAL].
func (l *Log) Names(ctx context.Context) ([]string, error) {
	all := make(map[string]bool)
	for _, fsys := range l.snapshots {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		entries, err := fs.ReadDir(fsys, ".")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			all[e.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// Open implements [postgres.WAL].
func (l *Log) Open(_ context.Context, name string) (io.ReadCloser, error) {
	for _, fsys := range l.snapshots {
		f, err := fsys.Open(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Put implements [postgres.WAL]: it refuses.
func (*Log) Put(context.Context, string, int64, io.Reader) error { return errors.ErrUnsupported }

// logWriter adds a file to the log of before.
type logWriter struct {
	*Log
	to *backup.Sink
}

func (l *logWriter) Put(ctx context.Context, name string, _ int64, r io.Reader) error {
	if f, err := l.Open(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			f.Close()
			err = fs.ErrExist
		}
		return err
	}
	w, err := l.to.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// PushLog is the stream that adds a file, as segment, to the archived log of the
// PostgreSQL server with a name. The snapshot has all that the one before had, but for what
// no base backup of the server needs any more.
func PushLog(name, file, segment string, warn func(string)) Stream {
	return pileLog(name, segment, warn, func(ctx context.Context, to *logWriter) error { return postgres.Push(ctx, file, segment, to) })
}

// pileLog is PushLog for whatever add puts to the log.
func pileLog(name, what string, warn func(string), add func(context.Context, *logWriter) error) Stream {
	s := Stream{Name: name + "'s log", Kind: tree.KindPostgreSQLLog, Source: DatabaseSource(tree.KindPostgreSQLLog, name), What: what, Piles: true}
	oldest := watchOldest(&s, tree.KindPostgreSQLBase, name)
	s.Produce = func(ctx context.Context, to *backup.Sink, before fs.FS) error {
		l := new(Log)
		if before != nil {
			if err := keepLog(ctx, to, before, *oldest, warn); err != nil {
				return err
			}
			l.snapshots = []fs.FS{before}
		}
		return add(ctx, &logWriter{l, to})
	}
	return s
}

// ForgetLogs forgets snapshots of an archived log each of whose files a later one, last, has,
// or no base backup or dump needs: each push makes one. PostgreSQL's files have to be the
// same; a binary log of MySQL, whose name says when it began, may have grown. The newest
// stays, and the one before it, and what is tagged. Where a snapshot cannot be read, all
// stay.
func ForgetLogs(ctx context.Context, d *Destination, last *tree.Snapshot) error {
	var chain []*tree.Snapshot // the newest first
	for _, s := range slices.Backward(d.Snapshots) {
		if s.Group() == last.Group() {
			chain = append(chain, s)
		}
	}
	if len(chain) < 3 || chain[0].ID != last.ID || len(d.Unreadable) > 0 {
		return nil
	}
	files := func(s *tree.Snapshot) (map[string]*tree.Node, error) {
		dir, err := tree.Lookup(ctx, d.Repo, s.RootNode(), string(s.Sources[0]))
		if err != nil {
			return nil, err
		}
		all := make(map[string]*tree.Node)
		err = tree.ReadDir(ctx, d.Repo, dir.Content, func(n *tree.Node) error {
			all[n.Name] = n
			return nil
		})
		return all, err
	}
	has, err := files(last)
	if err != nil {
		return err
	}
	grows, needs := false, tree.KindPostgreSQLBase
	if last.Kind == tree.KindMySQLLog {
		grows, needs = true, tree.KindMySQL
	}
	oldest := oldestOf(d, needs, DatabaseName(last))
	for _, s := range chain[2:] {
		if len(s.Tags) > 0 {
			continue
		}
		old, err := files(s)
		if err != nil {
			return err
		}
		superseded := true
		for name, n := range old {
			kept := has[name]
			same := kept != nil && (kept.Size == n.Size && slices.Equal(kept.Content, n.Content) ||
				grows && (kept.Size > n.Size || name == mysql.LogsName))
			superseded = superseded && (same || unneeded(name, n.MTime.Time(), oldest))
		}
		if superseded {
			if err := d.Repo.Forget(ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// A Dump is a snapshot of a database, and what it says of itself.
type Dump struct {
	Snapshot *tree.Snapshot
	Name     string
	// One of these is there, or Err says why not.
	Manifest *dbdump.Manifest
	Logs     *mysql.Logs
	Base     *postgres.Base
	Log      []string // files of the log of PostgreSQL
	Err      error
}

// ReadDump reads what a snapshot of a database says of itself.
func ReadDump(ctx context.Context, d *Destination, s *tree.Snapshot) *Dump {
	dump := &Dump{Snapshot: s, Name: DatabaseName(s)}
	fsys, err := OpenDatabase(ctx, d, s)
	if err != nil {
		dump.Err = err
		return dump
	}
	switch s.Kind {
	case tree.KindMySQL, tree.KindPostgreSQL:
		dump.Manifest, dump.Err = dbdump.ReadManifest(fsys)
	case tree.KindMySQLLog:
		dump.Logs, dump.Err = mysql.ReadLogs(fsys)
	case tree.KindPostgreSQLBase:
		dump.Base, dump.Err = postgres.OpenBase(fsys)
	case tree.KindPostgreSQLLog:
		dump.Log, dump.Err = (&Log{[]fs.FS{fsys}}).Names(ctx)
	}
	return dump
}

// ParsePosition reads FILE:OFFSET.
func ParsePosition(text string) (*dbdump.Position, error) {
	i := strings.LastIndexByte(text, ':')
	if i > 0 {
		if n, err := strconv.ParseInt(text[i+1:], 10, 64); err == nil && n >= 4 {
			return &dbdump.Position{File: text[:i], Offset: n}, nil
		}
	}
	return nil, fmt.Errorf("%q is no position: want FILE:OFFSET, such as binlog.000042:1234", text)
}
