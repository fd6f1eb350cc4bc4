package repo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// testIndex is an index without a repository behind it.
func testIndex(cache *cacheDir) *index {
	x := &index{repo: &Repository{id: ID{7}}, cache: cache, packs: make(map[ID]*packInfo)}
	x.segs.Store(new([]*segment))
	return x
}

// tableOf makes a pack of one block with the given chunks.
func tableOf(number uint64, ids ...ID) packTable {
	t := packTable{kind: Data, size: int64(number) + 1, blocks: make([]blockRef, 1)}
	binary.BigEndian.PutUint64(t.id[:], number)
	b := &t.blocks[0]
	for i, id := range ids {
		b.chunks = append(b.chunks, chunkRef{id, uint32(i + 1)})
		b.raw += uint32(i + 1)
	}
	b.stored = b.raw + tagBytes
	return t
}

func numbered(n uint64) (id ID) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h := sha256.Sum256(b[:])
	return ID(h[:])
}

// Whatever is added, look-ups search few segments, and find everything.
func TestSegmentsStayFew(t *testing.T) {
	for _, cached := range []bool{false, true} {
		for _, adopted := range []bool{false, true} {
			t.Run(fmt.Sprintf("cached=%t/adopted=%t", cached, adopted), func(t *testing.T) {
				var cache *cacheDir
				if cached {
					cache = openCache(t.TempDir(), ID{7})
				}
				x := testIndex(cache)
				if adopted {
					table := tableOf(1<<40, numbered(1<<40))
					x.packs[table.id] = &packInfo{id: table.id, size: table.size, there: true}
					s, err := x.segmentOf([]packTable{table})
					if err != nil {
						t.Fatal(err)
					}
					x.segs.Store(&[]*segment{s})
				}
				n := uint64(0)
				for i := range 300 {
					var ids []ID
					// At first each a third of the one before, so that no file is worth
					// merging; then of very different sizes.
					size := 1 + i%7*i%50
					if i < 8 {
						size = 1 + 6561/[]int{1, 3, 9, 27, 81, 243, 729, 2187}[i]
					}
					for range size {
						ids = append(ids, numbered(n))
						n++
					}
					if err := x.add([]packTable{tableOf(uint64(i), ids...)}, numbered(1<<50+uint64(i))); err != nil {
						t.Fatal(err)
					}
					if cached && (i < 8 || i%10 == 9) {
						x.mu.Lock()
						x.compact(true)
						x.mu.Unlock()
					}
					files, loose := 0, 0
					for _, s := range *x.segs.Load() {
						if s.entries.n == 0 {
							t.Fatalf("after %d: a segment without entries", i)
						}
						if s.file != "" {
							files++
						} else {
							loose++
						}
					}
					if files > maxSegments || loose > maxSegments+1 {
						t.Fatalf("after %d: %d files and %d segments in memory", i, files, loose)
					}
				}
				for i := range n {
					id := numbered(i)
					if !x.find(&id, true, nil) {
						t.Fatalf("chunk %d is lost", i)
					}
				}
				if id := numbered(1 << 40); x.find(&id, false, nil) != adopted {
					t.Error("the adopted pack is lost")
				}
				covered := make(map[ID]int)
				for _, s := range *x.segs.Load() {
					for _, id := range s.covers {
						covered[id]++
					}
				}
				for i := range uint64(300) {
					if covered[numbered(1<<50+i)] != 1 {
						t.Errorf("index object %d is covered %d times", i, covered[numbered(1<<50+i)])
					}
				}
				x.close()
			})
		}
	}
}

var _ = []any{bytes.Compare, rand.Int, os.Remove, filepath.Join, slices.Sort[[]int], sync.Mutex{}, rapid.Check}
