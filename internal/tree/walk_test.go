package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// A store is a Loader in memory that counts.
type store struct {
	chunks map[Hash][]byte
	loads  int
}

func newStore() *store { return &store{chunks: make(map[Hash][]byte)} }

func (s *store) put(data []byte) Chunk {
	h := Hash(sha256.Sum256(data))
	s.chunks[h] = bytes.Clone(data)
	return Chunk{h, uint32(len(data))}
}

var errGone = errors.New("gone")

func (s *store) Load(_ context.Context, hash Hash, size uint32, buf []byte) ([]byte, error) {
	s.loads++
	data, ok := s.chunks[hash]
	if !ok || len(data) != int(size) {
		return nil, errGone
	}
	return append(buf[:0], data...), nil
}

// file returns a file of some text, a chunk for each word.
func (s *store) file(name, text string) *Node {
	n := &Node{Name: name, Type: File, Mode: 0o644, Links: 1, Size: int64(len(text))}
	for _, word := range strings.SplitAfter(text, " ") {
		if word != "" {
			n.Content = append(n.Content, s.put([]byte(word)))
		}
	}
	return n
}

// dir returns a directory of some entries.
func (s *store) dir(name string, entries ...*Node) *Node {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	n := &Node{Name: name, Type: Dir, Mode: 0o755, Links: 1}
	w := PageWriter{Page: func(p []byte) error {
		n.Content = append(n.Content, s.put(p))
		return nil
	}}
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			panic(err)
		}
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	return n
}

// many returns n files.
func (s *store) many(n int) []*Node {
	out := make([]*Node, n)
	for i := range out {
		out[i] = s.file(fmt.Sprintf("f%05d", i), fmt.Sprint("content ", i))
	}
	return out
}

func sample(s *store) *Node {
	return s.dir("",
		s.file("Z", "upper case first"),
		s.dir("a", s.dir("empty"), s.file("x", "1"), s.file("\xff", "2")),
		s.file("a.b", "after a, before its children by string, not in a walk"),
		s.dir("b", s.dir("c", s.dir("d", s.file("e", "deep")))),
		&Node{Name: "l", Type: Symlink, Links: 1, Target: "a"},
	)
}

var sampleWalk = []string{"/", "/Z", "/a", "/a/empty", "/a/x", "/a/\xff", "/a.b", "/b", "/b/c", "/b/c/d", "/b/c/d/e", "/l"}

func TestWalkOrder(t *testing.T) {
	s := newStore()
	var got, done []string
	err := Walk(t.Context(), s, "/", sample(s), Visitor{
		Node:    func(p string, _ *Node) error { got = append(got, p); return nil },
		DirDone: func(p string, _ *Node) error { done = append(done, p); return nil },
	})
	if err != nil || !slices.Equal(got, sampleWalk) {
		t.Errorf("%q %v", got, err)
	}
	if want := []string{"/a/empty", "/a", "/b/c/d", "/b/c", "/b", "/"}; !slices.Equal(done, want) {
		t.Errorf("%q", done)
	}
}

func TestWalkSkips(t *testing.T) {
	s := newStore()
	root := sample(s)
	own := errors.New("own")
	for _, c := range []struct {
		at   string
		ret  error
		want []string
		done int
		err  error
	}{
		{"/", fs.SkipDir, sampleWalk[:1], 0, nil},
		{"/a", fs.SkipDir, slices.Concat(sampleWalk[:3], sampleWalk[6:]), 4, nil},
		{"/b/c", fs.SkipDir, slices.Concat(sampleWalk[:9], sampleWalk[11:]), 4, nil},
		{"/a/x", fs.SkipAll, sampleWalk[:5], 1, nil},
		{"/", fs.SkipAll, sampleWalk[:1], 0, nil},
		{"/a/x", own, sampleWalk[:5], 1, own},
		{"/a/x", fs.SkipDir, sampleWalk[:5], 1, fs.SkipDir}, // only for directories
	} {
		var got []string
		done := 0
		err := Walk(t.Context(), s, "/", root, Visitor{
			Node: func(p string, _ *Node) error {
				got = append(got, p)
				if p == c.at {
					return c.ret
				}
				return nil
			},
			DirDone: func(string, *Node) error { done++; return nil },
			Damaged: func(_ string, _ *Node, err error) error { t.Error(err); return nil },
		})
		if err != c.err || !slices.Equal(got, c.want) || done != c.done {
			t.Errorf("%v at %s: %v, %q, %d directories done", c.ret, c.at, err, got, done)
		}
	}
	own2 := errors.New("done")
	err := Walk(t.Context(), s, "/", root, Visitor{
		Node:    func(string, *Node) error { return nil },
		DirDone: func(string, *Node) error { return own2 },
	})
	if err != own2 {
		t.Error(err)
	}
}

func TestWalkOfAFile(t *testing.T) {
	s := newStore()
	var got []string
	err := Walk(t.Context(), s, "/etc/hosts", s.file("hosts", "x"), Visitor{Node: func(p string, _ *Node) error { got = append(got, p); return nil }})
	if err != nil || !slices.Equal(got, []string{"/etc/hosts"}) {
		t.Error(got, err)
	}
}

