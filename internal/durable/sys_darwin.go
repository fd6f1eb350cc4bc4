package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames from to to in dir, unless the latter is taken.
func renameNoReplace(dir *os.Root, from, to string) error {
	return withDirFd(dir, func(dirfd int) error {
		return asUnsupported(unix.RenameatxNp(dirfd, from, dirfd, to, unix.RENAME_EXCL))
	})
}
