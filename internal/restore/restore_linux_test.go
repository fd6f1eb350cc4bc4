package restore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func run(t testing.TB, r Repository, n *tree.Node, path, target string, o Options) Result {
	t.Helper()
	res, err := Run(t.Context(), r, &tree.Snapshot{}, n, path, target, o)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return res
}

func clean(t testing.TB, res Result) {
	t.Helper()
	for what, list := range map[string][]Problem{"lost": res.Lost, "failed": res.Failed, "warning": res.Warnings} {
		for i, p := range list {
			if i < 10 {
				t.Errorf("%s: %s: %v", what, p.Path, p.Err)
			}
		}
	}
}

// everything is a directory with files of every kind, captured.
func everything(t testing.TB) (m *memory, n *tree.Node, want []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	filestest.Generate(t, dir)
	m = newMemory()
	n = (&capture{t, m}).source(dir)
	return m, n, listing(t, dir), dir
}

func TestEverything(t *testing.T) {
	m, n, want, _ := everything(t)
	target := t.TempDir() + "/new/target"
	t.Cleanup(func() { filestest.ClearFlags(target) })
	if os.Geteuid() != 0 {
		t.Log("as non-root: no owners, devices, trusted attributes in the tree")
	}
	var p Progress
	res := run(t, m, n, "/src", target, Options{Progress: &p})
	clean(t, res)
	same(t, want, listing(t, target))
	if p.FilesDone.Load() != p.FilesTotal.Load() || p.BytesDone.Load() != p.BytesTotal.Load() {
		t.Errorf("progress: %d of %d files, %d of %d bytes", p.FilesDone.Load(), p.FilesTotal.Load(), p.BytesDone.Load(), p.BytesTotal.Load())
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, n, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 0 || v.Files == 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}

	// Again: nothing is to be done, and nothing is done.
	for _, o := range []Options{{}, {Overwrite: IfChanged}, {Delete: true}} {
		var events []Event
		o.Report = func(e Event) { events = append(events, e) }
		res = run(t, m, n, "/src", target, o)
		clean(t, res)
		for _, e := range events {
			if e.Kind != Unchanged {
				t.Errorf("again: %s %s: %v", e.Path, e.Kind, e.Err)
			}
		}
		if res.BytesWritten != 0 {
			t.Errorf("again: %d bytes written", res.BytesWritten)
		}
	}
	same(t, want, listing(t, target))
}

// small is a directory with one of each kind, that restores in few operations.
func small(t testing.TB, m *memory) (n *tree.Node, dir string) {
	t.Helper()
	dir = t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		ok(t, os.WriteFile(at(name), data, 0o600))
		ok(t, os.Chmod(at(name), mode))
	}
	for _, d := range []string{"d1", "d1/d2", "empty", "locked", "was-file"} {
		ok(t, os.Mkdir(at(d), 0o755))
	}
	write("a", noise(1, 100), 0o644)
	write("changed", noise(2, 3*m.chunkSize+5), 0o640)
	write("d1/d2/big", noise(3, 11*m.chunkSize+1), 0o600)
	write("d1/link1", noise(4, 2000), 0o600)
	ok(t, os.Link(at("d1/link1"), at("d1/link2")))
	ok(t, os.Link(at("d1/link1"), at("zlink3")))
	write("none", nil, 0o400)
	ok(t, os.Symlink("../nowhere", at("d1/symlink")))
	ok(t, unix.Mkfifo(at("d1/fifo"), 0o620))
	write("locked/inside", noise(5, 70_000), 0o444)
	write("was-dir", []byte("file now"), 0o600)
	write("was-file/x", []byte("in a directory now"), 0o600)
	f, err := os.Create(at("sparse"))
	ok(t, err)
	ok(t, f.Truncate(1<<20))
	_, err = f.WriteAt(noise(6, 8192), 512<<10)
	ok(t, err)
	f.Close()
	hole, err := os.Create(at("hole"))
	ok(t, err)
	ok(t, hole.Truncate(300_000))
	hole.Close()
	write("xattr", []byte("x"), 0o600)
	ok(t, unix.Setxattr(at("xattr"), "user.a", []byte("b"), 0))
	old := unix.NsecToTimeval(-5e9)
	ok(t, unix.Lutimes(at("d1/symlink"), []unix.Timeval{old, old}))
	if os.Geteuid() == 0 {
		ok(t, unix.Mknod(at("null"), unix.S_IFCHR|0o640, int(unix.Mkdev(1, 3))))
		ok(t, os.Chown(at("a"), 1234, 4321))
		ok(t, os.Chmod(at("a"), 0o6755))
		for name, flag := range map[string]uint32{"locked/inside": tree.FlagImmutable, "d1/d2": tree.FlagAppend, "zlink3": tree.FlagImmutable} {
			chattr(t, at(name), flag)
		}
	}
	ok(t, os.Chmod(at("locked"), 0o500))
	t.Cleanup(func() { release(dir) })
	n = (&capture{t, m}).source(dir)
	return n, dir
}

