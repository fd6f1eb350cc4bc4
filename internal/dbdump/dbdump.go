// Package dbdump is what the backups of databases have in common: where the files of a
// dump go, what is written down about it, and how the programs of a server are found and
// run. Its sub-packages know one kind of server each.
//
// They know nothing of repositories: a dump goes to a [Sink], and is restored from an
// [io/fs.FS], both of which tests have as directories.
package dbdump

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// A Sink takes the files of a dump, in any order. Several may be open at once, each used
// by one goroutine. A file is complete when its writer is closed without an error; what
// becomes of all of them is decided by whoever has asked for the dump, which discards
// them if it fails.
type Sink interface {
	// Create begins a file. name is slash-separated, relative, and valid for
	// [fs.ValidPath]; names that are no valid UTF-8 are escaped by [FileName] before.
	Create(name string) (io.WriteCloser, error)
}

// ManifestName is the file with the Manifest. It is written last.
const ManifestName = "dump.json"

// A Manifest says what a dump is.
type Manifest struct {
	Kind    string `json:"kind"`    // "mysql", "postgresql"
	Server  string `json:"server"`  // its own name and version: "MariaDB 10.11.19"
	Program string `json:"program"` // that made the dump, with its version
	// Address is where the server was reached: host and port, or socket. No user, no
	// password.
	Address string    `json:"address"`
	Start   time.Time `json:"start"` // by this machine's clock
	End     time.Time `json:"end"`
	// Position is the state of the server's log that the dump shows; nil: not known.
	Position  *Position  `json:"position,omitempty"`
	Databases []Database `json:"databases"` // by name
	// Files are those of no database: accounts and rights.
	Files []File `json:"files,omitempty"`
}

// A Position is a place in the log of a server.
type Position struct {
	File   string `json:"file,omitempty"`   // MySQL: binary log
	Offset int64  `json:"offset,omitempty"` // in File
	GTID   string `json:"gtid,omitempty"`
	LSN    string `json:"lsn,omitempty"` // PostgreSQL, "0/3000028"
	// Timeline of PostgreSQL; 0: none.
	Timeline int64 `json:"timeline,omitempty"`
}

// A Database is one database of a dump.
type Database struct {
	Name string `json:"name"`
	// Files are in the order in which they have to be loaded; those with the same
	// Stage may be loaded side by side.
	Files []File `json:"files"`
}

// A File is one file of a dump.
type File struct {
	Name  string `json:"name"` // relative to the manifest's directory
	Stage int    `json:"stage"`
	// Table is whose data it has, as the server calls it; "": no table's.
	Table string `json:"table,omitempty"`
	Bytes int64  `json:"bytes"`
	// SHA256 is of the data of the table, written in hexadecimal: the part of the file
	// that is the same when the table is loaded and dumped again. "" where there is none.
	SHA256 string `json:"sha256,omitempty"`
}

// Bytes is the sum of all files.
func (m *Manifest) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Bytes
	}
	for _, d := range m.Databases {
		for _, f := range d.Files {
			n += f.Bytes
		}
	}
	return n
}

// ReadManifest reads the manifest of a dump, whose directory is the root of fsys.
func ReadManifest(fsys fs.FS) (*Manifest, error) {
	b, err := fs.ReadFile(fsys, ManifestName)
	if err != nil {
		return nil, fmt.Errorf("read the description of the dump: %w", err)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("read the description of the dump: %w", err)
	}
	return m, nil
}

// Write stores the manifest.
func (m *Manifest) Write(to Sink) error {
	b, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	w, err := to.Create(ManifestName)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return errors.Join(err, w.Close())
}

// An Error is a failure with what to do about it.
type Error struct {
	Err  error
	Hint string // "" for none
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Progress is told how far a restore or a check is.
type Progress interface {
	// Table says that a table is begun or finished.
	Table(name string, done bool)
	// Add counts bytes of the dump that were read.
	Add(bytes int64)
}
