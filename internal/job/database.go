package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
		dump.Log, dump.Err = logNames(fsys)
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
