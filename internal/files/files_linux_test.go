package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

func openFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestEveryKind reads a tree of every kind of file and compares with what
// plain system calls by path say.
func TestEveryKind(t *testing.T) {
	dir := t.TempDir()
	for _, note := range filestest.Generate(t, dir) {
		t.Log("not made: ", note)
	}
	before := openFDs(t)
	var rep report
	r := openRoot(t, dir, rep.options())
	all := walk(t, r)
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
	if len(rep.problems) > 0 {
		t.Errorf("problems: %v", rep.problems)
	}

	deep := 0
	seen := map[string]bool{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, unix.ENAMETOOLONG) {
			return fs.SkipDir // compared below
		}
		if err != nil {
			return err
		}
		if len(p) >= unix.PathMax {
			return nil
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		if d.Type() == fs.ModeSocket {
			if len(rep.skipped) != 1 || rep.skipped[0].Path != p || rep.skipped[0].Kind != Socket {
				t.Errorf("socket %q: skipped %v", p, rep.skipped)
			}
			return nil
		}
		seen[rel] = true
		f, ok := all[rel]
		if !ok {
			t.Errorf("%q is missing", rel)
			return nil
		}
		compare(t, p, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for rel, f := range all {
		if !seen[rel] {
			if len(dir)+1+len(rel) < unix.PathMax {
				t.Errorf("%q was found but is not there", rel)
			}
			if f.node.Name == "bottom" && string(f.content) == "at the bottom\n" && f.node.MTime.Nsec == 42 && f.node.Mode == 0o640 {
				deep++
			}
			if f.node.Name == "link" && f.node.Target == "bottom" {
				deep++
			}
		}
	}
	if deep != 2 {
		t.Errorf("%d of 2 entries found beyond PATH_MAX", deep)
	}

	// What the comparison by path could agree on by mistake.
	for rel, want := range map[string][]tree.Extent{
		"sparse/leading":  {{Offset: 2 << 20, Length: 1 << 20}},
		"sparse/trailing": {{Offset: 0, Length: 1 << 20}},
		"sparse/middle":   {{Offset: 0, Length: 1 << 20}, {Offset: 2 << 20, Length: 1 << 20}},
		"sparse/all-hole": {},
		"sparse/tiny":     nil,
	} {
		if got := all[rel].node.Extents; !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: extents %v, want %v", rel, got, want)
		}
	}
	if n := all["sparse/over-4g"].node; len(n.Extents) < 2 || n.Size != 4<<30+5<<20+1 {
		t.Errorf("over-4g: %+v", n)
	}
	one, three := all["hardlinks/a/one"].node, all["hardlinks/c/three"].node
	k1, ok1 := one.Link()
	k3, ok3 := three.Link()
	if !ok1 || !ok3 || k1 != k3 || one.Links != 3 || k1.Device == 0 {
		t.Errorf("hard links: %+v, %+v", one, three)
	}
	if n := all["plain/text"].node; n.Device != 0 || n.Links != 1 {
		t.Errorf("plain file: device %d, links %d", n.Device, n.Links)
	}
	if n := all["times/before-zero"].node; n.MTime != (tree.Time{Sec: -1, Nsec: 999_999_999}) {
		t.Errorf("time before zero: %+v", n.MTime)
	}
	if n, ok := all["special/wide"]; ok && n.node.Rdev != 0xabc<<32|0xfedcb {
		t.Errorf("device number %x", n.node.Rdev)
	}
}

// compare checks f against what is at path p.
func compare(t *testing.T, p string, f found) {
	t.Helper()
	n := f.node
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		t.Fatal(err)
	}
	kinds := map[uint32]tree.Type{unix.S_IFREG: tree.File, unix.S_IFDIR: tree.Dir, unix.S_IFLNK: tree.Symlink,
		unix.S_IFIFO: tree.FIFO, unix.S_IFCHR: tree.CharDevice, unix.S_IFBLK: tree.BlockDevice}
	mt, ct := time.Unix(st.Mtim.Unix()), time.Unix(st.Ctim.Unix())
	if n.Name != filepath.Base(p) || n.Type != kinds[st.Mode&unix.S_IFMT] || n.Mode != st.Mode&0o7777 ||
		n.UID != st.Uid || n.GID != st.Gid || !n.MTime.Time().Equal(mt) || !n.CTime.Time().Equal(ct) || n.Inode != st.Ino {
		t.Errorf("%q: node %+v, stat %+v", p, n, st)
	}
	if n.Type != tree.Dir && n.Links != uint32(st.Nlink) || n.Type == tree.Dir && n.Links != 1 {
		t.Errorf("%q: links %d", p, n.Links)
	}
	if n.Type == tree.File && n.Size != st.Size || n.Type != tree.File && n.Size != 0 {
		t.Errorf("%q: size %d", p, n.Size)
	}
	if n.Type == tree.Symlink {
		if target, err := os.Readlink(p); err != nil || target != n.Target {
			t.Errorf("%q: target %q, %v; want %q", p, n.Target, err, target)
		}
	}
	if n.Type == tree.CharDevice || n.Type == tree.BlockDevice {
		if want := uint64(unix.Major(st.Rdev))<<32 | uint64(unix.Minor(st.Rdev)); n.Rdev != want {
			t.Errorf("%q: device number %x, want %x", p, n.Rdev, want)
		}
	}
	if n.Type == tree.File && n.Size <= maxContent {
		want, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		got := f.content
		if n.Extents != nil {
			got = make([]byte, n.Size)
			rest := f.content
			for _, e := range n.Extents {
				copy(got[e.Offset:e.Offset+e.Length], rest)
				rest = rest[e.Length:]
			}
			if len(rest) != 0 {
				t.Errorf("%q: %d bytes beyond the extents", p, len(rest))
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%q: content differs", p)
		}
	}
	buf := make([]byte, 64<<10)
	size, err := unix.Llistxattr(p, buf)
	if err != nil && err != unix.ENOTSUP {
		t.Fatal(err)
	}
	listed := slices.DeleteFunc(strings.Split(string(buf[:max(size, 0)]), "\x00"), func(s string) bool { return s == "" })
	slices.Sort(listed)
	if len(listed) != len(n.Xattrs) {
		t.Errorf("%q: attributes %q, want %q", p, n.Xattrs, listed)
		return
	}
	for i, x := range n.Xattrs {
		size, err := unix.Lgetxattr(p, listed[i], buf)
		if err != nil || x.Name != listed[i] || x.Value != string(buf[:size]) {
			t.Errorf("%q: attribute %q = %q, want %q = %q (%v)", p, x.Name, x.Value, listed[i], buf[:size], err)
		}
	}
	if n.Type == tree.File || n.Type == tree.Dir {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		if err == nil && n.InodeFlags != flags&settableFlags {
			t.Errorf("%q: flags %x, want %x", p, n.InodeFlags, flags&settableFlags)
		}
	}
}

// A tree deeper than the number of descriptors kept open.
func TestManyLevels(t *testing.T) {
	const levels = 3*maxIdleDirs + 7
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		for _, name := range []string{"d", "z"} { // z is read on the way up
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)

	before := openFDs(t)
	most, dirs := 0, 0
	var down func(e backup.Entry)
	down = func(e backup.Entry) {
		defer e.Close()
		dirs++
		d, err := e.Dir(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		entries, err := listAll(d)
		if err != nil {
			t.Fatal(err)
		}
		if dirs%20 == 0 {
			most = max(most, openFDs(t))
		}
		for _, c := range entries {
			down(c)
		}
	}
	down(openRoot(t, dir, Options{}).Entry)
	if dirs != 2*levels+1 {
		t.Errorf("%d directories", dirs)
	}
	if most-before > maxIdleDirs+4 {
		t.Errorf("%d descriptors at once", most-before)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
}

func TestReplacedByAnotherKind(t *testing.T) {
	for name, replace := range map[string]func(p string) error{
		"symlink": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"FIFO":    func(p string) error { return unix.Mkfifo(p, 0o600) },
		"socket":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		"dir":     func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		dir := t.TempDir()
		p := filepath.Join(dir, "f")
		write(t, p, "x")
		e := child(t, openRoot(t, dir, Options{}), "f")
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if err := replace(p); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Open(); !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A directory replaced by a symlink to another.
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/x"), "x")
	e := child(t, openRoot(t, dir, Options{}), "d")
	if err := os.RemoveAll(filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Dir(context.Background()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Dir(context.Background()); !errors.Is(err, ErrReplaced) {
		t.Errorf("symlink: %v", err)
	}
}

func TestSourceKinds(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "real/x"), "x")
	for from, to := range map[string]string{"link": "real", "file-link": "real/x", "loop": "loop", "dangling": "none"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	r := openRoot(t, filepath.Join(dir, "link"), Options{})
	if n := r.Entry.Node(); n.Name != "link" || n.Type != tree.Dir || r.Path != filepath.Join(dir, "link") {
		t.Errorf("symlink to a directory: %q, %+v", r.Path, n)
	}
	if got := names(walk(t, r)); !slices.Equal(got, []string{"", "x"}) {
		t.Errorf("got %q", got)
	}
	r = openRoot(t, filepath.Join(dir, "link", "x"), Options{})
	if a := r.Ancestors[len(r.Ancestors)-1]; a.Name != "link" || a.Type != tree.Dir {
		t.Errorf("ancestor %+v", a)
	}
	r.Entry.Close()
	all := walk(t, openRoot(t, filepath.Join(dir, "file-link"), Options{}))
	if f := all[""]; f.node == nil || f.node.Name != "file-link" || string(f.content) != "x" {
		t.Errorf("symlink to a file: %+v", all)
	}
	for name, want := range map[string]error{"loop": unix.ELOOP, "dangling": fs.ErrNotExist} {
		if _, err := OpenRoot(filepath.Join(dir, name), Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRoot(fifo, Options{}); err == nil || !strings.Contains(err.Error(), "FIFO") {
		t.Errorf("FIFO: %v", err)
	}
	r = openRoot(t, "/", Options{})
	defer r.Entry.Close()
	if len(r.Ancestors) != 0 || r.Entry.Node().Name != "" || r.Path != "/" || r.pathOf("etc") != "/etc" {
		t.Errorf("/: %+v", r)
	}
	r2 := openRoot(t, "/etc", Options{})
	defer r2.Entry.Close()
	if len(r2.Ancestors) != 1 || r2.Ancestors[0].Name != "" {
		t.Errorf("/etc: ancestors %+v", r2.Ancestors)
	}
}

func TestOneFileSystem(t *testing.T) {
	root, err1 := statx(unix.AT_FDCWD, "/dev", 0)
	shm, err2 := statx(unix.AT_FDCWD, "/dev/shm", unix.AT_SYMLINK_NOFOLLOW)
	if err1 != nil || err2 != nil || root.dev == shm.dev || shm.kind() != tree.Dir {
		t.Skip("/dev/shm is not a file system of its own here")
	}
	var rep report
	o := rep.options()
	o.OneFileSystem = true
	e := child(t, openRoot(t, "/dev", o), "shm")
	d, err := e.Dir(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if entries, err := listAll(d); err != nil || len(entries) != 0 {
		t.Errorf("entries of another file system: %d, %v", len(entries), err)
	}
	if !slices.ContainsFunc(rep.skipped, func(s Skipped) bool { return s.Path == "/dev/shm" && s.Kind == OtherFileSystem }) {
		t.Errorf("skipped %v", rep.skipped)
	}
	if err := e.Complete(e.Node()); err != nil {
		t.Error(err)
	}
	if mp, err := MountPoint("/dev/shm"); mp != "/dev/shm" || err != nil {
		t.Errorf("mount point %q, %v", mp, err)
	}
	if mp, err := MountPoint("/"); mp != "/" || err != nil {
		t.Errorf("mount point %q, %v", mp, err)
	}
}

// A file system mounted after its directory was listed is kept out, too.
func TestOneFileSystemMountedLater(t *testing.T) {
	for _, one := range []bool{true, false} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "m"), 0o755); err != nil {
			t.Fatal(err)
		}
		var rep report
		o := rep.options()
		o.OneFileSystem = one
		e := child(t, openRoot(t, dir, o), "m")
		if err := unix.Mount("none", filepath.Join(dir, "m"), "tmpfs", 0, "size=64k"); err != nil {
			t.Skipf("mounting needs privileges: %v", err)
		}
		t.Cleanup(func() { // when child has closed what is open there
			if err := unix.Unmount(filepath.Join(dir, "m"), unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		write(t, filepath.Join(dir, "m/x"), "x")
		d, err := e.Dir(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		entries, err := listAll(d)
		if err != nil || (len(entries) == 0) != one || (len(rep.skipped) == 1) != one {
			t.Errorf("one file system %v: %d entries, %v; skipped %v", one, len(entries), err, rep.skipped)
		}
		for _, c := range entries {
			c.Close()
		}
		d.Close()
	}
}

// A bind mount of the destination is recognised.
func TestSkipBindMount(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "repo/p"), "p")
	write(t, filepath.Join(dir, "src/bind/hidden"), "h")
	if err := unix.Mount(filepath.Join(dir, "repo"), filepath.Join(dir, "src/bind"), "", unix.MS_BIND, ""); err != nil {
		t.Skipf("bind mounts need privileges: %v", err)
	}
	defer func() {
		if err := unix.Unmount(filepath.Join(dir, "src/bind"), 0); err != nil {
			t.Error(err)
		}
	}()
	got := names(walk(t, openRoot(t, filepath.Join(dir, "src"), Options{SkipPaths: []string{filepath.Join(dir, "repo")}})))
	if !slices.Equal(got, []string{""}) {
		t.Errorf("got %q", got)
	}
}

func TestAccessTimeIsKept(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	old := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, p := range []string{"f", "."} {
		if err := os.Chtimes(filepath.Join(dir, p), old, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	walk(t, openRoot(t, dir, Options{}))
	for _, p := range []string{"f", "."} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, p), &st); err != nil {
			t.Fatal(err)
		}
		if !time.Unix(st.Atim.Unix()).Equal(old) {
			t.Errorf("%s: access time %v", p, time.Unix(st.Atim.Unix()))
		}
	}
}

// A file under a lease can be opened once the lease is given up.
func TestLease(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, "leased")
	fd, err := unix.Open(p, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	e := child(t, openRoot(t, dir, Options{}), "f")
	time.AfterFunc(50*time.Millisecond, func() { unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) })
	f, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); string(data) != "leased" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// A change right after the open has another change time than the open saw.
func TestChangeWithinATick(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, "0")
	e := child(t, openRoot(t, dir, Options{}), "f")
	for i := range 20 {
		write(t, p, fmt.Sprint(i%10))
		f, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		write(t, p, fmt.Sprint((i+1)%10))
		if changed, err := f.Changed(); !changed || err != nil {
			t.Errorf("round %d: changed %v, %v", i, changed, err)
		}
		f.Close()
	}
}

// What a user may not read is a problem or an error, never silence.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() == 0 {
		// As another user, in a process of its own.
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join("/tmp", fmt.Sprintf("files-test-%d", os.Getpid()))
		data, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, data, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(copied)
		cmd := exec.Command(copied, "-test.run", "^(TestUnprivileged|TestEveryKind|TestAccessTimeIsKept|TestExcluded|TestManyLevels)$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "HOME=/", "TMPDIR=/tmp")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("as another user: %v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "x")
	write(t, filepath.Join(dir, "closed/x"), "x")
	for _, p := range []string{"secret", "closed"} {
		if err := os.Chmod(filepath.Join(dir, p), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	e := child(t, openRoot(t, dir, Options{}), "secret")
	if _, err := e.Open(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("secret: %v", err)
	}
	c := child(t, openRoot(t, dir, Options{}), "closed")
	if _, err := c.Dir(context.Background()); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("closed: %v", err)
	}
	if err := c.Complete(c.Node()); err != nil {
		t.Errorf("complete: %v", err)
	}
}

// Several goroutines on one tree; meant for the race detector.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d/%d/f", i%20, i)), "x")
	}
	r := openRoot(t, dir, Options{})
	var wg sync.WaitGroup
	var down func(e backup.Entry)
	down = func(e backup.Entry) {
		defer wg.Done()
		defer e.Close()
		if e.Node().Type == tree.File {
			if f, err := e.Open(); err != nil {
				t.Error(err)
			} else {
				f.Close()
			}
			return
		}
		if err := e.Complete(e.Node()); err != nil {
			t.Error(err)
		}
		d, err := e.Dir(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		entries, err := listAll(d)
		if err != nil {
			t.Error(err)
		}
		for _, c := range entries {
			wg.Add(1)
			go down(c)
		}
	}
	before := openFDs(t) - 1
	wg.Add(1)
	down(r.Entry)
	wg.Wait()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
}

// A directory that is another one when it has to be opened again, between two
// batches, is an error, and the end.
func TestBatchesReopened(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		top := t.TempDir()
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			write(t, filepath.Join(top, "d", name), "")
		}
		e := child(t, openRoot(t, top, Options{}), "d")
		opened, err := e.Dir(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		entries, err := opened.Next(context.Background())
		if err != nil || len(entries) != 3 {
			t.Fatal(len(entries), err)
		}
		h := opened.(*dir).h
		h.pool.mu.Lock() // as if many others had been opened
		h.unlinkIdle()
		unix.Close(h.fd)
		h.fd = -1
		h.pool.mu.Unlock()
		if replaced {
			if err := os.Rename(filepath.Join(top, "d"), filepath.Join(top, "other")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(top, "d", "d"), "")
		}
		more, err := opened.Next(context.Background())
		if replaced {
			if !errors.Is(err, ErrReplaced) || len(more) != 0 {
				t.Errorf("%d entries, %v", len(more), err)
			}
		} else if err != nil || len(more) != 2 {
			t.Errorf("%d entries, %v", len(more), err)
		}
		if end, err := opened.Next(context.Background()); len(end) != 0 || err != nil {
			t.Errorf("behind the end: %d entries, %v", len(end), err)
		}
		for _, e := range append(entries, more...) {
			e.Close()
		}
		opened.Close()
	}
}

func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	const n = 20_000
	for i := range n {
		write(b, filepath.Join(dir, fmt.Sprintf("%02d/%03d/file-%05d", i%20, i%400, i)), "x")
	}
	var down func(e backup.Entry) int
	down = func(e backup.Entry) int {
		defer e.Close()
		if e.Node().Type != tree.Dir {
			return 1
		}
		d, err := e.Dir(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		entries, err := listAll(d)
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
		total := 0
		for _, c := range entries {
			total += down(c)
		}
		return total
	}
	b.Run("files", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := openRoot(b, dir, Options{})
			r.batchEntries = batchEntries
			if got := down(r.Entry); got != n {
				b.Fatalf("%d files", got)
			}
		}
	})
	b.Run("find", func(b *testing.B) { // that asks about every file, too
		for b.Loop() {
			cmd := exec.Command("find", dir, "-printf", "%s %T@ %i %p\n")
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
