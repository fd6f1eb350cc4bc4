package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// TestRefusals: bad input is refused in one line, with the right exit code, and
// nothing is changed by it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(3, "src"), w.path("repo")
	rep := w.backup(ok, encrypted(src, dest)...)
	fifo := w.path("fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	empty := w.mkdir("empty")
	shortKey := w.write(make([]byte, 31), "key-31")
	longKey := w.write(make([]byte, 33), "key-33")
	wrong := w.write([]byte("wrong\n"), "wrong")
	noKey := w.write(nil, "no-key")
	ini := w.write([]byte("[DEFAULT]\nmode = weekly\n"), "bad.ini")
	other := w.path("other-repo")
	plain := w.path("plain-repo")
	keyless := *w
	keyless.env = nil
	keyless.backup(ok, "--source-dir", src, "--backup-dirs", plain)

	backup := func(src, dest string, more ...string) []string {
		return append(append([]string{"backup"}, encrypted(src, dest)...), more...)
	}
	restore := func(spec string, more ...string) []string {
		return append([]string{"restore", spec, "--backup-dirs", dest, "--to", w.path("to")}, more...)
	}
	for _, c := range []struct {
		name  string
		args  []string
		code  int
		words []string
		hint  bool
	}{
		{"missing source", backup(w.path("nowhere"), dest), refused, []string{w.path("nowhere"), "not exist"}, true},
		{"missing source, new repository", backup(w.path("nowhere"), other), refused, []string{w.path("nowhere")}, true},
		{"empty source", backup(empty, dest), refused, []string{empty, "empty"}, true},
		{"source is a FIFO", backup(fifo, dest), refused, []string{fifo}, false},
		{"one of two sources missing", backup(src, dest, "--source-dir", w.path("nowhere")), refused, []string{w.path("nowhere")}, true},
		{"no source", []string{"backup", "--backup-dirs", dest}, failed, []string{"source"}, true},
		{"no destination", []string{"backup", "--source-dir", src}, failed, []string{"repository"}, true},
		{"destination is a file", backup(src, w.path("key-31")), refused, []string{w.path("key-31")}, false},
		{"wrong passphrase", backup(src, dest, "--passphrase-file", wrong), refused, []string{"key"}, true},
		{"wrong passphrase, restore", restore("latest", "--passphrase-file", wrong), failed, []string{"key"}, true},
		{"empty passphrase file", backup(src, dest, "--passphrase-file", noKey), failed, []string{noKey, "empty"}, false},
		{"key file of 31 bytes", backup(src, dest, "--key-file", shortKey), failed, []string{shortKey, "32"}, false},
		{"key file of 33 bytes", backup(src, dest, "--key-file", longKey), failed, []string{longKey, "32"}, false},
		{"key file is missing", backup(src, dest, "--key-file", w.path("none")), failed, []string{w.path("none")}, false},
		{"key file is a directory", backup(src, dest, "--key-file", src), failed, []string{src}, false},
		{"unencrypted where encryption is wanted", backup(src, plain), refused, []string{plain}, true},
		{"unknown flag", []string{"backup", "--nonsense"}, failed, []string{"--nonsense"}, true},
		{"unknown command", []string{"bakcup"}, failed, []string{"bakcup"}, false},
		{"unknown mode", backup(src, dest, "--backup-mode", "weekly"), failed, []string{"weekly", "incremental"}, false},
		{"bad size", backup(src, dest, "--exclude-larger-than", "many"), failed, []string{"--exclude-larger-than", "size such as"}, false},
		{"missing exclude file", backup(src, dest, "--exclude-file", w.path("none")), failed, []string{w.path("none")}, false},
		{"bad recipient", backup(src, dest, "--recipient", "bhpk1nonsense"), failed, []string{"recipient"}, false},
		{"missing configuration", backup(src, dest, "--config", w.path("none.ini")), failed, []string{w.path("none.ini")}, false},
		{"bad configuration", []string{"backup", "--config", ini, "--source-dir", src, "--backup-dirs", dest}, failed, []string{ini + ":2", "incremental"}, true},
		{"backend that is not there", backup(src, "sftp://host/path"), refused, []string{"sftp"}, true},

		{"restore without a target", []string{"restore", "latest", "--backup-dirs", dest}, failed, []string{"where"}, true},
		{"bad --overwrite", restore("latest", "--overwrite", "sometimes"), failed, []string{"--overwrite", "sometimes", "if-newer"}, false},
		{"no such snapshot", restore("0123abcd"), failed, []string{"0123abcd"}, true},
		{"no such name", restore("yesterday"), failed, []string{"yesterday"}, true},
		{"snapshot before the first", restore("1999-01-01"), failed, []string{"1999-01-01"}, true},
		{"no such path", restore("latest:/nowhere"), failed, []string{"/nowhere"}, true},
		{"nothing selected", restore("latest:"+src, "--include", "nothing-of-this-name"), failed, []string{"nothing"}, true},
		{"restore from nowhere", []string{"restore", "latest", "--backup-dirs", w.path("none"), "--to", w.path("to")}, failed, []string{w.path("none")}, true},
		{"restore from a directory that is no repository", []string{"restore", "latest", "--backup-dirs", src, "--to", w.path("to")}, failed, []string{src}, true},
		{"restore onto a file", []string{"restore", "latest", "--backup-dirs", dest, "--to", w.path("key-31")}, failed, []string{w.path("key-31")}, false},
		{"verify with a bad share", []string{"verify", "--backup-dirs", dest, "--sample", "200%"}, failed, []string{"200%"}, false},
		{"compare without a snapshot", []string{"verify", "--against", src, "--backup-dirs", dest}, failed, []string{"snapshot"}, true},
		{"compare with what is not there", []string{"verify", "latest:" + src, "--against", w.path("none"), "--backup-dirs", dest}, failed, []string{w.path("none")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := storeSum(t, dest)
			r := w.run(c.args...)
			if r.code != c.code {
				t.Errorf("want exit code %d: %v", c.code, r)
			}
			r.complaint(t, c.hint, c.words...)
			if strings.Contains(r.out+r.errout, "correct horse") {
				t.Errorf("tells the passphrase: %v", r)
			}
			if after := storeSum(t, dest); after != before {
				t.Error("the repository was changed")
			}
			if _, err := os.Lstat(filepath.Join(other, "config")); err == nil {
				t.Error("a repository was created for nothing")
			}
			if left, _ := os.ReadDir(w.path("to")); len(left) > 0 {
				t.Errorf("something was restored: %v", left)
			}
		})
	}
	if ids := w.snapshotIDs(dest); len(ids) != 1 || ids[0] != rep.Snapshot {
		t.Errorf("snapshots %q", ids)
	}
	same(t, src, w.restore(ok, dest, "latest", src))

	// verify tells its findings on standard output.
	for dir, word := range map[string]string{w.path("none"): "CANNOT BE CHECKED", src: "CANNOT BE CHECKED"} {
		if r := w.verify(failed, dir); !strings.Contains(r.out, word) || !strings.Contains(r.errout, "hint: ") {
			t.Errorf("%v", r)
		}
	}
	if r := w.verify(failed, dest, "--passphrase-file", wrong); !strings.Contains(r.out, "CANNOT BE CHECKED") {
		t.Errorf("%v", r)
	}
}

