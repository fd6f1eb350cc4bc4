package mysql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// VerifyOptions say how a dump is checked.
type VerifyOptions struct {
	// TempDir is where the scratch server has its data, which need about twice the size
	// of the dump; "": the system's directory for temporary files.
	TempDir  string
	Parallel int
	Progress dbdump.Progress                  // nil: nobody is told
	Warn     func(format string, args ...any) // nil: nobody is told
}

// A TableCheck is what became of one table in a check.
type TableCheck struct {
	Database string `json:"database"`
	Table    string `json:"table"`
	Bytes    int64  `json:"bytes"`
	// Problem is "" if the table, restored and dumped again, has the same data.
	Problem string `json:"problem,omitempty"`
}

// A VerifyReport is the result of a check.
type VerifyReport struct {
	Server string       `json:"server"` // that it was done with
	Tables []TableCheck `json:"tables"`
}

// Failed is how many tables have a problem.
func (r *VerifyReport) Failed() (n int) {
	for _, t := range r.Tables {
		if t.Problem != "" {
			n++
		}
	}
	return n
}

// Verify restores a dump to a server that it starts for that, dumps everything again,
// and compares the data of each table. The server has no network, and is removed with
// all it has.
//
// An error means that a check could not be made, or not to its end: a dump that cannot
// be loaded is one. Tables that differ are in the report.
func Verify(ctx context.Context, fsys fs.FS, o VerifyOptions) (_ *VerifyReport, err error) {
	m, err := readManifest(fsys)
	if err != nil {
		return nil, err
	}
	server, err := startScratch(ctx, o.TempDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	s, err := open(ctx, server.server())
	if err != nil {
		return nil, err
	}
	report := &VerifyReport{Server: s.name()}
	s.close()
	for _, db := range m.Databases {
		err := Restore(ctx, server.server(), fsys, RestoreOptions{Database: db.Name, Parallel: o.Parallel, Progress: o.Progress, Warn: o.Warn})
		if err != nil {
			return nil, fmt.Errorf("restore %s to a scratch server: %w", printable(db.Name), server.why(err))
		}
		again, err := Dump(ctx, server.server(), nowhere{}, DumpOptions{Databases: []string{db.Name}})
		if err != nil {
			return nil, fmt.Errorf("dump %s again: %w", printable(db.Name), server.why(err))
		}
		report.Tables = append(report.Tables, compareTables(db, again.Databases[0])...)
		// One after the other: together they might not fit.
		if err := drop(ctx, server.server(), db.Name); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// compareTables compares the data of a database with that of another dump of it.
func compareTables(was, is dbdump.Database) []TableCheck {
	found := map[string]dbdump.File{}
	for _, f := range is.Files {
		if f.Table != "" {
			found[f.Table] = f
		}
	}
	var all []TableCheck
	for _, f := range was.Files {
		if f.Table == "" {
			continue
		}
		c := TableCheck{Database: was.Name, Table: f.Table, Bytes: f.Bytes}
		again, ok := found[f.Table]
		switch {
		case !ok:
			c.Problem = "it is not there after a restore"
		case f.SHA256 == "" && f.Stage == stageTables && again.SHA256 == "":
			c.Problem = "its data were not dumped: its engine has none of its own"
		case f.SHA256 != again.SHA256:
			c.Problem = "its data differ after a restore"
		}
		all = append(all, c)
	}
	return all
}

func drop(ctx context.Context, server Server, database string) error {
	s, err := open(ctx, server)
	if err != nil {
		return err
	}
	defer s.close()
	r := &restorer{s: s}
	return r.exec(ctx, "DROP DATABASE "+quote(database))
}

// nowhere is a sink that keeps nothing.
type nowhere struct{}

func (nowhere) Create(string) (io.WriteCloser, error) { return nowhere{}, nil }
func (nowhere) Write(p []byte) (int, error)           { return len(p), nil }
func (nowhere) Close() error                          { return nil }
