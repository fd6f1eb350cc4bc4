package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// syncDir does nothing: FlushFileBuffers refuses directories.
func syncDir(*os.File) error { return nil }

// renameNoReplace renames from to to in dir, unless the latter is taken. It is
// the one operation here that goes by path, not through the open directory:
// only this call both refuses to replace and waits for the disk.
func renameNoReplace(dir *os.Root, from, to string) error {
	old, err := windows.UTF16PtrFromString(filepath.Join(dir.Name(), from))
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(filepath.Join(dir.Name(), to))
	if err != nil {
		return err
	}
	return windows.MoveFileEx(old, name, windows.MOVEFILE_WRITE_THROUGH)
}

// asUnsupported marks the errors by which a file system (FAT) says that it lacks
// links.
func asUnsupported(err error) error {
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
