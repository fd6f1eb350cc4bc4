package storage_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// mountTmpfs mounts an empty file system of the given size on a new directory.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a file system takes a privilege: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestLocalFull(t *testing.T) {
	dir := mountTmpfs(t, "1m")
	l, err := storage.OpenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	free, err := l.Free(t.Context())
	if err != nil || free <= 0 || free > 1<<20 {
		t.Errorf("free: %d, %v", free, err)
	}

	storagetest.Put(t, l, "dir/small", make([]byte, 1000))
	w, err := l.Create(t.Context(), "dir/large")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	_, err = w.Write(make([]byte, 2<<20))
	if !errors.Is(err, storage.ErrFull) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v, want ErrFull and ENOSPC", err)
	}
	if err := w.Commit(); !errors.Is(err, storage.ErrFull) {
		t.Errorf("commit after the failed write: %v, want ErrFull", err)
	}
	if got := storagetest.Objects(t, l); len(got) != 1 || len(got["dir/small"]) != 1000 {
		t.Errorf("%d objects", len(got))
	}
	// What the large one took is free again, also while its writer is not aborted.
	after, err := l.Free(t.Context())
	if err != nil || after < free-64<<10 {
		t.Errorf("free: %d before, %d after, %v", free, after, err)
	}
	storagetest.Put(t, l, "dir/other", bytes.Repeat([]byte("x"), 1000))
}

// wantReadOnly checks a store that cannot be written to. It holds "dir/object".
func wantReadOnly(t *testing.T, dir string, errno error) {
	t.Helper()
	l, err := storage.OpenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := storagetest.Objects(t, l); string(got["dir/object"]) != "x" {
		t.Errorf("read %q", got)
	}
	for _, name := range []string{"dir/new", "other/new"} {
		_, err := l.Create(t.Context(), name)
		if !errors.Is(err, storage.ErrReadOnly) || !errors.Is(err, errno) {
			t.Errorf("create %s: %v, want ErrReadOnly and %v", name, err, errno)
		}
	}
	if err := l.Delete(t.Context(), "dir/object"); !errors.Is(err, storage.ErrReadOnly) || !errors.Is(err, errno) {
		t.Errorf("delete: %v, want ErrReadOnly and %v", err, errno)
	}
	if err := l.Delete(t.Context(), "dir/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("delete of a missing object: %v, want fs.ErrNotExist", err)
	}
}

func putFile(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dir", "object"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLocalReadOnlyMount(t *testing.T) {
	dir := mountTmpfs(t, "1m")
	putFile(t, dir)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantReadOnly(t, dir, unix.EROFS)
}

func TestLocalReadOnlyPermissions(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("permissions do not bind root; TestLocalReadOnlyMount covers it")
	}
	dir := t.TempDir()
	putFile(t, dir)
	for _, d := range []string{filepath.Join(dir, "dir"), dir} {
		if err := os.Chmod(d, 0o500); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(d, 0o700)
	}
	wantReadOnly(t, dir, unix.EACCES)
}

// A disk that disappears must not make us write to what lies below.
func TestLocalUnmounted(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a file system takes a privilege: %v", err)
	}
	l, err := storage.OpenLocal(dir)
	if err != nil {
		unix.Unmount(dir, unix.MNT_DETACH)
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	// Lazily unmounted, the disk is still there for those who have it open.
	storagetest.Put(t, l, "packs/object", []byte("x"))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("below the mount point: %v, %v", entries, err)
	}
}

// A FIFO, on which opening blocks, is not an object.
func TestLocalFIFO(t *testing.T) {
	l, dir := openLocal(t)
	if err := unix.Mkfifo(filepath.Join(dir, "object"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := l.Get(t.Context(), "object", 0, -1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get: %v, want fs.ErrNotExist", err)
		}
		if got := listNames(t, l, ""); len(got) != 0 {
			t.Errorf("listed: %q", got)
		}
		if got := listNames(t, l, "object"); len(got) != 0 {
			t.Errorf("listed in it: %q", got)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("blocked")
	}
}

func BenchmarkLocalGet(b *testing.B) {
	dir := b.TempDir()
	l, err := storage.OpenLocal(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	storagetest.Put(b, l, "packs/3f/object", make([]byte, 1<<20))
	buf := make([]byte, 4096)
	b.Run("store", func(b *testing.B) {
		for b.Loop() {
			r, err := l.Get(b.Context(), "packs/3f/object", 5000, 4096)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := r.Read(buf); n != len(buf) {
				b.Fatal(n, err)
			}
			r.Close()
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			f, err := os.Open(filepath.Join(dir, "packs/3f/object"))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := f.ReadAt(buf, 5000); n != len(buf) {
				b.Fatal(n, err)
			}
			f.Close()
		}
	})
}