func chattr(t testing.TB, path string, flags uint32) {
	t.Helper()
	f, err := os.Open(path)
	ok(t, err)
	defer f.Close()
	o := object{s: &sys{}, fd: int(f.Fd())}
	have, err := o.flags()
	ok(t, err)
	ok(t, o.setFlags(have|flags))
}

// release makes everything below dir removable.
func release(dir string) {
	filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if e != nil && (e.IsDir() || e.Type().IsRegular()) {
			if e.IsDir() && os.Geteuid() != 0 {
				os.Chmod(path, 0o700)
			}
			if f, err := os.Open(path); err == nil {
				o := object{s: &sys{}, fd: int(f.Fd())}
				if flags, err := o.flags(); err == nil && flags&frozenFlags != 0 {
					o.setFlags(flags &^ frozenFlags)
				}
				f.Close()
			}
		}
		return nil
	})
}

// prepare puts into target what a restore with Delete has to change.
func prepare(t testing.TB, m *memory, target string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(target, name) }
	ok(t, os.MkdirAll(at("was-dir/full"), 0o755))
	ok(t, os.MkdirAll(at("d1/extra/deep"), 0o755))
	ok(t, os.WriteFile(at("d1/extra/deep/file"), []byte("extra"), 0o600))
	ok(t, os.WriteFile(at("was-file"), []byte("file"), 0o600))
	data := noise(2, 3*m.chunkSize+5)
	data[m.chunkSize+7] ^= 1
	ok(t, os.WriteFile(at("changed"), data, 0o666))
	ok(t, os.WriteFile(at(TempPrefix+"0123456789abcdef"), []byte("of a killed restore"), 0o600))
}

// contents maps the regular files below dir, but for unfinished ones, to their
// content.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	ok(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !isTemp(e.Name()) {
			var data []byte
			data, err = os.ReadFile(path)
			rel, _ := filepath.Rel(dir, path)
			out[rel] = string(data)
		}
		return err
	}))
	return out
}

// TestCut ends a restore before each of its operations, as a kill does. No file
// is ever partial, and the next restore completes.
func TestCut(t *testing.T) {
	m := newMemory()
	n, dir := small(t, m)
	want, full := listing(t, dir), contents(t, dir)
	base := t.TempDir()
	for k := 0; ; k++ {
		target := filepath.Join(base, fmt.Sprint(k))
		ok(t, os.Mkdir(target, 0o700))
		prepare(t, m, target)
		before := contents(t, target)
		ops, last := 0, ""
		_, err := Run(t.Context(), m, &tree.Snapshot{}, n, "/src", target, Options{Delete: true, Workers: 1, bounds: bounds{openFiles: 1, chunks: 5},
			cut: func(op string) error {
				if ops++; ops > k {
					if last == "" {
						last = op
					}
					return errCut
				}
				return nil
			}})
		if err == nil {
			if ops > k || k < 80 {
				t.Fatalf("after %d operations: no error, %d operations", k, ops)
			}
			same(t, want, listing(t, target))
			release(target)
			t.Logf("%d operations", k)
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("after %d operations: %v", k, err)
		}
		if os.Geteuid() != 0 {
			release(target) // to look
		}
		for name, data := range contents(t, target) {
			old, was := before[name]
			now, is := full[name]
			if !(is && data == now || was && data == old) {
				t.Fatalf("cut before operation %d (%s): %s is partial: %d bytes", k, last, name, len(data))
			}
		}
		res := run(t, m, n, "/src", target, Options{Delete: true})
		clean(t, res)
		if t.Failed() {
			t.Fatalf("restore after a cut before operation %d (%s)", k, last)
		}
		same(t, want, listing(t, target))
		release(target)
		ok(t, os.RemoveAll(target))
	}
}

