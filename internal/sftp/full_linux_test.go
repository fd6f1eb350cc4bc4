package sftp

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// mountSmall mounts a file system of a given size; only root can.
func mountSmall(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("no right to mount: %v", err) // a container without CAP_SYS_ADMIN
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFull(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	for options, size := range map[string]int{"size=4m,mode=700": 6 << 20, "size=4m,mode=700,nr_inodes=3": 10} {
		dir := mountSmall(t, options)
		s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
		if err := put(s, "a", random(1000)); err != nil { // inodes: the root, this, and its second name on tmpfs
			t.Fatalf("%s: %v", options, err)
		}
		if err := put(s, "c", random(size)); !errors.Is(err, storage.ErrFull) {
			t.Errorf("%s: %v, want %v", options, err, storage.ErrFull)
		}
		// Nothing is left of it, and what fits goes on to fit.
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := put(s, "d", random(1000)); err != nil {
			t.Errorf("%s: %v", options, err)
		}
	}
}

func TestReadOnlyMount(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	dir := mountSmall(t, "size=4m,mode=700")
	s := mustCreate(t, targetOf(t, server, dir), optionsFor(server))
	if err := put(s, "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantReadOnly(t, s, dir)
}
