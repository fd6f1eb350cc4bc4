package durable

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain makes the test binary double as the process that the crash tests
// kill: see crash.
func TestMain(m *testing.M) {
	if role := os.Getenv("DURABLE_TEST_ROLE"); role != "" {
		if err := victim(role, os.Getenv("DURABLE_TEST_DIR")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim prepares what a crash is to interrupt, says "ready" and waits.
func victim(role, dir string) error {
	d, err := OpenDir(dir)
	if err != nil {
		return err
	}
	write := func(how method) error {
		f, err := d.create("object", 0o600, how)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, writebackBytes+1))
		return err
	}
	switch role {
	case "unnamed":
		err = write(unnamed)
	case "temp":
		err = write(renamed)
	case "lock":
		_, err = TryLock(filepath.Join(dir, "lock"))
	default:
		err = errors.New("unknown role")
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// crash starts a process in the given role, calls while once it is ready, and
// kills it with a signal it cannot catch.
func crash(t *testing.T, role, dir string, while func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DURABLE_TEST_ROLE="+role, "DURABLE_TEST_DIR="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if line == "ready\n" {
		while()
	} else {
		t.Errorf("victim says %q", line)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

var methods = map[string]method{"unnamed": unnamed, "renamed": renamed, "linked": linked, "checked": checked}

func openDir(t *testing.T) (*Dir, string) {
	t.Helper()
	name := t.TempDir()
	d, err := OpenDir(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, name
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

func wantFile(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s holds %d bytes, which are not the %d wanted", name, len(got), len(want))
	}
}

func TestCommit(t *testing.T) {
	sizes := []int{0, 1, writebackBytes - 1, writebackBytes, writebackBytes + 1, 2*writebackBytes + 5}
	for name, how := range methods {
		t.Run(name, func(t *testing.T) {
			d, dir := openDir(t)
			for i, size := range sizes {
				data := bytes.Repeat([]byte{byte(i + 1)}, size)
				base := fmt.Sprint("object", i)
				f, err := d.create(base, 0o600, how)
				if err != nil {
					t.Fatal(err)
				}
				for rest := data; len(rest) > 0; {
					n, err := f.Write(rest[:min(len(rest), 3<<20)])
					if err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if _, err := os.Lstat(filepath.Join(dir, base)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("before Commit: %v, want fs.ErrNotExist", err)
				}
				if err := f.Commit(); err != nil {
					t.Fatal(err)
				}
				f.Abort() // does nothing
				wantFile(t, filepath.Join(dir, base), data)
				if _, err := f.Write([]byte{1}); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("Write after Commit: %v, want fs.ErrClosed", err)
				}
				if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("second Commit: %v, want fs.ErrClosed", err)
				}
			}
			wantNames(t, dir, "object0", "object1", "object2", "object3", "object4", "object5")
		})
	}
}

func TestCommitNeverReplaces(t *testing.T) {
	for name, how := range methods {
		t.Run(name, func(t *testing.T) {
			d, dir := openDir(t)
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
				t.Fatal(err)
			}
			taken := []string{"file", "dir"}
			if runtime.GOOS != "windows" { // where links take a privilege
				if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
				taken = append(taken, "link")
			}
			before := names(t, dir)
			for _, base := range taken {
				f, err := d.create(base, 0o600, how)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.Write([]byte("new")); err != nil {
					t.Fatal(err)
				}
				if err := f.Commit(); !errors.Is(err, fs.ErrExist) {
					t.Errorf("commit over %s: %v, want fs.ErrExist", base, err)
				}
			}
			wantNames(t, dir, before...)
			wantFile(t, filepath.Join(dir, "file"), []byte("old"))
		})
	}
}

func TestCommitRaceHasOneWinner(t *testing.T) {
	for name, how := range methods {
		if how == checked {
			continue // promises less: see its BUG
		}
		t.Run(name, func(t *testing.T) {
			d, dir := openDir(t)
			for round := range 10 {
				base := fmt.Sprint("object", round)
				var winner atomic.Int32
				var wins, exist atomic.Int32
				var wg sync.WaitGroup
				start := make(chan struct{})
				for i := range 8 {
					f, err := d.create(base, 0o600, how)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Fprint(f, i); err != nil {
						t.Fatal(err)
					}
					wg.Go(func() {
						<-start
						switch err := f.Commit(); {
						case err == nil:
							wins.Add(1)
							winner.Store(int32(i))
						case errors.Is(err, fs.ErrExist):
							exist.Add(1)
						default:
							t.Error(err)
						}
					})
				}
				close(start)
				wg.Wait()
				if wins.Load() != 1 || exist.Load() != 7 {
					t.Errorf("%d winners, %d times fs.ErrExist; want 1 and 7", wins.Load(), exist.Load())
				}
				wantFile(t, filepath.Join(dir, base), fmt.Append(nil, winner.Load()))
			}
			if n := len(names(t, dir)); n != 10 {
				t.Errorf("%d files, want 10", n)
			}
		})
	}
}

func TestAbort(t *testing.T) {
	for name, how := range methods {
		t.Run(name, func(t *testing.T) {
			d, dir := openDir(t)
			f, err := d.create("object", 0o600, how)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
			for _, n := range names(t, dir) {
				if !IsTemp(n) {
					t.Errorf("%s appeared before Commit", n)
				}
			}
			f.Abort()
			f.Abort()
			if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Commit after Abort: %v, want fs.ErrClosed", err)
			}
			wantNames(t, dir)
		})
	}
}

func TestFailedWriteCannotBeCommitted(t *testing.T) {
	for name, how := range methods {
		t.Run(name, func(t *testing.T) {
			d, dir := openDir(t)
			f, err := d.create("object", 0o600, how)
			if err != nil {
				t.Fatal(err)
			}
			f.file.Close() // stands for any reason to fail
			_, werr := f.Write([]byte("data"))
			if werr == nil {
				t.Fatal("Write succeeded")
			}
			if _, err := f.Write([]byte("data")); err != werr {
				t.Errorf("second Write: %v, want the first error again", err)
			}
			if err := f.Commit(); err != werr {
				t.Errorf("Commit: %v, want the error of Write", err)
			}
			wantNames(t, dir)
		})
	}
}

// An unnamed file on a file system that cannot name it is copied.
func TestRewriteNamed(t *testing.T) {
	d, dir := openDir(t)
	f, err := d.create("object", 0o640, unnamed)
	if err != nil {
		t.Fatal(err)
	}
	if f.how != unnamed {
		t.Skip("the system has no unnamed files")
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), writebackBytes/16+1)
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.rewriteNamed(); err != nil {
		t.Fatal(err)
	}
	f.how = renamed
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, "object")
	wantFile(t, filepath.Join(dir, "object"), data)
}

