package repo

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
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
	for i := range uint64(400) { // entries of three pages
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
	if len(whole) != 6*pageBytes {
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
			must(t, os.WriteFile(manifestOf(file), []byte(strings.Replace(string(data), `"version":1`, `"version":2`, 1)), 0o600))
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
