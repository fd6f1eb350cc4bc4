package files

import (
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// settableFlags are the inode flags that are recorded.
const settableFlags = tree.FlagSecureDelete | tree.FlagUndelete | tree.FlagCompress | tree.FlagSync |
	tree.FlagImmutable | tree.FlagAppend | tree.FlagNoDump | tree.FlagNoAtime | tree.FlagJournalData |
	tree.FlagNoTail | tree.FlagDirSync | tree.FlagTopDir | tree.FlagNoCOW | tree.FlagProjInherit

// statxFlags are those that statx reports, too, under the same values.
const statxFlags = tree.FlagCompress | tree.FlagImmutable | tree.FlagAppend | tree.FlagNoDump

// blockBytes is the unit of statx's count of blocks, on every file system.
const blockBytes = 512

// stat is what one statx call says, in a third of the kernel's space: a large
// directory has many of them.
type stat struct {
	ino, dev, rdev uint64
	size, blocks   uint64
	mtime, ctime   tree.Time
	mode           uint32
	nlink          uint32
	uid, gid       uint32
	flags          uint32 // of statxFlags
}

// statAt asks about name in the directory, itself where it is a symlink, and
// without mounting anything there.
func statAt(dirfd int, name string) (stat, error) {
	return statx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
}

func statFD(fd int) (stat, error) { return statx(fd, "", unix.AT_EMPTY_PATH) }

func statx(dirfd int, name string, flags int) (stat, error) {
	var x unix.Statx_t
	for {
		err := unix.Statx(dirfd, name, flags, unix.STATX_BASIC_STATS, &x)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return stat{}, err
		}
		break
	}
	return stat{
		ino:    x.Ino,
		dev:    unix.Mkdev(x.Dev_major, x.Dev_minor),
		rdev:   uint64(x.Rdev_major)<<32 | uint64(x.Rdev_minor),
		size:   x.Size,
		blocks: x.Blocks,
		mtime:  tree.Time{Sec: x.Mtime.Sec, Nsec: x.Mtime.Nsec},
		ctime:  tree.Time{Sec: x.Ctime.Sec, Nsec: x.Ctime.Nsec},
		mode:   uint32(x.Mode),
		nlink:  x.Nlink,
		uid:    x.Uid,
		gid:    x.Gid,
		flags:  uint32(x.Attributes) & statxFlags,
	}, nil
}

func (s *stat) id() fileID { return fileID{s.dev, s.ino} }

func (s *stat) format() uint32 { return s.mode & unix.S_IFMT }

// kind returns 0 for what is not recorded.
func (s *stat) kind() tree.Type {
	switch s.format() {
	case unix.S_IFREG:
		return tree.File
	case unix.S_IFDIR:
		return tree.Dir
	case unix.S_IFLNK:
		return tree.Symlink
	case unix.S_IFIFO:
		return tree.FIFO
	case unix.S_IFCHR:
		return tree.CharDevice
	case unix.S_IFBLK:
		return tree.BlockDevice
	}
	return 0
}

func (s *stat) node(name string) *tree.Node {
	n := &tree.Node{
		Name:       name,
		Type:       s.kind(),
		Mode:       s.mode & tree.ModeMask,
		UID:        s.uid,
		GID:        s.gid,
		MTime:      s.mtime,
		CTime:      s.ctime,
		Inode:      s.ino,
		Links:      s.nlink,
		InodeFlags: s.flags,
	}
	switch n.Type {
	case tree.File:
		n.Size = int64(s.size)
	case tree.Dir:
		n.Links = 1
	case tree.CharDevice, tree.BlockDevice:
		n.Rdev = s.rdev
	}
	if n.Links > 1 {
		n.Device = s.dev
	}
	return n
}

// inodeFlags asks an open file or directory for its flags. A file system
// without them keeps those that statx saw.
func inodeFlags(fd int, fallback uint32) uint32 {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fallback
	}
	return flags & settableFlags
}
