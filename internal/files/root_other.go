//go:build !linux

package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// This file walks by path, with what package os offers: it is for platforms
// other than Linux. A directory replaced by a symlink between its listing and
// its reading is noticed only by the identity of what was opened.

// platform is the part of a Root that Linux does not share.
type platform struct {
	dev     uint64
	skips   []os.FileInfo // SkipPaths that exist
	buffers sync.Pool     // *[]byte, for extended attributes
}

func (r *Root) open() error {
	fi, err := os.Stat(r.Path)
	if err != nil {
		return err
	}
	for _, p := range r.opts.SkipPaths {
		s, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("look at %s, which is to be left out: %w", p, err)
		case !s.IsDir():
			return fmt.Errorf("%s, which is to be left out, is not a directory", p)
		case os.SameFile(s, fi):
			return ErrSkipPath
		}
		r.skips = append(r.skips, s)
	}
	real, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return err
	}
	names := recordedNames(r.Path)
	n, id := r.nodeOf(names[len(names)-1], fi)
	r.dev = id.dev
	if n.Type != tree.Dir && n.Type != tree.File {
		return fmt.Errorf("it is neither a directory nor a regular file: only those can be backed up")
	}
	r.owners.add(n.UID, n.GID)
	e := &entry{root: r, rel: "", real: real, node: *n, info: fi}
	e.asRootDatabase()
	r.Entry = e

	// The ancestors, from the source up, then turned around.
	for dir, i := filepath.Dir(r.Path), len(names)-2; i >= 0; dir, i = filepath.Dir(dir), i-1 {
		fi, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		n, _ := r.nodeOf(names[i], fi)
		r.owners.add(n.UID, n.GID)
		r.addAttributes(n, dir)
		r.Ancestors = append(r.Ancestors, n)
	}
	slices.Reverse(r.Ancestors)
	return nil
}

