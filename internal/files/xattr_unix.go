//go:build linux || darwin

package files

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

const (
	// xattrBufferBytes holds any list and any value of Linux (XATTR_LIST_MAX,
	// XATTR_SIZE_MAX), so that one call suffices for each.
	xattrBufferBytes = 64 << 10
	// maxXattrBytes bounds what other systems may have (resource forks).
	maxXattrBytes = 16 << 20
)

// An xattrSource lists the attributes of one entry and reads one of them.
type xattrSource struct {
	list func(buf []byte) (int, error)
	get  func(name string, buf []byte) (int, error)
}

// readXattrs returns what could be read, sorted by name, and an error for each
// attribute that could not. A file system without attributes has none.
func readXattrs(src xattrSource, buffers *sync.Pool) (attrs []tree.Xattr, lost []error) {
	buf, ok := buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, xattrBufferBytes)
		buf = &b
	}
	defer buffers.Put(buf)

	n, err := readGrowing(src.list, buf)
	switch {
	case errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS):
		return nil, nil
	case err != nil:
		return nil, []error{fmt.Errorf("list extended attributes: %w", err)}
	case n == 0:
		return nil, nil
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string((*buf)[:n]), "\x00"), "\x00") {
		n, err := readGrowing(func(b []byte) (int, error) { return src.get(name, b) }, buf)
		if err != nil {
			if !errors.Is(err, errNoXattr) { // else: removed since the listing
				lost = append(lost, fmt.Errorf("read extended attribute %q: %w", name, err))
			}
			continue
		}
		attrs = append(attrs, tree.Xattr{Name: name, Value: string((*buf)[:n])})
	}
	slices.SortFunc(attrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return attrs, lost
}

// readGrowing calls read with *buf, made larger until the answer fits.
func readGrowing(read func([]byte) (int, error), buf *[]byte) (int, error) {
	for {
		n, err := read(*buf)
		switch {
		case err == unix.EINTR:
		case err == unix.ERANGE && len(*buf) < maxXattrBytes:
			*buf = make([]byte, 4*len(*buf))
		default:
			return n, err
		}
	}
}
