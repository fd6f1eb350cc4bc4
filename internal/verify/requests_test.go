package verify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A counting store counts what is asked of it, by object.
type counting struct {
	storage.Backend
	mu    sync.Mutex
	gets  map[string]int
	bytes map[string]int64
	lists int
}

func newCounting(b storage.Backend) *counting {
	c := &counting{Backend: b}
	c.reset()
	return c
}

func (c *counting) reset() {
	c.gets, c.bytes, c.lists = make(map[string]int), make(map[string]int64), 0
}

func (c *counting) Close() error { return nil }

func (c *counting) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	rc, err := c.Backend.Get(ctx, name, off, length)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gets[name]++
	return countingReader{rc, c, name}, err
}

func (c *counting) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	c.mu.Lock()
	c.lists++
	c.mu.Unlock()
	return c.Backend.List(ctx, dir, fn)
}

type countingReader struct {
	io.ReadCloser
	c    *counting
	name string
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.bytes[r.name] += int64(n)
	return n, err
}

// openDistant opens a repository as one on another machine, to be proven.
func openDistant(t testing.TB, b storage.Backend, cache string, scratch int64) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), b, repo.Options{Credentials: []seal.Credential{seal.None{}}, CacheDir: cache, ScratchBytes: scratch, Transfers: 6, Reads: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// history makes snapshots that share most of their trees: of each directory, one page is
// new in each. Their metadata, of which it returns the chunks, is more than is remembered
// in memory.
func (f *fixture) history(snapshots int) (pages []tree.Chunk) {
	random := rand.NewChaCha8([32]byte{1})
	attr := func() []byte {
		b := make([]byte, 1000)
		random.Read(b)
		return b
	}
	dirs := make([][]*tree.Node, 40)
	for i := range dirs {
		for j := range 500 {
			n := &tree.Node{Name: fmt.Sprintf("f%03d", j), Type: tree.File, Mode: 0o644, Links: 1, Xattrs: []tree.Xattr{{Name: "user.x", Value: string(attr())}}}
			if j%250 == 0 {
				n = f.file(n.Name, fmt.Sprint("content ", i, j))
			}
			dirs[i] = append(dirs[i], n)
		}
	}
	for k := range snapshots {
		var top []*tree.Node
		for i := range dirs {
			if k > 0 {
				dirs[i][(100*k)%500] = f.file(fmt.Sprintf("f%03d", (100*k)%500), fmt.Sprint("version ", k, i))
			}
			d := f.dir(fmt.Sprintf("d%02d", i), dirs[i]...)
			top, pages = append(top, d), append(pages, d.Content...)
		}
		pages = append(pages, f.snapshot(top...).Root...)
	}
	return pages
}

// TestRequests: a verification of a distant repository reads each object at most once:
// snapshots, index and metadata always, packs of data if it is to read data.
func TestRequests(t *testing.T) {
	f := newFixture(t)
	pages := f.history(4)
	sizes := make(map[string]int64)
	for name, data := range storagetest.Objects(t, f.store) {
		sizes[name] = int64(len(data))
	}
	metadata := make(map[string]bool)
	for _, c := range pages {
		loc, _ := f.r.Locate(c.Hash)
		metadata[packName(loc.Block.Pack)] = true
	}
	c := newCounting(f.store)
	for _, tt := range []struct {
		name string
		o    Options
		data bool
	}{
		{"structure", Options{}, false},
		{"every byte", Options{ReadData: true, Workers: 2}, true},
		{"all of a sample", Options{Sample: 1, Workers: 2}, true},
	} {
		cache := t.TempDir()
		r := openDistant(t, c, cache, 1<<30)
		c.reset()
		rep, err := Run(t.Context(), r, tt.o)
		if err != nil || !rep.OK() || rep.Snapshots != 4 {
			t.Fatalf("%s: %+v, %v", tt.name, rep, err)
		}
		var requests, bytes, all int64
		packs := 0
		for name, size := range sizes {
			requests += int64(c.gets[name])
			bytes += c.bytes[name]
			dir, _, _ := strings.Cut(name, "/")
			if dir != "packs" && dir != "index" && dir != "snapshots" {
				continue // the keys: some hundred bytes
			}
			want := dir != "packs" || metadata[name] || tt.data
			if n := c.gets[name]; n > 1 || c.bytes[name] > size || (n == 1) != want {
				t.Errorf("%s: %d requests and %d bytes for %s, which has %d", tt.name, n, c.bytes[name], name, size)
			}
			if all += size; dir == "packs" {
				packs++
			}
		}
		t.Logf("%s: %d requests, %d lists, %d of %d bytes; %d packs, %d of them metadata", tt.name, requests, c.lists, bytes, all, packs, len(metadata))
		if most := int64(packs + 4 + len(f.names("index")) + len(f.names("keys"))); requests > most || c.lists > 12 {
			t.Errorf("%s: %d requests and %d lists, want at most %d and 12", tt.name, requests, c.lists, most)
		}
		wantNoScratch(t, cache)
	}
}

func wantNoScratch(t *testing.T, cache string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(cache, "*", "proof-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestScratch: what a proof holds on this machine changes nothing that it finds, be it
// much, too little, or unusable.
func TestScratch(t *testing.T) {
	damages := map[string]func(f *fixture, shared *tree.Node){
		"none":     func(*fixture, *tree.Node) {},
		"a page":   func(f *fixture, d *tree.Node) { f.spoil(d.Content[0]) },
		"the data": func(f *fixture, _ *tree.Node) { f.spoil(tree.Chunk{Hash: sha256.Sum256([]byte("one"))}) },
		"a pack cut": func(f *fixture, d *tree.Node) {
			loc, _ := f.r.Locate(d.Content[0].Hash)
			f.change(packName(loc.Block.Pack), func(data []byte) []byte { return data[:loc.Block.Offset+1] })
		},
		"a pack gone": func(f *fixture, d *tree.Node) {
			loc, _ := f.r.Locate(d.Content[0].Hash)
			f.change(packName(loc.Block.Pack), remove)
		},
		"an index": func(f *fixture, _ *tree.Node) {
			f.change(f.names("index")[0], func(data []byte) []byte { data = append([]byte(nil), data...); data[len(data)-1] ^= 1; return data })
		},
	}
	for name, damage := range damages {
		f := newFixture(t)
		shared := f.dir("shared", f.file("one", "one"), f.indirect("two", "a", "b", "c", "d", "e"))
		f.snapshot(shared, f.file("three", "three"))
		f.snapshot(shared, f.file("three", "other"))
		damage(f, shared)
		for _, o := range []Options{{}, {ReadData: true}, {Sample: 0.5, Seed: 7}} {
			want, err := Run(t.Context(), open(t, f.store), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, bytes := range []int64{1, 400, 1 << 30} {
				cache := t.TempDir()
				got, err := Run(t.Context(), openDistant(t, newCounting(f.store), cache, bytes), o)
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %+v, %d bytes: %+v, %v; without %+v", name, o, bytes, got, err, want)
				}
				wantNoScratch(t, cache)
			}
		}
		if want, _ := Run(t.Context(), open(t, f.store), Options{ReadData: true}); want.OK() != (name == "none") {
			t.Errorf("%s: %+v", name, want)
		}
	}
}

// TestScratchForgotten: what a proof that was killed has left goes, some other proof's
// does not.
func TestScratchForgotten(t *testing.T) {
	f := newFixture(t)
	f.snapshot(f.file("one", "one"))
	cache := t.TempDir()
	r := openDistant(t, newCounting(f.store), cache, 1<<20)
	old, young := filepath.Join(cache, r.ID().String(), "proof-1"), filepath.Join(cache, r.ID().String(), "proof-2")
	for _, dir := range []string{old, young} {
		if err := os.MkdirAll(filepath.Join(dir, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if rep, err := Run(t.Context(), r, Options{}); err != nil || !rep.OK() {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}