func TestCreateChecksNames(t *testing.T) {
	d, dir := openDir(t)
	for _, name := range []string{"", ".", "..", "a/..", "a/", "/", "../x", "missing/x"} {
		if f, err := d.Create(name, 0o600); err == nil {
			f.Abort()
			t.Errorf("Create(%q) succeeded", name)
		}
	}
	if f, err := Create(dir+"/", 0o600); err == nil {
		f.Abort()
		t.Error("Create of a directory succeeded")
	}
	if _, err := Create(filepath.Join(dir, "missing", "x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Create in a missing directory: %v, want fs.ErrNotExist", err)
	}
	wantNames(t, dir)
}

func TestDirIsNotLeft(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links take a privilege")
	}
	d, dir := openDir(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := d.Create("out/new", 0o600); err == nil {
		f.Abort()
		t.Error("Create followed a link out")
	}
	if err := d.MkdirAll("out/sub", 0o700); err == nil {
		t.Error("MkdirAll followed a link out")
	}
	if err := d.Remove("out/x"); err == nil {
		t.Error("Remove followed a link out")
	}
	wantNames(t, outside, "x")
}

func TestPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	d, dir := openDir(t)
	check := func(name string, want fs.FileMode) {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has permissions %o, want %o", name, got, want)
		}
	}
	for name, how := range methods {
		f, err := d.create(name, 0o600, how)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		check(name, 0o600)
	}
	if err := os.WriteFile(filepath.Join(dir, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "open"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	check("open", 0o400)
	if err := d.MkdirAll("a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	check("a", 0o700)
	check("a/b", 0o700)
}

func TestCrashLeavesNothingThatCounts(t *testing.T) {
	for _, role := range []string{"unnamed", "temp"} {
		t.Run(role, func(t *testing.T) {
			d, dir := openDir(t)
			probe, err := d.create("probe", 0o600, unnamed)
			if err != nil {
				t.Fatal(err)
			}
			probe.Abort()

			crash(t, role, dir, func() {})
			left := names(t, dir)
			for _, n := range left {
				if !IsTemp(n) {
					t.Errorf("left behind: %s", n)
				}
			}
			want := 1
			if role == "unnamed" && probe.how == unnamed {
				want = 0
			}
			if len(left) != want {
				t.Errorf("left behind: %q, want %d files", left, want)
			}

			if err := os.WriteFile(filepath.Join(dir, "object"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.RemoveStale(".", time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
			if n := len(names(t, dir)); n != want+1 {
				t.Errorf("after removing older ones: %d files, want %d", n, want+1)
			}
			if err := d.RemoveStale(".", time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			wantNames(t, dir, "object")
		})
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "state")
	for _, data := range []string{"first", "", "third, longer"} {
		if err := WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		wantFile(t, name, []byte(data))
		wantNames(t, dir, "state")
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(sub, nil, 0o600); err == nil {
		t.Error("WriteFile replaced a directory")
	}
	if err := WriteFile(filepath.Join(dir, "missing", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v, want fs.ErrNotExist", err)
	}
	wantNames(t, dir, "state", "sub")
}

func TestWriteFileIsAtomic(t *testing.T) {
	name := filepath.Join(t.TempDir(), "state")
	a, b := bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 200_000)
	if err := WriteFile(name, a, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 50 {
			data := a
			if i%2 == 0 {
				data = b
			}
			if err := WriteFile(name, data, 0o600); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("read a mixture of %d bytes", len(got))
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestRelativeNames(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := WriteFile("state", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Create("object", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll("a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove("state"); err != nil {
		t.Fatal(err)
	}
	wantNames(t, ".", "a", "object")
}

func TestMkdirAll(t *testing.T) {
	d, dir := openDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	both := map[string]func(name string) error{
		"path": func(name string) error { return MkdirAll(filepath.Join(dir, name), 0o700) },
		"dir":  func(name string) error { return d.MkdirAll(name, 0o700) },
	}
	for how, mkdir := range both {
		for _, name := range []string{".", how, how, how + "/b/c", how + "/b/d"} {
			if err := mkdir(name); err != nil {
				t.Errorf("%s: %s: %v", how, name, err)
			}
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
				t.Errorf("%s: %s is no directory", how, name)
			}
		}
		for _, name := range []string{"file", "file/sub"} {
			if err := mkdir(name); err == nil {
				t.Errorf("%s: made %s", how, name)
			}
		}
	}
	var wg sync.WaitGroup
	for _, mkdir := range both {
		for range 8 {
			wg.Go(func() {
				if err := mkdir("x/y/z"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

func TestRemove(t *testing.T) {
	d, dir := openDir(t)
	if err := d.MkdirAll("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "sub/b"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Remove(filepath.Join(dir, "a")); err != nil {
		t.Error(err)
	}
	if err := d.Remove("sub/b"); err != nil {
		t.Error(err)
	}
	if err := Remove(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of a missing file: %v, want fs.ErrNotExist", err)
	}
	if err := d.Remove("sub/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Dir.Remove of a missing file: %v, want fs.ErrNotExist", err)
	}
	wantNames(t, filepath.Join(dir, "sub"))
	if err := SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of a missing directory: %v, want fs.ErrNotExist", err)
	}
}

func TestIsTemp(t *testing.T) {
	for range 10 {
		if n := tempName(); !IsTemp(n) || len(n) > 64 {
			t.Errorf("%q is not recognised, or long", n)
		}
	}
	for _, n := range []string{"", "object", ".hidden", ".hidden.tmp", ".durable-x", "x.durable-y.tmp"} {
		if IsTemp(n) {
			t.Errorf("%q is taken for a temporary file", n)
		}
	}
}

func TestLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	var wg sync.WaitGroup
	for range 2 { // two openings, as two processes would have
		l, err := OpenLog(name, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for i := range 4 {
			wg.Go(func() {
				for range 5 {
					if err := l.Append(fmt.Appendf(nil, "%s\n", strings.Repeat(fmt.Sprint(i), 1000))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	if len(lines) != 41 || lines[40] != "" {
		t.Fatalf("%d lines, want 40 and an end", len(lines))
	}
	for _, l := range lines[:40] {
		if l != strings.Repeat(l[:1], 1000)+"\n" {
			t.Errorf("mixed line %q", l)
		}
	}
}

func TestLogAfterClose(t *testing.T) {
	l, err := OpenLog(filepath.Join(t.TempDir(), "log"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]byte("x\n")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Append after Close: %v, want fs.ErrClosed", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "lock")
	l, err := TryLock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(name); !errors.Is(err, ErrLocked) {
		t.Errorf("second TryLock: %v, want ErrLocked", err)
	}
	for range 2 {
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
	if _, err := TryLock(filepath.Join(dir, "missing", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v, want fs.ErrNotExist", err)
	}

	crash(t, "lock", dir, func() {
		if _, err := TryLock(name); !errors.Is(err, ErrLocked) {
			t.Errorf("while another process has it: %v, want ErrLocked", err)
		}
	})
	l, err = TryLock(name)
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

// What is for others to read can be read by them whatever the umask is.
func TestWriteFileFor(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such permissions")
	}
	dir := t.TempDir()
	const all = 0o666 // no usual umask leaves that
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"plain": WriteFile, "for": WriteFileFor} {
		path := filepath.Join(dir, name)
		if err := write(path, []byte("x"), all); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || (info.Mode() == all) != (name == "for") {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
