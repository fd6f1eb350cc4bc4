//go:build unix

package preflight

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// ownerOf returns the number of a file's owner.
func ownerOf(info os.FileInfo) (string, bool) {
	if info == nil {
		return "", false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false
	}
	return strconv.FormatUint(uint64(st.Uid), 10), true
}

func isFull(err error) bool     { return errors.Is(err, syscall.ENOSPC) }
func isQuota(err error) bool    { return errors.Is(err, syscall.EDQUOT) }
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