// TestFault fails single operations: the restore goes on, names what failed, and
// leaves nothing unfinished.
func TestFault(t *testing.T) {
	m := newMemory()
	n, dir := small(t, m)
	full := contents(t, dir)
	base := t.TempDir()
	for k := 0; ; k++ {
		target := filepath.Join(base, fmt.Sprint(k))
		ops, failed := 0, ""
		res, err := Run(t.Context(), m, &tree.Snapshot{}, n, "/src", target, Options{Workers: 1, cut: func(op string) error {
			if ops++; ops == k+1 {
				failed = op
				return unix.EINVAL
			}
			return nil
		}})
		if failed == "" {
			release(target)
			return
		}
		if err != nil && failed != "mkdir target" {
			t.Fatalf("operation %d (%s): %v", k, failed, err)
		}
		if err == nil && res.Complete() && res.WarningsCount == 0 {
			t.Fatalf("operation %d (%s) failed, and nothing says so", k, failed)
		}
		if err == nil {
			if os.Geteuid() != 0 {
				release(target)
			}
			for name, data := range contents(t, target) {
				if data != full[name] {
					t.Fatalf("operation %d (%s): %s is partial", k, failed, name)
				}
			}
			if left := temps(t, target); len(left) > 0 {
				t.Fatalf("operation %d (%s) leaves %v", k, failed, left)
			}
		}
		release(target)
		ok(t, os.RemoveAll(target))
	}
}

// TestWindows restores the same with windows, handles and open files of nearly
// nothing.
func TestWindows(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 7000
	n, dir := small(t, m)
	want := listing(t, dir)
	for _, b := range []bounds{{files: 1}, {files: 3, chunks: 1}, {chunks: 4, openFiles: 1, idleDirs: 1}, {weight: 1, idleDirs: 2}, {chunks: 50, openFiles: 1}} {
		for _, w := range []int{1, 4} {
			target := t.TempDir()
			t.Cleanup(func() { release(target) })
			clean(t, run(t, m, n, "/src", target, Options{Workers: w, bounds: b}))
			same(t, want, listing(t, target))
		}
	}
}

func TestBlocksAreReadOnce(t *testing.T) {
	m, n, _, _ := everything(t)
	target := t.TempDir()
	t.Cleanup(func() { filestest.ClearFlags(target) })
	run(t, m, n, "/src", target, Options{})
	for key, reads := range m.reads {
		if reads != 1 {
			t.Errorf("block %v was read %d times", key, reads)
		}
	}
	if len(m.reads) != len(m.blocks) {
		t.Errorf("%d of %d blocks read", len(m.reads), len(m.blocks))
	}
}

func TestSparseBlocks(t *testing.T) {
	m := newMemory()
	n, dir := small(t, m)
	target := t.TempDir()
	t.Cleanup(func() { release(target) })
	run(t, m, n, "/src", target, Options{})
	full := t.TempDir()
	t.Cleanup(func() { release(full) })
	clean(t, run(t, m, n, "/src", full, Options{Sparse: Allocated}))
	for _, name := range []string{"sparse", "hole"} {
		var src, dst, all unix.Stat_t
		ok(t, unix.Stat(dir+"/"+name, &src))
		ok(t, unix.Stat(target+"/"+name, &dst))
		ok(t, unix.Stat(full+"/"+name, &all))
		if dst.Blocks > src.Blocks {
			t.Errorf("%s takes %d blocks instead of %d", name, dst.Blocks, src.Blocks)
		}
		if all.Blocks*512 < all.Size {
			t.Errorf("%s takes %d blocks, though all are to be allocated", name, all.Blocks)
		}
	}
	if !reflect.DeepEqual(contents(t, dir), contents(t, full)) {
		t.Error("content differs")
	}
}

