package files

import (
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// maxIdleDirs is how many directories a root keeps open beside those in use at
// the moment. A walk needs the directories on its way down; deeper trees than
// this get the upper ones closed, and opened again on the way up.
const maxIdleDirs = 128

// A handlePool keeps the number of open directories bounded.
type handlePool struct {
	mu   sync.Mutex
	idle int
	// Idle handles, as a ring: lru.next was used last, lru.prev goes first.
	lru handle
}

// A handle is a directory that can be had open at any time. It is counted: the
// walk's Dir, each Entry in the directory, and each handle below hold it.
//
// A handle whose descriptor was closed to stay within bounds is opened again
// by name from its parent, and must then be the same inode.
type handle struct {
	pool   *handlePool
	root   *Root
	parent *handle // nil for the root's
	name   string
	id     fileID

	// Guarded by pool.mu.
	fd         int // -1: closed
	refs       int // who may still need it
	pins       int // who uses fd now
	prev, next *handle
}

func newHandlePool() *handlePool {
	p := &handlePool{}
	p.lru.prev, p.lru.next = &p.lru, &p.lru
	return p
}

// openHandle opens the directory name in parent; the result has one reference.
func openHandle(parent *handle, name string, asRoot bool) (*handle, error) {
	pfd, err := parent.acquire()
	if err != nil {
		return nil, err
	}
	defer parent.release()
	fd, err := openDir(pfd, name, asRoot)
	if err != nil {
		return nil, err
	}
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	parent.ref()
	h := &handle{pool: parent.pool, root: parent.root, parent: parent, name: name, id: st.id(), fd: fd, refs: 1, pins: 1}
	h.release()
	return h, nil
}

// openDir opens a directory for listing.
func openDir(dirfd int, name string, asRoot bool) (int, error) {
	fd, err := openNoAtime(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, asRoot)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return -1, ErrReplaced
	}
	return fd, err
}

// openNoAtime opens without changing the access time, which only root and the
// owner may ask for: where it is refused, or not worth trying, it does without.
func openNoAtime(dirfd int, name string, flags int, try bool) (int, error) {
	if try {
		fd, err := openRetry(dirfd, name, flags|unix.O_NOATIME)
		if err != unix.EPERM {
			return fd, err
		}
	}
	return openRetry(dirfd, name, flags)
}

func openRetry(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// acquire returns the open descriptor, which stays open until release.
func (h *handle) acquire() (int, error) {
	p := h.pool
	p.mu.Lock()
	if h.fd >= 0 {
		h.pin()
		defer p.mu.Unlock()
		return h.fd, nil
	}
	p.mu.Unlock()

	pfd, err := h.parent.acquire()
	if err != nil {
		return -1, err
	}
	fd, err := openDir(pfd, h.name, true)
	h.parent.release()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
		return -1, &fs.PathError{Op: "reopen", Path: h.path(), Err: err}
	}
	st, err := statFD(fd)
	if err == nil && st.id() != h.id {
		err = ErrReplaced
	}
	if err != nil {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "reopen", Path: h.path(), Err: err}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.fd >= 0 { // another goroutine was faster
		unix.Close(fd)
		h.pin()
		return h.fd, nil
	}
	h.fd = fd
	h.pins++
	return fd, nil
}

// pin marks an open handle as in use.
func (h *handle) pin() {
	if h.next != nil {
		h.unlinkIdle()
	}
	h.pins++
}

func (h *handle) unlinkIdle() {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
	h.pool.idle--
}

// release ends the use that acquire began.
func (h *handle) release() {
	p := h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	h.pins--
	if h.pins > 0 {
		return
	}
	if h.refs == 0 {
		unix.Close(h.fd)
		h.fd = -1
		return
	}
	if h.parent == nil {
		return // could not be opened again
	}
	first := p.lru.next
	h.prev, h.next = &p.lru, first
	p.lru.next, first.prev = h, h
	p.idle++
	for p.idle > maxIdleDirs {
		old := p.lru.prev
		old.unlinkIdle()
		unix.Close(old.fd)
		old.fd = -1
	}
}

func (h *handle) ref() {
	h.pool.mu.Lock()
	h.refs++
	h.pool.mu.Unlock()
}

// unref gives a reference back; the last one closes the directory.
func (h *handle) unref() {
	for h != nil {
		h.pool.mu.Lock()
		h.refs--
		if h.refs > 0 {
			h.pool.mu.Unlock()
			return
		}
		if h.pins == 0 && h.fd >= 0 {
			if h.next != nil {
				h.unlinkIdle()
			}
			unix.Close(h.fd)
			h.fd = -1
		}
		h.pool.mu.Unlock()
		h = h.parent
	}
}

// rel is the path below the root, "" for the root itself.
func (h *handle) rel() string {
	n := 0
	for d := h; d.parent != nil; d = d.parent {
		n += len(d.name) + 1
	}
	if n == 0 {
		return ""
	}
	buf := make([]byte, n)
	for d := h; d.parent != nil; d = d.parent {
		n -= len(d.name) + 1
		copy(buf[n:], d.name)
		buf[n+len(d.name)] = '/'
	}
	return string(buf[:len(buf)-1])
}

// path is the absolute path.
func (h *handle) path() string { return h.root.pathOf(h.rel()) }
