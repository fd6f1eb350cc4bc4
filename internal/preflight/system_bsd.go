//go:build darwin || freebsd

package preflight

import "golang.org/x/sys/unix"

// fragment is the unit of the block counts, in bytes.
func fragment(st *unix.Statfs_t) uint64 { return uint64(st.Bsize) }
