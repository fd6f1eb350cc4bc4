package storage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// TestMain makes the test binary double as the writer that
// TestLocalCrash kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORAGE_TEST_CRASH_IN"); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func openLocal(t *testing.T) (*storage.Local, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := storage.OpenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, dir
}

func TestLocal(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Backend {
		l, _ := openLocal(t)
		return l
	})
}

func listNames(t *testing.T, b storage.Backend, dir string) []string {
	t.Helper()
	var names []string
	err := b.List(t.Context(), dir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func TestOpenLocal(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "a", "b")
	if _, err := storage.OpenLocal(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v, want fs.ErrNotExist", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("OpenLocal made a directory")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.OpenLocal(file); err == nil {
		t.Error("opened a file")
	}
	if _, err := storage.CreateLocal(file); err == nil {
		t.Error("created a file")
	}
	t.Chdir(dir)
	l, err := storage.CreateLocal("a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.String() != missing {
		t.Errorf("opened %s, want %s", l, missing)
	}
}

func TestLocalPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	dir := filepath.Join(t.TempDir(), "a", "repo")
	l, err := storage.CreateLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	storagetest.Put(t, l, "packs/3f/object", []byte("x"))
	for name, want := range map[string]fs.FileMode{
		"..": 0o700, ".": 0o700, "packs": 0o700, "packs/3f": 0o700, "packs/3f/object": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has permissions %o, want %o", name, got, want)
		}
	}
}

func TestLocalIgnoresForeignFiles(t *testing.T) {
	l, dir := openLocal(t)
	storagetest.Put(t, l, "packs/object", nil)
	for _, name := range []string{
		".hidden", "packs/.hidden", "README", "packs/Object", "Thumbs.db", "packs/object~",
		"lost+found/a", ".trash/a", "packs/.durable-abc.tmp",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range []string{"", "packs"} {
		if got := listNames(t, l, list); !slices.Equal(got, []string{"packs/object"}) {
			t.Errorf("list %q: %q", list, got)
		}
	}
}

// If somebody removes a directory behind our back, Create makes it again.
func TestLocalDirectoryRemoved(t *testing.T) {
	l, dir := openLocal(t)
	for range 3 {
		storagetest.Put(t, l, "packs/3f/object", nil)
		if err := os.RemoveAll(filepath.Join(dir, "packs")); err != nil {
			t.Fatal(err)
		}
	}
}

// The first Create in a directory removes what was abandoned there a day ago.
func TestLocalRemovesStaleFiles(t *testing.T) {
	l, dir := openLocal(t)
	age := map[string]time.Duration{
		"packs/.durable-old.tmp":   25 * time.Hour,
		"packs/.durable-young.tmp": 23 * time.Hour,
		"packs/.durable-old":       25 * time.Hour,
		"packs/.other.tmp":         25 * time.Hour,
		"other/.durable-old.tmp":   25 * time.Hour,
	}
	for name, age := range age {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	storagetest.Put(t, l, "packs/object", nil)
	for name := range age {
		_, err := os.Lstat(filepath.Join(dir, name))
		if gone := err != nil; gone != (name == "packs/.durable-old.tmp") {
			t.Errorf("%s is gone: %t", name, gone)
		}
	}
}

func writeUntilKilled(dir string) error {
	l, err := storage.OpenLocal(dir)
	if err != nil {
		return err
	}
	for i := range 2 {
		w, err := l.Create(context.Background(), fmt.Sprint("packs/", i))
		if err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, 10<<20)); err != nil {
			return err
		}
		if i == 0 {
			if err := w.Commit(); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestLocalCrash(t *testing.T) {
	l, dir := openLocal(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORAGE_TEST_CRASH_IN="+dir)
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
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Errorf("the writer says %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait()

	if got := listNames(t, l, ""); !slices.Equal(got, []string{"packs/0"}) {
		t.Errorf("listed: %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "packs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "0" && !durable.IsTemp(e.Name()) {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	// The interrupted object can be written by the next process.
	storagetest.Put(t, l, "packs/1", []byte("second try"))
	if got := storagetest.Objects(t, l); len(got["packs/0"]) != 10<<20 || string(got["packs/1"]) != "second try" {
		t.Errorf("%d and %d bytes", len(got["packs/0"]), len(got["packs/1"]))
	}
}

func TestLocalLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links take a privilege")
	}
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "object"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"object": filepath.Join(outside, "object"),
		"packs":  outside,
	} {
		l, dir := openLocal(t)
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(link+"/object", "object/")
		if r, err := l.Get(t.Context(), name, 0, -1); err == nil {
			r.Close()
			t.Errorf("Get follows %s out", link)
		}
		if w, err := l.Create(t.Context(), "packs/new"); err == nil {
			err = w.Commit()
			if link == "packs" {
				t.Errorf("Create follows %s out: %v", link, err)
			}
		}
		never := func(i storage.Info) error {
			if i.Name != "packs/new" {
				t.Errorf("List shows %s", i.Name)
			}
			return nil
		}
		if err := l.List(t.Context(), "", never); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("List passes over %s: %v", link, err)
		}
		if link == "packs" {
			if err := l.List(t.Context(), "packs", never); err == nil {
				t.Error("List follows its argument out")
			}
		}
		if err := os.Symlink("nowhere", filepath.Join(dir, ".foreign")); err != nil {
			t.Fatal(err)
		}
		if err := l.Delete(t.Context(), link); err != nil {
			t.Errorf("delete link: %v", err) // the link itself, not its target
		}
		if err := l.List(t.Context(), "", never); err != nil {
			t.Errorf("List minds a foreign link: %v", err)
		}
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}
