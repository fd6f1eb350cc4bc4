package restore

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

// fillInfo has nothing to add: owners are no numbers here, and what identifies a
// file takes a handle.
func fillInfo(*info, fs.FileInfo) {}

// fatal says whether err ends the restore: what follows would fail as well.
func fatal(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_WRITE_PROTECT)
}

func isDirErr(error) bool { return false }

// cannotLink says whether err means that this file system gives no (further)
// link to the file, so that it becomes a file of its own.
func cannotLink(err error) bool {
	return errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) ||
		errors.Is(err, windows.ERROR_NOT_SAME_DEVICE) || errors.Is(err, windows.ERROR_TOO_MANY_LINKS)
}

// privileged: nobody can give files away by number.
func privileged() bool { return false }
