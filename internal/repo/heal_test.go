package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// flipBlock damages the block that a chunk is in.
func flipBlock(t *testing.T, b storage.Backend, r *Repository, c []byte) {
	t.Helper()
	loc, ok := r.Locate(hashOf(c))
	if !ok {
		t.Fatal("not stored")
	}
	flip(t, b, packName(loc.Block.Pack), int(loc.Block.Offset)+5)
}

// pair is a repository with a backup of s, and another that has the same, as a
// sibling or with other keys and other cuts.
func pair(t *testing.T, sibling bool, s source) (a, b *storage.Memory, id ID) {
	t.Helper()
	a, b = newStore(t), storage.NewMemory()
	src, _ := openIn(t, a, "")
	id, _ = mustBackup(t, src, s)
	o := InitOptions{Params: chunk.Params{Min: 64, Avg: 256, Max: 512}}
	if sibling {
		o = InitOptions{Sibling: src}
	}
	initIn(t, b, o)
	dst, _ := openIn(t, b, "")
	if err := copySnapshot(t.Context(), dst, src, id, s); err != nil {
		t.Fatal(err)
	}
	return a, b, id
}

// What CheckData found damaged counts as absent, Salvage stores it again from
// another repository, and a process that knows nothing of it reads everything.
func TestSalvage(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		t.Run(fmt.Sprintf("sibling=%t", sibling), func(t *testing.T) {
			s := mixedSource()
			a, b, id := pair(t, sibling, s)
			src, _ := openIn(t, a, "")
			dst, _ := openIn(t, b, "")
			bad := s.data[len(s.data)-1]
			flipBlock(t, b, dst, bad)
			if _, ok := dst.Sound(hashOf(bad)); !ok {
				t.Fatal("distrusted before it was read")
			}
			if _, err := dst.CheckData(t.Context(), CheckOptions{Workers: 2}); err != nil {
				t.Fatal(err)
			}
			if _, ok := dst.Sound(hashOf(bad)); ok {
				t.Fatal("not distrusted")
			}
			w, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
			if err != nil {
				t.Fatal(err)
			}
			// What the other one does not have is left out.
			more := s
			more.data = append([][]byte{randomBytes(99, 500)}, s.data...)
			if err := w.Salvage(t.Context(), src, hashes(more)); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if n := w.Stats.PacksStored.Load(); n != 1 {
				t.Errorf("%d packs were stored", n)
			}
			if size, ok := dst.Sound(hashOf(bad)); !ok || int(size) != len(bad) {
				t.Errorf("%d bytes, %t", size, ok)
			}
			again, _ := openIn(t, b, "")
			if ids, err := readAll(t.Context(), again); err != nil || len(ids) != 1 || ids[0] != id {
				t.Errorf("%v, %v", ids, err)
			}
			// From a repository that has both copies, the good one is copied.
			c := storage.NewMemory()
			initIn(t, c, InitOptions{Sibling: dst})
			third, _ := openIn(t, c, "")
			healed, _ := openIn(t, b, "") // does not know which is damaged
			if err := copySnapshot(t.Context(), third, healed, id, s); err != nil {
				t.Fatal(err)
			}
			wantReadable(t, c, id)
		})
	}
}

// Damage on both sides: the rest is salvaged, Copy says what is wrong.
func TestSalvageFromDamage(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		t.Run(fmt.Sprintf("sibling=%t", sibling), func(t *testing.T) {
			var s source
			for i := range uint64(6) {
				s.data = append(s.data, randomBytes(i, BlockBytes/2)) // blocks of their own
			}
			from := newStore(t)
			src, _ := openIn(t, from, "")
			if _, _, err := backup(t.Context(), src, s, WriterOptions{}); err != nil {
				t.Fatal(err)
			}
			to := storage.NewMemory()
			o := InitOptions{Params: chunk.Params{Min: 64, Avg: 256, Max: 512}}
			if sibling {
				o = InitOptions{Sibling: src}
			}
			initIn(t, to, o)
			flipBlock(t, from, src, s.data[5])
			dst, _ := openIn(t, to, "")
			w, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			if err := w.Salvage(t.Context(), src, hashes(s)); err != nil {
				t.Fatal(err)
			}
			wantIs(t, w.Copy(t.Context(), src, hashes(s)), ErrMissing) // known to be damaged
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			for i, c := range s.data {
				if _, ok := dst.Sound(hashOf(c)); i < 4 && !ok || i == 5 && ok {
					t.Errorf("chunk %d: %t", i, ok)
				}
			}
		})
	}
}

func TestReplaceSnapshot(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	id, _ := mustBackup(t, r, s)
	name := objectName(kindSnapshot, id)
	whole := getObject(t, m, name)
	other := smallSource(2).body()
	// One that opens stays, one that is gone stays gone.
	if err := r.ReplaceSnapshot(t.Context(), id, other); err != nil {
		t.Fatal(err)
	}
	wantReadable(t, m, id)
	wantIs(t, r.ReplaceSnapshot(t.Context(), NewID(), other), fs.ErrNotExist)
	// Each of the two steps fails, with and without effect; whatever happens, the
	// caller learns whether the good one may be missing.
	flip(t, m, name, len(whole)/2)
	for n := range 4 { // delete, create, write, commit
		for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut, storagetest.LoseCut} {
			left := m.Clone()
			err := withBackend(r, storagetest.At(left, n, outcome)).ReplaceSnapshot(t.Context(), id, s.body())
			switch there := len(objects(t, left, "snapshots")) == 1; {
			case err == nil:
				wantReadable(t, left, id)
			case !there && !errors.Is(err, ErrReplacing):
				t.Errorf("step %d, %v: it is gone, and nobody is told: %v", n, outcome, err)
			case n == 0 && outcome == storagetest.Fail && (!there || errors.Is(err, ErrReplacing)):
				t.Errorf("nothing has happened, but %v", err)
			}
		}
	}
	// An interrupt does not come between them.
	ctx, cancel := context.WithCancel(t.Context())
	f := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
		cancel()
		return storagetest.Pass
	})
	if err := withBackend(r, f).ReplaceSnapshot(ctx, id, s.body()); err != nil {
		t.Fatal(err)
	}
	wantReadable(t, m, id)
}
