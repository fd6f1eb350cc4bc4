package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Dir is the directory of repair data.
const Dir = "parity"

// Name returns the name of the repair data of an object.
func Name(object string) string { return Dir + "/" + object }

// Precious says whether an object is one of the few small ones without which nothing
// opens, or a snapshot is gone: their repair data is a whole copy.
func Precious(name string) bool {
	return name == "config" || strings.HasPrefix(name, "keys/") || strings.HasPrefix(name, "snapshots/") || strings.HasPrefix(name, "sessions/")
}

// share returns how much repair data an object gets, in percent, where packs get some.
func share(name string, percent int) int {
	switch {
	case percent == 0:
		return 0
	case Precious(name):
		return MaxPercent
	case strings.HasPrefix(name, "packs/"):
		return percent
	}
	return 0
}

// A Store keeps repair data beside the objects that are created through it.
type Store struct {
	storage.Backend
	percent int
}

// Wrap returns a store that gives packs percent of repair data, 0 for none at all. The
// repair data of precious objects is deleted with them in any case.
func Wrap(b storage.Backend, percent int) *Store { return &Store{b, percent} }

// Create implements [storage.Backend].
func (s *Store) Create(ctx context.Context, name string) (storage.Writer, error) {
	w, err := s.Backend.Create(ctx, name)
	percent := share(name, s.percent)
	if err != nil || percent == 0 {
		return w, err
	}
	enc, err := NewEncoder(percent)
	if err != nil {
		w.Abort()
		return nil, err
	}
	return &writer{w, s, ctx, name, enc}, nil
}

type writer struct {
	storage.Writer
	s    *Store
	ctx  context.Context
	name string
	enc  *Encoder
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.enc.Write(p[:n])
	return n, err
}

// Commit stores the object, then its repair data.
func (w *writer) Commit() error {
	if err := w.Writer.Commit(); err != nil {
		return err
	}
	data := w.enc.Finish(w.name)
	w.enc = nil
	if err := put(w.ctx, w.s.Backend, Name(w.name), data); err != nil {
		return fmt.Errorf("store repair data of %s: %w", w.name, err)
	}
	return nil
}

// put stores repair data, nil for none. Such data that is there already is that of an
// earlier attempt, or of who makes up for what is missing.
func put(ctx context.Context, b storage.Backend, name string, data []byte) error {
	if data == nil {
		return nil
	}
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Commit(); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Delete implements [storage.Backend]. Repair data of precious objects goes first: what
// was removed must not come back.
func (s *Store) Delete(ctx context.Context, name string) error {
	if Precious(name) {
		if err := s.Backend.Delete(ctx, Name(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete repair data of %s: %w", name, err)
		}
	}
	return s.Backend.Delete(ctx, name)
}

// Free implements [storage.Spacer], where the store below does: else it is
// [errors.ErrUnsupported].
func (s *Store) Free(ctx context.Context) (int64, error) {
	if sp, ok := s.Backend.(storage.Spacer); ok {
		return sp.Free(ctx)
	}
	return 0, errors.ErrUnsupported
}

// Protect makes the repair data of an object that has none. The caller has seen that
// the object is whole. It takes the memory of an Encoder.
func (s *Store) Protect(ctx context.Context, name string) error {
	enc, err := NewEncoder(share(name, max(s.percent, 1)))
	if err != nil {
		return err
	}
	rc, err := s.Backend.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer rc.Close()
	if _, err := io.Copy(enc, rc); err != nil {
		return err
	}
	return put(ctx, s.Backend, Name(name), enc.Finish(name))
}

// patchBytes bounds what a Mended keeps of what it has rebuilt.
const patchBytes = 64 << 20

// Mended reads a store as if what its repair data covers were not damaged. An object is
// compared with its repair data, as a whole, when something of it is first asked for, and what is
// then found to be damaged is rebuilt; it is for reading what is known to be damaged.
// It takes the memory of the object meanwhile, one at a time.
type Mended struct {
	storage.Backend // read only

	mu      sync.Mutex
	patches map[string]*Patch // nil: no repair data, or it does not cover the damage
	bytes   int64
	sizes   map[string]int64
}

// View returns a view of a store without decorations.
func View(b storage.Backend) *Mended {
	if s, ok := b.(*Store); ok {
		b = s.Backend
	}
	return &Mended{Backend: b, patches: make(map[string]*Patch), sizes: make(map[string]int64)}
}

// Patch returns how an object has to be changed. The error is ErrNone or ErrTooMuch
// where that is not known.
func (m *Mended) Patch(ctx context.Context, name string) (*Patch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.patches[name]; ok {
		if p == nil {
			return nil, ErrNone
		}
		return p, nil
	}
	p, err := mend(ctx, m.Backend, name)
	if err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, ErrTooMuch) {
		return nil, err
	}
	if p != nil {
		if m.bytes += p.bytes(); m.bytes > patchBytes {
			clear(m.patches)
			m.bytes = p.bytes()
		}
	}
	m.patches[name] = p
	return p, err
}

func mend(ctx context.Context, b storage.Backend, name string) (*Patch, error) {
	raw, err := readAll(ctx, b, Name(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	d, err := Decode(name, raw)
	if err != nil {
		return nil, err
	}
	object, err := readAll(ctx, b, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.Mend(object)
}

func readAll(ctx context.Context, b storage.Backend, name string) ([]byte, error) {
	rc, err := b.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// Get implements [storage.Backend]. What has no repair data, or too little, is read as
// it is.
func (m *Mended) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if share(name, 1) == 0 {
		return m.Backend.Get(ctx, name, off, length)
	}
	p, err := m.Patch(ctx, name)
	if errors.Is(err, ErrNone) || errors.Is(err, ErrTooMuch) {
		return m.Backend.Get(ctx, name, off, length)
	}
	if err != nil {
		return nil, err
	}
	off, length = p.span(off, length)
	buf := make([]byte, length)
	rc, err := m.Backend.Get(ctx, name, off, length)
	if err == nil {
		_, err = io.ReadFull(rc, buf)
		rc.Close()
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p.Apply(buf, off)
	return io.NopCloser(bytes.NewReader(buf)), nil
}

// Resized tells that an object has not the size that it should have, and to list it
// with the one that its repair data knows.
func (m *Mended) Resized(ctx context.Context, name string) error {
	p, err := m.Patch(ctx, name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sizes[name] = p.Size
	return nil
}

// List implements [storage.Backend].
func (m *Mended) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	return m.Backend.List(ctx, dir, func(info storage.Info) error {
		m.mu.Lock()
		if size, ok := m.sizes[info.Name]; ok {
			info.Size = size
		}
		m.mu.Unlock()
		return fn(info)
	})
}

// Create implements [storage.Backend]: a view is not written to.
func (m *Mended) Create(context.Context, string) (storage.Writer, error) {
	return nil, storage.ErrReadOnly
}

// Delete implements [storage.Backend], likewise.
func (m *Mended) Delete(context.Context, string) error { return storage.ErrReadOnly }

// Close leaves the store below open.
func (m *Mended) Close() error { return nil }
