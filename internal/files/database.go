package files

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// This file, with its counterparts of each platform, stores SQLite databases as
// consistent copies (Options.SQLite). What others pay for it: a look at the end of each
// name of a listing, and at the beginning of each file that is read in any case. A
// listing opens nothing but what has a companion beside it.

// A database is one that was listed with companions.
type database struct {
	name   string
	wal    walState
	listed bool // it is an entry: what is excluded has no say about its neighbours
	// done is closed with the entry: what became of it is known then.
	done chan struct{}
	// raw says that there is no consistent copy: the companions are needed.
	raw atomic.Bool
}

// walState is what is to know of a WAL; zero where there is none.
type walState struct {
	size         int64
	mtime, ctime tree.Time
}

// again is what to record of a WAL that looked like w before the copy, and looks like now
// after it: as root, SQLite gives it the owner that it has, which sets the change time.
// A change of the content sets mtime as well.
func (w walState) again(now walState) walState {
	if w.size == now.size && w.mtime == now.mtime {
		return now
	}
	return w
}

// findDatabases returns the databases of a listing with companions, each under its own
// name and those of its companions; isDatabase looks at a file.
func findDatabases(names iter.Seq[[]byte], has func(name string) bool, isDatabase func(name string) bool) map[string]*database {
	var found map[string]*database
	for name := range names {
		base, ok := cutCompanion(name)
		if !ok {
			continue
		}
		db := found[string(base)]
		if db == nil {
			if !has(string(base)) || !isDatabase(string(base)) {
				continue
			}
			if found == nil {
				found = map[string]*database{}
			}
			db = &database{name: string(base), done: make(chan struct{})}
			found[db.name] = db
		}
		found[string(name)] = db
	}
	return found
}

// cutCompanion returns what the file is the companion of, if it is one.
func cutCompanion(name []byte) (base []byte, ok bool) {
	if end := len(name) - 1; end < len(sqlite.WAL) || name[end] != 'l' && name[end] != 'm' {
		return nil, false
	}
	for _, suffix := range sqlite.Companions {
		if base, ok := bytes.CutSuffix(name, []byte(suffix)); ok {
			return base, true
		}
	}
	return nil, false
}

// role says what the entry of that name is: a database with companions, or beside one.
// It is asked in the order of names, in which a database comes before its companions.
func role(all map[string]*database, name string, kind tree.Type) (db *database, beside bool) {
	db = all[name]
	switch {
	case db == nil || kind != tree.File:
		return nil, false
	case db.name == name:
		db.listed = true
		return db, false
	case !db.listed:
		return nil, false
	}
	return db, true
}

// stamp makes of the node of a database that of it and its WAL, for change detection:
// a commit changes the WAL only. A nanosecond is added so that nothing that was stored
// without looking at the WAL seems to be the same, nor the file alone the same as the copy.
// A file with several names has one WAL for each, so that the others' content is not its.
func stamp(n *tree.Node, wal walState) {
	n.CTime = next(later(n.CTime, wal.ctime), 1)
	if wal.size == 0 {
		return
	}
	n.MTime = next(later(n.MTime, wal.mtime), 1)
	n.Links, n.Device = 1, 0
}

func later(a, b tree.Time) tree.Time {
	if a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec {
		return b
	}
	return a
}

// next is so many nanoseconds after t; a time that is not known stays that.
func next(t tree.Time, ns uint32) tree.Time {
	if t == (tree.Time{}) {
		return t
	}
	if t.Nsec += ns; t.Nsec >= 1e9 {
		t.Sec, t.Nsec = t.Sec+1, t.Nsec-1e9
	}
	return t
}

// doubtful is why a database is stored as it is.
func doubtful(err error) error {
	return fmt.Errorf("no consistent copy of this database could be made, and what is stored is the file as it is, which may mix old and new: %s",
		strings.ReplaceAll(err.Error(), "\n", "; "))
}

// await says whether the companion at path is to be read, once it is known what became
// of its database. An index of a WAL is made anew from it.
func (db *database) await(r *Root, path func() string, isSHM bool) error {
	<-db.done
	if db.raw.Load() && !isSHM {
		return nil
	}
	s := Skipped{path(), Companion, "belongs to the database " + db.name + ", which is stored without"}
	r.skipping(path, s.Kind, s.Reason)
	return s
}

// lateness is what a listing does not know of the entry.
func lateness(db *database, beside bool) backup.Late {
	switch {
	case db == nil:
		return 0
	case beside:
		return backup.LateEntry
	}
	return backup.LateSize
}

// Late implements backup.Latecomer.
func (e *entry) Late() backup.Late { return lateness(e.db, e.beside) }

// openBeside says whether a companion is to be opened.
func (e *entry) openBeside() error {
	return e.db.await(e.root, e.path, strings.HasSuffix(e.path(), sqlite.SHM))
}

// readCopy makes f read the copy, which it closes.
func (f *file) readCopy(made *sqlite.Copy) {
	f.made = made
	f.node.Size, f.node.Extents = made.Size(), nil
	f.extentReader = newExtentReader(f.node, readerOf(made))
}

// readerOf reads as extentReader wants it.
func readerOf(r io.ReaderAt) func(p []byte, off int64) (int, error) {
	return func(p []byte, off int64) (int, error) {
		n, err := r.ReadAt(p, off)
		if n > 0 || err == io.EOF {
			err = nil
		}
		return n, err
	}
}

// Doubt implements backup.Doubtful.
func (f *file) Doubt() error { return f.doubt }

// closeCopy removes the copy.
func (f *file) closeCopy() error {
	if f.made == nil {
		return nil
	}
	return f.made.Close()
}