// recordedNames splits an absolute path into the names it has in a snapshot,
// the first of which is that of the root, "". A Windows volume becomes a
// directory below the root: C:\Users is /C/Users.
func recordedNames(path string) []string {
	volume := filepath.VolumeName(path)
	names := []string{""}
	if v := strings.Trim(strings.NewReplacer(":", "", `\`, "_", "/", "_").Replace(volume), "_"); v != "" {
		names = append(names, v)
	}
	for name := range strings.SplitSeq(filepath.ToSlash(path[len(volume):]), "/") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// nodeOf fills a node with what fi says. The type is 0 for what is not recorded.
func (r *Root) nodeOf(name string, fi os.FileInfo) (*tree.Node, fileID) {
	m := fi.Mode()
	n := &tree.Node{Name: name, Mode: uint32(m.Perm()), Links: 1}
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, tree.ModeSetuid}, {fs.ModeSetgid, tree.ModeSetgid}, {fs.ModeSticky, tree.ModeSticky}} {
		if m&b.mode != 0 {
			n.Mode |= b.bit
		}
	}
	switch m.Type() {
	case 0:
		n.Type, n.Size = tree.File, fi.Size()
	case fs.ModeDir:
		n.Type = tree.Dir
	case fs.ModeSymlink:
		n.Type = tree.Symlink
	case fs.ModeNamedPipe:
		n.Type = tree.FIFO
	case fs.ModeDevice | fs.ModeCharDevice:
		n.Type = tree.CharDevice
	case fs.ModeDevice:
		n.Type = tree.BlockDevice
	}
	t := fi.ModTime()
	n.MTime = tree.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
	return n, addStat(n, fi)
}

// entry implements backup.Entry.
type entry struct {
	root    *Root
	rel     string // below the source, with slashes; "" for the source
	real    string // the path to open
	node    tree.Node
	info    os.FileInfo
	foreign bool // on another file system, to stay out of
	// db is set for a SQLite database with companions, and for them (beside).
	db     *database
	beside bool
}

func (e *entry) path() string {
	return filepath.Join(e.root.Path, filepath.FromSlash(e.rel))
}

func (e *entry) Node() *tree.Node {
	n := e.node
	switch lateness(e.db, e.beside) {
	case backup.LateSize:
		stamp(&n, e.db.wal)
	case backup.LateEntry:
		n.CTime = tree.Time{}
		n.Links, n.Device = 1, 0
	}
	return &n
}

func (e *entry) Close() {
	if e.db != nil && !e.beside {
		close(e.db.done)
	}
}

func (e *entry) Complete(n *tree.Node) error {
	if e.node.Type == tree.Symlink {
		target, err := os.Readlink(e.real)
		if err != nil {
			return err
		}
		n.Target = target
	}
	e.root.addAttributes(n, e.real)
	return nil
}

func (e *entry) Dir(context.Context) (backup.Dir, error) {
	if e.node.Type != tree.Dir {
		return nil, &fs.PathError{Op: "open", Path: e.path(), Err: errors.New("not a directory")}
	}
	f, err := os.Open(e.real)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(fi, e.info) {
		err = &fs.PathError{Op: "open", Path: e.path(), Err: ErrReplaced}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dir{e: e, f: f}, nil
}

// dir implements backup.Dir.
type dir struct {
	e      *entry
	f      *os.File
	listed bool
	names  []fs.DirEntry // that Next has not returned, sorted by name

	databases map[string]*database // those with companions, and these
}

func (d *dir) Close() error { return d.f.Close() }

// Next returns what there is, and what could be read before an error.
func (d *dir) Next(ctx context.Context) ([]backup.Entry, error) {
	var listErr error
	if !d.listed && !d.e.foreign {
		d.listed = true
		listErr = d.list()
	}
	var all []backup.Entry
	for len(all) < d.e.root.batchEntries && len(d.names) > 0 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if e := d.look(d.names[0]); e != nil {
			all = append(all, e)
		}
		d.names[0] = nil
		d.names = d.names[1:]
	}
	return all, listErr
}

func (d *dir) list() error {
	list, err := d.f.ReadDir(-1)
	r := d.e.root
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	// While a directory is being changed, a listing may hold a name twice.
	list = slices.CompactFunc(list, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() })
	for _, m := range r.opts.Rules.Markers() {
		i := slices.IndexFunc(list, func(e fs.DirEntry) bool { return e.Name() == m.Name })
		if i < 0 || m.Header != "" && !d.hasHeader(m, list[i]) {
			continue
		}
		if len(list) > 1 {
			r.skipping(d.e.path, Excluded, m.Reason)
		}
		list = list[i : i+1]
		break
	}
	d.names = list
	d.findDatabases()
	return err
}

// look asks about one name; nil for what is left out.
func (d *dir) look(l fs.DirEntry) backup.Entry {
	r := d.e.root
	rel := l.Name()
	if d.e.rel != "" {
		rel = d.e.rel + "/" + l.Name()
	}
	e := &entry{root: r, rel: rel, real: filepath.Join(d.e.real, l.Name())}
	if out, reason := r.opts.Rules.MatchName(rel, l.IsDir()); out {
		r.skipping(e.path, Excluded, reason)
		return nil
	}
	fi, err := os.Lstat(e.real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // removed since: as if it had never been there
	case err != nil:
		r.problem(e.path, Unreadable, err)
		return nil
	}
	n, id := r.nodeOf(l.Name(), fi)
	switch {
	case fi.Mode().Type() == fs.ModeSocket:
		r.skipping(e.path, Socket, "a socket")
		return nil
	case n.Type == 0:
		r.skipping(e.path, UnknownKind, "a file of unknown kind")
		return nil
	case n.Type == tree.File:
		if out, reason := r.opts.Rules.MatchSize(n.Size); out {
			r.skipping(e.path, Excluded, reason)
			return nil
		}
	case n.Type == tree.Dir:
		for _, s := range r.skips {
			if os.SameFile(s, fi) {
				r.skipping(e.path, SkipPath, "is "+s.Name())
				return nil
			}
		}
	}
	if r.opts.OneFileSystem && id.dev != r.dev {
		r.skipping(e.path, OtherFileSystem, "on another file system")
		if n.Type != tree.Dir {
			return nil
		}
		e.foreign = true
	}
	r.owners.add(n.UID, n.GID)
	e.node, e.info = *n, fi
	if d.databases != nil {
		d.asDatabase(e, l.Name())
	}
	return e
}

// hasHeader says whether the marker file begins as it should. One that cannot
// be read does not count: when in doubt, the directory is backed up.
func (d *dir) hasHeader(m exclude.Marker, l fs.DirEntry) bool {
	if !l.Type().IsRegular() {
		return false
	}
	f, err := os.OpenFile(filepath.Join(d.e.real, m.Name), openFlags, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(m.Header))
	n, _ := io.ReadFull(f, head)
	return m.Matches(head[:n])
}

// file implements backup.File.
type file struct {
	e    *entry
	f    *os.File
	node *tree.Node
	was  tree.Node // of the file itself: node of a database has other times
	// Of a database: its copy, which is read instead, or why there is none.
	made  *sqlite.Copy
	doubt error
	extentReader
}

func (e *entry) Open() (backup.File, error) {
	if e.beside {
		if err := e.openBeside(); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(e.real, openFlags, 0)
	if err != nil {
		if fi, lerr := os.Lstat(e.real); lerr == nil && !fi.Mode().IsRegular() {
			err = &fs.PathError{Op: "open", Path: e.path(), Err: ErrReplaced}
		}
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || e.throughSymlink(fi)) {
		err = &fs.PathError{Op: "open", Path: e.path(), Err: ErrReplaced}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	n, _ := e.root.nodeOf(e.node.Name, fi)
	e.root.addAttributes(n, e.real)
	o := &file{e: e, f: f, node: n, was: *n, extentReader: newExtentReader(n, readerOf(f))}
	o.copyDatabase()
	return o, nil
}

// throughSymlink says whether what was opened is not what bears the name.
func (e *entry) throughSymlink(opened os.FileInfo) bool {
	fi, err := os.Lstat(e.real)
	return err != nil || !os.SameFile(fi, opened)
}

func (f *file) Node() *tree.Node { return f.node }

func (f *file) Changed() (bool, error) {
	if f.made != nil {
		return false, nil // what is read is a copy
	}
	fi, err := f.f.Stat()
	if err != nil {
		return false, err
	}
	n, _ := f.e.root.nodeOf(f.node.Name, fi)
	return n.Size != f.was.Size || n.MTime != f.was.MTime || n.CTime != f.was.CTime || n.Inode != f.was.Inode, nil
}

func (f *file) Close() error {
	// SQLite has closed the database before: see sqlite.Source.
	return errors.Join(f.closeCopy(), f.f.Close())
}

// MountPoint is not known on this platform: the root of the volume is returned.
func MountPoint(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find the mount point of %s: %w", path, err)
	}
	return filepath.VolumeName(abs) + string(filepath.Separator), nil
}
