package filestest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setTime sets the modification time of path itself, over all that the file
// system knows.
func setTime(path string, at time.Time) error {
	mtime, err := unix.TimeToTimespec(at)
	if err == nil {
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set the time of %q: %w", path, err)
	}
	return nil
}

func (g *generator) platform() {
	g.sparse()
	g.deep()
	g.strangeLinks()
	g.hardlinks()
	g.special()
	g.modes()
	g.owners()
	g.xattrs()
	g.flags()
}

func (g *generator) sparse() {
	g.mkdir("sparse")
	type piece struct {
		off int64
		n   int
	}
	const MiB, GiB = 1 << 20, 1 << 30
	for name, f := range map[string]struct {
		size   int64
		pieces []piece
	}{
		"leading":  {3 * MiB, []piece{{2 * MiB, MiB}}},
		"trailing": {3 * MiB, []piece{{0, MiB}}},
		"middle":   {3 * MiB, []piece{{0, MiB}, {2 * MiB, MiB}}},
		"all-hole": {GiB, nil},
		"tiny":     {1, nil},
		"small":    {64 << 10, []piece{{0, 4096}}},
		"islands":  {16 * MiB, []piece{{MiB, 4096}, {MiB + 16384, 4096}, {5 * MiB, 1}, {9*MiB + 123, 70_000}}},
		"over-4g":  {4*GiB + 5*MiB + 1, []piece{{0, 5000}, {4*GiB - 1, 5000}, {4*GiB + 5*MiB, 1}}},
	} {
		f2, err := os.OpenFile(g.path("sparse/"+name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		g.made(err)
		g.made(f2.Truncate(f.size))
		for i, p := range f.pieces {
			_, err := f2.WriteAt(Bytes(fmt.Sprint(name, i), p.n), p.off)
			g.made(err)
		}
		g.made(f2.Close())
	}
}

// deep makes directories whose path is longer than PATH_MAX (4096 bytes).
func (g *generator) deep() {
	g.mkdir("dirs/deep")
	fd, err := unix.Open(g.path("dirs/deep"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	g.made(err)
	fds := []int{fd}
	for i := range 22 {
		name := fmt.Sprintf("%02d-%s", i, strings.Repeat("d", 197))
		g.made(unix.Mkdirat(fd, name, 0o755))
		fd, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		g.made(err)
		fds = append(fds, fd)
	}
	f, err := unix.Openat(fd, "bottom", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o640)
	g.made(err)
	_, err = unix.Write(f, []byte("at the bottom\n"))
	g.made(err)
	unix.Close(f)
	g.made(unix.Symlinkat("bottom", fd, "link"))
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(epoch.UnixNano() + 42)}
	for _, name := range []string{"bottom", "link", "."} {
		g.made(unix.UtimesNanoAt(fd, name, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	for i := len(fds) - 1; i >= 0; i-- {
		g.made(unix.UtimesNanoAt(fds[i], ".", ts, 0))
		unix.Close(fds[i])
	}
}

func (g *generator) strangeLinks() {
	g.made(os.Symlink("\xff\xfe not UTF-8\n", g.path("links/bytes")))
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("l", 99)+"/", 40), "/")
	g.made(os.Symlink(long, g.path("links/long"))) // 3999 bytes
}

func (g *generator) hardlinks() {
	g.write("hardlinks/a/one", Bytes("hardlink", 50_000))
	g.mkdir("hardlinks/b")
	g.mkdir("hardlinks/c")
	g.made(os.Link(g.path("hardlinks/a/one"), g.path("hardlinks/b/two")))
	g.made(os.Link(g.path("hardlinks/a/one"), g.path("hardlinks/c/three")))
	g.write("hardlinks/empty-1", nil)
	g.made(os.Link(g.path("hardlinks/empty-1"), g.path("hardlinks/empty-2")))
	g.made(os.Symlink("a/one", g.path("hardlinks/symlink-1")))
	g.could("hard link to a symlink", os.Link(g.path("hardlinks/symlink-1"), g.path("hardlinks/symlink-2")))
	g.made(unix.Mkfifo(g.path("hardlinks/fifo-1"), 0o600))
	g.could("hard link to a FIFO", os.Link(g.path("hardlinks/fifo-1"), g.path("hardlinks/fifo-2")))
}

func (g *generator) special() {
	g.mkdir("special")
	g.made(unix.Mkfifo(g.path("special/fifo"), 0o640))
	g.could("socket", unix.Mknod(g.path("special/socket"), unix.S_IFSOCK|0o600, 0))
	for name, d := range map[string]struct {
		kind         uint32
		major, minor uint32
	}{
		"null":  {unix.S_IFCHR, 1, 3},
		"loop0": {unix.S_IFBLK, 7, 0},
		"wide":  {unix.S_IFCHR, 0xabc, 0xfedcb},
	} {
		g.could("device "+name, unix.Mknod(g.path("special/"+name), d.kind|0o620, int(unix.Mkdev(d.major, d.minor))))
	}
}

func (g *generator) modes() {
	modes := []uint32{0o400, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o7777, 0o6711}
	if os.Geteuid() == 0 {
		modes = append(modes, 0)
	} else {
		g.notes = append(g.notes, "mode 0000: only root could read such a file")
	}
	for _, m := range modes {
		g.write(fmt.Sprintf("modes/file-%04o", m), fmt.Appendf(nil, "%o", m))
		g.made(unix.Chmod(g.path(fmt.Sprintf("modes/file-%04o", m)), m))
	}
	for _, m := range []uint32{0o500, 0o700, 0o1777, 0o2775, 0o3777} {
		g.mkdir(fmt.Sprintf("modes/dir-%04o", m))
		g.made(unix.Chmod(g.path(fmt.Sprintf("modes/dir-%04o", m)), m))
	}
}

func (g *generator) owners() {
	g.write("owners/file", []byte("1234:5678"))
	g.mkdir("owners/dir")
	g.made(os.Symlink("file", g.path("owners/link")))
	g.write("owners/largest", []byte("4294967294"))
	for name, id := range map[string][2]uint32{"file": {1234, 5678}, "dir": {1234, 5678}, "link": {1234, 5678}, "largest": {1<<32 - 2, 1<<32 - 2}} {
		g.could("owner of "+name, os.Lchown(g.path("owners/"+name), int(id[0]), int(id[1])))
	}
}

// acl encodes a POSIX ACL as the kernel does: version 2, then tag, permissions
// and identifier of each entry.
func acl(entries ...[3]uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

func (g *generator) xattrs() {
	const none = 1<<32 - 1
	someACL := acl([3]uint32{0x01, 6, none}, [3]uint32{0x02, 5, 1234}, [3]uint32{0x04, 4, none},
		[3]uint32{0x08, 7, 5678}, [3]uint32{0x10, 7, none}, [3]uint32{0x20, 0, none})
	// cap_net_bind_service, permitted and effective: VFS_CAP_REVISION_2.
	netBind := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, x := range []struct{ file, name, value string }{
		{"file", "user.plain", "value"},
		{"file", "user.empty", ""},
		{"file", "user.binary", "\x00\xff\n\x00"},
		{"file", "user.n\xffme", "a name that is not UTF-8"},
		{"large", "user.large", string(Bytes("xattr", 2500))},
		{"dir/", "user.on-dir", "dir"},
		{"file", "trusted.root", "root only"},
		{"dir/", "trusted.on-dir", "root only"},
		{"link", "trusted.on-link", "root only"},
		{"fifo", "trusted.on-fifo", "root only"},
		{"program", "security.capability", netBind},
		{"acl", "system.posix_acl_access", someACL},
		{"dir-acl/", "system.posix_acl_access", someACL},
		{"dir-acl/", "system.posix_acl_default", someACL},
	} {
		rel := "xattrs/" + strings.TrimSuffix(x.file, "/")
		if _, err := os.Lstat(g.path(rel)); errors.Is(err, os.ErrNotExist) {
			switch {
			case strings.HasSuffix(x.file, "/"):
				g.mkdir(rel)
			case x.file == "link":
				g.made(os.Symlink("file", g.path(rel)))
			case x.file == "fifo":
				g.made(unix.Mkfifo(g.path(rel), 0o600))
			default:
				g.write(rel, Bytes(x.file, 1000))
			}
			if x.file == "program" {
				g.made(os.Chmod(g.path(rel), 0o755))
			}
		}
		g.could(fmt.Sprintf("attribute %q of %s", x.name, rel), unix.Lsetxattr(g.path(rel), x.name, []byte(x.value), 0))
	}
}

// flagged are the files of flags and their inode flags (linux/fs.h).
var flagged = []struct {
	name string
	flag uint32
}{
	{"nodump", 0x40}, {"noatime", 0x80}, {"sync", 0x8}, {"append", 0x20}, {"immutable", 0x10},
	{"dir-nodump/", 0x40}, {"dir-immutable/", 0x10}, {"dir-append/", 0x20},
}

func (g *generator) flags() {
	for _, f := range flagged {
		if name, isDir := strings.CutSuffix(f.name, "/"); isDir {
			g.write("flags/"+name+"/inside", []byte(name))
		} else {
			g.write("flags/"+name, []byte(name))
		}
	}
}

// finish sets the flags, which forbid everything else.
func (g *generator) finish() {
	for _, f := range flagged {
		p := g.path("flags/" + strings.TrimSuffix(f.name, "/"))
		if g.could("flag "+f.name, setFlags(p, func(old uint32) uint32 { return old | f.flag })) {
			g.t.Cleanup(func() {
				// The tree may be gone, or moved, by now.
				err := setFlags(p, func(old uint32) uint32 { return old &^ 0x30 })
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					g.t.Errorf("clear flags: %v", err)
				}
			})
		}
	}
}

// ClearFlags removes the immutable and append-only flags below the directory
// flags of a tree that Generate made, or a copy of it, so that it can be
// removed. Nothing is done about what is not there.
func ClearFlags(dir string) error {
	var errs []error
	for _, f := range flagged {
		err := setFlags(dir+"/flags/"+strings.TrimSuffix(f.name, "/"), func(old uint32) uint32 { return old &^ 0x30 })
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.ENOTSUP) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func setFlags(path string, change func(old uint32) uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read flags of %s: %w", path, err)
	}
	if change(old) == old {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(change(old))); err != nil {
		return fmt.Errorf("set flags of %s: %w", path, err)
	}
	return nil
}
