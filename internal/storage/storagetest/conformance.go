// Package storagetest holds what tests of and over storage need: the suite that
// every [storage.Backend] passes (conformance.go), and a backend whose operations
// fail on request (fault.go).
//
// It knows the contract, and no implementation.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Test checks a kind of backend against the contract. The function open returns
// a fresh, empty store each time; the test closes it.
func Test(t *testing.T, open func(t *testing.T) storage.Backend) {
	tests := []struct {
		name string
		test func(t *testing.T, b storage.Backend)
	}{
		{"Commit", testCommit},
		{"Sizes", testSizes},
		{"Abort", testAbort},
		{"NeverReplaces", testNeverReplaces},
		{"Race", testRace},
		{"Ranges", testRanges},
		{"Missing", testMissing},
		{"List", testList},
		{"ListError", testListError},
		{"ListCallback", testListCallback},
		{"Delete", testDelete},
		{"Names", testNames},
		{"Cancelled", testCancelled},
		{"Concurrent", testConcurrent},
		{"Large", testLarge},
		{"Spacer", testSpacer},
		{"Close", testClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := open(t)
			t.Cleanup(func() { b.Close() })
			tt.test(t, b)
		})
	}
}

// Put stores an object.
func Put(t testing.TB, b storage.Backend, name string, data []byte) {
	t.Helper()
	if err := put(b, name, data); err != nil {
		t.Fatal(err)
	}
}

