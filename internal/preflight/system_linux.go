package preflight

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// isDevice says whether a file is the block device of a number.
func isDevice(info os.FileInfo, major, minor int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0 && major != 0 &&
		unix.Major(st.Rdev) == uint32(major) && unix.Minor(st.Rdev) == uint32(minor)
}

// fragment is the unit of the block counts, in bytes.
func fragment(st *unix.Statfs_t) uint64 {
	if st.Frsize > 0 {
		return uint64(st.Frsize)
	}
	return uint64(st.Bsize)
}
