package e2e

import (
	"bytes"
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// An unencrypted repository works, and nobody can overlook what it is.
func TestUnencrypted(t *testing.T) {
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
