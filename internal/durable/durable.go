// Package durable writes files that survive a crash: what it reports as done is
// still there, whole, after the power has been cut.
//
// It is the only caller of fsync in the program. It knows nothing of what the
// files mean. Its invariants:
//
//   - A name appears with its complete, flushed content, or not at all.
//   - When a function returns nil, the change has reached the disk: first the
//     content of the file, then the directory that names it. Windows has no way
//     to flush a directory; there, the second half is left to the file system's
//     journal.
//   - Nothing is replaced, except by [WriteFile].
//   - What a crash leaves behind is either nothing (Linux, O_TMPFILE) or a file
//     whose name [IsTemp] recognises, which [Dir.RemoveStale] removes.
//
// After an error the change may or may not have happened, and may not be
// durable. An fsync that failed is never repeated: the kernel forgets the lost
// pages after reporting them once, so that a second call proves nothing.
//
// Files: durable.go (directories, whole files), file.go (one file being written
// and the ways to publish it), log.go (append and flush), lock.go, and what is
// different per system in sys_*.go.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// A Dir is an open directory, beneath which files are written and removed.
//
// Names given to its methods are relative and slash-separated, and never lead
// out of the directory, not even through a symbolic link (see [os.Root]). As
// the directory is held open, a mount that disappears makes its methods fail; it
// does not make them write to the disk below the mount point.
//
// All methods may be called concurrently.
type Dir struct {
	root *os.Root
}

// OpenDir opens the directory name, which exists.
func OpenDir(name string) (*Dir, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &Dir{root}, nil
}

// Root gives access for reading. Changes made through it are not durable.
func (d *Dir) Root() *os.Root { return d.root }

// Close releases the directory. Files being written stay valid.
func (d *Dir) Close() error { return d.root.Close() }

// Create starts the file name, in a directory that exists. See [Create].
func (d *Dir) Create(name string, perm fs.FileMode) (*File, error) {
	return d.create(name, perm, unnamed)
}

func (d *Dir) create(name string, perm fs.FileMode, how method) (*File, error) {
	base := path.Base(name)
	if base == "." || base == ".." || base == "/" || strings.HasSuffix(name, "/") {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrInvalid}
	}
	parent, err := d.root.OpenRoot(path.Dir(name))
	if err != nil {
		return nil, err
	}
	return newFile(parent, base, perm, how)
}

// MkdirAll makes the directory name and those that lead to it. The parent of
// each is flushed even if the directory was there before: whoever made it may
// not have lived to do so.
func (d *Dir) MkdirAll(name string, perm fs.FileMode) error {
	name = path.Clean(name)
	if name == "." {
		return nil
	}
	parent := path.Dir(name)
	if err := d.MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := d.root.Mkdir(name, perm); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, serr := d.root.Stat(name); serr != nil {
			return serr
		} else if !info.IsDir() {
			return err
		}
	}
	return syncRoot(d.root, parent)
}

// Remove removes the file or empty directory name.
func (d *Dir) Remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return err
	}
	return syncRoot(d.root, path.Dir(path.Clean(name)))
}

// RemoveStale removes from the directory name (not from those beneath it) the
// temporary files last written before the given time. The caller chooses it so
// long ago that nobody, on any host, can still be writing to them; a writer that
// is robbed of its file all the same fails to commit, without harm.
func (d *Dir) RemoveStale(name string, before time.Time) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	errs := []error{err}
	for _, e := range entries {
		if !IsTemp(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil && info.ModTime().Before(before) {
			err = d.root.Remove(path.Join(name, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// Not flushed: a removal that a crash undoes is repeated another day.
	return errors.Join(errs...)
}

// Temporary files are named ".durable-", 26 random characters, ".tmp". The name
// of the file to be is not part of it, because it may be as long as the file
// system allows.
const (
	tempPrefix = ".durable-"
	tempSuffix = ".tmp"
)

func tempName() string {
	return tempPrefix + strings.ToLower(rand.Text()) + tempSuffix
}

// IsTemp reports whether a file of this name (the last element of a path) is a
// temporary file of this package.
func IsTemp(base string) bool {
	return strings.HasPrefix(base, tempPrefix) && strings.HasSuffix(base, tempSuffix)
}

// WriteFile replaces the file name, or creates it, so that a reader finds the
// old content or the new, never a part. The file is a new one: it has the
// permissions perm (before umask) and the owner of the process, and if name was
// a symbolic link it no longer is.
func WriteFile(name string, data []byte, perm fs.FileMode) error {
	return writeFile(name, data, perm, false)
}

// WriteFileFor is WriteFile for readers that are other users: the permissions are perm,
// whatever the umask.
func WriteFileFor(name string, data []byte, perm fs.FileMode) error {
	return writeFile(name, data, perm, true)
}

func writeFile(name string, data []byte, perm fs.FileMode, exact bool) error {
	dir, base := filepath.Split(name)
	d, err := OpenDir(dirOrDot(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := d.create(base, perm, renamed)
	if err != nil {
		return err
	}
	defer f.Abort()
	if exact {
		if err := f.file.Chmod(perm); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.replace()
}

// MkdirAll makes the directory name and those that lead to it, and flushes the
// parent of each that it made.
func MkdirAll(name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	info, err := os.Stat(name)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: name, Err: errors.New("exists and is not a directory")}
		}
		return nil
	}
	parent := filepath.Dir(name)
	if !errors.Is(err, fs.ErrNotExist) || parent == name {
		return err
	}
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(name, perm); err != nil {
		if info, serr := os.Stat(name); serr != nil || !info.IsDir() {
			return err
		}
		// Another process was faster.
	}
	return SyncDir(parent)
}

// Remove removes the file or empty directory name.
func Remove(name string) error {
	if err := os.Remove(name); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir flushes the directory name: the names in it, not what they stand for.
// On Windows, and on file systems that cannot do it, it does nothing.
func SyncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncOpenDir(f)
}

func syncRoot(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncOpenDir(f)
}

func syncOpenDir(f *os.File) error {
	if err := syncDir(f); err != nil {
		return fmt.Errorf("flush directory: %w", err)
	}
	return nil
}

func dirOrDot(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}
