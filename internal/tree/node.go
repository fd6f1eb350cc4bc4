// Package tree says what a backup is: nodes, directory records and snapshots,
// their canonical encoding, and how to walk, find and compare them.
//
// It knows nothing of file systems (package files reads them, package restore
// writes them) nor of packs. A node refers to content by the SHA-256 of its
// plaintext, so trees are the same in every repository whatever its keys.
//
// node.go: Node and its parts. encode.go: the canonical encoding of directory
// records. snapshot.go: Snapshot. walk.go, diff.go: reading trees.
package tree

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// Hash is the SHA-256 of a chunk's plaintext. Repositories address chunks by a
// keyed function of it.
type Hash = repo.Hash

// Type is the kind of a node.
type Type uint8

// The kinds of nodes. The numbers are part of the format. Sockets have no
// number: they cannot be restored and are never recorded.
const (
	File        Type = 1
	Dir         Type = 2
	Symlink     Type = 3
	FIFO        Type = 4
	CharDevice  Type = 5
	BlockDevice Type = 6
)

func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Dir:
		return "dir"
	case Symlink:
		return "symlink"
	case FIFO:
		return "fifo"
	case CharDevice:
		return "chardev"
	case BlockDevice:
		return "blockdev"
	}
	return "unknown"
}

// Time is a point in time as file systems keep it: any second from the year
// -292 billion on, with nanoseconds. (time.Time's UnixNano ends in 2262.)
type Time struct {
	Sec  int64
	Nsec uint32 // 0 to 999,999,999
}

// Time returns t as a time.Time in UTC.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// Permission bits of Node.Mode, as in POSIX.
const (
	ModeSetuid uint32 = 0o4000
	ModeSetgid uint32 = 0o2000
	ModeSticky uint32 = 0o1000
	ModeMask   uint32 = 0o7777
)

// Inode flags of Node.InodeFlags: the values of Linux' FS_IOC_GETFLAGS
// (linux/fs.h). Only flags that a user can set are recorded.
const (
	FlagSecureDelete uint32 = 0x1
	FlagUndelete     uint32 = 0x2
	FlagCompress     uint32 = 0x4
	FlagSync         uint32 = 0x8
	FlagImmutable    uint32 = 0x10
	FlagAppend       uint32 = 0x20
	FlagNoDump       uint32 = 0x40
	FlagNoAtime      uint32 = 0x80
	FlagJournalData  uint32 = 0x4000
	FlagNoTail       uint32 = 0x8000
	FlagDirSync      uint32 = 0x10000
	FlagTopDir       uint32 = 0x20000
	FlagNoCOW        uint32 = 0x800000
	FlagProjInherit  uint32 = 0x20000000
)

// Xattr is one extended attribute. POSIX ACLs and file capabilities are the
// attributes system.posix_acl_access, system.posix_acl_default and
// security.capability, kept as the kernel's bytes.
type Xattr struct {
	Name  string
	Value string
}

// Extent is a stretch of a sparse file that holds data.
type Extent struct {
	Offset int64
	Length int64
}

// Chunk refers to a piece of content.
type Chunk struct {
	Hash Hash
	Size uint32 // bytes, at least 1
}

// Node is one entry of a directory: its name, its metadata, and references to
// its content.
type Node struct {
	Name string // bytes, not text: any but NUL and '/'; "" only for the root
	Type Type
	Mode uint32 // permission, setuid, setgid and sticky bits: ModeMask

	UID, GID uint32
	MTime    Time
	CTime    Time   // for change detection; never restored
	Inode    uint64 // for change detection and hard links
	Device   uint64 // of the file system; only where Links > 1 and Type is not Dir
	Links    uint32 // number of hard links; 1 for directories

	Size       int64   // logical bytes of a file; 0 for all else
	Target     string  // of a symlink; bytes
	Rdev       uint64  // of a device: major<<32 | minor
	InodeFlags uint32  // Linux chattr flags: Flag…
	Xattrs     []Xattr // sorted by name

	// Extents are the stretches of a sparse file that hold data, ascending and
	// not touching; all else reads as zeros. nil: the file is not sparse.
	// Content then holds the extents' bytes, one after the other. A file of
	// nothing but a hole has an empty, non-nil slice.
	Extents []Extent

	// Content is what a file holds, or the pages of a directory's record.
	Content []Chunk
	// Indirect says that the chunks of Content hold not the file's bytes but
	// the encoded list of its chunks (see AppendChunks).
	Indirect bool
	// SHA256 is the hash of the whole content where it is known and is not that
	// of the only chunk: see Node.ContentHash.
	SHA256 *Hash

	// Unstable says that the file changed in every attempt to read it.
	Unstable bool
}

// ContentHash returns the SHA-256 of a file's content, if it is known. It is
// known for free for files of at most one chunk that are not sparse.
func (n *Node) ContentHash() (Hash, bool) {
	switch {
	case n.Type != File:
		return Hash{}, false
	case n.SHA256 != nil:
		return *n.SHA256, true
	case n.Extents != nil || n.Indirect || len(n.Content) > 1:
		return Hash{}, false
	case len(n.Content) == 1:
		return n.Content[0].Hash, true
	}
	return sha256.Sum256(nil), true
}

// Equal says whether two nodes have the same record.
func (n *Node) Equal(o *Node) bool {
	return n.Name == o.Name && n.Type == o.Type && n.Mode == o.Mode && n.UID == o.UID && n.GID == o.GID &&
		n.MTime == o.MTime && n.CTime == o.CTime && n.Inode == o.Inode && n.Device == o.Device && n.Links == o.Links &&
		n.Size == o.Size && n.Target == o.Target && n.Rdev == o.Rdev && n.InodeFlags == o.InodeFlags &&
		slices.Equal(n.Xattrs, o.Xattrs) &&
		(n.Extents == nil) == (o.Extents == nil) && slices.Equal(n.Extents, o.Extents) &&
		n.Indirect == o.Indirect && slices.Equal(n.Content, o.Content) &&
		(n.SHA256 == o.SHA256 || n.SHA256 != nil && o.SHA256 != nil && *n.SHA256 == *o.SHA256) &&
		n.Unstable == o.Unstable
}

// LinkKey identifies the hard-link group of a node within one snapshot.
type LinkKey struct{ Device, Inode uint64 }

// Link returns the hard-link group of n; ok is false where n has one name only.
func (n *Node) Link() (key LinkKey, ok bool) {
	return LinkKey{n.Device, n.Inode}, n.Links > 1 && n.Type != Dir
}
