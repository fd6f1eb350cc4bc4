package repo

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// flipCached changes a byte of a file of a cache, in place: what is mapped changes.
func flipCached(t *testing.T, cache, file string, at int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cache, "*", file))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	f, err := os.OpenFile(names[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// segmentFiles returns the files of segments below a cache directory.
func segmentFiles(t *testing.T, cache string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cache, "*", "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Whatever happens to a file of the cache, the index says what the repository has:
// neither less nor more.
func TestDamagedCache(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	var s source
	for i := range uint64(400) { // entries of four pages
		s.data = append(s.data, randomBytes(i, 100))
	}
	id, _ := mustBackup(t, r, s)
	other := newStore(t)
	ro, _ := openIn(t, other, "")
	mustBackup(t, ro, smallSource(9))

	fill := func(t *testing.T) (cache, file string) {
		cache = t.TempDir()
		r, _ := openIn(t, m, cache)
		r.Close()
		files := segmentFiles(t, cache)
		if len(files) != 1 {
			t.Fatalf("files %v", files)
		}
		return cache, files[0]
	}
	_, file := fill(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole) != 9*pageBytes {
		t.Fatalf("%d bytes", len(whole))
	}
	damages := map[string]func(t *testing.T, cache, file string){
		"removed":       func(t *testing.T, _, file string) { must(t, os.Remove(file)) },
		"empty":         func(t *testing.T, _, file string) { must(t, os.Truncate(file, 0)) },
		"last page":     func(t *testing.T, _, file string) { must(t, os.Truncate(file, int64(len(whole)-pageBytes))) },
		"last byte":     func(t *testing.T, _, file string) { must(t, os.Truncate(file, int64(len(whole)-1))) },
		"one page more": func(t *testing.T, _, file string) { must(t, os.Truncate(file, int64(len(whole)+pageBytes))) },
		"zero page": func(t *testing.T, _, file string) {
			data := append([]byte(nil), whole...)
			clear(data[2*pageBytes : 3*pageBytes])
			must(t, os.WriteFile(file, data, 0o600))
		},
		"other repository": func(t *testing.T, _, file string) {
			c := t.TempDir()
			r, _ := openIn(t, other, c)
			r.Close()
			data, err := os.ReadFile(segmentFiles(t, c)[0])
			must(t, err)
			must(t, os.WriteFile(file, data, 0o600))
		},
		"manifest empty":   func(t *testing.T, _, file string) { must(t, os.WriteFile(manifestOf(file), nil, 0o600)) },
		"manifest garbage": func(t *testing.T, _, file string) { must(t, os.WriteFile(manifestOf(file), []byte("{"), 0o600)) },
		"manifest version": func(t *testing.T, _, file string) {
			data, err := os.ReadFile(manifestOf(file))
			must(t, err)
			must(t, os.WriteFile(manifestOf(file), []byte(strings.Replace(string(data), `"version":2`, `"version":3`, 1)), 0o600))
		},
		"manifest leads out": func(t *testing.T, _, file string) {
			data, err := os.ReadFile(manifestOf(file))
			must(t, err)
			must(t, os.WriteFile(manifestOf(file), []byte(strings.Replace(string(data), filepath.Base(file), "../x.seg", 1)), 0o600))
		},
		"directory is a file": func(t *testing.T, _, file string) {
			must(t, os.RemoveAll(filepath.Dir(file)))
			must(t, os.WriteFile(filepath.Dir(file), nil, 0o600))
		},
	}
	for at := 0; at < len(whole); at += 97 {
		if at%pageBytes < 2*97 || at%pageBytes > pageBytes-2*97 || at%5 == 0 {
			damages["flip "+string(rune('0'+at/pageBytes))+"/"+ID{byte(at >> 8), byte(at)}.Short()[:4]] = func(t *testing.T, cache, file string) {
				flipCached(t, cache, filepath.Base(file), int64(at))
			}
		}
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			cache, file := fill(t)
			damage(t, cache, file)
			r, report := openIn(t, m, cache)
			if !report.OK() {
				t.Errorf("%+v", report)
			}
			for i, c := range s.data {
				loc, ok := r.Locate(hashOf(c))
				if !ok || loc.Size != uint32(len(c)) {
					t.Fatalf("chunk %d: %+v, %t", i, loc, ok)
				}
			}
			for i := range uint64(400) {
				if _, ok := r.Locate(hashOf(randomBytes(1000+i, 100))); ok {
					t.Fatal("a chunk that was never stored is there")
				}
			}
			wantSnapshots(t, r, id)
			_, stats := mustBackup(t, withBackend(r, m.Clone()), source{data: append(s.data[:400:400], randomBytes(5000, 100))})
			if stats.ChunksAdded.Load() != 1 {
				t.Errorf("%d chunks stored, want 1", stats.ChunksAdded.Load())
			}
			must(t, r.Close())
			// It is whole again, or at least harmless.
			r, _ = openIn(t, m, cache)
			wantSnapshots(t, r, id)
			must(t, r.Close())
		})
	}
}

func manifestOf(file string) string { return filepath.Join(filepath.Dir(file), cacheManifest) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A cache that was filled before packs were lost does not hide the loss.
func TestCacheKnowsNoMoreThanTheStore(t *testing.T) {
	m, cache := newStore(t), t.TempDir()
	r, _ := openIn(t, m, cache)
	s := smallSource(1)
	mustBackup(t, r, s)
	must(t, r.Close())
	for _, id := range packIDs(t, m) {
		replace(t, m, packName(id), nil)
	}
	r, report := openIn(t, m, cache)
	if len(report.MissingPacks) != 2 {
		t.Errorf("%+v", report)
	}
	for _, c := range append(s.data, s.meta...) {
		if _, ok := r.Locate(hashOf(c)); ok {
			t.Error("a chunk of a lost pack is there")
		}
	}
	_, stats := mustBackup(t, r, s)
	if stats.ChunksKnown.Load() != 0 {
		t.Errorf("%d chunks were not stored again", stats.ChunksKnown.Load())
	}
	if _, err := readAll(t.Context(), r); err != nil {
		t.Error(err)
	}
	must(t, r.Close())
	// Index objects that are gone are not served from the cache either.
	for _, name := range append(objects(t, m, "index"), objects(t, m, "packs")...) {
		replace(t, m, name, nil)
	}
	r, report = openIn(t, m, cache)
	if _, ok := r.Locate(hashOf(s.data[0])); ok || !report.OK() {
		t.Errorf("%t, %+v", ok, report)
	}
}

// Several processes share a cache directory, and see the same repository.
func TestSharedCache(t *testing.T) {
	m, cache := newStore(t), t.TempDir()
	var mu sync.Mutex
	var ids []ID
	var wg sync.WaitGroup
	for p := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(6) {
				r, report, err := tryOpen(t.Context(), m, cache)
				if err != nil {
					t.Error(err)
					return
				}
				if !report.OK() {
					t.Errorf("%+v", report)
				}
				id, _, err := backup(t.Context(), r, smallSource(p*100+i), WriterOptions{})
				if err != nil {
					t.Error(err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r, report := openIn(t, m, cache)
	if !report.OK() || report.Adopted != 0 {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, r, ids...)
	must(t, r.Close())
	wantReadable(t, m, ids...)
}

// A load goes by batches, each of them a file, and one that is interrupted goes on
// where it was.
func TestLoadInBatches(t *testing.T) {
	m, cache := newStore(t), t.TempDir()
	r, _ := openIn(t, m, "")
	var all source
	for i := range uint64(40) {
		s := source{data: [][]byte{randomBytes(i, 100)}}
		mustBackup(t, r, s)
		all.data = append(all.data, s.data...)
	}
	r, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{testKey(0)}, CacheDir: cache})
	must(t, err)
	x := &r.index
	x.segs.Store(new([]*segment))
	l := newLoader(x)
	l.cache, l.publish, l.report = x.cache, true, &x.report
	var objects []listedObject
	must(t, r.list(t.Context(), "index", nil, func(id ID, size int64) { objects = append(objects, listedObject{id, size}) }))
	must(t, l.listPacks(t.Context()))
	largest := slices.MaxFunc(objects, func(a, b listedObject) int { return cmp.Compare(a.size, b.size) })
	l.batchBytes, l.runEntries = 2*largest.size, 2
	must(t, l.read(t.Context(), objects[:30])) // then the process ends
	if len(l.segs) != 15 || len(segmentFiles(t, cache)) != 15 {
		t.Errorf("%d segments, %d files", len(l.segs), len(segmentFiles(t, cache)))
	}
	for _, s := range l.segs {
		for i := range s.packs.n {
			if !s.there.get(i) || !s.fresh.get(i) {
				t.Error("a pack is not there")
			}
		}
		must(t, s.close())
	}
	if got := len(openCache(cache, r.id).read().Segments); got != 15 {
		t.Errorf("%d files count", got)
	}

	// What the cache has is not read again: here it cannot be.
	left := m.Clone()
	for _, o := range objects[:30] {
		replace(t, left, objectName(kindIndex, o.id), []byte("damaged"))
	}
	r, report := openIn(t, left, cache)
	if !report.OK() || report.IndexObjects != 40 {
		t.Errorf("%+v", report)
	}
	if n := len(*r.index.segs.Load()); n > maxSegments {
		t.Errorf("%d segments", n)
	}
	for i, c := range all.data {
		if _, ok := r.Locate(hashOf(c)); !ok {
			t.Errorf("chunk %d is lost", i)
		}
	}
	must(t, r.Close())
}

// One more index object does not rewrite the large file, however many runs there
// are; and look-ups search few files all the same.
func TestLargeFileStays(t *testing.T) {
	dir := t.TempDir()
	x := testIndex(openCache(dir, ID{7}))
	n := uint64(0)
	add := func(chunks int) {
		var ids []ID
		for range chunks {
			ids = append(ids, numbered(n))
			n++
		}
		must(t, x.add([]packTable{tableOf(n, ids...)}, numbered(1<<50+n)))
		x.mu.Lock()
		x.compact(true)
		x.mu.Unlock()
	}
	add(100_000)
	large := (*x.segs.Load())[0]
	written := 0
	for range 400 {
		last := *x.segs.Load()
		add(100)
		for _, s := range *x.segs.Load() {
			if !slices.Contains(last, s) {
				written += s.entries.n
			}
		}
		if len(*x.segs.Load()) > maxSegments {
			t.Fatalf("%d files", len(*x.segs.Load()))
		}
	}
	if !slices.Contains(*x.segs.Load(), large) {
		t.Error("the large file was rewritten")
	}
	if limit := 400 * 100 * 30; written > limit {
		t.Errorf("%d entries written for 40,000", written)
	}
	x.close()
}
