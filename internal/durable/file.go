package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writebackBytes is how much is written before the system is asked to begin
// storing it, so that the flush in Commit waits for a little of a large file
// only. 8 MiB is long enough for a disk to write it in one go, and short against
// the packs of a repository (16 to 64 MiB).
const writebackBytes = 8 << 20

// A method is a way to give a finished file its name without replacing another.
// A file starts with one, and falls back to the next if the system or the file
// system does not have it.
type method int

const (
	// unnamed: a file without any name (O_TMPFILE) is linked under its own. A
	// crash leaves nothing. Linux, on most local file systems.
	unnamed method = iota
	// renamed: a temporary file is renamed by a call that refuses to replace.
	// macOS, Windows, and on Linux FAT, exFAT, SMB.
	renamed
	// linked: a temporary file is linked under its name, then loses the
	// temporary one. NFS, other Unix systems.
	linked
	// checked: a temporary file is renamed after a look that nothing has the
	// name. The last resort (some FUSE file systems).
	//
	// BUG: two processes that commit the same name in the same instant can both
	// succeed, and the later one replaces the earlier.
	checked
)

// A File is being written, and does not exist under its name yet. It is used by
// one goroutine, and ends with Commit or Abort.
type File struct {
	dir  *os.Root // the directory of base, owned
	base string
	perm fs.FileMode
	how  method
	file *os.File
	temp string // the file's name in dir for now; "" if it has none

	written  int64 // bytes
	writeout int64 // bytes of these whose writing out has been asked for
	err      error // the first failure of Write
	finished bool
}

// Create starts the file name, in a directory that exists, with permissions perm
// (before umask). Nothing is visible under name before Commit. Whether the name
// is free is found out by Commit, not here.
func Create(name string, perm fs.FileMode) (*File, error) {
	dir, base := filepath.Split(name)
	d, err := OpenDir(dirOrDot(dir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Create(base, perm)
}

// newFile takes over dir.
func newFile(dir *os.Root, base string, perm fs.FileMode, how method) (*File, error) {
	f := &File{dir: dir, base: base, perm: perm, how: how}
	if err := f.open(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("create %s: %w", base, err)
	}
	return f, nil
}

func (f *File) open() (err error) {
	if f.how == unnamed {
		f.file, err = openUnnamed(f.dir, f.perm)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		f.how++
	}
	return f.openTemp()
}

func (f *File) openTemp() error {
	temp := tempName()
	file, err := f.dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.perm)
	if err != nil {
		return err
	}
	f.file, f.temp = file, temp
	return nil
}

// Write appends p. After an error the file cannot be committed.
func (f *File) Write(p []byte) (int, error) {
	if f.finished {
		return 0, fs.ErrClosed
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.file.Write(p)
	f.written += int64(n)
	f.err = err
	if f.written-f.writeout >= writebackBytes {
		startWriteback(f.file, f.writeout, f.written-f.writeout)
		f.writeout = f.written
	}
	return n, err
}

// Commit flushes the file, gives it its name and flushes the directory. If the
// name is taken, by whatever, the error is fs.ErrExist and nothing has changed.
// The file is finished in any case.
func (f *File) Commit() error {
	if f.finished {
		return fs.ErrClosed
	}
	defer f.Abort()
	if f.err != nil {
		return f.err
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", f.base, err)
	}
	if f.written >= writebackBytes {
		dropCache(f.file)
	}
	for {
		err := f.publish()
		if err == nil {
			return syncRoot(f.dir, ".")
		}
		if f.how == checked || !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("publish %s: %w", f.base, err)
		}
		if f.how == unnamed {
			if err := f.rewriteNamed(); err != nil {
				return fmt.Errorf("rewrite %s: %w", f.base, err)
			}
		}
		f.how++
	}
}

// publish gives the flushed file its name, by the file's method.
func (f *File) publish() error {
	if f.how == unnamed {
		return linkUnnamed(f.dir, f.file, f.base)
	}
	// Windows renames no file that is open. Close reports nothing that Sync has
	// not, or its second call an error that means nothing.
	f.file.Close()

	switch f.how {
	case renamed:
		if err := renameNoReplace(f.dir, f.temp, f.base); err != nil {
			return err
		}
	case linked:
		if err := f.dir.Link(f.temp, f.base); err != nil {
			return asUnsupported(err)
		}
		// The file is there, and that is what counts: a second name that cannot
		// be removed is for RemoveStale.
		f.dir.Remove(f.temp)
	case checked:
		if _, err := f.dir.Lstat(f.base); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fs.ErrExist
			}
			return err
		}
		if err := f.dir.Rename(f.temp, f.base); err != nil {
			return err
		}
	}
	f.temp = ""
	return nil
}

// rewriteNamed copies an unnamed file, which the file system was willing to
// create but not to name, into a temporary one, flushed. This is slow, and rare:
// FUSE file systems with O_TMPFILE and without links, or a /proc that is missing
// on a kernel before 6.10.
func (f *File) rewriteNamed() error {
	src := f.file
	defer src.Close()
	if err := f.openTemp(); err != nil {
		return err
	}
	if _, err := io.Copy(f.file, io.NewSectionReader(src, 0, f.written)); err != nil {
		return err
	}
	return f.file.Sync()
}

// replace is Commit for WriteFile: it takes the name from whatever has it. The
// file was created with a temporary name.
func (f *File) replace() error {
	defer f.Abort()
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", f.base, err)
	}
	f.file.Close()
	if err := f.dir.Rename(f.temp, f.base); err != nil {
		return err
	}
	f.temp = ""
	return syncRoot(f.dir, ".")
}

// Abort discards what was written. After Commit it does nothing, so that it may
// be deferred.
func (f *File) Abort() {
	if f.finished {
		return
	}
	f.finished = true
	f.file.Close()
	if f.temp != "" {
		f.dir.Remove(f.temp)
	}
	f.dir.Close()
}
