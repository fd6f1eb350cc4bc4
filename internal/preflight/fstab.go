package preflight

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxFstab bounds what is read of /etc/fstab, in bytes.
const maxFstab = 1 << 20

// fstab are the mount points of /etc/fstab, other than the root.
type fstab []string

// readFstab reads the file of that name; a missing one is empty.
func readFstab(name string) (fstab, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseFstab(f)
}

// parseFstab reads fstab(5): fields separated by blanks, the second is the mount point,
// with \040 for a blank. Swap has none.
func parseFstab(r io.Reader) (fstab, error) {
	var t fstab
	lines := bufio.NewScanner(io.LimitReader(r, maxFstab))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") || fields[2] == "swap" {
			continue
		}
		point := filepath.Clean(unescape(fields[1], `\`, 3, 8))
		if !filepath.IsAbs(point) || point == "/" {
			continue
		}
		t = append(t, point)
	}
	return t, lines.Err()
}

// above returns the mount points at or above a path, which is resolved, from the top
// down.
func (t fstab) above(path string) []string {
	var points []string
	for dir := path; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if p, ok := t.entry(dir); ok {
			points = append([]string{p}, points...)
		}
	}
	return points
}

// entry returns the mount point, as it is written, that a resolved path is.
func (t fstab) entry(path string) (string, bool) {
	for _, p := range t {
		if filepath.Base(p) != filepath.Base(path) {
			continue
		}
		// Only what leads to it is resolved: what is mounted there may hang.
		if dir, err := resolve(filepath.Dir(p)); err == nil && filepath.Join(dir, filepath.Base(p)) == path {
			return p, true
		}
	}
	return "", false
}

// unescape replaces a mark and so many digits of a base by the byte that they mean:
// \040 in fstab, \x20 in the names of /dev/disk.
func unescape(s, mark string, digits, base int) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, mark)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		if len(after) >= digits {
			if c, err := strconv.ParseUint(after[:digits], base, 8); err == nil {
				b.WriteByte(byte(c))
				s = after[digits:]
				continue
			}
		}
		b.WriteString(mark)
		s = after
	}
}
