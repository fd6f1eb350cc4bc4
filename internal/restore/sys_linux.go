package restore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Confinement on Linux: every operation takes one name (never a path) relative
// to the descriptor of a directory that was itself opened so, O_NOFOLLOW, from
// the target downwards. No symlink is ever followed, ".." never occurs, and no
// path has a length.

const lacks = "" // what the platform cannot restore at all

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

func again(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

func openat(fd int, name string, flags int, mode uint32) (int, error) {
	var got int
	err := again(func() (err error) {
		got, err = unix.Openat(fd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		return err
	})
	return got, err
}

// handle is an open directory.
type handle struct {
	s  *sys
	fd int
}

// openTarget opens the directory that everything stays beneath. Symlinks in
// path are the caller's wish, and followed.
func openTarget(s *sys, path string) (*handle, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &handle{s, fd}, nil
}

func (h *handle) close() { unix.Close(h.fd) }

func (h *handle) openDir(name string) (*handle, error) {
	fd, err := openat(h.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &handle{h.s, fd}, nil
}

// mounted says whether something is mounted on the directory name.
func (h *handle) mounted(name string) (bool, error) {
	fd, err := unix.Openat2(h.fd, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch err {
	case nil:
		unix.Close(fd)
		return false, nil
	case unix.EXDEV:
		return true, nil
	case unix.ENOSYS, unix.EPERM, unix.E2BIG, unix.EINVAL: // before Linux 5.6, or forbidden by a sandbox
		here, err := h.stat()
		if err != nil {
			return false, err
		}
		there, err := h.lstat(name)
		return there.dev != here.dev, err
	}
	return false, err
}

func infoOf(st *unix.Stat_t) info {
	i := info{
		mode: uint32(st.Mode) & tree.ModeMask,
		uid:  st.Uid, gid: st.Gid,
		mtime: tree.Time{Sec: int64(st.Mtim.Sec), Nsec: uint32(st.Mtim.Nsec)},
		size:  st.Size,
		dev:   uint64(st.Dev),
		ino:   uint64(st.Ino),
		nlink: uint64(st.Nlink),
	}
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFREG:
		i.typ = tree.File
	case unix.S_IFDIR:
		i.typ = tree.Dir
	case unix.S_IFLNK:
		i.typ = tree.Symlink
	case unix.S_IFIFO:
		i.typ = tree.FIFO
	case unix.S_IFCHR:
		i.typ = tree.CharDevice
	case unix.S_IFBLK:
		i.typ = tree.BlockDevice
	}
	if i.typ == tree.CharDevice || i.typ == tree.BlockDevice {
		i.rdev = uint64(unix.Major(uint64(st.Rdev)))<<32 | uint64(unix.Minor(uint64(st.Rdev)))
	}
	return i
}

func fstat(fd int) (info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return info{}, err
	}
	return infoOf(&st), nil
}

func (h *handle) stat() (info, error) { return fstat(h.fd) }

func (h *handle) lstat(name string) (info, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(h.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return info{}, err
	}
	return infoOf(&st), nil
}

// names lists the directory in ascending order. (The directory is not opened again
// for it, which takes the right to search it.) One call at a time.
func (h *handle) names() ([]string, error) {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	if _, err := f.Seek(0, 0); err != nil { // dup shares the position
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

func (h *handle) readlink(name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(h.fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

func (h *handle) mkdir(name string) error {
	if err := h.s.step("mkdir"); err != nil {
		return err
	}
	return unix.Mkdirat(h.fd, name, 0o700)
}

func (h *handle) symlink(target, name string) error {
	if err := h.s.step("symlink"); err != nil {
		return err
	}
	return unix.Symlinkat(target, h.fd, name)
}

func (h *handle) mknod(name string, n *tree.Node) error {
	if err := h.s.step("mknod"); err != nil {
		return err
	}
	var kind uint32
	switch n.Type {
	case tree.FIFO:
		kind = unix.S_IFIFO
	case tree.CharDevice:
		kind = unix.S_IFCHR
	case tree.BlockDevice:
		kind = unix.S_IFBLK
	}
	dev := unix.Mkdev(uint32(n.Rdev>>32), uint32(n.Rdev))
	return unix.Mknodat(h.fd, name, kind|0o600, int(dev))
}

// link gives the entry old of directory from the further name name.
func (h *handle) link(from *handle, old, name string) error {
	if err := h.s.step("link"); err != nil {
		return err
	}
	return unix.Linkat(from.fd, old, h.fd, name, 0)
}

func (h *handle) rename(old, name string) error {
	if err := h.s.step("rename"); err != nil {
		return err
	}
	return unix.Renameat(h.fd, old, h.fd, name)
}

func (h *handle) remove(name string) error {
	if err := h.s.step("unlink"); err != nil {
		return err
	}
	return unix.Unlinkat(h.fd, name, 0)
}

func (h *handle) rmdir(name string) error {
	if err := h.s.step("rmdir"); err != nil {
		return err
	}
	return unix.Unlinkat(h.fd, name, unix.AT_REMOVEDIR)
}

func (h *handle) sync() error { return unix.Syncfs(h.fd) }

// file is an open regular file.
type file struct {
	s  *sys
	fd int
}

func (h *handle) create(name string) (*file, error) {
	if err := h.s.step("create"); err != nil {
		return nil, err
	}
	fd, err := openat(h.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{h.s, fd}, nil
}

// open opens a regular file, for writing as well if write is set; whatever else
// has the name is an error, and no FIFO blocks.
func (h *handle) open(name string, write bool) (*file, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	fd, err := openat(h.fd, name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if st, err := fstat(fd); err != nil || st.typ != tree.File {
		unix.Close(fd)
		return nil, errors.Join(err, errors.New("not a regular file any more"))
	}
	return &file{h.s, fd}, nil
}

func (f *file) stat() (info, error) { return fstat(f.fd) }

func (f *file) writeAt(p []byte, off int64) error {
	if err := f.s.step("write"); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := unix.Pwrite(f.fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readAt fills p; io.EOF semantics are not needed: a short file is short.
func (f *file) readAt(p []byte, off int64) (int, error) {
	read := 0
	for read < len(p) {
		n, err := unix.Pread(f.fd, p[read:], off+int64(read))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return read, err
		}
		read += n
	}
	return read, nil
}

// nextData returns an offset from off on before which there are only holes.
func (f *file) nextData(off int64) int64 {
	data, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return math.MaxInt64
	case err != nil:
		return off
	}
	return data
}

func (f *file) truncate(size int64) error {
	if err := f.s.step("truncate"); err != nil {
		return err
	}
	return again(func() error { return unix.Ftruncate(f.fd, size) })
}

// allocate reserves the blocks of the whole file, so that a full disk is noticed
// before anything is written. File systems without it go without.
func (f *file) allocate(size int64) error {
	if err := f.s.step("allocate"); err != nil {
		return err
	}
	err := again(func() error { return unix.Fallocate(f.fd, 0, 0, size) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil
	}
	return err
}

// memoryBytes is the size of the machine's memory; 0: unknown, so that every byte
// written counts as many.
func memoryBytes() int {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int(min(uint64(info.Totalram)*uint64(info.Unit), math.MaxInt))
}

// startStoring has what was written stored soon, and gives back the memory of what
// is. It is a hint: errors do not matter.
func (f *file) startStoring() { unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED) }

// flush makes a network file system say now whether writing failed, as it would
// when the last descriptor is closed.
func (f *file) flush() error {
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (f *file) close() error { return unix.Close(f.fd) }

// object is something whose metadata is set. Its descriptor was opened without
// following symlinks and pins the inode: what takes the name afterwards is not
// touched.
type object struct {
	s    *sys
	fd   int
	path bool // fd is O_PATH: symlinks, FIFOs, devices
}

func (f *file) object() object   { return object{f.s, f.fd, false} }
func (h *handle) object() object { return object{h.s, h.fd, false} }

// object pins any entry; done releases it.
func (h *handle) objectAt(name string) (o object, done func(), err error) {
	fd, err := openat(h.fd, name, unix.O_PATH, 0)
	if err != nil {
		return object{}, nil, err
	}
	return object{h.s, fd, true}, func() { unix.Close(fd) }, nil
}

// none says whether o cannot have inode flags.
func (o object) none() bool { return o.path }

func (o object) proc() string { return fmt.Sprintf("/proc/self/fd/%d", o.fd) }

func (o object) stat() (info, error) { return fstat(o.fd) }

func (o object) chown(uid, gid uint32) error {
	if err := o.s.step("chown"); err != nil {
		return err
	}
	return unix.Fchownat(o.fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH)
}

func (o object) chmod(mode uint32) error {
	if err := o.s.step("chmod"); err != nil {
		return err
	}
	if o.path {
		return unix.Fchmodat(unix.AT_FDCWD, o.proc(), mode, 0)
	}
	return unix.Fchmod(o.fd, mode)
}

func (o object) chtime(t tree.Time) error {
	if err := o.s.step("utimens"); err != nil {
		return err
	}
	mtime, err := unix.TimeToTimespec(time.Unix(t.Sec, int64(t.Nsec)))
	if err != nil {
		return err
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	err = unix.UtimesNanoAt(o.fd, "", ts[:], unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, o.proc(), ts[:], 0)
	}
	return err
}

// grow calls read with growing buffers until the answer fits.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE || len(buf) > 1<<20 {
			return nil, err
		}
		buf = make([]byte, 8*len(buf))
	}
}

// xattrs returns the extended attributes in ascending order of names.
func (o object) xattrs() ([]tree.Xattr, error) {
	list, err := grow(func(b []byte) (int, error) {
		if o.path {
			return unix.Listxattr(o.proc(), b)
		}
		return unix.Flistxattr(o.fd, b)
	})
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var out []tree.Xattr
	for _, name := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := o.xattr(name)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read attribute %s: %w", name, err)
		}
		out = append(out, tree.Xattr{Name: name, Value: string(value)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (o object) xattr(name string) ([]byte, error) {
	return grow(func(b []byte) (int, error) {
		if o.path {
			return unix.Getxattr(o.proc(), name, b)
		}
		return unix.Fgetxattr(o.fd, name, b)
	})
}

func (o object) setXattr(name, value string) error {
	if err := o.s.step("setxattr"); err != nil {
		return err
	}
	if o.path {
		return unix.Setxattr(o.proc(), name, []byte(value), 0)
	}
	return unix.Fsetxattr(o.fd, name, []byte(value), 0)
}

func (o object) removeXattr(name string) error {
	if err := o.s.step("removexattr"); err != nil {
		return err
	}
	if o.path {
		return unix.Removexattr(o.proc(), name)
	}
	return unix.Fremovexattr(o.fd, name)
}

// flags returns the inode flags; 0 where the file system has none.
func (o object) flags() (uint32, error) {
	if o.path {
		return 0, nil
	}
	flags, err := unix.IoctlGetUint32(o.fd, unix.FS_IOC_GETFLAGS)
	if err == unix.ENOTTY || err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return 0, nil
	}
	return flags, err
}

func (o object) setFlags(flags uint32) error {
	if err := o.s.step("setflags"); err != nil {
		return err
	}
	// The kernel reads 32 bits whatever the ioctl's number says.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(o.fd), unix.FS_IOC_SETFLAGS, uintptr(unsafe.Pointer(&flags)))
	if e != 0 {
		return e
	}
	return nil
}

// inherits says whether what is created in the directory gets attributes, flags
// or a group from it.
func (h *handle) inherits(mode uint32) bool {
	if mode&tree.ModeSetgid != 0 {
		return true
	}
	const inherited = tree.FlagSecureDelete | tree.FlagUndelete | tree.FlagCompress | tree.FlagSync | tree.FlagNoDump |
		tree.FlagNoAtime | tree.FlagJournalData | tree.FlagNoTail | tree.FlagDirSync | tree.FlagNoCOW | tree.FlagProjInherit
	if flags, err := h.object().flags(); err == nil && flags&inherited != 0 {
		return true
	}
	_, err := h.object().xattr("system.posix_acl_default")
	return err == nil
}

// fatal says whether err ends the restore: what follows would fail as well.
func fatal(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO)
}

func isDirErr(err error) bool {
	return errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)
}

// cannotLink says whether err means that this file system gives no (further)
// link to the file, so that it becomes a file of its own.
func cannotLink(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)
}

func isDenied(err error) bool { return errors.Is(err, unix.EACCES) }

func privileged() bool { return os.Geteuid() == 0 }
