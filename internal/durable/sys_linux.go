package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openUnnamed creates a file in dir that has no name and vanishes when it is
// closed. It is readable too, for rewriteNamed.
func openUnnamed(dir *os.Root, perm fs.FileMode) (*os.File, error) {
	var fd int
	err := withDirFd(dir, func(dirfd int) (err error) {
		fd, err = unix.Openat(dirfd, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(perm.Perm()))
		return err
	})
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), "unnamed file"), nil
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL):
		// What kernels and file systems say that do not know the flag: they see
		// a directory being opened for writing.
		return nil, unsupported(err)
	}
	return nil, asUnsupported(err)
}

// linkUnnamed gives the unnamed file its name in dir, unless that is taken.
func linkUnnamed(dir *os.Root, f *os.File, base string) error {
	return withDirFd(dir, func(dirfd int) error {
		fd := int(f.Fd())
		// linkat(2) recommends the way through /proc, as the direct one
		// (AT_EMPTY_PATH) takes a capability before Linux 6.10. It remains for
		// a process that sees no /proc.
		err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), dirfd, base, unix.AT_SYMLINK_FOLLOW)
		if errors.Is(err, unix.ENOENT) {
			err = unix.Linkat(fd, "", dirfd, base, unix.AT_EMPTY_PATH)
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV):
			return unsupported(err)
		}
		return asUnsupported(err)
	})
}

// renameNoReplace renames from to to in dir, unless the latter is taken.
func renameNoReplace(dir *os.Root, from, to string) error {
	return withDirFd(dir, func(dirfd int) error {
		err := unix.Renameat2(dirfd, from, dirfd, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) {
			return unsupported(err) // the file system does not know the flag
		}
		return asUnsupported(err)
	})
}

// dropCache lets the system use the memory of a file that is on disk for something
// else: what a backup has written is not read again soon, and would push out
// what the machine works with.
func dropCache(f *os.File) {
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// startWriteback asks the system to begin writing n bytes from offset off to the
// disk. It is a hint: errors do not matter, and are not taken from the fsync to
// come, as only the calls that wait consume them.
func startWriteback(f *os.File, off, n int64) {
	unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