func TestWalkDamaged(t *testing.T) {
	s := newStore()
	big := s.dir("big", s.many(2000)...)
	if len(big.Content) < 3 {
		t.Fatal("one page is not enough")
	}
	gone := s.dir("gone", s.file("f", "x"))
	root := s.dir("", big, gone, s.file("last", "x"))
	delete(s.chunks, big.Content[1].Hash)
	delete(s.chunks, gone.Content[0].Hash)
	whole := 0
	for i, c := range big.Content {
		if i != 1 {
			if err := ReadDir(t.Context(), s, []Chunk{c}, func(*Node) error { whole++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got, damaged, done []string
	v := Visitor{
		Node:    func(p string, _ *Node) error { got = append(got, p); return nil },
		DirDone: func(p string, _ *Node) error { done = append(done, p); return nil },
		Damaged: func(p string, n *Node, err error) error {
			if !errors.Is(err, errGone) {
				t.Error(err)
			}
			damaged = append(damaged, p)
			return nil
		},
	}
	if err := Walk(t.Context(), s, "/", root, v); err != nil {
		t.Fatal(err)
	}
	if want := 4 + whole; len(got) != want || got[len(got)-1] != "/last" {
		t.Errorf("%d entries of %d, the last is %q", len(got), want, got[len(got)-1])
	}
	if want := []string{"/big", "/gone"}; !slices.Equal(damaged, want) {
		t.Errorf("damaged: %q", damaged)
	}
	if want := []string{"/big", "/gone", "/"}; !slices.Equal(done, want) {
		t.Errorf("done: %q", done)
	}
	own := errors.New("own")
	v.Damaged = func(string, *Node, error) error { return own }
	if err := Walk(t.Context(), s, "/", root, v); err != own {
		t.Error(err)
	}
	v.Damaged = nil
	if err := Walk(t.Context(), s, "/", root, v); !errors.Is(err, errGone) || !strings.Contains(err.Error(), `"/big"`) {
		t.Error(err)
	}
}

// Pages in the wrong order are damage, on whatever page.
func TestWalkPageOrder(t *testing.T) {
	s := newStore()
	big := s.dir("big", s.many(2000)...)
	slices.Reverse(big.Content)
	v := Visitor{Node: func(string, *Node) error { return nil }}
	if err := Walk(t.Context(), s, "/", big, v); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if err := ReadDir(t.Context(), s, big.Content, func(*Node) error { return nil }); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestWalkCancel(t *testing.T) {
	s := newStore()
	root := sample(s)
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	err := Walk(ctx, s, "/", root, Visitor{
		Node: func(p string, _ *Node) error {
			got = append(got, p)
			if p == "/a" {
				cancel()
			}
			return nil
		},
		Damaged: func(_ string, _ *Node, err error) error { t.Error("cancellation is no damage:", err); return nil },
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, sampleWalk[:3]) {
		t.Errorf("%q %v", got, err)
	}
	if err := ReadDir(ctx, s, root.Content, func(*Node) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLookup(t *testing.T) {
	s := newStore()
	big := s.dir("big", s.many(2000)...)
	root := s.dir("", s.dir("a", s.file("\xff", "x"), s.file("n", "x")), big, s.file("f", "x"))
	for path, want := range map[string]string{
		"": "", "/": "", "//": "", "/.": "",
		"/a": "a", "a": "a", "/a/": "a", "/./a//n": "n", "/a/\xff": "\xff",
		"/big/f00000": "f00000", "/big/f01000": "f01000", "/big/f01999": "f01999", "/f": "f",
	} {
		n, err := Lookup(t.Context(), s, root, path)
		if err != nil || n.Name != want {
			t.Errorf("%q: %v, %v", path, n, err)
		}
	}
	for _, path := range []string{"/b", "/a/b", "/A", "/f/x", "/a/n/x", "/a/..", "/big/f", "/big/f02000", "/big/f01000x", "/zzz"} {
		if n, err := Lookup(t.Context(), s, root, path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, %v", path, n, err)
		}
	}
	delete(s.chunks, big.Content[0].Hash)
	if _, err := Lookup(t.Context(), s, root, "/big/f01999"); !errors.Is(err, errGone) || errors.Is(err, fs.ErrNotExist) {
		t.Error("what cannot be read is not absent:", err)
	}
}

func TestEachChunk(t *testing.T) {
	s := newStore()
	var want []Chunk
	for i := range 5000 {
		want = append(want, Chunk{hashOf("chunk", i), uint32(i + 1)})
	}
	direct := &Node{Type: File, Content: want}
	indirect := &Node{Type: File, Indirect: true}
	for _, piece := range SplitList(want) {
		indirect.Content = append(indirect.Content, s.put(AppendChunks(nil, piece)))
	}
	if len(indirect.Content) < 2 {
		t.Fatal("one piece is not enough")
	}
	for _, n := range []*Node{direct, indirect} {
		got, err := fileChunks(t.Context(), s, n)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d chunks: %v", len(got), err)
		}
		stop, count := errors.New("stop"), 0
		err = EachChunk(t.Context(), s, n, func(Chunk) error {
			if count++; count == 3 {
				return stop
			}
			return nil
		})
		if err != stop || count != 3 {
			t.Error(count, err)
		}
	}
	delete(s.chunks, indirect.Content[1].Hash)
	if _, err := fileChunks(t.Context(), s, indirect); !errors.Is(err, errGone) {
		t.Error(err)
	}
	indirect.Content[1] = s.put([]byte("no list"))
	if _, err := fileChunks(t.Context(), s, indirect); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// fileChunks gathers what EachChunk yields.
func fileChunks(ctx context.Context, l Loader, n *Node) (chunks []Chunk, err error) {
	err = EachChunk(ctx, l, n, func(c Chunk) error {
		chunks = append(chunks, c)
		return nil
	})
	return chunks, err
}