// TestOutside has symlinks in the target that lead out of it.
func TestOutside(t *testing.T) {
	for _, o := range []Options{{}, {Delete: true}, {Overwrite: Never}, {Overwrite: IfNewer}, {Overwrite: IfChanged}} {
		m := newMemory()
		n, dir := small(t, m)
		outside, target := t.TempDir(), t.TempDir()
		t.Cleanup(func() { release(target) })
		for _, d := range []string{"d2", "inside"} {
			ok(t, os.MkdirAll(outside+"/"+d, 0o755))
		}
		for _, f := range []string{"a", "big", "inside/f"} {
			ok(t, os.WriteFile(outside+"/"+f, []byte("outside"), 0o644))
		}
		before := listing(t, outside)
		for _, link := range []string{"d1", "locked", "was-file", "empty"} {
			ok(t, os.Symlink(outside, target+"/"+link))
		}
		ok(t, os.Symlink(outside+"/a", target+"/a"))
		ok(t, os.Symlink(outside+"/new", target+"/changed"))
		ok(t, os.Link(outside+"/big", target+"/none")) // a further name of a file outside
		ok(t, os.Symlink(outside, target+"/"+TempPrefix+"0123456789abcdef"))
		ok(t, os.Symlink(outside, target+"/extra"))
		res := run(t, m, n, "/src", target, o)
		after := listing(t, outside)
		// The number of names of "big" may have changed, if the one in the
		// target was replaced; it must not be anything else.
		for i := range after {
			if strings.Contains(after[i], `"/big"`) {
				before[i], after[i] = "", ""
			}
		}
		same(t, before, after)
		if data, err := os.ReadFile(outside + "/big"); err != nil || string(data) != "outside" {
			t.Errorf("%+v: %q, %v", o, data, err)
		}
		if o.Overwrite == Always && !o.Delete {
			clean(t, res)
			ok(t, os.Remove(target+"/extra"))
			same(t, listing(t, dir)[1:], listing(t, target)[1:]) // removing changed the time of the first
		}
	}
}

// TestOutsideRaced exchanges directories of the target for symlinks to the
// outside while it restores.
func TestOutsideRaced(t *testing.T) {
	m := newMemory()
	n, _ := small(t, m)
	outside, base := t.TempDir(), t.TempDir()
	t.Cleanup(func() { release(base) })
	ok(t, os.Mkdir(outside+"/d2", 0o777))
	ok(t, os.WriteFile(outside+"/a", []byte("outside"), 0o644))
	before := listing(t, outside)
	for i := range 60 {
		target, link := fmt.Sprintf("%s/%d", base, i), fmt.Sprintf("%s/%d-link", base, i)
		ok(t, os.Symlink(outside, link))
		for _, name := range []string{"/d1", "/was-file", "/locked"} {
			ok(t, os.MkdirAll(target+name, 0o755))
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				for _, name := range []string{"/d1", "/was-file", "/a", "/locked"} {
					unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, target+name, unix.RENAME_EXCHANGE)
					unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, target+name, unix.RENAME_EXCHANGE)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		_, err := Run(t.Context(), m, &tree.Snapshot{}, n, "/src", target, Options{Delete: i%2 == 0})
		close(stop)
		wg.Wait()
		ok(t, err)
	}
	same(t, before, listing(t, outside))
}

