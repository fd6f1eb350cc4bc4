package files

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

const companionFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY

// findDatabases finds those that have companions, once the names are sorted.
func (d *dir) findDatabases(fd int) {
	if d.root.opts.SQLite == nil {
		return
	}
	rel, known := "", false
	d.databases = findDatabases(
		func(yield func([]byte) bool) {
			for _, n := range d.names.names {
				if !yield(d.names.name(n)) {
					return
				}
			}
		},
		func(name string) bool { _, ok := d.names.find(name); return ok },
		func(name string) bool {
			if !known {
				rel, known = d.h.rel(), true
			}
			return d.root.opts.SQLite.Wants(d.root.pathOf(join(rel, name))) && isDatabaseAt(fd, name)
		})
}

// isDatabaseAt looks at a file. One that cannot be read is none: it is a problem later.
func isDatabaseAt(dirfd int, name string) bool {
	fd, err := openRetry(dirfd, name, companionFlags)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	return err == nil && st.kind() == tree.File && isDatabaseFD(fd)
}

func isDatabaseFD(fd int) bool {
	var head [sqlite.HeadBytes]byte
	n, err := unix.Pread(fd, head[:], 0)
	return err == nil && sqlite.IsDatabase(head[:n])
}

// beside is what lies beside a database.
type beside struct {
	wal walState
	any bool
}

func lookBeside(dirfd int, name string) (b beside) {
	for _, suffix := range sqlite.Companions {
		st, err := statAt(dirfd, name+suffix)
		if err != nil || st.kind() != tree.File {
			continue
		}
		b.any = true
		if suffix == sqlite.WAL {
			b.wal = walState{int64(st.size), st.mtime, st.ctime}
		}
	}
	return b
}

// asDatabase makes e a database with companions, or one of these, if it is.
func (d *dir) asDatabase(dirfd int, e *entry) {
	e.db, e.beside = role(d.databases, e.name, e.st.kind())
	if e.db != nil && !e.beside {
		e.db.wal = lookBeside(dirfd, e.name).wal
	}
}

// asRootDatabase makes e, which is a source by itself, a database with companions, if it
// is one.
func (e *entry) asRootDatabase(dirfd int) {
	if o := e.root.opts.SQLite; o == nil || !o.Wants(e.root.Path) {
		return
	}
	if b := lookBeside(dirfd, e.name); b.any && isDatabaseAt(dirfd, e.name) {
		e.db = &database{name: e.name, wal: b.wal, done: make(chan struct{})}
	}
}

// copyDatabase replaces the content of an open file by a consistent copy, if it is a
// database of which one is wanted.
func (f *file) copyDatabase() error {
	e := f.e
	c := e.root.opts.SQLite
	if c == nil || !isDatabaseFD(f.fd) || !c.Wants(e.path()) {
		return nil
	}
	dirfd, err := e.parent.acquire()
	if err != nil {
		return err
	}
	defer e.parent.release()
	if e.db != nil {
		e.db.raw.Store(true) // until there is a copy
	}
	now, fresh := f.settleDatabase(dirfd)
	made, err := c.Copy(f.source(dirfd))
	if err != nil {
		f.doubt = doubtful(err)
		return nil
	}
	if e.db != nil {
		e.db.raw.Store(false)
	}
	now.wal = now.wal.again(lookBeside(dirfd, e.name).wal)
	n := f.node
	switch {
	case fresh: // as no listing will have it: it is read again
		stamp(n, now.wal)
		n.CTime = next(n.CTime, 1)
	case now.any:
		stamp(n, now.wal)
	}
	if made == nil {
		return nil
	}
	f.readCopy(made)
	return nil
}

// settleDatabase looks at what lies beside, and waits as settle does. fresh says that
// what is changed next may have the same time all the same, as somebody writes all the
// time. What f.st says was so before: that is on the safe side.
func (f *file) settleDatabase(dirfd int) (now beside, fresh bool) {
	for first := true; ; first = false {
		now = lookBeside(dirfd, f.e.name)
		ahead := time.Since(later(f.st.ctime, now.wal.ctime).Time())
		if fresh = ahead >= 0 && ahead <= clockTick; !fresh || !first {
			return now, fresh
		}
		time.Sleep(2 * clockTick)
	}
}

// source is the database for package sqlite. SQLite finds it by the descriptor of its
// directory; what it then has opened is compared with what f has.
func (f *file) source(dirfd int) sqlite.Source {
	at := func(suffix string) (sqlite.FileState, error) {
		st, err := statAt(dirfd, f.e.name+suffix)
		if err == unix.ENOENT || err == nil && st.kind() != tree.File {
			return sqlite.FileState{}, nil
		}
		return st.sqlite(), err
	}
	mine := openDescriptors(f.st.id())
	var shared func() (bool, error)
	if f.st.nlink > 1 {
		shared = func() (bool, error) { return isShared(f.fd) }
	}
	return sqlite.Source{
		Shared: shared,
		Path:   "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + f.e.name,
		Main:   mainFile{f},
		State: func() (s sqlite.State, err error) {
			st, err := statFD(f.fd)
			if err != nil {
				return s, err
			}
			s.Main = st.sqlite()
			if s.WAL, err = at(sqlite.WAL); err != nil {
				return s, err
			}
			if s.Journal, err = at(sqlite.Journal); err != nil {
				return s, err
			}
			shm, err := at(sqlite.SHM)
			s.SHM = shm != sqlite.FileState{}
			return s, err
		},
		Open: func(suffix string) (*os.File, error) {
			fd, err := openRetry(dirfd, f.e.name+suffix, companionFlags)
			if err != nil {
				return nil, err
			}
			if st, err := statFD(fd); err != nil || st.kind() != tree.File {
				unix.Close(fd)
				return nil, fmt.Errorf("%s%s is no regular file", f.e.name, suffix)
			}
			return os.NewFile(uintptr(fd), f.e.name+suffix), nil
		},
		Opened: func() error {
			for fd := range openDescriptors(f.st.id()) {
				if !mine[fd] {
					return nil
				}
			}
			return ErrReplaced
		},
	}
}

// SQLite's readers lock one of these bytes or all (os_unix.c: SHARED_FIRST, SHARED_SIZE).
const sharedFirst, sharedSize = 1<<30 + 2, 510

// isShared says whether anybody has a lock of SQLite's readers on a file.
func isShared(fd int) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: sharedFirst, Len: sharedSize}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return false, err
	}
	return lock.Type != unix.F_UNLCK, nil
}

// sqlite is the state of a file for package sqlite.
func (s *stat) sqlite() sqlite.FileState {
	return sqlite.FileState{Size: int64(s.size), ID: [2]uint64{s.dev, s.ino}, MTime: s.mtime.Time().UnixNano(), CTime: s.ctime.Time().UnixNano()}
}

// openDescriptors returns the descriptors of this process that have a file open.
func openDescriptors(id fileID) map[int]bool {
	found := map[int]bool{}
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, d := range all {
		fd, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if st, err := statFD(fd); err == nil && st.id() == id {
			found[fd] = true
		}
	}
	return found
}

// mainFile reads the database itself.
type mainFile struct{ f *file }

func (m mainFile) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k, err := m.f.readAt(p[n:], off+int64(n))
		if err != nil {
			return n, err
		}
		if k == 0 {
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}
