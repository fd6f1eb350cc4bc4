package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

const (
	objectPerm = 0o600
	dirPerm    = 0o700

	// staleAge is the age at which a temporary file is taken for abandoned,
	// counted from its last write. It must exceed the longest pause of a writer
	// (a suspended laptop, a hung mount) and the difference of the clocks of two
	// hosts that share the directory.
	staleAge = 24 * time.Hour

	// listBatch is how many directory entries List holds at a time.
	listBatch = 1024
)

// Local is a Backend in a directory: an object is a file of the same name.
//
// All access goes through the directory opened at the start, and never leaves
// it. Should the disk that holds it be unmounted, operations fail; they do not
// continue on the disk below the mount point. Files and directories whose names
// are no object names ("lost+found", ".Trash") are not seen, nor are FIFOs,
// sockets and devices. A symbolic link that leads out of the store is an error.
type Local struct {
	name   string // absolute path, for messages
	dir    *durable.Dir
	closed atomic.Bool

	// ready holds the directories in which this process has made sure, since it
	// opened the store, that they exist durably and without stale files.
	ready  sync.Map // string → struct{}
	making sync.Mutex
}

// OpenLocal opens the store in the directory dir, which exists. Opening needs no
// permission to write.
func OpenLocal(dir string) (*Local, error) {
	name, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	d, err := durable.OpenDir(name)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return &Local{name: name, dir: d}, nil
}

// CreateLocal makes the directory dir, and those that lead to it, for their
// owner only, and opens the store in it. A directory that exists is left as it
// is.
func CreateLocal(dir string) (*Local, error) {
	if err := durable.MkdirAll(dir, dirPerm); err != nil {
		return nil, fmt.Errorf("create storage: %w", writeError(err))
	}
	return OpenLocal(dir)
}

// String returns the path of the directory.
func (l *Local) String() string { return l.name }

// Close implements Backend.
func (l *Local) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	return l.dir.Close()
}

// Create implements Backend.
func (l *Local) Create(ctx context.Context, name string) (Writer, error) {
	if err := l.check(ctx, CheckName(name)); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	f, err := l.create(name)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, writeError(err))
	}
	return &localWriter{ctx: ctx, store: l, name: name, file: f}, nil
}

// create starts a file. Its directory, if that is new, becomes durable with the
// file's Commit: flushing it takes as long as storing a file, and whoever writes
// into many directories waits for it here, but not there.
func (l *Local) create(name string) (*durable.File, error) {
	f, err := l.dir.Create(name, objectPerm)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	dir := path.Dir(name)
	l.ready.Delete(dir) // somebody may have removed it since
	if err := l.dir.Root().MkdirAll(filepath.FromSlash(dir), dirPerm); err != nil {
		return nil, err
	}
	return l.dir.Create(name, objectPerm)
}

// prepare makes the directory dir durable on its first use, and removes what crashed
// writers have left in it.
func (l *Local) prepare(dir string) error {
	if _, ok := l.ready.Load(dir); ok {
		return nil
	}
	l.making.Lock()
	defer l.making.Unlock()
	if _, ok := l.ready.Load(dir); ok {
		return nil
	}
	if err := l.dir.MkdirAll(dir, dirPerm); err != nil {
		return err
	}
	// Only an opportunity: what is in the way here shows again, if it matters,
	// when the object is written.
	_ = l.dir.RemoveStale(dir, time.Now().Add(-staleAge))
	l.ready.Store(dir, struct{}{})
	return nil
}

// check holds what is the same at the beginning of all methods.
func (l *Local) check(ctx context.Context, nameErr error) error {
	if nameErr != nil {
		return nameErr
	}
	if l.closed.Load() {
		return fs.ErrClosed
	}
	return ctx.Err()
}

type localWriter struct {
	ctx   context.Context
	store *Local
	name  string
	file  *durable.File
}

func (w *localWriter) Write(p []byte) (int, error) {
	if err := w.store.check(w.ctx, nil); err != nil {
		return 0, fmt.Errorf("write %s: %w", w.name, err)
	}
	n, err := w.file.Write(p)
	if err != nil {
		return n, fmt.Errorf("write %s: %w", w.name, writeError(err))
	}
	return n, nil
}

