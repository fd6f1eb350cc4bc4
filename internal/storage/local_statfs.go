//go:build linux || darwin || freebsd

package storage

import (
	"math"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

// freeBytes asks the open directory, not its path, on which something else may
// be mounted by now.
func freeBytes(root *os.Root) (int64, error) {
	d, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	for {
		err = unix.Fstatfs(int(d.Fd()), &st)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	blocks := int64(st.Bavail) // FreeBSD: negative within the reserve
	if blocks < 0 {
		return 0, nil
	}
	high, low := bits.Mul64(uint64(blocks), blockSize(&st))
	if high != 0 || low > math.MaxInt64 {
		return math.MaxInt64, nil
	}
	return int64(low), nil
}
