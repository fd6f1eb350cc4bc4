package repo

import (
	"encoding/binary"
	"testing"
)

// Tiny chunks close a pack by their number, and an index object, too: what is
// written stays below the bounds of what is read.
func TestManyTinyChunks(t *testing.T) {
	if testing.Short() {
		t.Skip("800,000 chunks of one goroutine")
	}
	m := newStore(t)
	r, _ := openIn(t, m, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{Compression: Fastest})
	must(t, err)
	b := w.Batch(Data)
	const n = 2 * BlockBytes / 4
	for i := range uint32(n) {
		var data [4]byte
		binary.BigEndian.PutUint32(data[:], i)
		if err := addData(b, data[:]); err != nil {
			t.Fatal(err)
		}
	}
	must(t, b.Flush())
	must(t, w.Commit(NewID(), []byte("[]")))
	r, report := openIn(t, m, "")
	if !report.OK() || report.Packs < 2 {
		t.Errorf("%+v", report)
	}
	// Each block adds at most the chunks of BlockBytes.
	const most = maxPackChunks + BlockBytes/4
	for id, size := range packsOf(t, r) {
		table, err := r.readTable(t.Context(), id, size)
		must(t, err)
		chunks := 0
		for _, b := range table.blocks {
			chunks += len(b.chunks)
		}
		if chunks > most {
			t.Errorf("a pack of %d chunks", chunks)
		}
	}
}

// Tables of many adopted packs are published in several index objects.
func TestManyAdopted(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	var all source
	for i := range uint64(3 * indexGroup) {
		s := source{meta: [][]byte{randomBytes(i, 100)}}
		mustBackup(t, r, s)
		all.meta = append(all.meta, s.meta...)
	}
	for _, name := range objects(t, m, "index") {
		replace(t, m, name, nil)
	}
	r, report := openIn(t, m, "")
	if report.Adopted != 3*indexGroup {
		t.Errorf("%+v", report)
	}
	_, stats := mustBackup(t, r, all)
	if stats.ChunksAdded.Load() != 0 {
		t.Errorf("%d chunks stored again", stats.ChunksAdded.Load())
	}
	for _, name := range objects(t, m, "index") {
		id, ok := parseName("index", name)
		if !ok {
			t.Fatal(name)
		}
		obj, err := r.readIndex(t.Context(), id)
		must(t, err)
		if len(obj.packs) > indexGroup {
			t.Errorf("an index object of %d packs", len(obj.packs))
		}
	}
	// A second Writer on the same Repository does not publish them again.
	before := len(objects(t, m, "index"))
	mustBackup(t, r, source{meta: [][]byte{[]byte("one more")}})
	if got := len(objects(t, m, "index")); got != before+1 {
		t.Errorf("%d index objects more, want 1", got-before)
	}
}

// Records that do not fit behind others, but in an empty block, take one of those
// that are there already: memory stays bounded.
func TestLargeRecordsUseBlocks(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{})
	must(t, err)
	var s source
	for i := range uint64(20) {
		s.meta = append(s.meta, text(i, 700_000))
	}
	must(t, s.write(w, 1))
	if w.meta.b != nil && len(w.meta.b.buf) != BlockBytes+smallParams.Max+ReadBytes {
		t.Errorf("a block of %d bytes", len(w.meta.b.buf))
	}
	id := NewID()
	must(t, w.Commit(id, s.body()))
	wantReadable(t, m, id)
}

func TestAddBounds(t *testing.T) {
	r, _ := openIn(t, newStore(t), "")
	w, err := r.NewWriter(t.Context(), WriterOptions{})
	must(t, err)
	defer w.Abort()
	b := w.Batch(Data)
	tail, err := b.Tail()
	must(t, err)
	for _, n := range []struct{ n, extra int }{{0, 0}, {-1, 0}, {len(tail) + 1, 0}, {1, len(tail)}, {1, -1}} {
		if _, err := b.Add(n.n, n.extra, Hash{}); err == nil {
			t.Errorf("%+v was accepted", n)
		}
	}
}
