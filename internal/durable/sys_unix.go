//go:build unix

package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncDir flushes an open directory. Some file systems (SMB, some FUSE ones)
// cannot, and say so by an error that is of no use to anyone.
func syncDir(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// withDirFd calls fn with the descriptor of dir, again if a signal interrupts it.
func withDirFd(dir *os.Root, fn func(dirfd int) error) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		err := fn(int(d.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// asUnsupported marks the errors by which a file system says that it lacks an
// operation. Among them is EPERM, as linkat(2) has it for file systems without
// links. If it meant a lack of permission after all, the next method says so.
func asUnsupported(err error) error {
	for _, e := range []error{errors.ErrUnsupported, unix.EPERM, unix.EMLINK} {
		if errors.Is(err, e) {
			return unsupported(err)
		}
	}
	return err
}

func unsupported(err error) error {
	return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}
