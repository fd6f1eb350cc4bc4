package storage

import "golang.org/x/sys/unix"

// blockSize is the unit of the block counts: the fragment size where the file
// system reports one (as statvfs(3) has it), else the block size.
func blockSize(st *unix.Statfs_t) uint64 {
	if st.Frsize > 0 {
		return uint64(st.Frsize)
	}
	return uint64(st.Bsize)
}
