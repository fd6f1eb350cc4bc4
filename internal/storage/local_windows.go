package storage

import (
	"errors"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// Windows has no FIFOs in directories that could block an open.
const openNonblock = 0

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// isNotDir: Windows itself says "path not found", which is fs.ErrNotExist already.
func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

func freeBytes(root *os.Root) (int64, error) {
	name, err := windows.UTF16PtrFromString(root.Name())
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, nil, nil); err != nil {
		return 0, os.NewSyscallError("GetDiskFreeSpaceEx", err)
	}
	return int64(min(free, math.MaxInt64)), nil
}
