package repo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// A getCounter counts what is read of a store.
type getCounter struct {
	storage.Backend
	mu   sync.Mutex
	gets map[string]int // by the first element of the name
}

func (c *getCounter) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	dir, _, _ := strings.Cut(name, "/")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gets == nil {
		c.gets = map[string]int{}
	}
	c.gets[dir]++
	return c.Backend.Get(ctx, name, off, length)
}

func (c *getCounter) Close() error { return nil }

// openKeeping opens a repository that keeps at most bytes of its metadata in cache.
func openKeeping(t *testing.T, b storage.Backend, cache string, bytes int64) *Repository {
	t.Helper()
	r, err := Open(t.Context(), b, Options{Credentials: []seal.Credential{testKey(0)}, CacheDir: cache, CacheBytes: bytes})
	if err == nil {
		_, err = r.LoadIndex(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// loadMeta reads the metadata of a source, as a run does that compares with it.
func loadMeta(t *testing.T, r *Repository, s source) {
	t.Helper()
	for _, c := range s.meta {
		got, err := r.Load(t.Context(), hashOf(c), uint32(len(c)), nil)
		if err != nil || string(got) != string(c) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// fetched opens the repository anew, reads metadata and snapshots, and returns how
// many packs and snapshots were asked for.
func fetched(t *testing.T, b storage.Backend, cache string, bytes int64, s source, snapshots int) (packs, snaps int) {
	t.Helper()
	c := &getCounter{Backend: b}
	r := openKeeping(t, c, cache, bytes)
	defer r.Close()
	loadMeta(t, r, s)
	raw, err := r.Snapshots(t.Context())
	if err != nil || len(raw) != snapshots {
		t.Errorf("%d snapshots, %v", len(raw), err)
	}
	for _, s := range raw {
		if s.Err != nil {
			t.Errorf("snapshot %s: %v", s.ID, s.Err)
		}
	}
	return c.gets["packs"], c.gets["snapshots"]
}

func keptFiles(t *testing.T, cache string) (names []string, sum int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cache, "*", "kept", "*"))
	must(t, err)
	for _, n := range names {
		info, err := os.Stat(n)
		must(t, err)
		sum += info.Size()
	}
	return names, sum
}

func TestKept(t *testing.T) {
	const plenty = 1 << 20
	m := newStore(t)
	cache := t.TempDir()
	s := smallSource(1)
	r := openKeeping(t, unclosed{m}, cache, plenty)
	mustBackup(t, r, s)
	must(t, r.Close())

	// What this machine has written it need not fetch.
	if p, n := fetched(t, m, cache, plenty, s, 1); p+n != 0 {
		t.Errorf("after the backup: %d packs, %d snapshots fetched", p, n)
	}
	// Nor what it has fetched.
	other := t.TempDir()
	if p, n := fetched(t, m, other, plenty, s, 1); p == 0 || n != 1 {
		t.Errorf("without anything: %d packs, %d snapshots fetched", p, n)
	}
	if p, n := fetched(t, m, other, plenty, s, 1); p+n != 0 {
		t.Errorf("the second time: %d packs, %d snapshots fetched", p, n)
	}

	// Whatever is wrong with a file: it is fetched again, once.
	names, _ := keptFiles(t, cache)
	if len(names) < 2 {
		t.Fatalf("kept: %q", names)
	}
	for what, damage := range map[string]func(name string, data []byte) error{
		"a flipped bit": func(name string, data []byte) error {
			data[len(data)/2] ^= 1
			return os.WriteFile(name, data, 0o600)
		},
		"a half":  func(name string, data []byte) error { return os.WriteFile(name, data[:len(data)/2], 0o600) },
		"nothing": func(name string, data []byte) error { return os.WriteFile(name, nil, 0o600) },
		"another": func(name string, data []byte) error {
			return os.WriteFile(name, []byte(strings.Repeat("x", len(data))), 0o600)
		},
	} {
		for _, name := range names {
			data, err := os.ReadFile(name)
			must(t, err)
			must(t, damage(name, data))
		}
		if p, n := fetched(t, m, cache, plenty, s, 1); p == 0 || n != 1 {
			t.Errorf("%s: %d packs, %d snapshots fetched", what, p, n)
		}
		if p, n := fetched(t, m, cache, plenty, s, 1); p+n != 0 {
			t.Errorf("after %s: %d packs, %d snapshots fetched", what, p, n)
		}
	}
}

// What is kept of one repository is not taken for another's, and what of the store is
// gone is not there because it is kept.
func TestKeptIsNoStore(t *testing.T) {
	const plenty = 1 << 20
	m := newStore(t)
	cache := t.TempDir()
	s := smallSource(1)
	r := openKeeping(t, unclosed{m}, cache, plenty)
	id, _ := mustBackup(t, r, s)
	must(t, r.Close())
	for _, name := range objects(t, m, "packs") {
		replace(t, m, name, nil)
	}
	must(t, m.Delete(t.Context(), objectName(kindSnapshot, id)))
	r = openKeeping(t, unclosed{m}, cache, plenty)
	if raw, err := r.Snapshots(t.Context()); err != nil || len(raw) != 0 {
		t.Errorf("%d snapshots, %v", len(raw), err)
	}
	for _, c := range s.meta {
		_, err := r.Load(t.Context(), hashOf(c), uint32(len(c)), nil)
		wantIs(t, err, ErrMissing)
	}
}

func TestKeptNothing(t *testing.T) {
	m := newStore(t)
	cache := t.TempDir()
	s := smallSource(1)
	r := openKeeping(t, unclosed{m}, cache, 0)
	mustBackup(t, r, s)
	must(t, r.Close())
	if names, _ := keptFiles(t, cache); len(names) != 0 {
		t.Errorf("kept: %q", names)
	}
	for range 2 {
		if p, n := fetched(t, m, cache, 0, s, 1); p == 0 || n != 1 {
			t.Errorf("%d packs, %d snapshots fetched", p, n)
		}
	}
}

// The bound holds, what was used last stays, and what a crash left goes.
func TestKeptBound(t *testing.T) {
	dir := t.TempDir()
	const bound = 10_000
	k := openKept(dir, ID{1}, bound)
	old := filepath.Join(k.dir, "crashed.tmp")
	must(t, os.WriteFile(old, nil, 0o600))
	then := time.Now().Add(-2*orphanAge - 48*time.Hour)
	must(t, os.Chtimes(old, then, then))
	for i := range 100 {
		name := fmt.Sprint(i)
		k.put(name, make([]byte, 1000))
		// Each is a minute younger than the one before.
		at := then.Add(time.Duration(i) * time.Minute)
		os.Chtimes(filepath.Join(k.dir, name+keptSuffix), at, at)
		if _, sum := keptFiles(t, dir); sum > bound+bound*(100-trimTo)/100+1000 {
			t.Fatalf("%d bytes are kept after %d files", sum, i+1)
		}
	}
	k.put("too large", make([]byte, bound+1))
	k.close()
	names, sum := keptFiles(t, dir)
	if sum > bound || sum < bound/2 {
		t.Errorf("%d bytes are kept", sum)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what a crash left is still there")
	}
	if k.get("99") == nil || k.get("0") != nil || k.get("too large") != nil {
		t.Errorf("kept: %q", names)
	}
	// To be used is to be young again.
	kept := filepath.Base(names[0])
	kept = strings.TrimSuffix(kept, keptSuffix)
	if k.get(kept) == nil {
		t.Fatal(kept)
	}
	for i := range 8 {
		k.put(fmt.Sprint("new", i), make([]byte, 1000))
	}
	k.trim()
	if k.get(kept) == nil {
		t.Errorf("%s was used, and is gone", kept)
	}
}

// Several that use one directory do not disturb each other, not even with a bound
// that removes what others are about to read.
func TestKeptShared(t *testing.T) {
	m := newStore(t)
	cache := t.TempDir()
	s := smallSource(1)
	r := openKeeping(t, unclosed{m}, cache, 1<<20)
	mustBackup(t, r, s)
	must(t, r.Close())
	var wg sync.WaitGroup
	for i := range 4 {
		r := openKeeping(t, unclosed{m}, cache, []int64{1 << 20, 700}[i%2])
		wg.Go(func() {
			for range 30 {
				r.recent = blockCache{}
				loadMeta(t, r, s)
				if raw, err := r.Snapshots(t.Context()); err != nil || len(raw) != 1 || raw[0].Err != nil {
					t.Errorf("%+v, %v", raw, err)
				}
				r.kept.trim()
			}
		})
	}
	wg.Wait()
	wantReadable(t, m, mustIDs(t, m)...)
}

func mustIDs(t *testing.T, m *storage.Memory) (ids []ID) {
	t.Helper()
	for name := range storagetest.Objects(t, m) {
		if id, ok := parseName("snapshots", name); ok {
			ids = append(ids, id)
		}
	}
	return ids
}