func (w *localWriter) Commit() error {
	defer w.file.Abort()
	if err := w.store.check(w.ctx, nil); err != nil {
		return fmt.Errorf("commit %s: %w", w.name, err)
	}
	err := w.store.prepare(path.Dir(w.name))
	if err == nil {
		err = w.file.Commit()
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", w.name, writeError(err))
	}
	return nil
}

func (w *localWriter) Abort() { w.file.Abort() }

// Get implements Backend.
func (l *Local) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := l.check(ctx, CheckName(name)); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	// Without openNonblock, a FIFO in the place of an object would stop us.
	f, err := l.dir.Root().OpenFile(filepath.FromSlash(name), os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, asMissing(err))
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file: %w", fs.ErrNotExist)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	start, end := byteRange(info.Size(), off, length)
	return &localReader{ctx, name, f, start, end}, nil
}

// localReader reads the range [off, end) of a file. It seeks nowhere, so that a
// small range costs one pread.
type localReader struct {
	ctx  context.Context
	name string
	file *os.File
	off  int64
	end  int64
}

func (r *localReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.name, err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.off >= r.end {
		return 0, io.EOF
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read %s: %w", r.name, err)
	}
	return n, err
}

func (r *localReader) Close() error { return r.file.Close() }

// List implements Backend.
func (l *Local) List(ctx context.Context, dir string, fn func(Info) error) error {
	if err := l.check(ctx, checkDir(dir)); err != nil {
		return fmt.Errorf("list %q: %w", dir, err)
	}
	return l.list(ctx, dir, fn)
}

func (l *Local) list(ctx context.Context, dir string, fn func(Info) error) error {
	f, err := l.openDir(dir)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	for {
		// As f was opened through a Root, the entries come with their sizes.
		entries, err := f.ReadDir(listBatch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %q: %w", dir, err)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("list %q: %w", dir, err)
			}
			if err := l.listEntry(ctx, path.Join(dir, e.Name()), e, fn); err != nil {
				return err
			}
		}
	}
}

// openDir opens a directory for reading. If there is none of the name, it
// returns nil.
func (l *Local) openDir(dir string) (*os.File, error) {
	name := "."
	if dir != "" {
		name = filepath.FromSlash(dir)
	}
	f, err := l.dir.Root().OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", dir, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("list %q: %w", dir, err)
	}
	if !info.IsDir() {
		f.Close()
		return nil, nil
	}
	return f, nil
}

func (l *Local) listEntry(ctx context.Context, name string, e fs.DirEntry, fn func(Info) error) error {
	if CheckName(name) != nil {
		return nil // not ours
	}
	switch {
	case e.IsDir():
		return l.list(ctx, name, fn)
	case e.Type().IsRegular():
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted since
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", name, err)
		}
		return fn(Info{Name: name, Size: info.Size()})
	case e.Type()&fs.ModeSymlink != 0:
		// To pass over it could make a caller take what lies behind it (all
		// snapshots, say) for deleted.
		return fmt.Errorf("list %s: is a symbolic link, which a store may not contain", name)
	}
	return nil
}

// Delete implements Backend.
func (l *Local) Delete(ctx context.Context, name string) error {
	if err := l.check(ctx, CheckName(name)); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	// Remove would remove an empty directory, too.
	info, err := l.dir.Root().Lstat(filepath.FromSlash(name))
	if err == nil && info.IsDir() {
		err = fmt.Errorf("is a directory: %w", fs.ErrNotExist)
	}
	if err == nil {
		err = l.dir.Remove(name)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, writeError(asMissing(err)))
	}
	return nil
}

// Free implements Spacer.
func (l *Local) Free(ctx context.Context) (int64, error) {
	if err := l.check(ctx, nil); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", l, err)
	}
	free, err := freeBytes(l.dir.Root())
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", l, err)
	}
	return free, nil
}

// asMissing adds fs.ErrNotExist to the error for a name that cannot exist, since
// what should be its directory is a file.
func asMissing(err error) error {
	if isNotDir(err) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// writeError adds the error that callers branch on to that of a change.
func writeError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case isFull(err):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
