package repo

import (
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// After a failed write nobody knows how much of it is in the pack: the pack must
// not be stored, even if the storage would do it.
func TestPackAfterFailedWrite(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose} {
		writes := 0
		f := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
			if op.Kind == storagetest.Write && strings.HasPrefix(op.Name, "packs/") {
				if writes++; writes == 3 { // the magic, a block, and this one
					return outcome
				}
			}
			return storagetest.Pass
		})
		p, err := newPack(t.Context(), f, Data, dataKey)
		if err != nil {
			t.Fatal(err)
		}
		block := func(seed uint64) error {
			plain := randomBytes(seed, 100)
			n := p.nonce(uint32(seed))
			sealed := r.keys.Data.Seal(nil, n, plain, nil)
			ref := blockRef{nonce: n, stored: uint32(len(sealed)), raw: 100, chunks: []chunkRef{{r.ChunkID(hashOf(plain)), 100}}}
			_, err := p.append(sealed, ref)
			return err
		}
		if err := block(1); err != nil {
			t.Fatal(err)
		}
		wantIs(t, block(2), storagetest.ErrFault)
		if err := block(3); err == nil {
			t.Error("a block was added behind a failed one")
		}
		if _, err := p.finish(r.keys, r.enc); err == nil {
			t.Error("finished")
		}
		if got := objects(t, m, "packs"); len(got) != 0 {
			t.Errorf("%v was stored", got)
		}
		if err := p.w.Commit(); err == nil {
			t.Error("the writer is still open")
		}
	}
}
