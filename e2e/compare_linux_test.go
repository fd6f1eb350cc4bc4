package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// same compares two directories by rsync, which compares content, owners, modes,
// times to the nanosecond, hard links, ACLs and extended attributes, and finds
// what is missing or too much.
func same(t *testing.T, want, got string, more ...string) {
	t.Helper()
	args := []string{"-aHAXnc", "--delete", "--modify-window=-1", "--itemize-changes"}
	if os.Geteuid() != 0 {
		args = append(args, "--no-owner", "--no-group")
	}
	args = append(args, more...)
	if out := tool(t, "", "rsync", append(args, want+"/", got+"/")...); out != "" {
		t.Errorf("rsync: %s differs from %s:\n%s", got, want, head(out, 20))
	}
}

func head(s string, lines int) string {
	parts := strings.SplitAfterN(s, "\n", lines+1)
	if len(parts) > lines {
		parts[lines] = fmt.Sprintf("… and %d more lines\n", strings.Count(parts[lines], "\n"))
	}
	return strings.Join(parts, "")
}

// sameText compares what a program says about two directories.
func sameText(t *testing.T, want, got, name string, args ...string) {
	t.Helper()
	a, b := tool(t, want, name, args...), tool(t, got, name, args...)
	if a != b {
		t.Errorf("%s %q says different things of\n%s:\n%s%s:\n%s", name, args, want, head(a, 30), got, head(b, 30))
	}
	if a == "" {
		t.Errorf("%s %q says nothing", name, args)
	}
}

// A facts is what system calls say about each entry of a tree, by path. Sockets
// are left out.
type facts map[string]string

// A factWalk gathers facts by handles, so that no path is too long.
type factWalk struct {
	all     facts
	names   map[[2]uint64]string // inode → first name
	disk    map[string]int64     // bytes of disk that files take
	content bool
}

// factsOf walks dir. Without content, files' bytes are not read.
func factsOf(t *testing.T, dir string, content bool) *factWalk {
	t.Helper()
	w := &factWalk{all: facts{}, names: map[[2]uint64]string{}, disk: map[string]int64{}, content: content}
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	if err := w.dir(f, ""); err != nil {
		t.Fatalf("gather facts of %s: %v", dir, err)
	}
	if len(w.all) == 0 {
		t.Fatalf("%s is empty", dir)
	}
	return w
}

func (w *factWalk) dir(d *os.File, at string) error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.entry(d, name, at+name); err != nil {
			return fmt.Errorf("%q: %w", at+name, err)
		}
	}
	return nil
}

func (w *factWalk) entry(d *os.File, name, path string) error {
	fd := int(d.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	fact := fmt.Sprintf("mode %o owner %d:%d time %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	if kind != unix.S_IFDIR {
		first, met := w.names[[2]uint64{st.Dev, st.Ino}]
		if !met {
			first = path
			w.names[[2]uint64{st.Dev, st.Ino}] = path
		}
		fact += fmt.Sprintf(" links %d first %q size %d rdev %x", st.Nlink, first, st.Size, st.Rdev)
	}
	attrs, err := xattrs(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
	if err != nil {
		return err
	}
	fact += attrs
	switch kind {
	case unix.S_IFLNK:
		buf := make([]byte, st.Size+1)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return err
		}
		fact += fmt.Sprintf(" target %q", buf[:n])
	case unix.S_IFREG, unix.S_IFDIR:
		more, err := w.opened(fd, name, path, kind == unix.S_IFDIR)
		if err != nil {
			return err
		}
		fact += more
		if kind == unix.S_IFREG {
			w.disk[path] = st.Blocks * 512
		}
	}
	w.all[path] = fact
	return nil
}

// opened adds inode flags and content, and enters directories.
func (w *factWalk) opened(fd int, name, path string, isDir bool) (string, error) {
	n, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(n), path)
	defer f.Close()
	var fact string
	if flags, err := unix.IoctlGetUint32(n, unix.FS_IOC_GETFLAGS); err == nil {
		const settable = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 // S i a d A
		fact = fmt.Sprintf(" flags %x", flags&settable)
	} else if !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.ENOTSUP) {
		return "", err
	}
	if isDir {
		return fact, w.dir(f, path+"/")
	}
	if !w.content {
		return fact, nil
	}
	sum, err := contentHash(f)
	return fact + " content " + sum, err
}

// contentHash hashes what a file holds; pages of zeros count the same whether they
// are holes or not.
func contentHash(f *os.File) (string, error) {
	const page = 4096
	h := sha256.New()
	buf := make([]byte, 256*page)
	zeros := make([]byte, page)
	for off := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		} else if err != nil {
			return "", err
		}
		data -= data % page
		n, err := f.ReadAt(buf, data)
		for at := 0; at < n; at += page {
			piece := buf[at:min(at+page, n)]
			if string(piece) != string(zeros[:len(piece)]) {
				fmt.Fprintf(h, "%d:", data+int64(at))
				h.Write(piece)
			}
		}
		if err != nil && err != io.EOF {
			return "", err
		}
		off = data + int64(n)
	}
}

func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return "", nil
		}
		return "", fmt.Errorf("list attributes: %w", err)
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("read attribute %q: %w", name, err)
		}
		all = append(all, fmt.Sprintf(" %q=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, ""), nil
}

// sameFacts compares a tree with what was gathered of another. Holes need not be
// the same to the byte, but a file must not take much more room.
func sameFacts(t *testing.T, want *factWalk, got string) {
	t.Helper()
	g := factsOf(t, got, want.content)
	n := 0
	differ := func(format string, args ...any) {
		t.Helper()
		if n++; n <= 20 {
			t.Errorf(format, args...)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want.all)) {
		switch b, there := g.all[path]; {
		case !there:
			differ("%q is missing", path)
		case want.all[path] != b:
			differ("%q\nwant %s\ngot  %s", path, want.all[path], b)
		}
	}
	for path := range g.all {
		if _, there := want.all[path]; !there {
			differ("%q is too much", path)
		}
	}
	const slack = 256 << 10
	for path, n := range want.disk {
		if g.disk[path] > n+slack {
			differ("%q takes %d bytes of disk, want about %d", path, g.disk[path], n)
		}
	}
	if n > 20 {
		t.Errorf("%d differences in all", n)
	}
}