func put(b storage.Backend, name string, data []byte) error {
	w, err := b.Create(context.Background(), name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if n, err := w.Write(data); err != nil {
		return err
	} else if n != len(data) {
		return fmt.Errorf("write %s: %d of %d bytes without an error", name, n, len(data))
	}
	return w.Commit()
}

// Objects returns all objects of a store.
func Objects(t testing.TB, b storage.Backend) map[string][]byte {
	t.Helper()
	objects := make(map[string][]byte)
	for name := range list(t, b, "") {
		data, err := get(b, name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		objects[name] = data
	}
	return objects
}

func get(b storage.Backend, name string, off, length int64) ([]byte, error) {
	r, err := b.Get(context.Background(), name, off, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return data, err
}

func list(t testing.TB, b storage.Backend, dir string) map[string]int64 {
	t.Helper()
	sizes := make(map[string]int64)
	err := b.List(context.Background(), dir, func(info storage.Info) error {
		if _, ok := sizes[info.Name]; ok {
			t.Errorf("%s is listed twice", info.Name)
		}
		sizes[info.Name] = info.Size
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", dir, err)
	}
	return sizes
}

func wantObject(t *testing.T, b storage.Backend, name string, want []byte) {
	t.Helper()
	got, err := get(b, name, 0, -1)
	if err != nil {
		t.Errorf("get %s: %v", name, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, which are not the %d stored", name, len(got), len(want))
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
	}
}

func wantList(t *testing.T, b storage.Backend, dir string, want ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(list(t, b, dir)))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("list %q: %q, want %q", dir, got, want)
	}
}

// pattern returns n bytes that are different for each seed, and do not repeat.
func pattern(seed string, n int) []byte {
	h := fnv.New64a()
	io.WriteString(h, seed)
	var key [32]byte
	h.Sum(key[:0])
	data := make([]byte, n)
	rand.NewChaCha8(key).Read(data)
	return data
}

func testCommit(t *testing.T, b storage.Backend) {
	for _, name := range []string{"config", "packs/3f/3f0c", "packs/40/a", "a/b/c/d/e/f", "keys/k-1_x.y"} {
		data := pattern(name, 1000)
		w, err := b.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range slices.Chunk(data, 300) {
			scratch := slices.Clone(chunk)
			if n, err := w.Write(scratch); n != len(scratch) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			clear(scratch) // a writer must not keep what it is given
		}
		_, err = get(b, name, 0, -1)
		wantError(t, "get before commit", err, fs.ErrNotExist)
		if _, ok := list(t, b, "")[name]; ok {
			t.Errorf("%s is listed before commit", name)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		w.Abort() // does nothing
		wantObject(t, b, name, data)
		if size, ok := list(t, b, "")[name]; !ok || size != 1000 {
			t.Errorf("listed: %t, with %d bytes", ok, size)
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("write after commit succeeded")
		}
		if err := w.Commit(); err == nil {
			t.Error("second commit succeeded")
		}
		wantObject(t, b, name, data)
	}
	if b.String() == "" {
		t.Error("the store has no name for messages")
	}
}

func testSizes(t *testing.T, b storage.Backend) {
	sizes := []int{0, 1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1}
	for _, size := range sizes {
		Put(t, b, fmt.Sprint("sizes/", size), pattern("x", size))
	}
	// Without a single call of Write, too.
	w, err := b.Create(t.Context(), "sizes/none")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	wantObject(t, b, "sizes/none", nil)
	listed := list(t, b, "sizes")
	for _, size := range sizes {
		name := fmt.Sprint("sizes/", size)
		wantObject(t, b, name, pattern("x", size))
		if listed[name] != int64(size) {
			t.Errorf("%s is listed with %d bytes", name, listed[name])
		}
	}
	if len(listed) != len(sizes)+1 {
		t.Errorf("%d objects, want %d", len(listed), len(sizes)+1)
	}
}

func testAbort(t *testing.T, b storage.Backend) {
	w, err := b.Create(t.Context(), "dir/object")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if err := w.Commit(); err == nil {
		t.Error("commit after abort succeeded")
	}
	wantList(t, b, "")
	_, err = get(b, "dir/object", 0, -1)
	wantError(t, "get after abort", err, fs.ErrNotExist)
	// The name is still free.
	Put(t, b, "dir/object", []byte("second"))
	wantObject(t, b, "dir/object", []byte("second"))
}

func testNeverReplaces(t *testing.T, b storage.Backend) {
	Put(t, b, "dir/object", []byte("first"))
	for _, data := range []string{"second, longer", "", "first"} {
		err := put(b, "dir/object", []byte(data))
		wantError(t, "commit over an object", err, fs.ErrExist)
		wantObject(t, b, "dir/object", []byte("first"))
	}
	wantList(t, b, "", "dir/object")
	// Two writers open at the same time.
	w1, err := b.Create(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	defer w1.Abort()
	Put(t, b, "other", []byte("faster"))
	if _, err := w1.Write([]byte("slower")); err != nil {
		t.Fatal(err)
	}
	wantError(t, "commit of the slower writer", w1.Commit(), fs.ErrExist)
	wantObject(t, b, "other", []byte("faster"))
}

func testRace(t *testing.T, b storage.Backend) {
	for round := range 5 {
		name := fmt.Sprint("race/", round)
		errs := make([]error, 8)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range errs {
			w, err := b.Create(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(pattern(fmt.Sprint(i), 10_000)); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				<-start
				errs[i] = w.Commit()
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			if err != nil {
				wantError(t, "commit of a loser", err, fs.ErrExist)
			} else if winner >= 0 {
				t.Errorf("writers %d and %d have both won", winner, i)
			} else {
				winner = i
			}
		}
		wantObject(t, b, name, pattern(fmt.Sprint(winner), 10_000))
	}
}

func testRanges(t *testing.T, b storage.Backend) {
	const size = 1000
	data := pattern("ranges", size)
	Put(t, b, "object", data)
	Put(t, b, "empty", nil)
	tests := []struct {
		off, length int64
		from, to    int
	}{
		{0, -1, 0, size},
		{0, 0, 0, 0},
		{0, 1, 0, 1},
		{0, size - 1, 0, size - 1},
		{0, size, 0, size},
		{0, size + 1, 0, size},
		{0, math.MaxInt64, 0, size},
		{1, -1, 1, size},
		{1, math.MaxInt64, 1, size},
		{500, 100, 500, 600},
		{500, 0, 500, 500},
		{999, 1, 999, 1000},
		{999, 2, 999, 1000},
		{size, -1, size, size},
		{size, 1, size, size},
		{size + 1, -1, size, size},
		{size + 1, 1, size, size},
		{math.MaxInt64, math.MaxInt64, size, size},
		{-1, -1, 999, 1000},
		{-52, -1, 948, 1000},
		{-52, 10, 948, 958},
		{-52, 0, 948, 948},
		{-52, 53, 948, 1000},
		{-size, -1, 0, size},
		{-size - 1, -1, 0, size},
		{-size - 1, 10, 0, 10},
		{math.MinInt64 + size, -1, 0, size},
		{math.MinInt64, -1, 0, size},
		{0, math.MinInt64, 0, size},
	}
	for _, tt := range tests {
		got, err := get(b, "object", tt.off, tt.length)
		if err != nil {
			t.Errorf("off %d, length %d: %v", tt.off, tt.length, err)
		} else if !bytes.Equal(got, data[tt.from:tt.to]) {
			t.Errorf("off %d, length %d: %d bytes, want those from %d to %d", tt.off, tt.length, len(got), tt.from, tt.to)
		}
		got, err = get(b, "empty", tt.off, tt.length)
		if err != nil || len(got) != 0 {
			t.Errorf("empty object, off %d, length %d: %d bytes, %v", tt.off, tt.length, len(got), err)
		}
	}
	// A reader that is closed early harms nobody, nor does one read in bits.
	r, err := b.Get(t.Context(), "object", 10, 980)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buf := make([]byte, 7); ; {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, data[10:990]) {
		t.Errorf("read in bits: %d bytes, which are not those stored", len(got))
	}
	if r, err = b.Get(t.Context(), "object", 0, -1); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func testMissing(t *testing.T, b storage.Backend) {
	Put(t, b, "dir/object", []byte("x"))
	for _, name := range []string{"missing", "dir/missing", "missing/object", "dir", "dir/object/x"} {
		for _, off := range []int64{0, -10, 10} {
			for _, length := range []int64{0, 1, -1} {
				_, err := get(b, name, off, length)
				wantError(t, "get "+name, err, fs.ErrNotExist)
			}
		}
		wantError(t, "delete "+name, b.Delete(t.Context(), name), fs.ErrNotExist)
	}
	wantList(t, b, "", "dir/object")
}

func testList(t *testing.T, b storage.Backend) {
	wantList(t, b, "")
	wantList(t, b, "missing")
	names := []string{
		"config", "pack", "packs/3f/1", "packs/3f/2", "packs/40/1", "packs.old/x",
		"packs-1", "packs2/x", "packs_/x", "snapshots/s", "a/packs/b",
	}
	for _, name := range names {
		Put(t, b, name, []byte(name))
	}
	wantList(t, b, "", names...)
	wantList(t, b, "packs", "packs/3f/1", "packs/3f/2", "packs/40/1")
	wantList(t, b, "packs/3f", "packs/3f/1", "packs/3f/2")
	wantList(t, b, "packs/3")
	wantList(t, b, "pack")
	wantList(t, b, "packs2", "packs2/x")
	wantList(t, b, "a", "a/packs/b")
	wantList(t, b, "config")
	wantList(t, b, "config/x")
	for name, size := range list(t, b, "") {
		if size != int64(len(name)) {
			t.Errorf("%s is listed with %d bytes", name, size)
		}
	}
	// More than any backend fetches at a time.
	var many []string
	for i := range 1200 {
		name := fmt.Sprintf("many/%04d", i)
		many = append(many, name)
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(many, 150) {
		wg.Go(func() {
			for _, name := range part {
				if err := put(b, name, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantList(t, b, "many", many...)
}

func testListError(t *testing.T, b storage.Backend) {
	for i := range 5 {
		Put(t, b, fmt.Sprintf("dir/%d/x", i), nil)
	}
	enough := errors.New("enough")
	calls := 0
	err := b.List(t.Context(), "", func(storage.Info) error {
		if calls++; calls == 3 {
			return enough
		}
		return nil
	})
	wantError(t, "list", err, enough)
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

// The callback may use the store.
func testListCallback(t *testing.T, b storage.Backend) {
	for i := range 10 {
		Put(t, b, fmt.Sprintf("dir/%d", i), []byte("x"))
	}
	err := b.List(t.Context(), "dir", func(info storage.Info) error {
		wantObject(t, b, info.Name, []byte("x"))
		if err := put(b, strings.Replace(info.Name, "dir", "copy", 1), nil); err != nil {
			return err
		}
		return b.Delete(t.Context(), info.Name)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "dir")
	if n := len(list(t, b, "copy")); n != 10 {
		t.Errorf("%d copies, want 10", n)
	}
}

func testDelete(t *testing.T, b storage.Backend) {
	Put(t, b, "dir/a", []byte("a"))
	Put(t, b, "dir/b", []byte("b"))
	if err := b.Delete(t.Context(), "dir/a"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "", "dir/b")
	_, err := get(b, "dir/a", 0, -1)
	wantError(t, "get", err, fs.ErrNotExist)
	wantError(t, "second delete", b.Delete(t.Context(), "dir/a"), fs.ErrNotExist)
	if err := b.Delete(t.Context(), "dir/b"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "")
	// The directory, now empty, is no object either.
	wantError(t, "delete of a directory", b.Delete(t.Context(), "dir"), fs.ErrNotExist)
	// A deleted name is free again.
	Put(t, b, "dir/a", []byte("again"))
	wantObject(t, b, "dir/a", []byte("again"))
}

func testNames(t *testing.T, b storage.Backend) {
	for _, name := range InvalidNames() {
		_, err := b.Create(t.Context(), name)
		wantError(t, fmt.Sprintf("create %.40q", name), err, fs.ErrInvalid)
		_, err = b.Get(t.Context(), name, 0, -1)
		wantError(t, fmt.Sprintf("get %.40q", name), err, fs.ErrInvalid)
		wantError(t, fmt.Sprintf("delete %.40q", name), b.Delete(t.Context(), name), fs.ErrInvalid)
		if name != "" {
			err := b.List(t.Context(), name, func(storage.Info) error { return nil })
			wantError(t, fmt.Sprintf("list %.40q", name), err, fs.ErrInvalid)
		}
	}
	wantList(t, b, "")
	long := strings.Repeat("n", storage.MaxElement)
	valid := []string{"0", "a.b", "-", "_", "a..b", "x/-/y", long, "sub/" + long}
	for _, name := range valid {
		Put(t, b, name, []byte(name))
		wantObject(t, b, name, []byte(name))
	}
	wantList(t, b, "", valid...)
}

// InvalidNames returns names that no backend may accept.
func InvalidNames() []string {
	return []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "./a", "a/..", "a/.",
		".a", "a/.b", "a.", "a./b", "A", "aB", "a b", "a\\b", "a:b", "a\x00b", "a\nb", "é", "a\xff", "a~1", "a*",
		strings.Repeat("n", storage.MaxElement+1),
		strings.Repeat("n/", storage.MaxName/2) + "n",
	}
}

func testCancelled(t *testing.T, b storage.Backend) {
	Put(t, b, "object", pattern("x", 1000))
	ctx, cancel := context.WithCancel(t.Context())
	writing, err := b.Create(ctx, "writing")
	if err != nil {
		t.Fatal(err)
	}
	defer writing.Abort()
	committing, err := b.Create(ctx, "committing")
	if err != nil {
		t.Fatal(err)
	}
	defer committing.Abort()
	r, err := b.Get(ctx, "object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	Put(t, b, "list/1", nil)
	Put(t, b, "list/2", nil)

	calls := 0
	err = b.List(ctx, "list", func(storage.Info) error {
		calls++
		cancel()
		return nil
	})
	wantError(t, "list, cancelled on the way", err, context.Canceled)
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}

	_, err = writing.Write(pattern("x", 1<<20))
	wantError(t, "write", err, context.Canceled)
	wantError(t, "commit", committing.Commit(), context.Canceled)
	_, err = io.ReadAll(r)
	wantError(t, "read", err, context.Canceled)
	_, err = b.Create(ctx, "new")
	wantError(t, "create", err, context.Canceled)
	_, err = b.Get(ctx, "object", 0, -1)
	wantError(t, "get", err, context.Canceled)
	wantError(t, "delete", b.Delete(ctx, "object"), context.Canceled)
	err = b.List(ctx, "", func(storage.Info) error { return nil })
	wantError(t, "list", err, context.Canceled)
	if s, ok := b.(storage.Spacer); ok {
		_, err := s.Free(ctx)
		wantError(t, "free", err, context.Canceled)
	}
	wantList(t, b, "", "list/1", "list/2", "object")
}

func testConcurrent(t *testing.T, b storage.Backend) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 10 {
				keep, gone := fmt.Sprintf("packs/%02d/%d-keep", i, g), fmt.Sprintf("packs/%02d/%d-gone", i, g)
				for _, name := range []string{keep, gone} {
					if err := put(b, name, pattern(name, 5000)); err != nil {
						t.Error(err)
					}
				}
				err := b.List(context.Background(), "packs", func(info storage.Info) error {
					if info.Size != 5000 {
						t.Errorf("%s is listed with %d bytes", info.Name, info.Size)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if err := b.Delete(context.Background(), gone); err != nil {
					t.Error(err)
				}
				if got, err := get(b, keep, 100, 200); err != nil || !bytes.Equal(got, pattern(keep, 5000)[100:300]) {
					t.Errorf("%s: %d wrong bytes, %v", keep, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	objects := Objects(t, b)
	for name, data := range objects {
		if !bytes.Equal(data, pattern(name, 5000)) {
			t.Errorf("%s is wrong", name)
		}
	}
	if len(objects) != 80 {
		t.Errorf("%d objects, want 80", len(objects))
	}
}

func testLarge(t *testing.T, b storage.Backend) {
	const size = 20<<20 + 12345
	data := pattern("large", size)
	w, err := b.Create(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	// Hide the reader's WriterTo, so that it arrives in pieces of 32 KiB.
	if _, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "")
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	wantObject(t, b, "large", data)
	if got, err := get(b, "large", -52, -1); err != nil || !bytes.Equal(got, data[size-52:]) {
		t.Errorf("the end is wrong: %d bytes, %v", len(got), err)
	}
	if got, err := get(b, "large", 10<<20, 1<<20); err != nil || !bytes.Equal(got, data[10<<20:11<<20]) {
		t.Errorf("the middle is wrong: %d bytes, %v", len(got), err)
	}
}

func testSpacer(t *testing.T, b storage.Backend) {
	s, ok := b.(storage.Spacer)
	if !ok {
		return // optional
	}
	if free, err := s.Free(t.Context()); err != nil || free <= 0 {
		t.Errorf("free: %d, %v", free, err)
	}
}

func testClose(t *testing.T, b storage.Backend) {
	Put(t, b, "object", []byte("x"))
	w, err := b.Create(t.Context(), "uncommitted")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "commit", w.Commit(), fs.ErrClosed)
	_, err = b.Create(t.Context(), "new")
	wantError(t, "create", err, fs.ErrClosed)
	_, err = get(b, "object", 0, -1)
	wantError(t, "get", err, fs.ErrClosed)
	wantError(t, "delete", b.Delete(t.Context(), "object"), fs.ErrClosed)
	err = b.List(t.Context(), "", func(storage.Info) error { return nil })
	wantError(t, "list", err, fs.ErrClosed)
	if err := b.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if b.String() == "" {
		t.Error("closed, the store has no name for messages")
	}
}