// storeSum is a hash of all that a store holds: names, bytes and times.
func storeSum(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		changed := info.ModTime()
		if p == dir { // a probe file has been there, and is gone
			changed = time.Time{}
		}
		fmt.Fprintf(h, "%q %v %v %d\n", p, info.Mode(), changed.UnixNano(), info.Size())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			h.Write(data)
			return err
		}
		return nil
	}))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A source that has suddenly nothing in it is a file system that is not mounted.
func TestSuddenlyEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := w.tree(3, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	moved := w.path("moved")
	must(t, os.Rename(src, moved))
	w.mkdir("src")
	before := storeSum(t, dest)
	r := w.want(refused, append([]string{"backup"}, encrypted(src, dest)...)...)
	r.complaint(t, true, src, "empty")
	if storeSum(t, dest) != before {
		t.Error("the repository was changed")
	}
	w.backup(ok, append(encrypted(src, dest), "--allow-empty")...)
	must(t, os.Remove(src))
	must(t, os.Rename(moved, src))
	w.backup(ok, encrypted(src, dest)...)
	w.verify(ok, dest)
	if ids := w.snapshotIDs(dest); len(ids) != 3 {
		t.Errorf("snapshots %q", ids)
	}
	same(t, src, w.restore(ok, dest, "latest", src))
}

// A repository inside the source is left out of the backup, and that is said.
func TestDestinationInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.tree(3, "src")
	dest := filepath.Join(src, "repo")
	for range 2 {
		rep := w.backup(ok, encrypted(src, dest)...)
		if rep.Details.Counts.Files != 3 || !strings.Contains(strings.Join(rep.Notes, "\n"), dest) {
			t.Errorf("%+v", rep)
		}
	}
	same(t, src, w.restore(ok, dest, "latest", src), "--exclude", "/repo")
}

// What is in a backup directory already, such as the mirror of 2.5, stays.
func TestDestinationInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(3, "src"), w.mkdir("old")
	w.write([]byte("mirrored"), "old", "home", "file")
	before := storeSum(t, filepath.Join(dest, "home"))
	rep := w.backup(ok, encrypted(src, dest)...)
	if rep.Destinations[0].Place == dest || storeSum(t, filepath.Join(dest, "home")) != before {
		t.Errorf("%+v", rep.Destinations)
	}
	same(t, src, w.restore(ok, dest, "latest", src))
}

