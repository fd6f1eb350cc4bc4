package sftp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

func TestTempName(t *testing.T) {
	if name := tempName(); !durable.IsTemp(name) || storage.CheckName(name) == nil || name == tempName() {
		t.Errorf("%q is no name for a temporary file", name)
	}
}

// Around the size of a packet, and of the window.
func TestSizes(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	s := mustCreate(t, targetOf(t, server, server.Dir), optionsFor(server))
	if got := s.pool.sessions[0].packet; got != largePacket {
		t.Errorf("packets of %d bytes with OpenSSH", got)
	}
	const window = writeWindow * largePacket
	for _, size := range []int{0, 1, largePacket - 1, largePacket, largePacket + 1, window - 1, window, window + 1} {
		data := random(size)
		name := fmt.Sprint(size)
		if err := put(s, name, data); err != nil {
			t.Fatal(err)
		}
		if got, err := get(s, name, 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, off := range []int64{1, largePacket - 1, largePacket, largePacket + 1} {
		want := random(window)[off : off+2*largePacket]
		if got, err := get(s, fmt.Sprint(window), off, 2*largePacket); err != nil || !bytes.Equal(got, want) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
}

// Content that cannot be read leaves nothing.
func TestBadContent(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	s := mustCreate(t, targetOf(t, server, server.Dir), optionsFor(server))
	if err := s.Put(t.Context(), "dir/short", bytes.NewReader(random(1000)), 1001); err == nil {
		t.Error("content of 1000 bytes was put as 1001")
	}
	// What the reader says of itself is not what the server says.
	denied := fmt.Errorf("open spool: %w", fs.ErrPermission)
	err := s.Put(t.Context(), "dir/denied", broken{denied}, 1<<20)
	if !errors.Is(err, denied) || errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("error is %v", err)
	}
	if err := s.Put(t.Context(), "dir/negative", bytes.NewReader(nil), -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
	wantOnly(t, filepath.Join(server.Dir, "dir"))
}

type broken struct{ err error }

func (b broken) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func TestSweep(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	dir := filepath.Join(server.Dir, "packs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old, fresh := tempName(), tempName()
	files := map[string]time.Duration{old: 25 * time.Hour, fresh: 23 * time.Hour, ".other.tmp": 99 * time.Hour, "foreign FILE": 99 * time.Hour}
	for name, age := range files {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, nil, 0o600), os.Chtimes(p, time.Time{}, time.Now().Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(server.Dir, tempName()) // of another directory: not yet
	if err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Chtimes(outside, time.Time{}, time.Now().Add(-99*time.Hour))); err != nil {
		t.Fatal(err)
	}
	s := mustCreate(t, targetOf(t, server, server.Dir), optionsFor(server))
	if got := list(t, s); len(got) != 0 {
		t.Errorf("listed: %q", got)
	}
	if err := put(s, "packs/a", nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, old)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	want := []string{".other.tmp", fresh, "a", "foreign FILE"}
	slices.Sort(want)
	wantOnly(t, dir, want...)
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if got := list(t, s); !slices.Equal(got, []string{"packs/a"}) {
		t.Errorf("listed: %q", got)
	}
}

// A server that refuses all changes, and one where the user may make none.
func TestReadOnly(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{ReadOnly: true})
	if err := os.WriteFile(filepath.Join(server.Dir, "a"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Create(t.Context(), targetOf(t, server, server.Dir+"/new"), optionsFor(server))
	if !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("create: %v", err)
	}
	s, err := Open(t.Context(), targetOf(t, server, server.Dir), optionsFor(server))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantReadOnly(t, s, server.Dir)
	if got, err := get(s, "a", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("get: %q, %v", got, err)
	}
}

func wantReadOnly(t *testing.T, s *Store, dir string) {
	t.Helper()
	for name, err := range map[string]error{
		"put": put(s, "b", nil), "put into a new directory": put(s, "new/b", nil), "delete": s.Delete(t.Context(), "a"),
	} {
		if !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
		wantPermanent(t, err, dir, s.target.Host)
	}
}

func TestNoPermission(t *testing.T) {
	u := sftptest.NewUser(t)
	server := sftptest.Start(t, sftptest.Config{User: u})
	dir := filepath.Join(server.Dir, "store")
	secret := filepath.Join(dir, "secret")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), os.Mkdir(secret, 0o700), os.WriteFile(filepath.Join(secret, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
	wantReadOnly(t, s, dir)
	_, err := get(s, "a", 0, -1)
	wantPermanent(t, err, "no permission to read "+dir+"/a", u.Name)
	err = s.List(t.Context(), "", func(storage.Info) error { return nil })
	wantPermanent(t, err, "no permission to list "+secret)
	_, err = Open(t.Context(), targetOf(t, server, secret+"/x"), optionsFor(server))
	wantPermanent(t, err, "no permission to look at", secret)
}

// The directory of the store goes away, as that of a disk that is unmounted: it is
// not made again in its place, and not taken for an empty store.
func TestDirectoryGone(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	dir := filepath.Join(server.Dir, "store")
	s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
	if err := put(s, "packs/a", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "packs/a", "packs/3f/a"} {
		if err := put(s, name, nil); err == nil || !strings.Contains(err.Error(), dir+" is missing") {
			t.Errorf("put %s: %v", name, err)
		}
	}
	for _, in := range []string{"", "packs"} {
		err := s.List(t.Context(), in, func(storage.Info) error { return nil })
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir+" does not exist") {
			t.Errorf("list %q: %v", in, err)
		}
	}
	wantOnly(t, server.Dir)
	_, err := Open(t.Context(), targetOf(t, server, dir), optionsFor(server))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	file := filepath.Join(server.Dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Create(t.Context(), targetOf(t, server, file), optionsFor(server))
	wantPermanent(t, err, "is not a directory")
}

// Relative to the login directory, on a server that chooses it.
func TestLoginDirectory(t *testing.T) {
	home := t.TempDir()
	server := sftptest.Start(t, sftptest.Config{StartDir: home})
	for _, dir := range []string{"/./backup/x", "/~/backup/x"} {
		s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
		if err := put(s, "packs/a", nil); err != nil {
			t.Fatal(err)
		}
		wantOnly(t, filepath.Join(home, "backup", "x", "packs"), "a")
		if got := list(t, s); !slices.Equal(got, []string{"packs/a"}) {
			t.Errorf("listed: %q", got)
		}
		s.Close()
		if err := os.RemoveAll(filepath.Join(home, "backup")); err != nil {
			t.Fatal(err)
		}
	}
}

// What is in the directory and no object is not seen; a symbolic link is an error.
func TestForeignFiles(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	s := mustCreate(t, targetOf(t, server, server.Dir), optionsFor(server))
	if err := put(s, "packs/a", nil); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"lost+found", ".Trash", "packs/UPPER"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(server.Dir, dir), 0o700), os.WriteFile(filepath.Join(server.Dir, dir, "x"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, s); !slices.Equal(got, []string{"packs/a"}) {
		t.Errorf("listed: %q", got)
	}
	if err := os.Symlink("/etc", filepath.Join(server.Dir, "packs", "link")); err != nil {
		t.Fatal(err)
	}
	err := s.List(t.Context(), "", func(storage.Info) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "packs/link: is a symbolic link") {
		t.Errorf("list: %v", err)
	}
	if _, err := get(s, "packs/link", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a link: %v", err)
	}
}
