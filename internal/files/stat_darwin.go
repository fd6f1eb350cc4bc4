package files

import (
	"os"
	"syscall"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// Lacks lists what this platform's metadata a backup does not hold.
func Lacks() []string {
	return []string{"ACLs", "file flags (chflags)", "creation times", "holes of sparse files"}
}

// openFlags keep an open from following a symlink or waiting for a FIFO.
const openFlags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY

// errNoXattr says that an attribute does not exist (any more).
const errNoXattr = unix.ENOATTR

func addStat(n *tree.Node, fi os.FileInfo) fileID {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	n.UID, n.GID = st.Uid, st.Gid
	n.MTime = tree.Time{Sec: st.Mtimespec.Sec, Nsec: uint32(st.Mtimespec.Nsec)}
	n.CTime = tree.Time{Sec: st.Ctimespec.Sec, Nsec: uint32(st.Ctimespec.Nsec)}
	n.Inode = st.Ino
	id := fileID{uint64(uint32(st.Dev)), st.Ino}
	if n.Type != tree.Dir {
		n.Links = uint32(st.Nlink)
	}
	if n.Links > 1 {
		n.Device = id.dev
	}
	if n.Type == tree.CharDevice || n.Type == tree.BlockDevice {
		dev := uint64(uint32(st.Rdev))
		n.Rdev = uint64(unix.Major(dev))<<32 | uint64(unix.Minor(dev))
	}
	return id
}

// addAttributes reads the extended attributes of the entry at path.
func (r *Root) addAttributes(n *tree.Node, path string) {
	attrs, lost := readXattrs(xattrSource{
		list: func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		get:  func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) },
	}, &r.buffers)
	n.Xattrs = attrs
	for _, err := range lost {
		r.problem(func() string { return path }, LostMetadata, err)
	}
}