// A repository of a future version is refused as such, whatever else is in it.
func TestFutureVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(1, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	config := filepath.Join(dest, "config")
	data, err := os.ReadFile(config)
	must(t, err)
	next := bytes.Replace(data, []byte(`"version":1`), []byte(`"version":2`), 1)
	if bytes.Equal(next, data) {
		t.Fatalf("no version in %s", data)
	}
	must(t, os.Chmod(config, 0o600))
	must(t, os.WriteFile(config, next, 0o600))
	before := storeSum(t, dest)
	w.want(refused, append([]string{"backup"}, encrypted(src, dest)...)...).complaint(t, false, "version 2")
	w.want(failed, "restore", "latest", "--to", w.path("to"), "--backup-dirs", dest).complaint(t, false, "version 2")
	if r := w.verify(failed, dest); !strings.Contains(r.out, "version 2") {
		t.Errorf("%v", r)
	}
	if storeSum(t, dest) != before {
		t.Error("the repository was changed")
	}
}

// mount mounts a file system for the time of the test.
func mount(t *testing.T, dir string, args ...string) {
	t.Helper()
	needRoot(t, "it mounts a file system")
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("mount %q: %v: %s", args, err, out)
	}
	t.Cleanup(func() {
		// What another test has just forked holds what is open here, until it has become
		// another program.
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			out, err := exec.Command("umount", dir).CombinedOutput()
			if err == nil {
				return
			}
			if !strings.Contains(string(out), "busy") || time.Now().After(end) {
				t.Errorf("umount: %v: %s", err, out)
				return
			}
		}
	})
}

func TestReadOnlyDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dir := w.tree(2, "src"), w.mkdir("medium")
	mount(t, dir, "-t", "tmpfs", "-o", "size=50m", "tmpfs")
	dest := filepath.Join(dir, "repo")
	w.backup(ok, encrypted(src, dest)...)
	tool(t, "", "mount", "-o", "remount,ro", dir)
	w.write([]byte("new"), "src", "new")

	// A medium that cannot be written is told as such, with what it was meant for.
	r := w.run(append([]string{"backup"}, encrypted(src, dest)...)...)
	if r.code != partial && r.code != refused {
		t.Errorf("exit code: %v", r)
	}
	r.complaint(t, true, "read-only")
	r = w.run(append([]string{"backup"}, encrypted(src, filepath.Join(dir, "another"))...)...)
	if r.code != refused {
		t.Errorf("exit code: %v", r)
	}
	r.complaint(t, true, "read-only")

	// Reading needs no permission to write.
	w.verify(ok, dest, "--read-data")
	same(t, src, w.restore(ok, dest, "latest", src), "--exclude", "/new", "--omit-dir-times")
	tool(t, "", "mount", "-o", "remount,rw", dir)
	w.backup(ok, encrypted(src, dest)...)
	same(t, src, w.restore(ok, dest, "latest", src))
}

func TestFullDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	for i := range 32 {
		w.write(filestest.Bytes(fmt.Sprint("big", i), 4<<20), "src", fmt.Sprint(i))
	}
	src, dir := w.path("src"), w.mkdir("medium")
	// Blocks go to either of two open packs of 32 MiB. With room for three, one
	// at least is complete when there is none left.
	mount(t, dir, "-t", "tmpfs", "-o", "size=100m", "tmpfs")
	dest := filepath.Join(dir, "repo")
	for range 2 { // the second time it is full from the start
		r := w.want(partial, append([]string{"backup"}, encrypted(src, dest)...)...)
		r.complaint(t, true, "space")
		if ids := w.snapshotIDs(dest); len(ids) != 0 {
			t.Errorf("snapshots %q", ids)
		}
	}
	stored := total(objects(t, dest, "packs"))
	if stored < 20<<20 {
		t.Errorf("only %d bytes are kept of the runs that failed", stored)
	}
	tool(t, "", "mount", "-o", "remount,size=400m", dir)
	rep := w.backup(ok, encrypted(src, dest)...)
	if c := rep.Details.Counts; c.Stored+stored > c.Bytes+8<<20 {
		t.Errorf("stored %d bytes, where %d were there of %d", c.Stored, stored, c.Bytes)
	}
	w.verify(ok, dest, "--read-data")
	same(t, src, w.restore(ok, dest, "latest", src))

	// A target that is full: what is there is whole, and another run goes on.
	to := w.mkdir("target")
	mount(t, to, "-t", "tmpfs", "-o", "size=30m", "tmpfs")
	args := []string{"restore", "latest:" + src, "--to", to, "--backup-dirs", dest}
	w.want(failed, args...).complaint(t, true, "space")
	wholeOnly(t, src, to)
	tool(t, "", "mount", "-o", "remount,size=400m", to)
	w.want(ok, args...)
	same(t, src, to)
}

// wholeOnly checks that every file below got that has a final name is the one of
// want, byte by byte, and returns how many there are.
func wholeOnly(t *testing.T, want, got string) (n int) {
	t.Helper()
	must(t, filepath.WalkDir(got, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".bh-restore-") {
			return err
		}
		rel, err := filepath.Rel(got, p)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(filepath.Join(want, rel))
		if err != nil {
			t.Errorf("%s was restored, but is not in the source: %v", rel, err)
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s has its name, but not its content", rel)
		}
		n++
		return nil
	}))
	return n
}
