package files

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"

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
	rel  string // below the root; only where there are rules

	listed bool
	names  listing // of a directory of one batch; sorted
	more   *packed // of one that is larger
	last   string  // name of the last one looked at

	databases map[string]*database // those with companions, and these
}

// left is how many names Next has not looked at.
func (d *dir) left() int {
	if d.more != nil {
		return d.more.len()
	}
	return d.names.len()
}

// take returns the next names.
func (d *dir) take() []dirent {
	if d.more != nil {
		return d.more.take(d.root.batchEntries)
	}
	names := d.names.slice(0, d.names.len())
	d.names = listing{}
	return names
}

// Next returns what there is, and what could be read before an error.
//
// All names are read at once, and packed: a directory that is read in pieces while
// others create and remove entries may give an entry twice or never, and names come
// in no useful order. The entries are made a batch at a time.
func (d *dir) Next(ctx context.Context) ([]backup.Entry, error) {
	if d.listed && d.left() == 0 {
		return nil, nil
	}
	fd, err := d.h.acquire()
	if err != nil {
		d.listed, d.names, d.more = true, listing{}, nil // what is left, no call will find
		return nil, &fs.PathError{Op: "open", Path: d.h.path(), Err: err}
	}
	defer d.h.release()
	var listErr error
	if !d.listed {
		d.listed = true
		if listErr = d.list(ctx, fd); listErr != nil {
			listErr = &fs.PathError{Op: "list", Path: d.h.path(), Err: listErr}
		}
		if rules := d.root.opts.Rules; !rules.Empty() {
			d.rel = d.h.rel()
			d.applyMarkers(fd, rules)
		}
		d.findDatabases(fd)
		if d.names.len() > d.root.batchEntries {
			d.more = d.names.pack()
			d.names = listing{}
		}
	}
	for d.left() > 0 {
		entries, err := d.batch(ctx, fd)
		if err != nil || len(entries) > 0 {
			return entries, cmp.Or(err, listErr)
		}
	}
	return nil, listErr
}

// batch makes entries of the next names. There may be none: all left out.
func (d *dir) batch(ctx context.Context, fd int) ([]backup.Entry, error) {
	names := d.take()
	// In the order of inodes, which is nearly that of the disk: a cold listing
	// of a large directory on a spinning disk is many times faster so.
	order := make([]int32, len(names))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(names[a].ino, names[b].ino) })
	entries := make([]entry, len(names))
	for k, i := range order {
		if k%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// While a directory is being changed, a listing may hold a name twice.
		if i > 0 && names[i-1].name == names[i].name || i == 0 && names[0].name == d.last {
			continue
		}
		if st, ok := d.look(fd, &names[i]); ok {
			entries[i] = entry{root: d.root, parent: d.h, name: names[i].name, st: st}
		}
	}
	d.last = names[len(names)-1].name
	all := make([]backup.Entry, 0, len(entries))
	for i := range entries {
		if e := &entries[i]; e.root != nil {
			d.root.owners.add(e.st.uid, e.st.gid)
			if d.databases != nil {
				d.asDatabase(fd, e)
			}
			all = append(all, e)
		}
	}
	d.root.handles.mu.Lock()
	d.h.refs += len(all)
	d.root.handles.mu.Unlock()
	return all, nil
}

// list reads the names of the directory.
func (d *dir) list(ctx context.Context, fd int) error {
	defer d.names.sort()
	// The descriptor is where an earlier listing left it.
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	buf, ok := d.root.names.Get().(*[]byte)
	if !ok {
		b := make([]byte, listBufferBytes)
		buf = &b
	}
	defer d.root.names.Put(buf)
	for {
		if err := ctx.Err(); err != nil {
			d.names = listing{}
			return err
		}
		n, err := unix.Getdents(fd, *buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return nil
		default:
			d.names.add((*buf)[:n])
		}
	}
}

// applyMarkers reduces the names to the marker, where there is one that counts.
func (d *dir) applyMarkers(fd int, rules *exclude.Rules) {
	for _, m := range rules.Markers() {
		i, ok := d.names.find(m.Name)
		if !ok || m.Header != "" && !d.hasHeader(fd, m) {
			continue
		}
		if d.names.len() > 1 {
			d.root.skipping(d.h.path, Excluded, m.Reason)
		}
		d.names.keep(i)
		return
	}
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
func (d *dir) look(fd int, e *dirent) (st stat, ok bool) {
	rules := d.root.opts.Rules
	path := func() string { return d.root.pathOf(join(d.h.rel(), e.name)) }
	rel := ""
	if !rules.Empty() {
		rel = join(d.rel, e.name)
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

func (emptyDir) Next(context.Context) ([]backup.Entry, error) { return nil, nil }
func (emptyDir) Close() error                                 { return nil }