func TestHostileRecord(t *testing.T) {
	m := newMemory()
	good := m.file(&tree.Node{Name: "good", Mode: 0o600}, []byte("good"))
	evil := m.file(&tree.Node{Name: "EVIL", Mode: 0o600}, []byte("evil"))
	for _, name := range []string{"../x", "a/bc", "\x00abc", "/etc"} {
		page := m.dir(t, &tree.Node{}, evil).Content[0]
		raw := strings.Replace(string(m.metadata[page.Hash]), "EVIL", name, 1)
		root := m.dir(t, &tree.Node{}, good)
		root.Content = append(root.Content, m.page([]byte(raw)))
		base := t.TempDir()
		res := run(t, m, root, "/src", base+"/target", Options{Delete: true})
		if res.LostCount != 1 || res.Files != 1 {
			t.Errorf("%q: %+v", name, res)
		}
		if got := contents(t, base); !reflect.DeepEqual(got, map[string]string{"target/good": "good"}) {
			t.Errorf("%q: %v", name, got)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "../x", "a\x00"} {
		evil.Name = name
		if _, err := Run(t.Context(), m, &tree.Snapshot{}, evil, "/src/x", t.TempDir(), Options{}); err == nil {
			t.Errorf("%q was restored", name)
		}
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	m := newMemory()
	for name, sizes := range map[string][]int{"large": {10, 3 << 20}, "many": slices.Repeat([]int{40_000}, 60)} {
		var entries []*tree.Node
		for i, size := range sizes {
			entries = append(entries, m.file(&tree.Node{Name: fmt.Sprintf("%03d", i), Mode: 0o600}, noise(uint64(i), size)))
		}
		dir := t.TempDir()
		ok(t, unix.Mount("none", dir, "tmpfs", 0, "size=1m"))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		res, err := Run(t.Context(), m, &tree.Snapshot{}, m.dir(t, &tree.Node{}, entries...), "/src", dir, Options{Workers: 3})
		if !errors.Is(err, unix.ENOSPC) || res.FailedCount == 0 {
			t.Errorf("%s: %v; %+v", name, err, res)
		}
		if left := temps(t, dir); len(left) > 0 {
			t.Errorf("%s leaves %v", name, left)
		}
		for file, data := range contents(t, dir) {
			i, _ := strconv.Atoi(file)
			if data != string(noise(uint64(i), sizes[i])) {
				t.Errorf("%s: %s is partial", name, file)
			}
		}
	}
}

func TestImmutableTarget(t *testing.T) {
	needRoot(t)
	m := newMemory()
	root := m.dir(t, &tree.Node{}, m.dir(t, &tree.Node{Name: "dir"}, m.file(&tree.Node{Name: "f", Mode: 0o600}, []byte("new"))),
		m.file(&tree.Node{Name: "file", Mode: 0o600}, []byte("new")))
	for _, flag := range []uint32{tree.FlagImmutable, tree.FlagAppend} {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		ok(t, os.Mkdir(target+"/dir", 0o755))
		ok(t, os.WriteFile(target+"/file", []byte("old"), 0o600))
		ok(t, os.WriteFile(target+"/extra", []byte("old"), 0o600))
		for _, name := range []string{"dir", "file", "extra"} {
			chattr(t, target+"/"+name, flag)
		}
		res := run(t, m, root, "/src", target, Options{Delete: true})
		if res.FailedCount != 3 {
			t.Errorf("%#x: %+v", flag, res)
		}
		for _, p := range res.Failed {
			if !strings.Contains(p.Err.Error(), "immutable") {
				t.Errorf("%s: %v", p.Path, p.Err)
			}
		}
		if left := temps(t, target); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestMounted has a file system mounted in the target: nothing in it is deleted.
func TestMounted(t *testing.T) {
	needRoot(t)
	m := newMemory()
	root := m.dir(t, &tree.Node{}, m.dir(t, &tree.Node{Name: "known"}, m.file(&tree.Node{Name: "f", Mode: 0o600}, []byte("f"))))
	target, bound := t.TempDir(), t.TempDir()
	ok(t, os.WriteFile(bound+"/precious", nil, 0o600))
	for _, name := range []string{"/known", "/extra", "/above/extra"} {
		ok(t, os.MkdirAll(target+name, 0o755))
		ok(t, unix.Mount(bound, target+name, "", unix.MS_BIND, "")) // the same device number
		t.Cleanup(func() { unix.Unmount(target+name, unix.MNT_DETACH) })
	}
	ok(t, os.WriteFile(target+"/gone", nil, 0o600))
	res := run(t, m, root, "/src", target, Options{Delete: true})
	if _, err := os.Stat(bound + "/precious"); err != nil {
		t.Error(err)
	}
	if res.Deleted != 1 || res.WarningsCount != 3 || res.Files != 1 {
		t.Errorf("%+v", res)
	}
}

// TestAsUser runs all tests again without root.
func TestAsUser(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("as long as all others together")
	}
	dir, err := os.MkdirTemp("", "restore-user-")
	ok(t, err)
	t.Cleanup(func() { release(dir); os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o755))
	ok(t, os.Mkdir(dir+"/tmp", 0o777))
	ok(t, os.Chmod(dir+"/tmp", 0o777))
	self, err := os.Executable()
	ok(t, err)
	program, err := os.ReadFile(self)
	ok(t, err)
	ok(t, os.WriteFile(dir+"/test", program, 0o755))
	cmd := exec.Command(dir+"/test", "-test.run", "^Test", "-test.v")
	cmd.Dir = dir + "/tmp"
	cmd.Env = append(os.Environ(), "TMPDIR="+dir+"/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestEverything") {
		t.Errorf("%v\n%s", err, out)
	}
}
