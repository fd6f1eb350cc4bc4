package repo

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// writeOnly gives a store a write-only key, and opens it with that.
func writeOnly(t testing.TB, m storage.Backend, cache string) *Repository {
	t.Helper()
	r, _ := openIn(t, m, "")
	if _, err := r.AddWriteOnlyKey(t.Context(), testKey(100), seal.WrapOptions{Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if !r.OpensWith(t.Context(), testKey(100)) {
		t.Error("the new key does not open it")
	}
	return openWriteOnly(t, m, cache)
}

func openWriteOnly(t testing.TB, m storage.Backend, cache string) *Repository {
	t.Helper()
	w, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{testKey(100)}, CacheDir: cache})
	if err == nil {
		_, err = w.LoadIndex(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// A write-only host stores and deduplicates, and opens nothing; who has the repository's
// key reads everything, with and without a cache.
func TestWriteOnly(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	shared, own := smallSource(1), smallSource(2)
	first, stats := mustBackup(t, r, shared)
	cache := t.TempDir()
	w := writeOnly(t, m, cache)
	if !w.WriteOnly() || r.WriteOnly() {
		t.Fatal("WriteOnly")
	}
	second, got := mustBackup(t, w, shared)
	if got.ChunksAdded.Load() != 0 || got.ChunksKnown.Load() != stats.ChunksAdded.Load() {
		t.Errorf("stored what is there: %d chunks", got.ChunksAdded.Load())
	}
	third, got := mustBackup(t, w, own)
	if got.ChunksAdded.Load() == 0 {
		t.Error("stored nothing")
	}
	w = openWriteOnly(t, m, cache)
	fourth, got := mustBackup(t, w, own)
	if got.ChunksAdded.Load() != 0 {
		t.Error("does not find what it has stored itself")
	}

	ctx := t.Context()
	_, err := w.Snapshots(ctx)
	wantIs(t, err, ErrWriteOnly)
	for _, id := range []ID{first, third} {
		_, err = w.SnapshotBody(ctx, id)
		wantIs(t, err, ErrWriteOnly)
		wantIs(t, w.Forget(ctx, id), ErrWriteOnly)
	}
	for _, s := range []source{shared, own} {
		for hash := range hashes(s) {
			loc, ok := w.Locate(hash)
			if !ok {
				t.Fatal("lost")
			}
			_, err := w.ReadBlock(ctx, &loc.Block, nil)
			wantIs(t, err, ErrWriteOnly)
			_, err = w.Load(ctx, hash, loc.Size, nil)
			wantIs(t, err, ErrWriteOnly)
		}
	}
	_, err = w.AddKey(ctx, testKey(7), seal.WrapOptions{Created: time.Now()})
	wantIs(t, err, ErrWriteOnly)
	_, err = w.AddWriteOnlyKey(ctx, testKey(7), seal.WrapOptions{Created: time.Now()})
	wantIs(t, err, ErrWriteOnly)
	keys, err := w.Keys(ctx)
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	for _, k := range keys {
		wantIs(t, w.RemoveKey(ctx, k.ID), ErrWriteOnly)
	}
	if w.Sibling(r) || w.Sibling(w) {
		t.Error("a write-only host is a sibling")
	}

	for _, cache := range []string{"", t.TempDir()} {
		for range 2 {
			r, report := openIn(t, m, cache)
			if !report.OK() {
				t.Errorf("%+v", report)
			}
			wantSnapshots(t, r, first, second, third, fourth)
			wantClean(t, r)
		}
	}
	// Who has the key relies on what the host has stored.
	r, _ = openIn(t, m, "")
	if _, got := mustBackup(t, r, own); got.ChunksAdded.Load() != 0 {
		t.Error("stored again")
	}
}

// No byte of what a write-only host stores opens with anything that the host has kept.
func TestWriteOnlyKeepsNothing(t *testing.T) {
	m := newStore(t)
	w := writeOnly(t, m, "")
	own := smallSource(3)
	id, _ := mustBackup(t, w, own)
	raw := getObject(t, m, objectName(kindSnapshot, id))
	if bytes.Contains(raw, own.body()[:16]) || !strings.HasPrefix(string(raw), sessionSnapshotMagic) {
		t.Error("the snapshot is not sealed in a session")
	}
	for hash := range hashes(own) {
		loc, _ := w.Locate(hash)
		if !loc.Block.Session {
			t.Fatal("sealed under the data key")
		}
		sealed := getObject(t, m, packName(loc.Block.Pack))[loc.Block.Offset:][:loc.Block.Stored]
		if _, err := w.keys.Index.Open(nil, seal.Nonce(loc.Block.Nonce), sealed, nil); err == nil {
			t.Error("opens with the index key")
		}
	}
	if len(w.sessions.open) > 0 {
		t.Error("the host keeps sessions")
	}
}

// What a write-only host has stored can be copied, and moves to packs under the
// repository's key when it is repacked; then its session is needed no longer.
func TestWriteOnlyMoves(t *testing.T) {
	m := newStore(t)
	w := writeOnly(t, m, "")
	own, other := smallSource(1), smallSource(2)
	id, _ := mustBackup(t, w, own)
	gone, _ := mustBackup(t, openWriteOnly(t, m, ""), other)
	for _, sibling := range []bool{true, false} {
		r, _ := openIn(t, m, "")
		target := storage.NewMemory()
		o := InitOptions{}
		if sibling {
			o.Sibling = r
		}
		initIn(t, target, o)
		dst, _ := openIn(t, target, "")
		cw, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
		if err != nil {
			t.Fatal(err)
		}
		if err := cw.Copy(t.Context(), r, hashes(own)); err != nil {
			t.Fatal(err)
		}
		if err := cw.Commit(id, own.body()); err != nil {
			t.Fatal(err)
		}
		dst, _ = openIn(t, target, "")
		wantSnapshots(t, dst, id)
		wantClean(t, dst)
		if n := len(objects(t, target, "sessions")); n > 0 {
			t.Errorf("%d sessions were copied", n)
		}
	}
	r, _ := openIn(t, m, "")
	if err := r.Forget(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	pruner := newPruner("p")
	for range 2 {
		pruner.mustPrune(t, m, func(o *PruneOptions) { o.Alone, o.MaxUnusedBytes = true, 1 })
	}
	r, report := openIn(t, m, "")
	if !report.OK() {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, r, id)
	wantClean(t, r)
}

// A session that is damaged or gone is damage, and named.
func TestWriteOnlySessionLost(t *testing.T) {
	for _, name := range []string{"gone", "flipped"} {
		m := newStore(t)
		r, _ := openIn(t, m, "")
		first, _ := mustBackup(t, r, smallSource(9))
		w := writeOnly(t, m, "")
		own := smallSource(3)
		id, _ := mustBackup(t, w, own)
		session := objects(t, m, "sessions")[0]
		if name == "gone" {
			replace(t, m, session, nil)
		} else {
			flip(t, m, session, 700)
		}
		r, _ = openIn(t, m, "")
		_, err := r.SnapshotBody(t.Context(), id)
		wantIs(t, err, ErrCorrupt)
		check, err := r.CheckData(t.Context(), CheckOptions{Workers: 2})
		if err != nil || len(check.Damaged) != len(own.data)+len(own.meta) {
			t.Errorf("%s: %v, %d chunks damaged", name, err, len(check.Damaged))
		}
		if !strings.Contains(strings.Join(check.Faults, "\n"), "write session") {
			t.Errorf("%q", check.Faults)
		}
		if _, err := r.SnapshotBody(t.Context(), first); err != nil {
			t.Error(err)
		}
	}
}

// Repair data gives a session back that is damaged or gone.
func TestWriteOnlySessionHeals(t *testing.T) {
	for _, name := range []string{"gone", "flipped"} {
		m := newStore(t)
		writeOnly(t, m, "")
		w, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{testKey(100)}, Parity: 5})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		id, _ := mustBackup(t, w, smallSource(3))
		session := objects(t, m, "sessions")[0]
		if name == "gone" {
			replace(t, m, session, nil)
		} else {
			flip(t, m, session, 700)
		}
		r, _ := openIn(t, m, "")
		wantSnapshots(t, r, id)
		damaged, err := r.DamagedObjects(t.Context())
		if err != nil || len(damaged) != 1 || damaged[0] != (DamagedObject{session, name == "gone"}) {
			t.Fatal(damaged, err)
		}
		if err := r.HealObject(t.Context(), session); err != nil {
			t.Fatal(err)
		}
		for _, name := range objects(t, m, "parity") {
			replace(t, m, name, nil)
		}
		r, _ = openIn(t, m, "")
		wantSnapshots(t, r, id)
		wantClean(t, r)
	}
}

// The session is stored before all else, so that no crash leaves packs without it.
func TestWriteOnlyFaults(t *testing.T) {
	m := newStore(t)
	writeOnly(t, m, "")
	own := smallSource(5)
	for n := 1; ; n++ {
		s := m.Clone()
		f := storagetest.At(s, n, storagetest.Fail)
		w, err := Open(t.Context(), unclosed{f}, Options{Credentials: []seal.Credential{testKey(100)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		id, _, err := backup(context.WithoutCancel(t.Context()), w, own, WriterOptions{})
		w.Close()
		r, report := openIn(t, s, "")
		if !report.OK() {
			t.Errorf("fault %d: %+v", n, report)
		}
		if err == nil {
			wantSnapshots(t, r, id)
			if n < 8 {
				t.Errorf("only %d faults", n)
			}
			return
		}
		again, _ := mustBackup(t, r, own)
		wantReadable(t, s, again)
	}
}

// Who has a write-only key can store other content under the ID of a chunk, and condemn
// the pack that has the right one. A prune notices before it deletes that.
func TestPoison(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	good := smallSource(1)
	id, _ := mustBackup(t, r, good)
	packs := packIDs(t, m)
	thief := writeOnly(t, m, "")
	w, err := thief.NewWriter(t.Context(), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for hash := range hashes(good) {
		loc, _ := thief.Locate(hash)
		b := &block{kind: Data, buf: randomBytes(77, int(loc.Size)), n: int(loc.Size), trend: new(trend)}
		b.chunks = append(b.chunks, chunkRef{thief.ChunkID(hash), loc.Size})
		if err := w.ship(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	condemn(t, thief, packs...)
	pruner := newPruner("p")
	for range 3 {
		pruner.prune(t.Context(), m, func(o *PruneOptions) { o.Alone = true })
		pruner.now = pruner.now.Add(48 * time.Hour)
	}
	r, _ = openIn(t, m, "")
	check, err := r.CheckData(t.Context(), CheckOptions{Workers: 2}) // so that what is poisoned is not read
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d chunks damaged", len(check.Damaged))
	for hash := range hashes(good) {
		if _, ok := r.Sound(hash); !ok {
			t.Fatal("a chunk that a snapshot needs is lost")
		}
	}
	_ = id
}

// Nor does a forged index object make it: one that replaces the true ones, and says that
// the packs hold something else.
func TestForgedIndex(t *testing.T) {
	for _, poison := range []bool{false, true} {
		m := newStore(t)
		r, _ := openIn(t, m, "")
		good := smallSource(1)
		id, _ := mustBackup(t, r, good)
		thief := writeOnly(t, m, "")
		var forged indexObject
		for _, name := range objects(t, m, "index") {
			object, _ := parseName("index", name)
			forged.replaces = append(forged.replaces, object)
			obj, err := thief.readIndex(t.Context(), object)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range obj.packs {
				n := uint32(100)
				p.blocks = []blockRef{{stored: n + tagBytes, raw: n, chunks: []chunkRef{{NewID(), n}}}}
				forged.packs = append(forged.packs, p)
			}
			replace(t, m, name, nil) // as a prune would
		}
		if poison {
			w, err := thief.NewWriter(t.Context(), WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for hash := range hashes(good) {
				loc, _ := thief.Locate(hash)
				b := &block{kind: Data, buf: randomBytes(77, int(loc.Size)), n: int(loc.Size), trend: new(trend)}
				b.chunks = append(b.chunks, chunkRef{thief.ChunkID(hash), loc.Size})
				if err := w.ship(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			w.Abort()
		}
		if _, _, err := thief.createObject(t.Context(), kindIndex, squeeze(thief.enc, appendIndex(nil, &forged))); err != nil {
			t.Fatal(err)
		}
		pruner := newPruner("p")
		for range 4 {
			pruner.prune(t.Context(), m, nil)
			pruner.now = pruner.now.Add(48 * time.Hour)
		}
		// Without the forged index the packs' own tables tell what is there.
		for _, name := range objects(t, m, "index") {
			replace(t, m, name, nil)
		}
		for _, name := range objects(t, m, "condemned") {
			replace(t, m, name, nil)
		}
		r, _ = openIn(t, m, "")
		if _, err := r.CheckData(t.Context(), CheckOptions{Workers: 2}); err != nil {
			t.Fatal(err)
		}
		for hash := range hashes(good) {
			if _, ok := r.Sound(hash); !ok {
				t.Fatalf("poison %t: a chunk that a snapshot needs is lost", poison)
			}
		}
		if _, err := r.SnapshotBody(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
