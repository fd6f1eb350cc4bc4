//go:build !linux

package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Confinement elsewhere: all operations go through one os.Root, the target,
// which no path and no symlink leaves. (A symlink that appears in the target
// during the restore may lead to another place in the target.) Paths are as long
// as the system allows.

const lacks = "on " + runtime.GOOS + " extended attributes, ACLs, inode flags, FIFOs and devices are not restored"

// sys is what all handles of one restore share.
type sys struct {
	cut func(op string) error // tests only: called before each mutating operation
}

func (s *sys) step(op string) error {
	if s.cut != nil {
		return s.cut(op)
	}
	return nil
}

// handle is a directory: a path beneath the target.
type handle struct {
	s    *sys
	root *os.Root
	path string
	own  bool // the target: close closes the root
}

func openTarget(s *sys, path string) (*handle, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &handle{s, root, ".", true}, nil
}

func (h *handle) close() {
	if h.own {
		h.root.Close()
	}
}

// at refuses, on Windows, names that are more than one there: with a backslash,
// a drive or a stream, or of a device.
func (h *handle) at(name string) (string, error) {
	if !filepath.IsLocal(name) || filepath.Base(name) != name || runtime.GOOS == "windows" && slices.Contains([]byte(name), ':') {
		return "", &fs.PathError{Op: "name", Path: name, Err: errors.New("not a file name on this system")}
	}
	return filepath.Join(h.path, name), nil
}

func (h *handle) openDir(name string) (*handle, error) {
	path, err := h.at(name)
	if err != nil {
		return nil, err
	}
	st, err := h.root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%q is no directory", name)
	}
	return &handle{h.s, h.root, path, false}, nil
}

// mounted says whether something is mounted on the directory name.
func (h *handle) mounted(name string) (bool, error) {
	here, err := h.stat()
	if err != nil {
		return false, err
	}
	there, err := h.lstat(name)
	return there.dev != here.dev, err
}

func infoOf(st fs.FileInfo) info {
	i := info{
		mode:  uint32(st.Mode().Perm()),
		size:  st.Size(),
		mtime: tree.Time{Sec: st.ModTime().Unix(), Nsec: uint32(st.ModTime().Nanosecond())},
		nlink: 1,
	}
	for bit, fsBit := range map[uint32]fs.FileMode{tree.ModeSetuid: fs.ModeSetuid, tree.ModeSetgid: fs.ModeSetgid, tree.ModeSticky: fs.ModeSticky} {
		if st.Mode()&fsBit != 0 {
			i.mode |= bit
		}
	}
	switch st.Mode().Type() {
	case 0:
		i.typ = tree.File
	case fs.ModeDir:
		i.typ = tree.Dir
	case fs.ModeSymlink:
		i.typ = tree.Symlink
	case fs.ModeNamedPipe:
		i.typ = tree.FIFO
	case fs.ModeDevice:
		i.typ = tree.BlockDevice
	case fs.ModeDevice | fs.ModeCharDevice:
		i.typ = tree.CharDevice
	}
	fillInfo(&i, st)
	return i
}

func (h *handle) stat() (info, error) {
	st, err := h.root.Lstat(h.path)
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

func (h *handle) lstat(name string) (info, error) {
	path, err := h.at(name)
	if err != nil {
		return info{}, err
	}
	st, err := h.root.Lstat(path)
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

func (h *handle) names() ([]string, error) {
	f, err := h.root.Open(h.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (h *handle) readlink(name string) (string, error) {
	path, err := h.at(name)
	if err != nil {
		return "", err
	}
	return h.root.Readlink(path)
}

// do runs a mutating operation on the path of name.
func (h *handle) do(op, name string, fn func(path string) error) error {
	if err := h.s.step(op); err != nil {
		return err
	}
	path, err := h.at(name)
	if err != nil {
		return err
	}
	return fn(path)
}

func (h *handle) mkdir(name string) error {
	return h.do("mkdir", name, func(path string) error { return h.root.Mkdir(path, 0o700) })
}

func (h *handle) symlink(target, name string) error {
	return h.do("symlink", name, func(path string) error { return h.root.Symlink(target, path) })
}

func (h *handle) mknod(_ string, n *tree.Node) error {
	return fmt.Errorf("%s: %w", n.Type, errors.ErrUnsupported)
}

func (h *handle) link(from *handle, old, name string) error {
	oldPath, err := from.at(old)
	if err != nil {
		return err
	}
	return h.do("link", name, func(path string) error { return h.root.Link(oldPath, path) })
}

func (h *handle) rename(old, name string) error {
	oldPath, err := h.at(old)
	if err != nil {
		return err
	}
	return h.do("rename", name, func(path string) error { return h.root.Rename(oldPath, path) })
}

func (h *handle) remove(name string) error { return h.do("unlink", name, h.root.Remove) }

func (h *handle) rmdir(name string) error { return h.do("rmdir", name, h.root.Remove) }

func (h *handle) sync() error { return nil } // no such call: files are flushed by the system in time

// file is an open regular file.
type file struct {
	h    *handle
	path string
	f    *os.File
}

func (h *handle) create(name string) (*file, error) {
	var out *file
	err := h.do("create", name, func(path string) error {
		f, err := h.root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		out = &file{h, path, f}
		return err
	})
	return out, err
}

func (h *handle) open(name string, write bool) (*file, error) {
	path, err := h.at(name)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	before, err := h.root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, errors.New("not a regular file any more")
	}
	f, err := h.root.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !os.SameFile(before, st) {
		f.Close()
		return nil, errors.Join(err, errReplaced)
	}
	return &file{h, path, f}, nil
}

func (f *file) stat() (info, error) {
	st, err := f.f.Stat()
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

func (f *file) writeAt(p []byte, off int64) error {
	if err := f.h.s.step("write"); err != nil {
		return err
	}
	_, err := f.f.WriteAt(p, off)
	return err
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// nextData returns an offset from off on before which there are only holes.
func (f *file) nextData(off int64) int64 { return off }

func (f *file) truncate(size int64) error {
	if err := f.h.s.step("truncate"); err != nil {
		return err
	}
	return f.f.Truncate(size)
}

func (f *file) allocate(int64) error { return nil } // an optimization that this platform goes without

func (f *file) startStoring() {} // likewise

func memoryBytes() int { return 0 } // for startStoring

func (f *file) flush() error { return nil }

func (f *file) close() error { return f.f.Close() }

// object is something whose metadata is set, by its path.
type object struct {
	s    *sys
	root *os.Root
	path string
	f    *os.File // preferred, where there is one
}

func (f *file) object() object   { return object{f.h.s, f.h.root, f.path, f.f} }
func (h *handle) object() object { return object{h.s, h.root, h.path, nil} }

func (h *handle) objectAt(name string) (o object, done func(), err error) {
	path, err := h.at(name)
	return object{h.s, h.root, path, nil}, func() {}, err
}

// none says whether o cannot have inode flags.
func (o object) none() bool { return true }

func (o object) stat() (info, error) {
	if o.f != nil {
		st, err := o.f.Stat()
		if err != nil {
			return info{}, err
		}
		return infoOf(st), nil
	}
	st, err := o.root.Lstat(o.path)
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

func (o object) chown(uid, gid uint32) error {
	if err := o.s.step("chown"); err != nil {
		return err
	}
	return o.root.Lchown(o.path, int(uid), int(gid))
}

func (o object) chmod(mode uint32) error {
	if err := o.s.step("chmod"); err != nil {
		return err
	}
	m := fs.FileMode(mode & 0o777)
	for bit, fsBit := range map[uint32]fs.FileMode{tree.ModeSetuid: fs.ModeSetuid, tree.ModeSetgid: fs.ModeSetgid, tree.ModeSticky: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= fsBit
		}
	}
	if o.f != nil {
		return o.f.Chmod(m)
	}
	return o.root.Chmod(o.path, m)
}

func (o object) chtime(t tree.Time) error {
	if err := o.s.step("utimens"); err != nil {
		return err
	}
	st, err := o.root.Lstat(o.path)
	if err == nil && st.Mode().Type() == fs.ModeSymlink {
		return fmt.Errorf("time of a symlink: %w", errors.ErrUnsupported) // Chtimes would follow it
	}
	return o.root.Chtimes(o.path, time.Time{}, time.Unix(t.Sec, int64(t.Nsec)))
}

func (o object) xattrs() ([]tree.Xattr, error) { return nil, nil }

func (o object) setXattr(name, _ string) error {
	return fmt.Errorf("%s: %w", name, errors.ErrUnsupported)
}

func (o object) removeXattr(name string) error {
	return fmt.Errorf("%s: %w", name, errors.ErrUnsupported)
}

func (o object) flags() (uint32, error) { return 0, nil }

func (o object) setFlags(uint32) error { return errors.ErrUnsupported }

func (h *handle) inherits(mode uint32) bool { return mode&tree.ModeSetgid != 0 }

func isDenied(err error) bool { return errors.Is(err, fs.ErrPermission) }
