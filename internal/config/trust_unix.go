//go:build unix

package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks bounds the symlinks on the way to a file, as Linux does.
const maxLinks = 40

// distrust says who else could have written what is in an open file.
func distrust(path string, file os.FileInfo) error {
	if why := changeable(file); why != "" {
		return fmt.Errorf("%s %s", path, why)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	// The way is walked name by name: here is where it has come to, without symlinks,
	// rest what is still to go.
	here, rest, links := "/", strings.TrimPrefix(filepath.Clean(abs), "/"), 0
	for rest != "" {
		dir, err := os.Lstat(here)
		if err != nil {
			return err
		}
		if why := changeable(dir); why != "" {
			return fmt.Errorf("%s, on the way to %s, %s", here, path, why)
		}
		name, more, _ := strings.Cut(rest, "/")
		rest = more
		switch name {
		case "", ".":
			continue
		case "..":
			here = filepath.Dir(here)
			continue
		}
		next := filepath.Join(here, name)
		info, err := os.Lstat(next)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			here = next
			continue
		}
		if why := changeable(info); why != "" {
			return fmt.Errorf("the symlink %s, on the way to %s, %s", next, path, why)
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: too many symlinks", path)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			here = "/"
		}
		rest = strings.Trim(target+"/"+rest, "/")
	}
	return nil
}

// changeable says who else can change a file, or what a directory or symlink leads to;
// "" if nobody can.
func changeable(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !ok:
		return "has an unknown owner"
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("belongs to somebody else (user %d)", st.Uid)
	case mode&fs.ModeSymlink != 0, mode.IsDir() && mode&fs.ModeSticky != 0:
		return ""
	case mode.Perm()&0o022 != 0:
		return fmt.Sprintf("can be changed by others (mode %04o)", mode.Perm())
	}
	return ""
}
