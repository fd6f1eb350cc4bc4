package restore

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// An FS is a directory of a snapshot as a file system that can be read: [fs.ReadDirFS],
// [fs.StatFS]. Its files are Readers, with Stat. Symbolic links are not followed, and
// cannot be opened, nor can devices. It is safe for concurrent use. When its context ends, so does
// it. Damage is an error that wraps repo.ErrCorrupt or repo.ErrMissing.
type FS struct {
	ctx context.Context
	r   Repository
	dir *tree.Node

	mu     sync.Mutex
	dirs   []fsDir // that were read last, the newest at the end
	cached int     // entries in them
}

// maxCached bounds the entries of directories that an FS remembers, of some 300 bytes
// each: whoever opens the files of a directory one by one should not read it for each.
const maxCached = 64 << 10

type fsDir struct {
	name    string
	entries []*tree.Node
}

// NewFS returns the directory dir as a file system.
func NewFS(ctx context.Context, r Repository, dir *tree.Node) *FS {
	return &FS{ctx: ctx, r: r, dir: dir}
}

// Open implements [fs.FS].
func (f *FS) Open(name string) (fs.File, error) {
	n, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	info := fsInfo{n, lastName(name)}
	switch n.Type {
	case tree.Dir:
		entries, err := f.entries(name, n)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &openDir{info: info, name: name, entries: entries}, nil
	case tree.File:
		r, err := NewReader(f.ctx, f.r, n)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &openFile{r, info}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("is a " + n.Type.String())}
}

// Stat implements [fs.StatFS].
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	n, err := f.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return fsInfo{n, lastName(name)}, nil
}

// ReadDir implements [fs.ReadDirFS].
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	entries, err := f.entries(name, n)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return listed(entries), nil
}

func lastName(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// lookup finds a node. The error is a *fs.PathError.
func (f *FS) lookup(op, name string) (*tree.Node, error) {
	fail := func(err error) (*tree.Node, error) { return nil, &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	if err := f.ctx.Err(); err != nil {
		return fail(err)
	}
	n := f.dir
	if name == "." {
		return n, nil
	}
	for at := 0; at < len(name); {
		end := len(name)
		if i := strings.IndexByte(name[at:], '/'); i >= 0 {
			end = at + i
		}
		if n.Type != tree.Dir {
			return fail(fs.ErrNotExist)
		}
		dir := "."
		if at > 0 {
			dir = name[:at-1]
		}
		entries, err := f.entries(dir, n)
		if err != nil {
			return fail(err)
		}
		i, ok := slices.BinarySearchFunc(entries, name[at:end], func(n *tree.Node, name string) int { return cmp.Compare(n.Name, name) })
		if !ok {
			return fail(fs.ErrNotExist)
		}
		n = entries[i]
		at = end + 1
	}
	return n, nil
}

// entries are those of a directory, in the order of names.
func (f *FS) entries(name string, n *tree.Node) ([]*tree.Node, error) {
	if n.Type != tree.Dir {
		return nil, errors.New("not a directory")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.dirs, func(d fsDir) bool { return d.name == name }); i >= 0 {
		d := f.dirs[i]
		f.dirs = append(slices.Delete(f.dirs, i, i+1), d)
		return d.entries, nil
	}
	var entries []*tree.Node
	err := tree.ReadDir(f.ctx, f.r, n.Content, func(e *tree.Node) error {
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(entries) <= maxCached {
		f.dirs = append(f.dirs, fsDir{name, entries})
		f.cached += len(entries)
	}
	for f.cached > maxCached || len(f.dirs) > maxCachedDirs {
		f.cached -= len(f.dirs[0].entries)
		f.dirs = slices.Delete(f.dirs, 0, 1)
	}
	return entries, nil
}

// maxCachedDirs bounds the directories themselves: they are looked through one by one.
const maxCachedDirs = 64

func listed(nodes []*tree.Node) []fs.DirEntry {
	out := make([]fs.DirEntry, len(nodes))
	for i, n := range nodes {
		out[i] = fs.FileInfoToDirEntry(fsInfo{n, n.Name})
	}
	return out
}

// An openFile is a file of an FS.
type openFile struct {
	*Reader
	info fsInfo
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// An openDir is a directory of an FS.
type openDir struct {
	info    fsInfo
	name    string
	entries []*tree.Node // that were not returned yet
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// ReadDir implements [fs.ReadDirFile].
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.entries) == 0 {
		return nil, io.EOF
	}
	k := len(d.entries)
	if n > 0 {
		k = min(n, k)
	}
	out := listed(d.entries[:k])
	d.entries = d.entries[k:]
	return out, nil
}

// fsInfo is a node as fs.FileInfo; Sys is the *tree.Node.
type fsInfo struct {
	n    *tree.Node
	name string
}

func (i fsInfo) Name() string       { return i.name }
func (i fsInfo) Size() int64        { return i.n.Size }
func (i fsInfo) ModTime() time.Time { return i.n.MTime.Time() }
func (i fsInfo) IsDir() bool        { return i.n.Type == tree.Dir }
func (i fsInfo) Sys() any           { return i.n }

func (i fsInfo) Mode() fs.FileMode {
	m := fs.FileMode(i.n.Mode) & fs.ModePerm
	for bit, mode := range map[uint32]fs.FileMode{tree.ModeSetuid: fs.ModeSetuid, tree.ModeSetgid: fs.ModeSetgid, tree.ModeSticky: fs.ModeSticky} {
		if i.n.Mode&bit != 0 {
			m |= mode
		}
	}
	switch i.n.Type {
	case tree.File:
		return m
	case tree.Dir:
		return m | fs.ModeDir
	case tree.Symlink:
		return m | fs.ModeSymlink
	case tree.FIFO:
		return m | fs.ModeNamedPipe
	case tree.CharDevice:
		return m | fs.ModeDevice | fs.ModeCharDevice
	case tree.BlockDevice:
		return m | fs.ModeDevice
	}
	return m | fs.ModeIrregular
}
