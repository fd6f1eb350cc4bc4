package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// mixedSource has chunks of every size that matters, in several blocks.
func mixedSource() source {
	var s source
	for i, n := range []int{1, smallParams.Min - 1, smallParams.Min, smallParams.Avg, smallParams.Max - 1, smallParams.Max} {
		s.data = append(s.data, randomBytes(uint64(i), n), text(uint64(50+i), n+2))
		s.meta = append(s.meta, text(uint64(100+i), n+5))
	}
	// More than the 2 MiB of two blocks, so that blocks are closed by size.
	for i := range uint64(200) {
		s.data = append(s.data, randomBytes(1000+i, smallParams.Max-int(i)))
	}
	s.data = append(s.data, make([]byte, smallParams.Max))
	// Larger than a block has room for.
	s.meta = append(s.meta, randomBytes(2000, BlockBytes+smallParams.Max+ReadBytes+1), text(2001, 3<<20),
		randomBytes(2002, BlockBytes+smallParams.Max+ReadBytes), randomBytes(2003, BlockBytes-1))
	return s
}

func TestRoundTrip(t *testing.T) {
	backends := map[string]func(t *testing.T) storage.Backend{
		"memory": func(*testing.T) storage.Backend { return storage.NewMemory() },
		"local": func(t *testing.T) storage.Backend {
			b, err := storage.CreateLocal(filepath.Join(t.TempDir(), "repository"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		},
	}
	s := mixedSource()
	for name, open := range backends {
		for _, c := range []Compression{Fastest, Default, Better, Best, NoCompression, ""} {
			for _, cached := range []bool{false, true} {
				if (name == "local" || testing.Short()) && c != Default && c != NoCompression {
					continue // what is compressed how does not concern the storage, nor the race detector
				}
				t.Run(fmt.Sprintf("%s/%s/cached=%t", name, c, cached), func(t *testing.T) {
					b := open(t)
					initIn(t, b, InitOptions{})
					cache := ""
					if cached {
						cache = t.TempDir()
					}
					r, _ := openIn(t, b, cache)
					id, stats, err := backup(t.Context(), r, s, WriterOptions{Compression: c, Sealers: 2, Readers: 4})
					if err != nil {
						t.Fatal(err)
					}
					if n := int64(len(s.data) + len(s.meta)); stats.ChunksAdded.Load() != n || stats.ChunksKnown.Load() != 0 {
						t.Errorf("%d chunks added, %d known; want %d, 0", stats.ChunksAdded.Load(), stats.ChunksKnown.Load(), n)
					}
					wantSnapshots(t, r, id) // without loading again
					if err := r.Close(); err != nil {
						t.Fatal(err)
					}
					for range 2 { // the second time from the cache
						r, report := openIn(t, b, cache)
						if !report.OK() || report.Packs != int(stats.PacksStored.Load()) || report.IndexObjects == 0 || report.Adopted != 0 {
							t.Errorf("%+v", report)
						}
						wantSnapshots(t, r, id)
						check := wantClean(t, r)
						if check.Packs != report.Packs || check.Chunks != int64(len(s.data)+len(s.meta)) || check.Bytes != report.Bytes {
							t.Errorf("%+v, index %+v", check, report)
						}
						if err := r.Close(); err != nil {
							t.Fatal(err)
						}
					}
					// A second run stores nothing but its snapshot.
					r, _ = openIn(t, b, cache)
					second, stats := mustBackup(t, r, s)
					if stats.ChunksAdded.Load() != 0 || stats.PacksStored.Load() != 0 || stats.IndexObjects.Load() != 0 {
						t.Errorf("second run: %d chunks, %d packs, %d index objects stored", stats.ChunksAdded.Load(), stats.PacksStored.Load(), stats.IndexObjects.Load())
					}
					wantReadable(t, b, id, second)
				})
			}
		}
	}
}

// Bytes behind a chunk move to the front of the next Tail, in the same block, in
// another one, and if the chunk is known.
func TestAddExtra(t *testing.T) {
	r, _ := openIn(t, newStore(t), "")
	stream := randomBytes(1, 3*BlockBytes)
	stream = append(stream, stream[:BlockBytes]...) // what follows is known
	cuts := []int{smallParams.Max, smallParams.Max, 1, smallParams.Min, 4096}
	const readAhead = 100_000
	w, err := r.NewWriter(t.Context(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := w.Batch(Data)
	var s source
	have, at := 0, 0
	for i := 0; at < len(stream); i++ {
		tail, err := b.Tail()
		if err != nil {
			t.Fatal(err)
		}
		if len(tail) < smallParams.Max+ReadBytes {
			t.Fatalf("a tail of %d bytes", len(tail))
		}
		if !bytes.Equal(tail[:have], stream[at:at+have]) {
			t.Fatalf("chunk %d: what was read is not at the front of Tail", i)
		}
		n := copy(tail[have:min(len(tail), readAhead)], stream[at+have:])
		have += n
		size := min(cuts[i%len(cuts)], have)
		s.data = append(s.data, stream[at:at+size])
		if _, err := b.Add(size, have-size, hashOf(stream[at:at+size])); err != nil {
			t.Fatal(err)
		}
		at, have = at+size, have-size
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	id := NewID()
	if err := w.Commit(id, s.body()); err != nil {
		t.Fatal(err)
	}
	distinct, known := make(map[Hash]bool), int64(0)
	for _, c := range s.data {
		if distinct[hashOf(c)] {
			known++
		}
		distinct[hashOf(c)] = true
	}
	if w.Stats.ChunksAdded.Load() != int64(len(distinct)) || w.Stats.ChunksKnown.Load() != known || known == 0 {
		t.Errorf("%d chunks added, %d known; want %d, %d", w.Stats.ChunksAdded.Load(), w.Stats.ChunksKnown.Load(), len(distinct), known)
	}
	wantSnapshots(t, r, id)
}

// A chunk that many goroutines add at the same time is stored once.
func TestDedupWithinRun(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{Sealers: 2, Readers: 8})
	if err != nil {
		t.Fatal(err)
	}
	var s source
	for i := range uint64(100) {
		s.data = append(s.data, randomBytes(i, 2000))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b := w.Batch(Data)
			for _, d := range s.data {
				if err := addData(b, d); err != nil {
					t.Error(err)
				}
			}
			if err := b.Flush(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, d := range s.data {
		if !w.Has(hashOf(d)) {
			t.Error("a chunk on its way is unknown")
		}
	}
	if w.Has(hashOf([]byte("no"))) {
		t.Error("a chunk that nobody added is known")
	}
	id := NewID()
	if err := w.Commit(id, s.body()); err != nil {
		t.Fatal(err)
	}
	if w.Stats.ChunksAdded.Load() != 100 || w.Stats.ChunksKnown.Load() != 700 || w.Stats.BytesAdded.Load() != 200_000 {
		t.Errorf("%d added, %d known", w.Stats.ChunksAdded.Load(), w.Stats.ChunksKnown.Load())
	}
	wantReadable(t, m, id)
}

func TestReadErrors(t *testing.T) {
	r, _ := openIn(t, newStore(t), "")
	s := smallSource(1)
	mustBackup(t, r, s)
	h := hashOf(s.data[0])
	_, err := r.Load(t.Context(), Hash{1}, 1, nil)
	wantIs(t, err, ErrMissing)
	_, err = r.Load(t.Context(), h, 1, nil)
	wantIs(t, err, ErrCorrupt)
	if _, ok := r.Locate(Hash{1}); ok {
		t.Error("an unknown chunk has a place")
	}
	loc, ok := r.Locate(h)
	if !ok {
		t.Fatal("no place")
	}
	// Any change of the place is noticed.
	for name, change := range map[string]func(b *Block){
		"nonce":      func(b *Block) { b.Nonce[0]++ },
		"nonce end":  func(b *Block) { b.Nonce[23]++ },
		"offset":     func(b *Block) { b.Offset++ },
		"far offset": func(b *Block) { b.Offset = 1 << 31 },
		"stored":     func(b *Block) { b.Stored-- },
		"long":       func(b *Block) { b.Stored += 1 << 20 },
		"short":      func(b *Block) { b.Stored = 0 },
		"raw":        func(b *Block) { b.Raw-- },
		"compressed": func(b *Block) { b.Compressed = !b.Compressed },
	} {
		b := loc.Block
		change(&b)
		if _, err := r.ReadBlock(t.Context(), &b, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := loc.Block
	b.Pack[0]++
	_, err = r.ReadBlock(t.Context(), &b, nil)
	wantIs(t, err, ErrMissing)
	plain, err := r.ReadBlock(t.Context(), &loc.Block, make([]byte, 1))
	if err != nil || !bytes.Equal(plain[loc.Offset:loc.Offset+loc.Size], s.data[0]) {
		t.Errorf("ReadBlock: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.ReadBlock(ctx, &loc.Block, nil)
	wantIs(t, err, context.Canceled)
	wantIs(t, CheckChunk(h, []byte("x")), ErrCorrupt)
	if err := CheckChunk(h, s.data[0]); err != nil {
		t.Error(err)
	}
}

func TestAddMetadataBounds(t *testing.T) {
	r, _ := openIn(t, newStore(t), "")
	w, err := r.NewWriter(t.Context(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, n := range []int{0, maxBlockSize/2 + 1} {
		if _, err := w.AddMetadata(make([]byte, n)); err == nil {
			t.Errorf("a record of %d bytes was accepted", n)
		}
	}
}

func TestCopy(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		t.Run(fmt.Sprintf("sibling=%t", sibling), func(t *testing.T) {
			from := newStore(t)
			src, _ := openIn(t, from, "")
			s := mixedSource()
			id, _ := mustBackup(t, src, s)
			to := storage.NewMemory()
			o := InitOptions{Params: chunk.Params{Min: 64, Avg: 256, Max: 512}}
			if sibling {
				o = InitOptions{Sibling: src}
			}
			initIn(t, to, o)
			dst, _ := openIn(t, to, "")
			if dst.Sibling(src) != sibling {
				t.Fatal("Sibling is wrong")
			}
			if err := copySnapshot(t.Context(), dst, src, id, s); err != nil {
				t.Fatal(err)
			}
			wantReadable(t, to, id)
			// Again, there is nothing to do.
			w, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Copy(t.Context(), src, hashes(s)); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if w.Stats.PacksStored.Load() != 0 {
				t.Error("a second copy stored packs")
			}
			// The same snapshot is not stored twice.
			wantIs(t, w.Commit(id, s.body()), fs.ErrExist)
			wantReadable(t, to, id)
		})
	}
}

func hashes(s source) func(yield func(Hash, error) bool) {
	return func(yield func(Hash, error) bool) {
		for _, c := range append(s.data[:len(s.data):len(s.data)], s.meta...) {
			if !yield(hashOf(c), nil) {
				return
			}
		}
	}
}

func copySnapshot(ctx context.Context, dst, src *Repository, id ID, s source) error {
	w, err := dst.NewWriter(ctx, WriterOptions{Readers: CopyBatches})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Copy(ctx, src, hashes(s)); err != nil {
		return err
	}
	return w.Commit(id, s.body())
}

// TestCopyRequests: a pack that is copied whole takes two requests for its table, and one
// for its blocks.
func TestCopyRequests(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		from := newStore(t)
		src, _ := openIn(t, from, "")
		s := source{}
		for i := range uint64(600) {
			s.data = append(s.data, randomBytes(i, 16<<10), text(1000+i, 16<<10))
		}
		id, _ := mustBackup(t, src, s)
		var requests atomic.Int64
		src, _ = openIn(t, from, "")
		src = withBackend(src, counted{from, &requests})
		to := storage.NewMemory()
		o := InitOptions{}
		if sibling {
			o.Sibling = src
		}
		initIn(t, to, o)
		dst, _ := openIn(t, to, "")
		if err := copySnapshot(t.Context(), dst, src, id, s); err != nil {
			t.Fatal(err)
		}
		packs := int64(len(objects(t, from, "packs")))
		if n := requests.Load(); n == 0 || n > 3*packs {
			t.Errorf("sibling=%t: %d requests for %d packs", sibling, n, packs)
		}
		wantReadable(t, to, id)
	}
}

func TestCopyErrors(t *testing.T) {
	m := newStore(t)
	src, _ := openIn(t, m, "")
	s := smallSource(1)
	mustBackup(t, src, s)
	to := storage.NewMemory()
	initIn(t, to, InitOptions{Sibling: src})
	dst, _ := openIn(t, to, "")
	w, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	err = w.Copy(t.Context(), src, hashes(smallSource(2)))
	wantIs(t, err, ErrMissing)
	odd := errors.New("odd")
	err = w.Copy(t.Context(), src, func(yield func(Hash, error) bool) { yield(Hash{}, odd) })
	wantIs(t, err, odd)
}

func TestUnknownCompression(t *testing.T) {
	r, _ := openIn(t, newStore(t), "")
	if _, err := r.NewWriter(t.Context(), WriterOptions{Compression: "hard"}); err == nil {
		t.Error("accepted")
	}
}

// All credentials of a repository open the same one.
func TestOpenUnencrypted(t *testing.T) {
	m := storage.NewMemory()
	initIn(t, m, InitOptions{Lockers: []seal.Locker{seal.None{}}})
	_, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{testKey(0)}})
	wantIs(t, err, seal.ErrWrongKey)
	r, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if enc, err := r.Encrypted(t.Context()); enc || err != nil {
		t.Errorf("Encrypted: %t, %v", enc, err)
	}
	other, _ := openIn(t, newStore(t), "")
	if enc, err := other.Encrypted(t.Context()); !enc || err != nil {
		t.Errorf("Encrypted: %t, %v", enc, err)
	}
}
