//go:build unix

package dbdump

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// CheckEnter returns an error if an account cannot enter a directory: it, or one above,
// does not let it in. Groups that it has beside its own do not count.
func CheckEnter(dir string, uid, gid uint32) error {
	dir, err := filepath.Abs(dir)
	for ; err == nil; dir = filepath.Dir(dir) {
		var info os.FileInfo
		if info, err = os.Stat(dir); err != nil {
			break
		}
		bit := os.FileMode(0o001)
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case uid == 0:
				return nil
			case s.Uid == uid:
				bit = 0o100
			case s.Gid == gid:
				bit = 0o010
			}
		}
		if info.Mode()&bit == 0 {
			return &Error{
				Err:  fmt.Errorf("the server runs as user %d, who cannot enter %s", uid, dir),
				Hint: "choose another directory for its data: --scratch, [DRILL] dir, $TMPDIR",
			}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
	return err
}
