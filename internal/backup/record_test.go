package backup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// recorder is a run that writes records only.
func recorder(t interface{ Fatal(...any) }, ctx context.Context, r *repo.Repository, into *repo.Repository, maxPending int) *run {
	w, err := into.NewWriter(ctx, repo.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	return &run{o: &Options{maxPending: maxPending}, r: r, w: w, ctx: ctx, cancel: cancel, snap: &tree.Snapshot{}, p: new(Progress),
		pages: sync.Pool{New: func() any { return new(tree.PageWriter) }}}
}

// entryOf is an entry whose record has a size: a page has a dozen of 20,000 bytes.
func entryOf(name string, version, size int) *tree.Node {
	return &tree.Node{Name: name, Type: tree.File, Links: 1, Inode: 1, CTime: tree.Time{Sec: int64(version)},
		Xattrs: []tree.Xattr{{Name: "user.x", Value: strings.Repeat("x", size)}}}
}

// pagesOf are the pages that nodes are encoded in, all anew.
func pagesOf(t interface{ Fatal(...any) }, nodes []*tree.Node) (pages []string) {
	w := tree.PageWriter{Page: func(p []byte) error { pages = append(pages, string(p)); return nil }}
	for _, n := range nodes {
		if err := w.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return pages
}

// write writes the record of a directory; order says in which order entries that
// are pending are finished. Nodes of nil drop out.
func (s *run) writeNodes(prev *tree.Node, names []string, nodes []*tree.Node, order func(pending int) int) *tree.Node {
	d := s.newDir(nil, "/d", &tree.Node{Name: "d", Type: tree.Dir, Links: 1}, prevEntry{Node: prev})
	before := s.previous(prev)
	var pending []func()
	finish := func(i int) {
		pending[i]()
		pending = slices.Delete(pending, i, i+1)
	}
	oldest := 0 // not finished
	for i, name := range names {
		for len(pending) > 0 && i-oldest >= d.record.max { // else begin would wait for ever
			finish(0)
			oldest = d.record.base
		}
		number := d.record.begin(before.next(name))
		n := nodes[i]
		if n != nil {
			c := *n // as a source gives it
			n = &c
		}
		pending = append(pending, func() { s.settle(d, number, n) })
		for range order(len(pending)) {
			finish(order(len(pending)-1) % len(pending))
			oldest = d.record.base
		}
	}
	for len(pending) > 0 {
		finish(order(len(pending)-1) % len(pending))
	}
	s.release(d)
	return d.node
}

// commit makes what s has stored readable, and returns what of its pages was not
// just taken over.
func (s *run) commit(t interface{ Fatal(...any) }) (encoded int64) {
	if s.failed != nil {
		t.Fatal(s.failed)
	}
	encoded = s.w.Stats.ChunksKnown.Load() + s.w.Stats.ChunksAdded.Load()
	if err := s.w.Commit(repo.NewID(), []byte("snapshot")); err != nil {
		t.Fatal(err)
	}
	s.cancel()
	return encoded
}

// load returns the pages of a directory.
func load(t interface{ Fatal(...any) }, r *repo.Repository, n *tree.Node) (pages []string) {
	for _, c := range n.Content {
		p, err := r.Load(context.Background(), c.Hash, c.Size, nil)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, string(p))
	}
	return pages
}

// Whatever changes, in whatever order entries are finished: a record is, byte for
// byte, what it would be if all of it were encoded anew.
func TestRecordIsTheSame(t *testing.T) {
	x := newFixture(t)
	r := x.open(x.store)
	elsewhere := newFixture(t)
	empty := elsewhere.open(elsewhere.store) // has no page of r
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{10, 20_000, 20_000, 40_000}).Draw(t, "size")
		nodes := map[string]*tree.Node{}
		add := func(i int) {
			name := fmt.Sprintf("entry %05d", i)
			nodes[name] = entryOf(name, rapid.IntRange(0, 1).Draw(t, "version"), size)
		}
		for i := range rapid.IntRange(0, 80).Draw(t, "entries") {
			add(2 * i)
		}
		var prev *tree.Node
		for pass := range rapid.IntRange(2, 4).Draw(t, "passes") {
			into := r
			if pass == 1 && rapid.IntRange(0, 4).Draw(t, "elsewhere") == 0 {
				into = empty
			}
			for range rapid.IntRange(0, 3).Draw(t, "edits") {
				at := rapid.IntRange(0, 162).Draw(t, "entry")
				switch name := fmt.Sprintf("entry %05d", at); {
				case rapid.Bool().Draw(t, "removed"):
					delete(nodes, name)
				default:
					add(at)
				}
			}
			// Some are listed, but then drop out.
			var listed []string
			var given, want []*tree.Node
			for _, name := range slices.Sorted(maps.Keys(nodes)) {
				listed = append(listed, name)
				if rapid.IntRange(0, 20).Draw(t, "drops") == 0 {
					given = append(given, nil)
					continue
				}
				given = append(given, nodes[name])
				want = append(want, nodes[name])
			}
			s := recorder(t, context.Background(), r, into, rapid.SampledFrom([]int{1, 2, 7, maxPending}).Draw(t, "pending"))
			shuffled := rapid.Bool().Draw(t, "shuffled")
			got := s.writeNodes(prev, listed, given, func(pending int) int {
				if !shuffled || pending == 0 {
					return pending
				}
				return rapid.IntRange(0, pending).Draw(t, "order")
			})
			s.commit(t)
			if a, b := load(t, into, got), pagesOf(t, want); !slices.Equal(a, b) {
				t.Fatalf("pass %d: %d pages differ from %d", pass, len(a), len(b))
			}
			if into == r {
				prev = got
			}
		}
	})
}

