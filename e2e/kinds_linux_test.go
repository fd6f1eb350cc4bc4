package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// rsyncBlind are paths of filestest.Generate that rsync cannot handle: a socket is
// not backed up, another is longer than PATH_MAX. It would read every byte of the
// large holes, which the facts compare by what is between them.
var rsyncBlind = []string{"--exclude", "/special/socket", "--exclude", "/dirs/deep", "--exclude", "/sparse/over-4g", "--exclude", "/sparse/all-hole"}

// TestEveryKind takes every kind of file there and back, twice: as generated, and
// after changes. Root gets back everything, others what they are allowed to make.
func TestEveryKind(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: owners, devices, trusted attributes and some flags are not tested")
	}
	w := newWorld(t)
	w.configure()
	src, dest := w.mkdir("src"), w.path("repo")
	for _, note := range filestest.Generate(t, src) {
		t.Log("not made: " + note)
	}
	first := factsOf(t, src, true)
	rep := w.backup(ok, append(encrypted(src, dest), "--backup-mode", "full")...)
	if rep.Details.Counts.Problems != 0 {
		t.Errorf("problems: %v", rep.Details.Problems)
	}
	if len(rep.Notes) == 0 || !strings.Contains(strings.Join(rep.Notes, "\n"), "socket") {
		t.Errorf("no word of the socket: %q", rep.Notes)
	}
	w.verify(ok, dest, "--read-data")

	// While the source is as it was, let the others judge.
	got := w.restore(ok, dest, "latest", src)
	judge := func(got string) {
		t.Helper()
		sameText(t, src, got, "lsattr", "-aR", "flags")
		if os.Geteuid() != 0 { // the ACL keeps its owner out
			same(t, src, got, append(rsyncBlind, "--exclude", "/xattrs/dir-acl")...)
			return
		}
		same(t, src, got, rsyncBlind...)
		sameText(t, src, got, "getfattr", "-Rhd", "-m-", "-e", "hex", "xattrs")
		sameText(t, src, got, "getfacl", "-Rnp", "xattrs")
	}
	judge(got)
	sameFacts(t, first, got)

	changes := filestest.Mutate(t, src, 1)
	second := factsOf(t, src, true)
	rep2 := w.backup(ok, encrypted(src, dest)...)
	c := rep2.Details.Counts
	if c.Unmodified == 0 || c.New == 0 || c.Changed == 0 || c.New+c.Changed > int64(2*len(changes)+10) {
		t.Errorf("%d new, %d changed, %d unmodified after the changes %q", c.New, c.Changed, c.Unmodified, changes)
	}
	w.verify(ok, dest, "--read-data")

	// Both points, whatever came after.
	got = w.restore(ok, dest, rep2.Snapshot, src)
	judge(got)
	sameFacts(t, second, got)
	sameFacts(t, first, w.restore(ok, dest, rep.Snapshot, src))

	// Once more over what is there: nothing to do. Then the other point over it.
	again := w.want(ok, "restore", rep2.Snapshot+":"+src, "--to", got, "--backup-dirs", dest, "--json")
	if !strings.Contains(again.out, `"files": 0`) || !strings.Contains(again.out, `"bytes_written": 0`) {
		t.Errorf("restored what was there: %v", again)
	}
	sameFacts(t, second, got)
	w.want(ok, "restore", rep.Snapshot+":"+src, "--to", got, "--backup-dirs", dest, "--delete")
	sameFacts(t, first, got)
}

// TestWithoutPrivileges backs up and restores as a user who is not root.
func TestWithoutPrivileges(t *testing.T) {
	t.Parallel()
	needRoot(t, "it makes files that the user may not read")
	w := newWorld(t)
	w.drop()
	src, dest := w.mkdir("src"), filepath.Join(w.mkdir("dest"), "repo")
	w.write([]byte("readable"), "src", "readable")
	w.write([]byte("mine"), "src", "mine-0600")
	must(t, os.Chmod(w.path("src", "mine-0600"), 0o600))
	must(t, os.Symlink("readable", w.path("src", "link")))
	must(t, os.Lchown(w.path("src", "link"), nobody, nobody))
	must(t, os.Chmod(w.write([]byte("program"), "src", "dir", "program"), 0o4755))
	must(t, os.Link(w.path("src", "readable"), w.path("src", "dir", "other-name")))
	for _, p := range []string{"", "readable", "mine-0600", "dir", "dir/program"} {
		must(t, os.Chown(w.path("src", p), nobody, nobody))
	}
	must(t, os.Chmod(w.path("src", "dir", "program"), 0o4755))
	whole := factsOf(t, src, true)

	// All that is there can be read and made: no complaint.
	rep := w.backup(ok, encrypted(src, dest)...)
	got := w.restore(ok, dest, "latest", src)
	sameFacts(t, whole, got)

	// Another user's files: what cannot be read is named, the rest is there.
	secret := w.write([]byte("secret"), "src", "secret")
	must(t, os.Chmod(secret, 0))
	must(t, os.Chown(secret, 0, 0))
	locked := w.write([]byte("inside"), "src", "locked", "inside")
	must(t, os.Chown(filepath.Dir(locked), 0, 0))
	must(t, os.Chmod(filepath.Dir(locked), 0o700))
	foreign := w.write([]byte("of root"), "src", "foreign")
	must(t, os.Chown(foreign, 0, 0))

	rep = w.backup(partial, encrypted(src, dest)...)
	named := map[string]string{}
	for _, p := range rep.Details.Problems {
		named[p.Path] = p.Kind
	}
	if len(named) != 2 || named[secret] != "unreadable" || named[filepath.Dir(locked)] != "unreadable" {
		t.Errorf("problems %v", rep.Details.Problems)
	}
	text := w.want(partial, append([]string{"backup"}, encrypted(src, dest)...)...)
	for _, name := range []string{secret, filepath.Dir(locked)} {
		if strings.Count(text.errout, name+": unreadable") != 1 {
			t.Errorf("%s is not named once: %v", name, text)
		}
	}
	if rep.Snapshot == "" || len(w.snapshotIDs(dest)) != 3 {
		t.Errorf("snapshots %q", w.snapshotIDs(dest))
	}
	w.verify(ok, dest, "--read-data")

	// The owner of the foreign file cannot be restored; this is said, and all else done.
	to := w.mkdir("to")
	r := w.want(ok, "restore", "latest:"+src, "--to", to, "--backup-dirs", dest)
	if !strings.Contains(r.errout, "only root can give files away") {
		t.Errorf("not a word about owners: %v", r)
	}
	if _, err := os.Lstat(filepath.Join(to, "secret")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unreadable file was restored: %v", err)
	}
	must(t, os.Chown(filepath.Join(to, "foreign"), 0, 0)) // as the root who restores would
	same(t, src, to, "--exclude", "/secret", "--exclude", "/locked", "--no-group")
	if data, err := os.ReadFile(filepath.Join(to, "foreign")); err != nil || string(data) != "of root" {
		t.Errorf("foreign: %q, %v", data, err)
	}
}
