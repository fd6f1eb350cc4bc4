package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// Lacks lists what this platform's metadata a backup does not hold.
func Lacks() []string { return nil }

// platform is the part of a Root that only Linux has.
type platform struct {
	dev     uint64 // the file system of the source
	euid    uint32
	handles *handlePool
	buffers sync.Pool // *[]byte, for extended attributes
	names   sync.Pool // *[]byte, for directory listings
	noProc  sync.Once // the missing /proc is reported once
}

func (r *Root) open() error {
	r.euid = uint32(os.Geteuid())
	r.handles = newHandlePool()
	// O_PATH tells what it is without the side effects of opening a device.
	fd, err := openRetry(unix.AT_FDCWD, r.Path, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	r.dev = st.dev
	if err := r.resolveSkipPaths(st.id()); err != nil {
		return err
	}
	if err := r.readAncestors(); err != nil {
		return err
	}
	switch st.kind() {
	case tree.Dir:
		return r.openRootDir(fd, st)
	case tree.File:
		return r.openRootFile(st)
	}
	return fmt.Errorf("it is a %s: only a directory or a regular file can be backed up", kindName(&st))
}

func (r *Root) openRootDir(path int, st stat) error {
	fd, err := openNoAtime(path, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, r.ownsOrRoot(&st))
	if err != nil {
		return err
	}
	r.owners.add(st.uid, st.gid)
	h := &handle{pool: r.handles, root: r, id: st.id(), fd: fd, refs: 1}
	r.Entry = &entry{root: r, own: h, name: r.baseName(), st: st}
	return nil
}

// openRootFile makes an entry of the directory that holds the file, after all
// symlinks: its name there may differ from that in Path.
func (r *Root) openRootFile(want stat) error {
	real, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return err
	}
	fd, err := openRetry(unix.AT_FDCWD, filepath.Dir(real), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		// A directory that may be passed through, but not listed.
		fd, err = openRetry(unix.AT_FDCWD, filepath.Dir(real), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	}
	if err != nil {
		return err
	}
	st, err := statAt(fd, filepath.Base(real))
	if err == nil && st.id() != want.id() {
		err = ErrReplaced
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	r.owners.add(st.uid, st.gid)
	h := &handle{pool: r.handles, root: r, fd: fd, refs: 1}
	e := &entry{root: r, parent: h, name: filepath.Base(real), as: r.baseName(), st: st}
	e.asRootDatabase(fd)
	r.Entry = e
	return nil
}

// baseName is the name of the source in its snapshot.
func (r *Root) baseName() string {
	if r.Path == "/" {
		return ""
	}
	return filepath.Base(r.Path)
}

// pathOf is the absolute path of the entry at rel.
func (r *Root) pathOf(rel string) string {
	switch {
	case rel == "":
		return r.Path
	case r.Path == "/":
		return "/" + rel
	}
	return r.Path + "/" + rel
}

func (r *Root) ownsOrRoot(st *stat) bool { return r.euid == 0 || r.euid == st.uid }

func (r *Root) resolveSkipPaths(source fileID) error {
	r.skip = map[fileID]string{}
	for _, p := range r.opts.SkipPaths {
		st, err := statx(unix.AT_FDCWD, p, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("look at %s, which is to be left out: %w", p, err)
		case st.kind() != tree.Dir:
			return fmt.Errorf("%s, which is to be left out, is not a directory", p)
		case st.id() == source:
			return ErrSkipPath
		}
		r.skip[st.id()] = p
	}
	return nil
}

// readAncestors reads the nodes of the directories above the source.
func (r *Root) readAncestors() error {
	if r.Path == "/" {
		return nil
	}
	dir := "/"
	for i, name := range strings.Split(filepath.Dir(r.Path), "/") {
		if name == "" && i > 0 {
			break // Dir is "/": Split gives two empty strings
		}
		dir = filepath.Join(dir, name)
		st, err := statx(unix.AT_FDCWD, dir, 0)
		if err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		n := st.node(name)
		r.owners.add(st.uid, st.gid)
		path := dir
		r.addXattrs(n, func() string { return path }, xattrSource{
			list: func(b []byte) (int, error) { return unix.Listxattr(path, b) },
			get:  func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) },
		})
		r.Ancestors = append(r.Ancestors, n)
	}
	return nil
}

func (r *Root) addXattrs(n *tree.Node, path func() string, src xattrSource) {
	attrs, lost := readXattrs(src, &r.buffers)
	n.Xattrs = attrs
	for _, err := range lost {
		r.problem(path, LostMetadata, err)
	}
}

// MountPoint returns the directory on which the file system that holds path is
// mounted; for "/mnt/disk/a/b" typically "/mnt/disk". Symlinks are resolved. A
// bind mount is a mount point only where the kernel numbers mounts (5.8).
func MountPoint(path string) (string, error) {
	real, err := filepath.Abs(path)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return "", fmt.Errorf("find the mount point of %s: %w", path, err)
	}
	id := func(p string) (id [3]uint64, err error) {
		var x unix.Statx_t
		err = unix.Statx(unix.AT_FDCWD, p, unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &x)
		return [3]uint64{uint64(x.Dev_major), uint64(x.Dev_minor), x.Mnt_id}, err
	}
	here, err := id(real)
	if err != nil {
		return "", fmt.Errorf("find the mount point of %s: %w", path, err)
	}
	for real != "/" {
		up := filepath.Dir(real)
		above, err := id(up)
		if err != nil {
			return "", fmt.Errorf("find the mount point of %s: %w", path, err)
		}
		if above != here {
			break
		}
		real = up
	}
	return real, nil
}