// Pages without a change are not encoded again.
func TestRecordKeepsPages(t *testing.T) {
	x := newFixture(t)
	r := x.open(x.store)
	var names []string
	var nodes []*tree.Node
	for i := range 200 {
		names = append(names, fmt.Sprintf("entry %05d", i))
		nodes = append(nodes, entryOf(names[i], 0, 20_000))
	}
	inOrder := func(pending int) int { return pending }
	s := recorder(t, t.Context(), r, r, 0)
	first := s.writeNodes(nil, names, nodes, inOrder)
	pages := len(first.Content)
	if n := s.commit(t); n != int64(pages) || pages < 15 {
		t.Fatalf("%d of %d pages were encoded", n, pages)
	}
	// lasts are the entries that end a page.
	var lasts []int
	for _, p := range load(t, r, first) {
		last, err := tree.DecodePage([]byte(p), "", func(*tree.Node) error { return nil })
		must(t, err)
		lasts = append(lasts, slices.Index(names, last))
	}
	for _, c := range []struct {
		name    string
		change  func(names []string, nodes []*tree.Node) ([]string, []*tree.Node)
		encoded int64 // at most
	}{
		{"nothing", func(a []string, b []*tree.Node) ([]string, []*tree.Node) { return a, b }, 0},
		{"the first entry of a page", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			b[lasts[3]+1] = entryOf(a[lasts[3]+1], 1, 20_000)
			return a, b
		}, 1},
		{"the last entry of a page", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			b[lasts[3]] = entryOf(a[lasts[3]], 1, 20_000)
			return a, b
		}, 1},
		{"the last of all", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			b[len(b)-1] = entryOf(a[len(a)-1], 1, 20_000)
			return a, b
		}, 1},
		{"an entry behind all", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			return append(a, "last"), append(b, entryOf("last", 1, 20_000))
		}, 2},
		{"without the last page", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			n := lasts[len(lasts)-2] + 1
			return a[:n], b[:n]
		}, 0},
		{"without the first page", func(a []string, b []*tree.Node) ([]string, []*tree.Node) {
			return a[lasts[0]+1:], b[lasts[0]+1:]
		}, 0},
	} {
		a, b := c.change(slices.Clone(names), slices.Clone(nodes))
		s := recorder(t, t.Context(), r, r, 0)
		got := s.writeNodes(first, a, b, inOrder)
		if n := s.commit(t); n > c.encoded {
			t.Errorf("%s: %d pages were encoded", c.name, n)
		}
		if !slices.Equal(load(t, r, got), pagesOf(t, b)) {
			t.Errorf("%s: the record differs", c.name)
		}
	}
}

// The walk waits while too many entries wait for one before them, also in a run
// that has failed.
func TestRecordBound(t *testing.T) {
	for _, failed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := &run{o: &Options{maxPending: 3}, ctx: ctx, cancel: cancel}
			d := s.newDir(nil, "/d", &tree.Node{Type: tree.Dir}, prevEntry{})
			for i := range 3 {
				if n := d.record.begin(prevEntry{}); n != i {
					t.Errorf("number %d, want %d", n, i)
				}
			}
			begun := false
			go func() {
				d.record.begin(prevEntry{})
				begun = true
			}()
			if failed {
				cancel()
			}
			s.settle(d, 2, nil)
			s.settle(d, 1, nil)
			synctest.Wait()
			if begun {
				t.Error("the walk did not wait")
			}
			s.settle(d, 0, nil)
			synctest.Wait()
			if !begun {
				t.Error("the walk did not go on")
			}
			if got := len(d.record.pending) - d.record.head; got != 1 {
				t.Errorf("%d entries are pending", got)
			}
			cancel()
		})
	}
}

// A large directory keeps few entries in memory, whatever order they are finished in.
func TestRecordForgets(t *testing.T) {
	x := newFixture(t)
	r := x.open(x.store)
	s := recorder(t, t.Context(), r, r, 0)
	d := s.newDir(nil, "/d", &tree.Node{Name: "d", Type: tree.Dir, Links: 1}, prevEntry{})
	most := 0
	const n, apart = 50_000, 10
	for i := range n {
		d.record.begin(prevEntry{})
		if i%apart == apart-1 {
			for k := range apart {
				s.settle(d, i-k, entryOf(fmt.Sprintf("%06d", i-k), 0, 1))
			}
		}
		most = max(most, cap(d.record.pending))
	}
	s.release(d)
	s.commit(t)
	if most > 8*apart {
		t.Errorf("room for %d entries", most)
	}
	count := 0
	must(t, tree.ReadDir(t.Context(), r, d.node.Content, func(*tree.Node) error { count++; return nil }))
	if count != n {
		t.Errorf("%d entries in the record", count)
	}
}
