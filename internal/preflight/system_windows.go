package preflight

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// ownerOf cannot tell: owners have no numbers.
func ownerOf(os.FileInfo) (string, bool) { return "", false }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
func isQuota(err error) bool    { return errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED) }
func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }

func room(path string) (Room, error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return Room{}, err
	}
	var mine, size, free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &mine, &size, &free); err != nil {
		return Room{}, err
	}
	return Room{Bytes: int64(min(mine, 1<<62)), Inodes: -1}, nil
}
