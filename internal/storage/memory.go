package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Memory is a Backend in memory, for tests and simulations. It keeps the contract
// to the letter, and is deterministic: List goes in ascending order of names.
type Memory struct {
	mu      sync.RWMutex
	objects map[string][]byte // content is never changed
	closed  bool
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{objects: make(map[string][]byte)} }

// Clone returns a second store with the same objects: what a fresh process finds
// after a crash at this moment. The original may be closed.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return &Memory{objects: maps.Clone(m.objects)}
}

// String implements Backend.
func (m *Memory) String() string { return "memory" }

// Close implements Backend.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// check holds what is the same at the beginning of all methods. The caller has
// the mutex.
func (m *Memory) check(ctx context.Context, nameErr error) error {
	if nameErr != nil {
		return nameErr
	}
	if m.closed {
		return fs.ErrClosed
	}
	return ctx.Err()
}

// Create implements Backend.
func (m *Memory) Create(ctx context.Context, name string) (Writer, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx, CheckName(name)); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return &memoryWriter{ctx: ctx, store: m, name: name}, nil
}

type memoryWriter struct {
	ctx      context.Context
	store    *Memory
	name     string
	data     []byte
	finished bool
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.store.mu.RLock()
	err := w.store.check(w.ctx, nil)
	w.store.mu.RUnlock()
	if w.finished {
		err = fs.ErrClosed
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", w.name, err)
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

func (w *memoryWriter) Commit() error {
	m := w.store
	m.mu.Lock()
	defer m.mu.Unlock()
	data := w.data
	err := m.check(w.ctx, nil)
	if w.finished {
		err = fs.ErrClosed
	}
	w.Abort()
	if err == nil {
		if _, ok := m.objects[w.name]; ok {
			err = fs.ErrExist
		}
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", w.name, err)
	}
	m.objects[w.name] = slices.Clip(data)
	return nil
}

func (w *memoryWriter) Abort() {
	w.finished = true
	w.data = nil
}

// Get implements Backend.
func (m *Memory) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx, CheckName(name)); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	data, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", name, fs.ErrNotExist)
	}
	start, end := byteRange(int64(len(data)), off, length)
	return &memoryReader{ctx, name, bytes.NewReader(data[start:end])}, nil
}

type memoryReader struct {
	ctx  context.Context
	name string
	r    *bytes.Reader
}

func (r *memoryReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.name, err)
	}
	return r.r.Read(p)
}

func (r *memoryReader) Close() error { return nil }

// List implements Backend. It lists the objects there were when it began.
func (m *Memory) List(ctx context.Context, dir string, fn func(Info) error) error {
	infos, err := m.infos(ctx, dir)
	if err != nil {
		return fmt.Errorf("list %q: %w", dir, err)
	}
	for _, info := range infos {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %q: %w", dir, err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) infos(ctx context.Context, dir string) ([]Info, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx, checkDir(dir)); err != nil {
		return nil, err
	}
	prefix := ""
	if dir != "" {
		prefix = dir + "/"
	}
	var infos []Info
	for name, data := range m.objects {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, Info{Name: name, Size: int64(len(data))})
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Delete implements Backend.
func (m *Memory) Delete(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.check(ctx, CheckName(name))
	if _, ok := m.objects[name]; err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	delete(m.objects, name)
	return nil
}
