//go:build unix

package config

import (
	"os"
	"syscall"
)

func othersCanChange(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode().Perm()&0o022 != 0 || !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid()
}
