package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// dump is a directory as the dumps of databases are.
func dump(t *testing.T, m *memory, files map[string][]byte) *tree.Node {
	t.Helper()
	node := func(name string) *tree.Node { return m.file(&tree.Node{Name: name, Mode: 0o600}, files["shop/"+name]) }
	shop := m.dir(t, &tree.Node{Name: "shop", Mode: 0o700}, node("customers.sql"), node("empty.sql"), node("orders.sql"))
	return m.dir(t, &tree.Node{}, m.file(&tree.Node{Name: "dump.json", Mode: 0o600}, files["dump.json"]), shop)
}

func dumpFiles() map[string][]byte {
	return map[string][]byte{
		"dump.json": []byte("{}\n"), "shop/customers.sql": noise(1, 100_000), "shop/empty.sql": nil, "shop/orders.sql": noise(2, 9_000_000),
	}
}

func TestFS(t *testing.T) {
	m := newMemory()
	files := dumpFiles()
	f := NewFS(t.Context(), m, dump(t, m, files))
	var names []string
	for name := range files {
		names = append(names, name)
	}
	if err := fstest.TestFS(f, names...); err != nil {
		t.Error(err)
	}
	for range 2 { // also of what is remembered
		var wg sync.WaitGroup
		for name, want := range files {
			for range 3 {
				wg.Go(func() {
					if got, err := fs.ReadFile(f, name); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: %d bytes, %v", name, len(got), err)
					}
				})
			}
		}
		wg.Wait()
	}
	for name, want := range map[string]error{
		"none": fs.ErrNotExist, "shop/none": fs.ErrNotExist, "dump.json/x": fs.ErrNotExist, "none/x": fs.ErrNotExist,
		"/": fs.ErrInvalid, "": fs.ErrInvalid, "../x": fs.ErrInvalid,
	} {
		if _, err := f.Open(name); !errors.Is(err, want) {
			t.Errorf("open %q: %v", name, err)
		}
		if _, err := f.Stat(name); !errors.Is(err, want) {
			t.Errorf("stat %q: %v", name, err)
		}
	}
	if info, err := f.Stat("shop/orders.sql"); err != nil || info.Mode() != 0o600 || info.Size() != 9_000_000 || info.Name() != "orders.sql" {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := fs.ReadDir(f, "dump.json"); err == nil {
		t.Error("read a file as a directory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	f = NewFS(ctx, m, f.dir)
	o, err := f.Open("shop/orders.sql")
	ok(t, err)
	defer o.Close()
	cancel()
	if _, err := io.ReadAll(o); !errors.Is(err, context.Canceled) {
		t.Errorf("read behind the end: %v", err)
	}
	if _, err := f.Open("dump.json"); !errors.Is(err, context.Canceled) {
		t.Errorf("opened behind the end: %v", err)
	}
}

// A directory that is larger than what is remembered, and many of them.
func TestFSForgets(t *testing.T) {
	m := newMemory()
	var dirs []*tree.Node
	for i := range maxCachedDirs + 10 {
		var kids []*tree.Node
		for j := range 2000 {
			kids = append(kids, m.file(&tree.Node{Name: fmt.Sprintf("%04d", j)}, []byte{byte(i)}))
		}
		dirs = append(dirs, m.dir(t, &tree.Node{Name: fmt.Sprintf("d%03d", i)}, kids...))
	}
	f := NewFS(t.Context(), m, m.dir(t, &tree.Node{}, dirs...))
	for _, j := range []int{0, 1999} {
		for i := range dirs {
			name := fmt.Sprintf("d%03d/%04d", i, j)
			if got, err := fs.ReadFile(f, name); err != nil || !bytes.Equal(got, []byte{byte(i)}) {
				t.Fatalf("%s: %v, %v", name, got, err)
			}
			n := 0
			for _, d := range f.dirs {
				n += len(d.entries)
			}
			if n != f.cached || n > maxCached || len(f.dirs) > maxCachedDirs {
				t.Fatalf("%d entries of %d directories, counted %d", n, len(f.dirs), f.cached)
			}
		}
	}
}

// Read from front to back, each block is read once; however small the portions.
func TestReaderReadsAhead(t *testing.T) {
	m := newMemory()
	want := noise(1, 5_000_000)
	n := m.file(&tree.Node{Name: "f"}, want)
	f, err := NewReader(t.Context(), m, n)
	ok(t, err)
	if m.readAll.Load() != 0 {
		t.Error("read before it was asked")
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(f, got); err != nil || m.readAll.Load() != 1 {
		t.Errorf("%d blocks for the first byte: %v", m.readAll.Load(), err)
	}
	rest, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(f, 1_000_000)))
	ok(t, err)
	all, err := io.ReadAll(f)
	ok(t, err)
	if !bytes.Equal(append(append(got, rest...), all...), want) {
		t.Error("read something else")
	}
	for key, times := range m.reads {
		if times != 1 {
			t.Errorf("block %v was read %d times", key, times)
		}
	}
	ok(t, f.Close())
	if _, err := f.Read(got); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read of a closed file: %v", err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// Seeks and reads of any kind, of sparse files too.
func TestReaderSeeks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := newMemory()
	m.chunkSize, m.blockSize = 3000, 10_000
	plain := noise(1, 200_000)
	sparse, content := make([]byte, 300_000), noise(3, 100_000)
	extents := []tree.Extent{{Offset: 5000, Length: 60_000}, {Offset: 100_000, Length: 40_000}}
	copy(sparse[5000:], content[:60_000])
	copy(sparse[100_000:], content[60_000:])
	for name, x := range map[string]struct {
		n    *tree.Node
		want []byte
	}{
		"plain":  {m.file(&tree.Node{Name: "p"}, plain), plain},
		"sparse": {m.file(&tree.Node{Name: "s", Size: 300_000, Extents: extents}, content), sparse},
		"hole":   {m.file(&tree.Node{Name: "h", Size: 1000, Extents: []tree.Extent{}}, nil), make([]byte, 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewReader(t.Context(), m, x.n)
			ok(t, err)
			defer f.Close()
			if err := iotest.TestReader(f, x.want); err != nil {
				t.Error(err)
			}
			_, err = f.Seek(0, io.SeekStart)
			ok(t, err)
			model := bytes.NewReader(x.want)
			for range 2000 {
				off, whence := rnd.Int64N(int64(len(x.want))+100), rnd.IntN(3)
				switch whence {
				case io.SeekCurrent:
					off = off/10 - 1000
				case io.SeekEnd:
					off = -off
				}
				if rnd.IntN(2) == 0 {
					a, errA := f.Seek(off, whence)
					b, errB := model.Seek(off, whence)
					if (errA == nil) != (errB == nil) || errA == nil && a != b {
						t.Fatalf("seek %d, %d: %d, %v; want %d, %v", off, whence, a, errA, b, errB)
					}
				}
				p, q := make([]byte, rnd.IntN(20_000)+1), make([]byte, 20_001)
				n, errA := io.ReadFull(f, p)
				k, errB := io.ReadFull(model, q[:len(p)])
				if errA != errB || !bytes.Equal(p[:n], q[:k]) {
					t.Fatalf("read %d, %v; want %d, %v", n, errA, k, errB)
				}
			}
		})
	}
}

// What is before the damage is read, nothing else; behind it, too.
func TestReaderDamage(t *testing.T) {
	for name, harm := range map[string]func(m *memory, c tree.Chunk){
		"block": func(m *memory, c tree.Chunk) { m.bad[m.blockOf(c)] = repo.ErrCorrupt },
		"chunk": func(m *memory, c tree.Chunk) {
			m.blocks[m.blockOf(c)][m.chunks[c.Hash].Offset] ^= 1
		},
		"lost": func(m *memory, c tree.Chunk) { m.lost[c.Hash] = true },
		"short block": func(m *memory, c tree.Chunk) {
			m.blocks[m.blockOf(c)] = m.blocks[m.blockOf(c)][:m.chunks[c.Hash].Offset]
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			want := noise(1, 3_000_000)
			n := m.file(&tree.Node{Name: "f"}, want)
			at := 20 // four chunks are a block
			harm(m, n.Content[at])
			f, err := NewReader(t.Context(), m, n)
			ok(t, err)
			defer f.Close()
			got, err := io.ReadAll(f)
			if !errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, repo.ErrMissing) || len(got) != at*m.chunkSize || !bytes.Equal(got, want[:len(got)]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			after := int64(at+4) * int64(m.chunkSize)
			_, err = f.Seek(after, io.SeekStart)
			ok(t, err)
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want[after:]) {
				t.Errorf("behind it: %d bytes, %v", len(got), err)
			}
		})
	}
	m := newMemory()
	n := m.file(&tree.Node{Name: "f"}, noise(1, 1000))
	n.Size++
	if _, err := NewReader(t.Context(), m, n); !errors.Is(err, tree.ErrCorrupt) {
		t.Errorf("a size that is not that of the content: %v", err)
	}
}
