package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// An unencrypted repository works, and nobody can overlook what it is.
func TestUnencrypted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = nil // no key anywhere
	src, dest := w.tree(3, "src"), w.path("repo")
	rep := w.backup(ok, "--source-dir", src, "--backup-dirs", dest)
	if !strings.Contains(strings.Join(rep.Notes, "\n"), "not encrypted") {
		t.Errorf("notes %q", rep.Notes)
	}
	if r := w.want(ok, "status", "--backup-dirs", dest); !strings.Contains(strings.ToLower(r.out), "not encrypted") {
		t.Errorf("%v", r)
	}
	w.verify(ok, dest, "--read-data")
	same(t, src, w.restore(ok, dest, "latest", src))
	// Encryption is wanted, but there is no key: nothing is made.
	r := w.want(refused, append([]string{"backup"}, encrypted(src, w.path("other"))...)...)
	r.complaint(t, true, "key")
	if _, err := os.Lstat(w.path("other", "config")); err == nil {
		t.Error("a repository was made without a key")
	}
}

// Nothing of what is backed up can be read in an encrypted repository, and nobody
// else can read the files that the program makes.
func TestNothingInClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.path("src"), w.path("repo")
	const secret, name = "the launch code is 00000000", "name-of-a-secret-file"
	w.write([]byte(secret), "src", name)
	w.write([]byte(strings.Repeat(secret+"\n", 10_000)), "src", "large")
	w.backup(ok, append(encrypted(src, dest), "--tag", "secret-tag")...)
	must(t, filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == src {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if strings.HasPrefix(p, dest) || strings.HasPrefix(p, w.path("state")+"/") || strings.HasPrefix(p, w.path("cache")+"/") {
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v", p, info.Mode())
			}
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		for _, clear := range []string{secret, "launch code", "correct horse"} {
			if bytes.Contains(data, []byte(clear)) {
				t.Errorf("%s holds %q", p, clear)
			}
		}
		for _, clear := range []string{name, src, "secret-tag"} {
			if strings.HasPrefix(p, dest) && bytes.Contains(data, []byte(clear)) {
				t.Errorf("%s holds %q", p, clear)
			}
		}
		return err
	}))
}

// A recipient's private key opens what was made with the public one. A run must read
// its repository, too: without a key that opens it none is made.
func TestRecipient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(5, "src"), w.path("repo")
	id, err := seal.GenerateIdentity(rand.Reader)
	must(t, err)
	stranger, err := seal.GenerateIdentity(rand.Reader)
	must(t, err)
	identity := w.write([]byte("# a comment\n"+id.Text()+"\n"), "identity")
	wrong := w.write([]byte(stranger.Text()+"\n"), "stranger")
	public := w.write([]byte(id.Recipient().String()+"\n"), "public")

	args := []string{"--source-dir", src, "--backup-dirs", dest, "--recipient", public}
	passphrase := w.env
	w.env = nil
	w.want(refused, append([]string{"backup"}, args...)...).complaint(t, true, "key")
	if _, err := os.Lstat(filepath.Join(dest, "config")); err == nil {
		t.Error("a repository was made that the run cannot open")
	}
	w.env = passphrase
	w.backup(ok, args...)
	w.env = nil
	read := []string{"restore", "latest:" + src, "--backup-dirs", dest, "--to", w.path("to")}
	w.want(failed, read...).complaint(t, true, "key")
	w.want(failed, append(read, "--identity-file", wrong)...).complaint(t, true, "key")
	if _, err := os.Lstat(w.path("to")); err == nil {
		t.Error("something was restored without the key")
	}
	w.verify(ok, dest, "--read-data", "--identity-file", identity)
	same(t, src, w.restore(ok, dest, "latest", src, "--identity-file", identity))
	w.backup(ok, append(args, "--identity-file", identity)...)
}

