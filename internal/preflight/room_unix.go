//go:build linux || darwin || freebsd

package preflight

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

func room(path string) (Room, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Room{}, err
		}
	}
	r := Room{Inodes: -1}
	if blocks := int64(st.Bavail); blocks > 0 { // FreeBSD: negative within the reserve
		high, low := bits.Mul64(uint64(blocks), fragment(&st))
		if high != 0 || low > 1<<62 {
			low = 1 << 62
		}
		r.Bytes = int64(low)
	}
	if st.Files > 0 { // btrfs and others have as many as there is room for
		r.Inodes = max(0, int64(st.Ffree))
	}
	return r, nil
}
