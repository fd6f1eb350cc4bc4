package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// TestModes: whatever a mode reads, each snapshot is the whole source as it was.
func TestModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := w.tree(20, "src"), w.path("repo")
	type point struct {
		id   string
		then *factWalk
	}
	var points []point
	step := 0
	take := func(mode string, unmodified, read int64) {
		t.Helper()
		step++
		c := w.backup(ok, append(encrypted(src, dest), "--backup-mode", mode)...)
		n := c.Details.Counts
		if n.Unmodified != unmodified || n.Read != read {
			t.Errorf("step %d, %s: %d unmodified, %d bytes read; want %d, %d", step, mode, n.Unmodified, n.Read, unmodified, read)
		}
		points = append(points, point{c.Snapshot, factsOf(t, src, true)})
	}
	all := func() (n int64) {
		size, _ := treeSize(src)
		return size
	}
	change := func(name string, n int) {
		t.Helper()
		w.write(filestest.Bytes(name, n), "src", name)
	}

	take("incremental", 0, all()) // the first reads everything, whatever the mode
	take("incremental", 20, 0)
	take("differential", 0, all()) // there is no full one yet
	take("full", 20, all())
	change("one", 1000)
	take("incremental", 20, 1000)
	change("two", 2000)
	take("incremental", 21, 2000)
	take("differential", 20, 3000) // since the full one
	must(t, os.Remove(filepath.Join(src, "one")))
	must(t, os.Rename(filepath.Join(src, "d0"), filepath.Join(src, "moved")))
	take("incremental", 21-4, all()-sizeOutside(t, src, "moved"))
	// An older time, another content of the same size: what tar -x and cp -p leave.
	name := filepath.Join(src, "two")
	must(t, os.WriteFile(name, filestest.Bytes("other", 2000), 0o644))
	must(t, os.Chtimes(name, time.Time{}, time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)))
	take("incremental", 20, 2000)
	take("full", 21, all())
	take("differential", 21, 0)

	for i, p := range points {
		got := w.restore(ok, dest, p.id, src)
		sameFacts(t, p.then, got)
		if t.Failed() {
			t.Fatalf("at point %d", i+1)
		}
		removeAll(t, got)
	}
	w.verify(ok, dest, "--read-data")
	// Nothing is left of what was deleted, unless an earlier point is asked for.
	got := w.restore(ok, dest, "latest", src)
	if _, err := os.Lstat(filepath.Join(got, "one")); !os.IsNotExist(err) {
		t.Errorf("a deleted file came back: %v", err)
	}
}

// sizeOutside is the size of what is in dir, but not below its entry name.
func sizeOutside(t *testing.T, dir, name string) int64 {
	t.Helper()
	all, _ := treeSize(dir)
	inside, _ := treeSize(filepath.Join(dir, name))
	return all - inside
}

// Other repositories and sources do not count: what a run skips depends on its own
// last snapshot.
func TestModesAreSeparate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	x, y, a, b := w.tree(3, "x"), w.tree(3, "y"), w.path("a"), w.path("b")
	w.backup(ok, encrypted(x, a)...)
	for _, c := range [][2]string{{y, a}, {x, b}} { // another source, another destination
		rep := w.backup(ok, append(encrypted(c[0], c[1]), "--backup-mode", "differential")...)
		if rep.Details.Counts.New != 3 || rep.Details.Counts.Unmodified != 0 {
			t.Errorf("%v: %+v", c, rep.Details.Counts)
		}
		same(t, c[0], w.restore(ok, c[1], "latest", c[0]))
	}
	rep := w.backup(ok, encrypted(x, a)...)
	if rep.Details.Counts.Unmodified != 3 {
		t.Errorf("%+v", rep.Details.Counts)
	}
}

// A full run notices content that has changed while size, times and inode have not:
// here by a bit that rotted on an unmounted disk.
func TestSilentChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	image, dir := w.path("image"), w.mkdir("disk")
	needRoot(t, "it mounts a file system")
	f, err := os.Create(image)
	must(t, err)
	must(t, f.Truncate(32<<20))
	must(t, f.Close())
	tool(t, "", "mkfs.ext4", "-q", "-O", "^inline_data", image)

	content := filestest.Bytes("rots", 100_000)
	onDisk := func(do func(t *testing.T, w *world)) {
		t.Helper()
		if ok := t.Run("mounted", func(t *testing.T) {
			mount(t, dir, "-o", "loop", image)
			inside := *w
			inside.t = t
			do(t, &inside)
		}); !ok {
			t.FailNow()
		}
	}
	src, dest := filepath.Join(dir, "src"), w.path("repo")
	mounted := false
	onDisk(func(t *testing.T, w *world) {
		must(t, os.Mkdir(src, 0o755))
		must(t, os.WriteFile(filepath.Join(src, "rots"), content, 0o644))
		must(t, os.WriteFile(filepath.Join(src, "stays"), []byte("stays"), 0o644))
		w.backup(ok, append(encrypted(src, dest), "--backup-mode", "full")...)
		mounted = true
	})
	if !mounted {
		t.Skip("loop devices cannot be mounted here")
	}
	raw, err := os.ReadFile(image)
	must(t, err)
	at := bytes.Index(raw, content[:4096])
	if at < 0 {
		t.Fatal("the content is not in the image")
	}
	f, err = os.OpenFile(image, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{^content[7]}, int64(at)+7)
	must(t, err)
	must(t, f.Close())

	onDisk(func(t *testing.T, w *world) {
		rep := w.backup(ok, encrypted(src, dest)...)
		if rep.Details.Counts.Unmodified != 2 {
			t.Errorf("an incremental run sees it as unchanged: %+v", rep.Details.Counts)
		}
		rep = w.backup(partial, append(encrypted(src, dest), "--backup-mode", "full")...)
		if p := rep.Details.Problems; len(p) != 1 || p[0].Kind != "silent-change" || p[0].Path != filepath.Join(src, "rots") {
			t.Errorf("problems %v", p)
		}
		got := w.restore(ok, dest, rep.Snapshot, src)
		same(t, src, got, "--exclude", "/lost+found")
		// Told once: the next full run compares with this one.
		w.backup(ok, append(encrypted(src, dest), "--backup-mode", "full")...)
	})
	ids := w.want(ok, "snapshots", "--backup-dirs", dest)
	if n := strings.Count(ids.out, src); n < 4 {
		t.Errorf("%v", ids)
	}
}

// A file that changes all the time is taken, marked and told.
func TestUnstableFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.path("src"), w.path("repo")
	name := w.write(filestest.Bytes("log", 64<<20), "src", "log")
	w.write([]byte("still"), "src", "still")
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		for err == nil {
			select {
			case <-stop:
				done <- f.Close()
				return
			default:
			}
			_, err = f.Write([]byte("another line\n"))
			time.Sleep(100 * time.Microsecond)
		}
		done <- err
	}()
	rep := w.backup(partial, encrypted(src, dest)...)
	close(stop)
	must(t, <-done)
	if p := rep.Details.Problems; len(p) != 1 || p[0].Kind != "unstable" || p[0].Path != name {
		t.Errorf("problems %v", p)
	}
	// It was written to after it was read: the next run takes it again.
	rep = w.backup(ok, encrypted(src, dest)...)
	if rep.Details.Counts.Unmodified != 1 {
		t.Errorf("%+v", rep.Details.Counts)
	}
	same(t, src, w.restore(ok, dest, "latest", src))
	w.verify(ok, dest, "--read-data")
}
