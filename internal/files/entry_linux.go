package files

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// entry implements backup.Entry.
type entry struct {
	root   *Root
	parent *handle // the directory it is in; nil for a root directory
	name   string  // in parent
	as     string  // in the snapshot, where not name: a source given as a symlink
	st     stat
	// db is set for a SQLite database with companions, and for them (beside).
	db     *database
	beside bool

	mu  sync.Mutex
	own *handle // of a directory, once it has been opened
}

func (e *entry) Node() *tree.Node {
	name := e.name
	if e.as != "" {
		name = e.as
	}
	n := e.st.node(name)
	switch lateness(e.db, e.beside) {
	case backup.LateSize:
		stamp(n, e.db.wal)
	case backup.LateEntry:
		n.CTime = tree.Time{}
		n.Links, n.Device = 1, 0
	}
	return n
}

func (e *entry) path() string {
	if e.parent == nil || e.as != "" {
		return e.root.Path
	}
	return e.root.pathOf(join(e.parent.rel(), e.name))
}

// failed makes err name the entry.
func (e *entry) failed(op string, err error) error {
	return &fs.PathError{Op: op, Path: e.path(), Err: err}
}

// foreign says that the entry is the mount point of a file system to stay out
// of.
func (e *entry) foreign() bool {
	return e.root.opts.OneFileSystem && e.st.dev != e.root.dev
}

func (e *entry) Dir(context.Context) (backup.Dir, error) {
	if e.st.kind() != tree.Dir {
		return nil, e.failed("open", unix.ENOTDIR)
	}
	if e.foreign() {
		return emptyDir{}, nil
	}
	h, err := e.handle()
	if err != nil {
		return nil, e.failed("open", err)
	}
	if e.root.opts.OneFileSystem && h.id.dev != e.root.dev { // mounted since the listing
		e.root.skipping(e.path, OtherFileSystem, "on another file system")
		return emptyDir{}, nil
	}
	h.ref()
	return &dir{root: e.root, h: h}, nil
}

// handle opens the directory that the entry is.
func (e *entry) handle() (*handle, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.own == nil {
		h, err := openHandle(e.parent, e.name, e.root.ownsOrRoot(&e.st))
		if err != nil {
			return nil, err
		}
		// A directory that took this one's place (opening one can even make the
		// kernel mount a file system there) is as good, unless it is one that
		// must be left out.
		if e.root.skip[h.id] != "" {
			h.unref()
			return nil, ErrReplaced
		}
		e.own = h
	}
	return e.own, nil
}

func (e *entry) Close() {
	if e.db != nil && !e.beside {
		close(e.db.done)
	}
	if e.own != nil {
		e.own.unref()
	}
	if e.parent != nil {
		e.parent.unref()
	}
}

func (e *entry) Complete(n *tree.Node) error {
	if e.st.kind() == tree.Dir && !e.foreign() {
		if h, err := e.handle(); err == nil {
			if fd, err := h.acquire(); err == nil {
				defer h.release()
				e.root.addXattrs(n, e.path, xattrsOf(fd))
				n.InodeFlags = inodeFlags(fd, e.st.flags)
				return nil
			}
		}
		// A directory that may not be listed still has attributes.
	}
	if e.parent == nil {
		return nil // the root directory is always open: never
	}
	fd, err := e.parent.acquire()
	if err != nil {
		return e.failed("complete", err)
	}
	defer e.parent.release()
	if e.st.kind() == tree.Symlink {
		if n.Target, err = readlink(fd, e.name, e.st.size); err != nil {
			if err == unix.EINVAL {
				err = ErrReplaced
			}
			return e.failed("readlink", err)
		}
	}
	e.xattrsByName(n, fd)
	return nil
}

// xattrsByName reads the attributes of what cannot be opened, by way of /proc:
// calls relative to a directory exist only since Linux 6.13.
func (e *entry) xattrsByName(n *tree.Node, dirfd int) {
	path := "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + e.name
	gone := false
	e.root.addXattrs(n, e.path, xattrSource{
		list: func(b []byte) (int, error) {
			n, err := unix.Llistxattr(path, b)
			if err == unix.ENOENT { // the entry, or all of /proc
				gone = true
				return 0, nil
			}
			return n, err
		},
		get: func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) },
	})
	if gone && unix.Access("/proc/self/fd", unix.F_OK) != nil {
		e.root.noProc.Do(func() {
			e.root.problem(e.path, LostMetadata, errors.New("extended attributes of symlinks and special files cannot be read, because /proc is not mounted"))
		})
	}
}

// errNoXattr says that an attribute does not exist (any more).
const errNoXattr = unix.ENODATA

func xattrsOf(fd int) xattrSource {
	return xattrSource{
		list: func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		get:  func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) },
	}
}

// readlink reads a target of any length; size is what stat says it is, which
// some file systems do not know.
func readlink(dirfd int, name string, size uint64) (string, error) {
	for n := max(256, min(size+1, unix.PathMax+1)); ; n *= 2 {
		buf := make([]byte, n)
		got, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", err
		}
		if got < len(buf) {
			return string(buf[:got]), nil
		}
	}
}

func kindName(s *stat) string {
	switch s.format() {
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return "file of unknown kind"
}
