//go:build unix

package storage

import (
	"errors"

	"golang.org/x/sys/unix"
)

const openNonblock = unix.O_NONBLOCK

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }
