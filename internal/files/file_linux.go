package files

import (
	"errors"
	"io/fs"
	"strconv"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

const (
	// sequentialBytes is the size from which the kernel is told that a file
	// will be read from one end to the other, so that it reads further ahead.
	sequentialBytes = 1 << 20
	// clockTick is the longest step of the kernel's coarse clock (100 Hz), by
	// which most file systems stamp changes.
	clockTick = 10 * time.Millisecond
)

// file implements backup.File.
type file struct {
	e    *entry
	fd   int
	st   stat
	node *tree.Node
	// Of a database: its copy, which is read instead, or why there is none.
	made  *sqlite.Copy
	doubt error
	extentReader
}

func (e *entry) Open() (backup.File, error) {
	if e.beside {
		if err := e.openBeside(); err != nil {
			return nil, err
		}
	}
	fd, err := e.openFile()
	if err != nil {
		return nil, e.failed("open", err)
	}
	f := &file{e: e, fd: fd}
	err = f.init()
	if err == nil {
		err = f.copyDatabase()
	}
	if err != nil {
		unix.Close(fd)
		return nil, e.failed("open", err)
	}
	return f, nil
}

func (e *entry) openFile() (int, error) {
	dirfd, err := e.parentFD()
	if err != nil {
		return -1, err
	}
	defer e.parent.release()
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err := openNoAtime(dirfd, e.name, flags|unix.O_NONBLOCK, e.root.ownsOrRoot(&e.st))
	switch err {
	case unix.ELOOP, unix.ENXIO: // a symlink; a socket or a device without a driver
		return -1, ErrReplaced
	case unix.EWOULDBLOCK:
		return e.openLeased(dirfd)
	}
	return fd, err
}

func (e *entry) parentFD() (int, error) {
	if e.st.kind() != tree.File {
		return -1, unix.EINVAL
	}
	return e.parent.acquire()
}

// openLeased opens a file on which another process holds a lease (Samba does),
// waiting until it is given up: the kernel sees to that within
// /proc/sys/fs/lease-break-time (45 s). Since this open may block, what it
// opens is looked at first.
func (e *entry) openLeased(dirfd int) (int, error) {
	path, err := openRetry(dirfd, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	st, err := statFD(path)
	if err != nil {
		return -1, err
	}
	if st.kind() != tree.File {
		return -1, ErrReplaced
	}
	return openRetry(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(path), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY)
}

// init reads all metadata of the open file.
func (f *file) init() (err error) {
	if f.st, err = statFD(f.fd); err != nil {
		return err
	}
	if f.st.kind() != tree.File {
		return ErrReplaced
	}
	if err := f.settle(); err != nil {
		return err
	}
	n := f.st.node(f.e.name)
	if f.e.as != "" {
		n.Name = f.e.as
	}
	f.e.root.addXattrs(n, f.e.path, xattrsOf(f.fd))
	n.InodeFlags = inodeFlags(f.fd, f.st.flags)
	if f.st.size > sequentialBytes {
		// A hint only: a refusal changes nothing.
		_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_SEQUENTIAL)
	}
	if f.st.blocks*blockBytes < f.st.size {
		if n.Extents, err = f.extents(); err != nil {
			return err
		}
	}
	f.node = n
	f.extentReader = newExtentReader(n, f.readAt)
	return nil
}

// settle waits, if the file was changed within the current tick of the clock
// that stamps changes, until the tick is over. A change after this then has
// another time: it is seen by Changed and by the next incremental backup, which
// would both miss it otherwise. Network file systems stamp by the server's
// clock, which is out of reach.
func (f *file) settle() error {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil {
		return nil
	}
	ahead := f.st.ctime.Time().Sub(time.Unix(now.Unix()))
	if ahead < 0 || ahead > clockTick {
		return nil // an older tick, or a clock that was set back
	}
	time.Sleep(ahead + clockTick)
	st, err := statFD(f.fd)
	if err == nil {
		f.st = st
	}
	return err
}

// extents asks where the data is. A file system that does not know has no
// holes.
func (f *file) extents() ([]tree.Extent, error) {
	size := int64(f.st.size)
	seek := func(whence int) func(int64) (int64, error) {
		return func(off int64) (int64, error) {
			for {
				at, err := unix.Seek(f.fd, off, whence)
				switch err {
				case unix.EINTR:
				case unix.ENXIO: // nothing more, or the file is shorter by now
					return size, nil
				default:
					return at, err
				}
			}
		}
	}
	extents, err := findExtents(size, minHoleBytes, maxExtents, seek(unix.SEEK_DATA), seek(unix.SEEK_HOLE))
	if err == unix.EINVAL || err == unix.ENOTSUP {
		return nil, nil
	}
	return extents, err
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(f.fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, f.e.failed("read", err)
		}
		return n, nil
	}
}

func (f *file) Node() *tree.Node { return f.node }

// Changed compares with the open inode. A file that was renamed over it or
// removed shows in its change time.
func (f *file) Changed() (bool, error) {
	if f.made != nil {
		return false, nil // what is read is a copy
	}
	st, err := statFD(f.fd)
	if err != nil {
		return false, &fs.PathError{Op: "stat", Path: f.e.path(), Err: err}
	}
	return st.size != f.st.size || st.mtime != f.st.mtime || st.ctime != f.st.ctime || st.id() != f.st.id(), nil
}

func (f *file) Close() error {
	// SQLite has closed the database before: see sqlite.Source.
	return errors.Join(f.closeCopy(), unix.Close(f.fd))
}
