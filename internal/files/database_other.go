//go:build !linux

package files

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
)

// BUG: locks of SQLite belong to the process here, and are lost if another source closes
// the same file, under another name, while it is copied.

// findDatabases finds those that have companions, once the names are sorted.
func (d *dir) findDatabases() {
	c := d.e.root.opts.SQLite
	if c == nil {
		return
	}
	d.databases = findDatabases(
		func(yield func([]byte) bool) {
			for _, l := range d.names {
				if !yield([]byte(l.Name())) {
					return
				}
			}
		},
		func(name string) bool {
			_, ok := slices.BinarySearchFunc(d.names, name, func(l fs.DirEntry, name string) int { return strings.Compare(l.Name(), name) })
			return ok
		},
		func(name string) bool {
			return c.Wants(filepath.Join(d.e.path(), name)) && isDatabaseAt(filepath.Join(d.e.real, name))
		})
}

// isDatabaseAt looks at a file. One that cannot be read is none: it is a problem later.
func isDatabaseAt(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.OpenFile(path, openFlags, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return isDatabase(f)
}

func isDatabase(f *os.File) bool {
	var head [sqlite.HeadBytes]byte
	n, _ := f.ReadAt(head[:], 0)
	return sqlite.IsDatabase(head[:n])
}

// lookBeside looks at the companions of the file at path.
func (r *Root) lookBeside(path string) (wal walState, some bool) {
	for _, suffix := range sqlite.Companions {
		info, err := os.Lstat(path + suffix)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		some = true
		if suffix == sqlite.WAL {
			n, _ := r.nodeOf("", info)
			wal = walState{n.Size, n.MTime, n.CTime}
		}
	}
	return wal, some
}

// asDatabase makes e a database with companions, or one of these, if it is.
func (d *dir) asDatabase(e *entry, name string) {
	e.db, e.beside = role(d.databases, name, e.node.Type)
	if e.db != nil && !e.beside {
		e.db.wal, _ = d.e.root.lookBeside(e.real)
	}
}

// asRootDatabase makes e, which is a source by itself, a database with companions, if it
// is one.
func (e *entry) asRootDatabase() {
	if o := e.root.opts.SQLite; o == nil || !o.Wants(e.root.Path) {
		return
	}
	if wal, some := e.root.lookBeside(e.real); some && isDatabaseAt(e.real) {
		e.db = &database{name: filepath.Base(e.real), wal: wal, done: make(chan struct{})}
	}
}

// copyDatabase replaces the content of an open file by a consistent copy, if it is a
// database of which one is wanted.
func (f *file) copyDatabase() {
	e := f.e
	c := e.root.opts.SQLite
	if c == nil || !isDatabase(f.f) || !c.Wants(e.path()) {
		return
	}
	if e.db != nil {
		e.db.raw.Store(true) // until there is a copy
	}
	wal, some := e.root.lookBeside(e.real)
	made, err := c.Copy(sqlite.At(e.real, f.f))
	if err != nil {
		f.doubt = doubtful(err)
		return
	}
	if e.db != nil {
		e.db.raw.Store(false)
	}
	if some {
		after, _ := e.root.lookBeside(e.real)
		stamp(f.node, wal.again(after))
	}
	if made != nil {
		f.readCopy(made)
	}
}
