package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend makes a storage.Backend of a Store, as the program does.
func backend(t *testing.T, s *Store) storage.Backend {
	return storage.NewRemote(s, storage.RemoteOptions{SpoolDir: t.TempDir()})
}

// optionsFor are those that reach a server as its tests mean it to be reached.
func optionsFor(s *sftptest.Server) Options {
	return Options{KeyFile: s.KeyFile, KnownHosts: []string{s.KnownHosts}}
}

func targetOf(t testing.TB, s *sftptest.Server, dir string) Target {
	t.Helper()
	target, err := ParseURL(s.URL(dir))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// mustCreate creates a store that closes with the test.
func mustCreate(t testing.TB, target Target, options Options) *Store {
	t.Helper()
	s, err := Create(t.Context(), target, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// through returns a target and options that reach a server through a proxy.
func through(t testing.TB, s *sftptest.Server, p *sftptest.Proxy, dir string) (Target, Options) {
	t.Helper()
	target := targetOf(t, s, dir)
	target.Host, target.Port = p.Host, p.Port
	options := optionsFor(s)
	options.KnownHosts = []string{writeFile(t, s.KnownHostsLine(t, p.Host, p.Port))}
	return target, options
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func random(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func put(s *Store, name string, data []byte) error {
	return s.Put(context.Background(), name, bytes.NewReader(data), int64(len(data)))
}

func get(s *Store, name string, off, length int64) ([]byte, error) {
	r, err := s.Get(context.Background(), name, off, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func list(t *testing.T, s *Store) []string {
	t.Helper()
	var names []string
	if err := s.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// wantPermanent checks that an error is permanent, in one line, and what it and its
// hint say.
func wantPermanent(t *testing.T, err error, texts ...string) {
	t.Helper()
	p, ok := errors.AsType[*storage.PermanentError](err)
	if !ok {
		t.Fatalf("error is %v, want a permanent one", err)
	}
	all := err.Error() + "\n" + p.Hint
	if strings.Contains(err.Error(), "\n") || strings.Contains(p.Hint, "\n") {
		t.Errorf("more than a line each: %s", all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("error and hint are\n%s\nwant %q in them", all, text)
		}
	}
}

func TestConformance(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	n := 0
	storagetest.Test(t, func(t *testing.T) storage.Backend {
		n++
		return backend(t, mustCreate(t, targetOf(t, server, path.Join(server.Dir, fmt.Sprint(n), "store")), optionsFor(server)))
	})
}

// A chroot with nothing but internal-sftp in it: no shell, no commands.
func TestConformanceChroot(t *testing.T) {
	u := sftptest.NewUser(t)
	jail := chroot(t, u)
	server := sftptest.Start(t, sftptest.Config{User: u, Chroot: jail, ForceSFTP: true})
	n := 0
	storagetest.Test(t, func(t *testing.T) storage.Backend {
		n++
		return backend(t, mustCreate(t, targetOf(t, server, fmt.Sprintf("/data/%d/store", n)), optionsFor(server)))
	})
}

func TestPublished(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	dir := filepath.Join(server.Dir, "a", "store")
	s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
	if err := put(s, "packs/3f/x", random(1<<20)); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{
		filepath.Dir(dir): fs.ModeDir | 0o700, dir: fs.ModeDir | 0o700,
		dir + "/packs": fs.ModeDir | 0o700, dir + "/packs/3f": fs.ModeDir | 0o700, dir + "/packs/3f/x": 0o600,
	} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s is %v, want %v", p, info.Mode(), want)
		}
	}
	wantOnly(t, dir+"/packs/3f", "x")
	if s.dirSync.Load() != dirSyncWorks {
		t.Error("OpenSSH has not flushed a directory")
	}
	if err := put(s, "packs/3f/x", random(5)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second put: %v", err)
	}
	wantOnly(t, dir+"/packs/3f", "x")
}

func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func chroot(t *testing.T, u sftptest.User) string {
	t.Helper()
	// Not in t.TempDir: sshd wants every directory above to be root's alone.
	jail, err := os.MkdirTemp("/var", "bhtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(jail) })
	data := filepath.Join(jail, "data")
	if err := errors.Join(os.Chmod(jail, 0o755), os.Mkdir(data, 0o700), chown(data, u)); err != nil {
		t.Fatal(err)
	}
	return jail
}

func chown(dir string, u sftptest.User) error {
	found, err := user.Lookup(u.Name)
	if err != nil {
		return err
	}
	uid, uidErr := strconv.Atoi(found.Uid)
	gid, gidErr := strconv.Atoi(found.Gid)
	return errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid))
}
