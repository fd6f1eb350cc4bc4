package files

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// listBufferBytes is how much of a directory one system call reads: some four
// thousand names.
const listBufferBytes = 128 << 10

// dir implements backup.Dir.
type dir struct {
	root *Root
	h    *handle
}

// A dirent is one name of a listing. Kind is what the directory says it is
// (unix.DT_…), which some file systems do not know.
type dirent struct {
	name string
	ino  uint64
	kind uint8
}

// Entries returns what there is, and what could be read before an error.
func (d *dir) Entries(ctx context.Context) ([]backup.Entry, error) {
	fd, err := d.h.acquire()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.h.path(), Err: err}
	}
	defer d.h.release()
	names, listErr := d.list(ctx, fd)
	if listErr != nil {
		listErr = &fs.PathError{Op: "list", Path: d.h.path(), Err: listErr}
	}
	rules := d.root.opts.Rules
	rel := "" // needed only where there are rules
	if !rules.Empty() {
		rel = d.h.rel()
		names = d.applyMarkers(fd, rules, names)
	}

	// In the order of inodes, which is nearly that of the disk: a cold listing
	// of a large directory on a spinning disk is many times faster so.
	slices.SortFunc(names, func(a, b dirent) int { return cmp.Compare(a.ino, b.ino) })
	entries := make([]entry, 0, len(names))
	for i := range names {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if st, ok := d.look(fd, rules, rel, &names[i]); ok {
			entries = append(entries, entry{root: d.root, parent: d.h, name: names[i].name, st: st})
		}
	}

	all := make([]backup.Entry, len(entries))
	for i := range entries {
		e := &entries[i]
		d.root.owners.add(e.st.uid, e.st.gid)
		all[i] = e
	}
	all = sortUnique(all)
	d.root.handles.mu.Lock()
	d.h.refs += len(all)
	d.root.handles.mu.Unlock()
	return all, listErr
}

// sortUnique sorts by name. While a directory is being changed, a listing may
// hold a name twice: the first stays.
func sortUnique(all []backup.Entry) []backup.Entry {
	name := func(e backup.Entry) string { return e.(*entry).name }
	slices.SortStableFunc(all, func(a, b backup.Entry) int { return strings.Compare(name(a), name(b)) })
	return slices.CompactFunc(all, func(a, b backup.Entry) bool { return name(a) == name(b) })
}

// list reads the names of the directory, in the order of the file system.
func (d *dir) list(ctx context.Context, fd int) ([]dirent, error) {
	// The descriptor is where an earlier listing left it.
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	buf, ok := d.root.names.Get().(*[]byte)
	if !ok {
		b := make([]byte, listBufferBytes)
		buf = &b
	}
	defer d.root.names.Put(buf)
	var all []dirent
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.Getdents(fd, *buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return all, err
		case n == 0:
			return all, nil
		default:
			all = appendDirents(all, (*buf)[:n])
		}
	}
}

// appendDirents decodes what getdents64 wrote: records of inode (8 bytes),
// offset (8), length of the record (2), kind (1) and name, NUL and padding.
func appendDirents(all []dirent, buf []byte) []dirent {
	const lengthAt, kindAt, nameAt = 16, 18, 19
	for len(buf) > nameAt {
		length := int(binary.NativeEndian.Uint16(buf[lengthAt:]))
		if length <= nameAt || length > len(buf) {
			break // never, from a kernel
		}
		name, _, _ := bytes.Cut(buf[nameAt:length], []byte{0})
		if s := string(name); s != "." && s != ".." {
			all = append(all, dirent{s, binary.NativeEndian.Uint64(buf), buf[kindAt]})
		}
		buf = buf[length:]
	}
	return all
}

// applyMarkers reduces names to the marker, where there is one that counts.
func (d *dir) applyMarkers(fd int, rules *exclude.Rules, names []dirent) []dirent {
	for _, m := range rules.Markers() {
		i := slices.IndexFunc(names, func(e dirent) bool { return e.name == m.Name })
		if i < 0 || m.Header != "" && !d.hasHeader(fd, m) {
			continue
		}
		if len(names) > 1 {
			d.root.skipping(d.h.path, Excluded, m.Reason)
		}
		return names[i : i+1]
	}
	return names
}

// hasHeader says whether the marker file begins as it should. One that cannot
// be read does not count: when in doubt, the directory is backed up.
func (d *dir) hasHeader(fd int, m exclude.Marker) bool {
	f, err := openRetry(fd, m.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY)
	if err != nil {
		return false
	}
	defer unix.Close(f)
	if st, err := statFD(f); err != nil || st.kind() != tree.File {
		return false
	}
	head := make([]byte, len(m.Header))
	n, err := unix.Pread(f, head, 0)
	return err == nil && m.Matches(head[:n])
}

// look asks about one name; ok is false for what is left out.
func (d *dir) look(fd int, rules *exclude.Rules, dirRel string, e *dirent) (st stat, ok bool) {
	path := func() string { return d.root.pathOf(join(d.h.rel(), e.name)) }
	rel := ""
	if !rules.Empty() {
		rel = join(dirRel, e.name)
		// What is excluded must not be touched: see Rules.MatchName.
		if e.kind != unix.DT_UNKNOWN {
			if out, reason := rules.MatchName(rel, e.kind == unix.DT_DIR); out {
				d.root.skipping(path, Excluded, reason)
				return st, false
			}
		}
	}
	if e.kind == unix.DT_SOCK {
		d.root.skipping(path, Socket, "a socket")
		return st, false
	}
	st, err := statAt(fd, e.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, false // removed since: as if it had never been there
	case err != nil:
		d.root.problem(path, Unreadable, &fs.PathError{Op: "stat", Path: path(), Err: err})
		return st, false
	}
	kind := st.kind()
	if kind == 0 {
		how := UnknownKind
		if st.format() == unix.S_IFSOCK {
			how = Socket
		}
		d.root.skipping(path, how, "a "+kindName(&st))
		return st, false
	}
	if !rules.Empty() {
		// The entry may be of another kind than the directory said.
		out, reason := false, ""
		if e.kind == unix.DT_UNKNOWN || (e.kind == unix.DT_DIR) != (kind == tree.Dir) {
			out, reason = rules.MatchName(rel, kind == tree.Dir)
		}
		if !out && kind == tree.File {
			out, reason = rules.MatchSize(int64(st.size))
		}
		if out {
			d.root.skipping(path, Excluded, reason)
			return st, false
		}
	}
	if kind == tree.Dir {
		if p, ok := d.root.skip[st.id()]; ok {
			d.root.skipping(path, SkipPath, "is "+p)
			return st, false
		}
	}
	if st.dev != d.root.dev && d.root.opts.OneFileSystem {
		d.root.skipping(path, OtherFileSystem, "on another file system")
		return st, kind == tree.Dir // kept as an empty directory: see entry.Dir
	}
	return st, true
}

func (d *dir) Close() error {
	d.h.unref()
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// emptyDir stands for the directory of another file system.
type emptyDir struct{}

func (emptyDir) Entries(context.Context) ([]backup.Entry, error) { return nil, nil }
func (emptyDir) Close() error                                    { return nil }
