package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// VerifyOptions say where a check is made.
type VerifyOptions struct {
	Database string // of the dump; "": all
	Dir      string // for the scratch server, which others can enter; "": the system's for temporary files
	Account  string // that it runs as, if this process is root; "": "postgres"
	Bin      string // directory of PostgreSQL's programs; "": the newest that are found
	Parallel int    // as in RestoreOptions
	// Superuser is that of a base backup; "": "postgres".
	Superuser string
	// Limit is how long the recovery of a base backup may take; 0: an hour.
	Limit time.Duration

	Progress dbdump.Progress // nil: nobody is told
	Warn     func(string)    // what is not an error, one line; nil: nobody
}

// A Report is the result of a check.
type Report struct {
	Server string // that the check was made with
	Tables []TableReport
}

// A TableReport says what became of the data of a table.
type TableReport struct {
	Database string
	Table    string // or what else the file has: "large objects"
	Bytes    int64  // of its file
	Want     string // SHA-256 when it was dumped; "": there was none (base backups)
	Got      string // and of what was read now; "": it is not there
}

// OK says whether the data is what was dumped.
func (t *TableReport) OK() bool { return t.Got != "" && (t.Want == "" || t.Got == t.Want) }

// OK says whether everything is what was dumped.
func (r *Report) OK() bool {
	for i := range r.Tables {
		if !r.Tables[i].OK() {
			return false
		}
	}
	return true
}

// Verify proves a dump: it is restored to a server that is started for it, dumped again,
// and the data of each table compared with what was dumped first. An error is that it
// cannot be restored, or that the check could not be made; tables that differ are in the
// report. Nothing of the server is left.
func Verify(ctx context.Context, fsys fs.FS, o VerifyOptions) (report *Report, err error) {
	m, err := readDump(fsys)
	if err != nil {
		return nil, err
	}
	var databases []dbdump.Database
	for _, d := range m.Databases {
		if o.Database == "" || d.Name == o.Database {
			databases = append(databases, d)
		}
	}
	if len(databases) == 0 {
		return nil, &dbdump.Error{Err: fmt.Errorf("the dump has no database %q: nothing was checked", o.Database), Hint: "name one that it has, or none for all"}
	}
	p, err := (&Server{Bin: o.Bin}).find(ctx, "postgres", 0)
	if err != nil {
		return nil, err
	}
	if of := versionOf(m.Server); p.major() < of {
		return nil, &dbdump.Error{Err: fmt.Errorf("a server of PostgreSQL %d, of which the dump is: %w, the newest is %d", of, dbdump.ErrNoProgram, p.major()),
			Hint: fmt.Sprintf("install a server of that version (on Debian: apt-get install postgresql-%d)", of)}
	}
	s, err := newScratch(o.Dir, o.Account, o.Bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	if err := s.initdb(ctx, p.major()); err != nil {
		return nil, err
	}
	if err := s.start(ctx, p.major(), startTime); err != nil {
		return nil, err
	}
	report = &Report{Server: p.text}
	for _, d := range databases {
		if err := s.verify(ctx, fsys, &d, &o, report); err != nil {
			return nil, s.why(err)
		}
	}
	return report, nil
}

// verify checks one database.
func (s *scratch) verify(ctx context.Context, fsys fs.FS, d *dbdump.Database, o *VerifyOptions, report *Report) error {
	const into = restoringPrefix + "check"
	// Roles and tablespaces are not what is checked; that they are missing is no news.
	err := Restore(ctx, &s.Server, fsys, RestoreOptions{Database: d.Name, Into: into, CreateRoles: true, Parallel: o.Parallel, Progress: o.Progress})
	if err != nil {
		return err
	}
	again, err := Dump(ctx, &s.Server, discard{}, DumpOptions{Databases: []string{into}})
	if err != nil {
		return fmt.Errorf("read the restored database %q: %w", d.Name, err)
	}
	report.compare(d, &again.Databases[0])
	t, err := s.connect(ctx, "")
	if err != nil {
		return err
	}
	defer t.close()
	return t.dropDatabase(into)
}

// compare adds the tables of a database. Their files have the same names below its
// directory.
func (r *Report) compare(want, got *dbdump.Database) {
	base := func(name string) string { return name[strings.IndexByte(name, '/')+1:] }
	sums := map[string]string{}
	for _, f := range got.Files {
		sums[base(f.Name)] = f.SHA256
	}
	for _, f := range want.Files {
		if f.SHA256 != "" {
			r.Tables = append(r.Tables, TableReport{Database: want.Name, Table: cmp.Or(f.Table, "large objects"), Bytes: f.Bytes, Want: f.SHA256, Got: sums[base(f.Name)]})
		}
	}
}

// discard is a sink that keeps nothing.
type discard struct{}

func (discard) Create(string) (io.WriteCloser, error) { return nowhere{}, nil }

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// VerifyBase proves a base backup: it is restored to a scratch directory, recovered to the
// target, and every row of every database is read. There is nothing to compare it with: the
// report has the SHA-256 of each table as it is there. Nothing is left.
func VerifyBase(ctx context.Context, fsys fs.FS, wal WAL, target RecoverOptions, o VerifyOptions) (report *Report, err error) {
	s, err := newScratch(o.Dir, o.Account, o.Bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	s.User = cmp.Or(o.Superuser, "postgres")
	target.Action, target.Owner, target.Port = "promote", s.Account, 0
	b, _, err := RestoreBase(ctx, &s.Server, fsys, wal, s.data(), target)
	if err != nil {
		return nil, err
	}
	// Without hot standby nobody is let in before the target, and the sizes of shared
	// tables need not be those of the server.
	if err := s.start(ctx, versionOf(b.Server), cmp.Or(o.Limit, time.Hour), [2]string{"hot_standby", "off"}); err != nil {
		return nil, err
	}
	report = &Report{Server: b.Server}
	m, err := Dump(ctx, &s.Server, discard{}, DumpOptions{Databases: []string{"*"}, Warn: o.Warn})
	if err != nil {
		return nil, s.why(fmt.Errorf("read the recovered server: %w", err))
	}
	for _, d := range m.Databases {
		for _, f := range d.Files {
			if f.SHA256 != "" {
				report.Tables = append(report.Tables, TableReport{Database: d.Name, Table: cmp.Or(f.Table, "large objects"), Bytes: f.Bytes, Got: f.SHA256})
			}
		}
	}
	return report, nil
}
