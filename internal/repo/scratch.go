package repo

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A scratch holds what one proof of a distant repository has read of it so far, so that
// nothing is asked for twice: packs of metadata, whole, and index objects. It begins
// empty and goes with the proof: it can hide no damage, for all that is in it was read
// from the repository in that proof. Files are as in the repository, sealed; what does
// not open is asked for again. A nil *scratch holds nothing.
type scratch struct {
	kept *keptDir

	mu  sync.Mutex
	was map[ID]struct{} // packs that were put there, or could not be: they are not asked for whole again
}

const (
	scratchPrefix = "proof-"
	// scratchAge is how old what a crash has left has to be. One that is in use
	// and is removed costs requests, and no more.
	scratchAge = 24 * time.Hour
)

// Prove makes metadata that is read stay on this machine, in CacheDir, at most
// ScratchBytes of it, until done is called: each of its packs is read once, with one
// request. It does nothing for repositories that are not distant. No other method may be
// under way, neither now nor when done is called.
func (r *Repository) Prove() (done func()) {
	if r.scratchIn == "" || r.scratchBytes <= 0 || r.kept != nil || r.scratch != nil {
		return func() {}
	}
	if entries, err := os.ReadDir(r.scratchIn); err == nil {
		for _, e := range entries {
			if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), scratchPrefix) && time.Since(info.ModTime()) > scratchAge {
				os.RemoveAll(filepath.Join(r.scratchIn, e.Name()))
			}
		}
	}
	dir, err := os.MkdirTemp(r.scratchIn, scratchPrefix)
	if err != nil {
		return func() {}
	}
	r.scratch = &scratch{kept: &keptDir{dir: dir, bytes: r.scratchBytes}, was: make(map[ID]struct{})}
	return func() {
		r.scratch = nil
		os.RemoveAll(dir)
	}
}

func scratchPack(id ID) string  { return "pack-" + id.String() }
func scratchIndex(id ID) string { return "index-" + id.String() }

// index returns an index object as it was read, or nil.
func (s *scratch) index(id ID) []byte {
	if s == nil {
		return nil
	}
	return s.kept.get(scratchIndex(id))
}

func (s *scratch) putIndex(id ID, sealed []byte) {
	if s != nil {
		s.kept.put(scratchIndex(id), sealed)
	}
}

// pack returns a writer for a pack of metadata that is being read, nil if it is there, or
// is not to be held.
func (s *scratch) pack(id ID) *keptFile {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.was[id]; ok {
		return nil
	}
	s.was[id] = struct{}{}
	return s.kept.create(scratchPack(id))
}

// block reads a sealed block of metadata, and says whether it could. The first of a pack
// brings all of it.
func (s *scratch) block(ctx context.Context, r *Repository, b *Block, sealed []byte) bool {
	if s == nil {
		return false
	}
	if s.readBlock(b, sealed) {
		return true
	}
	f := s.pack(b.Pack)
	if f == nil {
		return false
	}
	defer f.drop()
	rc, err := r.backend.Get(ctx, packName(b.Pack), 0, -1)
	if err != nil {
		return false
	}
	defer rc.Close()
	if _, err := io.Copy(f, rc); err != nil || !f.keep() {
		return false
	}
	return s.readBlock(b, sealed)
}

func (s *scratch) readBlock(b *Block, sealed []byte) bool {
	f, err := os.Open(s.kept.path(scratchPack(b.Pack)))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.ReadAt(sealed, int64(b.Offset))
	return err == nil
}