// A key file of 32 bytes, in the place of a passphrase.
func TestKeyFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = nil
	src, dest := w.tree(5, "src"), w.path("repo")
	key := w.write(bytes.Repeat([]byte("k"), 32), "key")
	other := w.write(bytes.Repeat([]byte("o"), 32), "other")
	w.backup(ok, append(encrypted(src, dest), "--key-file", key)...)
	before := storeSum(t, dest)
	w.want(refused, append([]string{"backup", "--key-file", other}, encrypted(src, dest)...)...).complaint(t, true, "key")
	w.want(failed, "restore", "latest", "--to", w.path("to"), "--backup-dirs", dest, "--key-file", other).complaint(t, true, "key")
	if storeSum(t, dest) != before {
		t.Error("the repository was changed")
	}
	w.backup(ok, append(encrypted(src, dest), "--key-file", key)...)
	same(t, src, w.restore(ok, dest, "latest", src, "--key-file", key))
}

// Everything is lost but the repository and a sheet of paper: its text, or its code, and
// the commands on it, bring everything back. The passphrase is not needed any more.
func TestRecoverySheet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(5, "src"), w.path("a disk", "repo")
	w.backup(ok, encrypted(src, dest)...)
	w.want(ok, "key", "sheet", "sheet.txt", "--backup-dirs", dest)
	w.want(ok, "key", "sheet", "sheet.html", "--backup-dirs", dest)
	text, err := os.ReadFile(w.path("home", "sheet.txt"))
	must(t, err)
	page, err := os.ReadFile(w.path("home", "sheet.html"))
	must(t, err)
	var lines, restore string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if n, key, ok := strings.Cut(line, ": "); ok && len(n) == 1 && len(key) == 19 {
			lines += strings.ToLower(key) + "\n"
		}
		if strings.HasPrefix(line, "backup-handler restore ") {
			restore = line
		}
	}
	for form, key := range map[string]string{"text": lines, "code": scan(t, w, page)} {
		if strings.Count(key, "\n") != map[string]int{"text": 4, "code": 1}[form] {
			t.Fatalf("the %s has no key", form)
		}
		paper := w.write([]byte(key), form)
		must(t, os.Chmod(paper, 0o600))
		if form == "text" { // the only other key goes
			w.env = []string{"BACKUP_HANDLER_PASSPHRASE=correct horse battery staple"}
			var reps []struct {
				Keys []struct{ ID, Kind string }
			}
			must(t, json.Unmarshal([]byte(w.want(ok, "key", "list", "--json", "--backup-dirs", dest).out), &reps))
			w.env = nil
			for _, k := range reps[0].Keys {
				if k.Kind == "passphrase" {
					w.want(ok, "key", "remove", k.ID[:8], "--backup-dirs", dest, "--key-file", paper)
				}
			}
		}
		w.env = nil
		for _, dir := range []string{"state", "cache", "home"} { // another computer
			removeAll(t, w.path(dir))
			must(t, os.Mkdir(w.path(dir), 0o700))
		}
		to := w.path("restored from " + form)
		c, out, errout := w.command(t.Context(), "")
		c.Path, c.Args = "/bin/sh", []string{"sh", "-c", strings.NewReplacer("/restored", "'"+to+"'", "--recovery-key", "--key-file '"+paper+"'",
			"backup-handler ", "'"+binary+"' ").Replace(restore)}
		if err := c.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", c.Args[2], err, out, errout)
		}
		same(t, src, to+src)
		if form == "text" {
			w.env = []string{"BACKUP_HANDLER_PASSPHRASE=correct horse battery staple"}
			w.want(failed, "snapshots", "--backup-dirs", dest).complaint(t, true, "wrong key")
		}
	}
}

// scan reads the code of a page like a telephone does.
func scan(t *testing.T, w *world, page []byte) string {
	t.Helper()
	svg := w.write(regexp.MustCompile(`(?s)<svg .*</svg>`).Find(page), "code.svg")
	tool(t, w.dir, "rsvg-convert", "-o", "code.png", svg)
	// Not tool: zbar complains on standard error where there is no system bus.
	out, err := exec.CommandContext(t.Context(), "zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", w.path("code.png")).Output()
	must(t, err)
	return string(out)
}
