package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// counted counts requests for packs.
type counted struct {
	storage.Backend
	requests *atomic.Int64
}

func (c counted) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "packs/") {
		c.requests.Add(1)
	}
	return c.Backend.Get(ctx, name, off, length)
}

// blocksOf returns the blocks of the pack that has most, by their offsets.
func blocksOf(t *testing.T, r *Repository, s source) (most []*Block) {
	packs := map[ID][]*Block{}
	seen := map[Block]bool{}
	for _, data := range s.data {
		loc, ok := r.Locate(hashOf(data))
		if !ok {
			t.Fatal("a chunk is missing")
		}
		if b := loc.Block; !seen[b] {
			seen[b] = true
			packs[b.Pack] = append(packs[b.Pack], &b)
		}
	}
	for _, blocks := range packs {
		if len(blocks) > len(most) {
			most = blocks
		}
	}
	slices.SortFunc(most, func(a, b *Block) int { return int(a.Offset) - int(b.Offset) })
	return most
}

func TestReadBlocks(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := source{}
	for i := range uint64(600) {
		s.data = append(s.data, randomBytes(i, 16<<10), text(1000+i, 16<<10))
	}
	mustBackup(t, r, s)
	r, _ = openIn(t, m, "")
	all := blocksOf(t, r, s)
	if len(all) < 5 {
		t.Fatalf("%d blocks", len(all))
	}
	want := make(map[*Block][]byte)
	for _, b := range all {
		plain, err := r.ReadBlock(t.Context(), b, nil)
		if err != nil {
			t.Fatal(err)
		}
		want[b] = plain
	}
	var requests atomic.Int64
	r = withBackend(r, counted{m, &requests})
	read := func(ctx context.Context, blocks []*Block) (errs []error) {
		requests.Store(0)
		r.ReadBlocks(ctx, blocks, nil, func(plain []byte, err error) []byte {
			b := blocks[len(errs)]
			if err == nil && !bytes.Equal(plain, want[b]) {
				t.Errorf("block at %d has other content", b.Offset)
			}
			errs = append(errs, err)
			if len(errs)%2 == 0 {
				return nil // whoever keeps the plaintext
			}
			clear(plain)
			return plain
		})
		return errs
	}
	for _, c := range []struct {
		name     string
		blocks   []*Block
		requests int64
	}{
		{"none", nil, 0},
		{"one", all[2:3], 1},
		{"all", all, 1},
		{"a gap", append(slices.Clone(all[:2]), all[3:]...), 2},
		{"every second", []*Block{all[0], all[2], all[4]}, 3},
	} {
		errs := read(t.Context(), c.blocks)
		if len(errs) != len(c.blocks) || errors.Join(errs...) != nil || requests.Load() != c.requests {
			t.Errorf("%s: %v for %d blocks, %d requests", c.name, errs, len(c.blocks), requests.Load())
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r.ReadBlocks(ctx, all, nil, func([]byte, error) []byte {
		if n++; n == 2 {
			cancel()
		}
		return nil
	})
	if n < 2 || n == len(all) {
		t.Errorf("%d of %d blocks after it was cancelled", n, len(all))
	}

	// A damaged block does not take others with it.
	name := packName(all[0].Pack)
	flip(t, m, name, int(all[1].Offset)+5)
	for i, err := range read(t.Context(), all) {
		if (err == nil) == (i == 1) || i == 1 && !errors.Is(err, ErrCorrupt) {
			t.Errorf("block %d of a damaged pack: %v", i, err)
		}
	}
	replace(t, m, name, getObject(t, m, name)[:all[3].Offset+100])
	for i, err := range read(t.Context(), all) {
		if bad := i == 1 || i >= 3; (err == nil) == bad || bad && !errors.Is(err, ErrCorrupt) {
			t.Errorf("block %d of a truncated pack: %v", i, err)
		}
	}
	if err := m.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for i, err := range read(t.Context(), all) {
		if !errors.Is(err, ErrMissing) {
			t.Errorf("block %d of a lost pack: %v", i, err)
		}
	}
}
