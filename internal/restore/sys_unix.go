//go:build unix && !linux

package restore

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func fillInfo(i *info, st fs.FileInfo) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	i.uid, i.gid = s.Uid, s.Gid
	i.dev, i.ino, i.nlink = uint64(s.Dev), uint64(s.Ino), uint64(s.Nlink)
}

// fatal says whether err ends the restore: what follows would fail as well.
func fatal(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO)
}

func isDirErr(err error) bool {
	return errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}

// cannotLink says whether err means that this file system gives no (further)
// link to the file, so that it becomes a file of its own.
func cannotLink(err error) bool {
	return errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP)
}

func privileged() bool { return os.Geteuid() == 0 }
