//go:build !linux

package filestest

import (
	"io/fs"
	"os"
	"runtime"
	"time"
)

func (g *generator) platform() {
	g.notes = append(g.notes, "on "+runtime.GOOS+" only plain files, directories, symlinks, names and times are made")
}

func (g *generator) finish() {}

// setTime sets the modification time of anything but a symlink.
func setTime(path string, at time.Time) error {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	return os.Chtimes(path, at, at)
}

// ClearFlags has nothing to do here: see Linux.
func ClearFlags(string) error { return nil }
