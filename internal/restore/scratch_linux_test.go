package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func put(t *testing.T, name, text string) string {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Dir(name), 0o700))
	ok(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func TestScratch(t *testing.T) {
	parent := t.TempDir()
	s, err := NewScratch(parent)
	ok(t, err)
	info, err := os.Lstat(s.Path())
	ok(t, err)
	if info.Mode() != fs.ModeDir|0o700 || filepath.Dir(s.Path()) != parent {
		t.Errorf("%s: mode %v", s.Path(), info.Mode())
	}
	other, err := NewScratch(parent)
	ok(t, err)
	outside := put(t, filepath.Join(t.TempDir(), "dir", "outside"), "x")
	// What a snapshot or a command may leave.
	at := func(name string) string { return filepath.Join(s.Path(), name) }
	put(t, at("a/b/c/file"), "x")
	ok(t, os.Symlink(filepath.Dir(outside), at("link")))
	ok(t, os.Symlink("/nowhere", at("a/dangling")))
	ok(t, unix.Mkfifo(at("fifo"), 0o000))
	put(t, at("closed/file"), "x")
	ok(t, os.Chmod(at("closed/file"), 0))
	ok(t, os.Chmod(at("closed"), 0))
	if os.Geteuid() == 0 {
		for _, flag := range []uint32{tree.FlagImmutable, tree.FlagAppend} {
			name := map[uint32]string{tree.FlagImmutable: "immutable", tree.FlagAppend: "append"}[flag]
			put(t, at(name+"/dir/file"), "x")
			for _, p := range []string{name + "/dir/file", name + "/dir", name} {
				chattr(t, at(p), flag)
			}
		}
	}
	ok(t, s.Remove())
	names, err := os.ReadDir(parent)
	ok(t, err)
	if len(names) != 1 || names[0].Name() != filepath.Base(other.Path()) {
		t.Errorf("left: %v", names)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what a symlink led to is gone: %v", err)
	}
	// Gone already: nothing to do. Something else in its place: it stays.
	ok(t, os.Remove(other.Path()))
	ok(t, other.Remove())
	taken, err := NewScratch(parent)
	ok(t, err)
	ok(t, os.Rename(taken.Path(), taken.Path()+"-moved"))
	put(t, filepath.Join(taken.Path(), "theirs"), "x")
	if err := taken.Remove(); err == nil || !strings.Contains(err.Error(), "something else has taken its place") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(taken.Path(), "theirs")); err != nil {
		t.Errorf("somebody else's file is gone: %v", err)
	}
	// One that a killed process has left is taken over, and nothing else.
	left, err := NewScratch(parent)
	ok(t, err)
	put(t, filepath.Join(left.Path(), "dir", "file"), "x")
	for path, inode := range map[string]uint64{left.Path(): left.Inode() + 1, parent: left.Inode(), filepath.Base(left.Path()): left.Inode()} {
		if _, err := AdoptScratch(path, inode); err == nil {
			t.Errorf("%s, inode %d: no error", path, inode)
		}
	}
	again, err := AdoptScratch(left.Path(), left.Inode())
	ok(t, err)
	ok(t, again.Remove())
	if _, err := AdoptScratch(left.Path(), left.Inode()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := NewScratch(filepath.Join(parent, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such place: %v", err)
	}
}

// What a command has mounted in a scratch directory is not removed, and said.
func TestScratchMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	s, err := NewScratch(t.TempDir())
	ok(t, err)
	put(t, filepath.Join(s.Path(), "file"), "x")
	mnt := filepath.Join(s.Path(), "dir", "mnt")
	ok(t, os.MkdirAll(mnt, 0o700))
	ok(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(mnt, unix.MNT_DETACH)
	put(t, filepath.Join(mnt, "theirs"), "x")
	err = s.Remove()
	if err == nil || !strings.Contains(err.Error(), "dir/mnt: a file system is mounted on it") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "theirs")); err != nil {
		t.Errorf("what was mounted was removed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Path(), "file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest stays: %v", err)
	}
}
