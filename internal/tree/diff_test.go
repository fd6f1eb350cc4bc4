package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// changes returns what Diff finds, a line each.
func changes(t interface{ Fatal(...any) }, before, after Tree) []string {
	var out []string
	err := Diff(context.Background(), "/", before, after, func(c Change) error {
		if (c.Old == nil) != (c.Kind == Added) || (c.New == nil) != (c.Kind == Removed) {
			t.Fatal("nodes of ", c.Kind, c.Old, c.New)
		}
		line := string(c.Kind) + " " + c.Path
		if len(c.What) > 0 {
			line += " " + strings.Join(c.What, ",")
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDiffOfOneNode(t *testing.T) {
	s := newStore()
	sum := hashOf("whole")
	base := func() *Node {
		n := s.file("f", "one two")
		n.MTime, n.CTime, n.Inode = Time{1, 1}, Time{1, 1}, 1
		return n
	}
	for _, c := range []struct {
		name       string
		old, newer func(*Node)
		want       string
	}{
		{"nothing", nil, nil, ""},
		{"ctime, inode, links", nil, func(n *Node) { n.CTime, n.Inode, n.Links, n.Device = Time{2, 2}, 2, 2, 2 }, ""},
		{"unstable", nil, func(n *Node) { n.Unstable = true }, ""},
		{"SHA-256 known now", nil, func(n *Node) { n.SHA256 = &sum }, ""},
		{"content", nil, func(n *Node) { n.Content = s.file("", "one six").Content }, "modified / content"},
		{"size", nil, func(n *Node) { *n = *s.file("f", "one"); n.MTime = Time{1, 1} }, "modified / content,size"},
		{"other chunks, same SHA-256", func(n *Node) { n.SHA256 = &sum }, func(n *Node) { n.SHA256, n.Content = &sum, s.file("", "onetwo ").Content }, ""},
		{"other chunks, other SHA-256", func(n *Node) { n.SHA256 = &sum }, func(n *Node) { h := hashOf(1); n.SHA256, n.Content = &h, s.file("", "onetwo ").Content }, "modified / content"},
		{"holes", nil, func(n *Node) { n.Extents = []Extent{{0, 7}} }, "modified / content"},
		{"mode", nil, func(n *Node) { n.Mode = 0o600 }, "metadata / mode"},
		{"user", nil, func(n *Node) { n.UID = 1 }, "metadata / owner"},
		{"group", nil, func(n *Node) { n.GID = 1 }, "metadata / owner"},
		{"time", nil, func(n *Node) { n.MTime.Nsec++ }, "metadata / mtime"},
		{"xattrs", nil, func(n *Node) { n.Xattrs = []Xattr{{"a", "b"}} }, "metadata / xattrs"},
		{"flags", nil, func(n *Node) { n.InodeFlags = FlagNoDump }, "metadata / flags"},
		{"content and metadata", nil, func(n *Node) {
			n.Content, n.Mode, n.MTime = s.file("", "one six").Content, 0o600, Time{3, 3}
		}, "modified / content,mode,mtime"},
		{"target", func(n *Node) { *n = Node{Type: Symlink, Target: "a", Mode: 0o777} }, func(n *Node) { *n = Node{Type: Symlink, Target: "b"} }, "modified / target"},
		{"device", func(n *Node) { *n = Node{Type: CharDevice, Rdev: 1} }, func(n *Node) { *n = Node{Type: CharDevice, Rdev: 2} }, "modified / device"},
		{"type", nil, func(n *Node) { *n = Node{Type: FIFO} }, "typechanged /"},
	} {
		a, b := base(), base()
		if c.old != nil {
			c.old(a)
		}
		if c.newer != nil {
			c.newer(b)
		}
		got := changes(t, Tree{s, a}, Tree{s, b})
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if s.loads != 0 {
		t.Error("nodes were compared by reading")
	}
}

func TestDiffOrder(t *testing.T) {
	s, o := newStore(), newStore() // two repositories
	before := s.dir("",
		s.file("a", "1"), s.dir("d", s.file("x", "1"), s.dir("y", s.file("z", "1"))), s.file("e", "1"),
		s.dir("gone", s.file("f", "1")), s.file("t", "file"), s.dir("u", s.file("v", "1")))
	after := o.dir("",
		o.file("a", "2"), o.dir("d", o.file("x", "1"), o.dir("y", o.file("z", "2"), o.file("zz", "3"))), o.file("e", "1"),
		o.dir("new", o.file("f", "1")), o.dir("t", o.file("in", "1")), o.file("u", "file"))
	want := []string{
		"modified /a content", "modified /d/y/z content", "added /d/y/zz", "removed /gone", "removed /gone/f",
		"added /new", "added /new/f", "typechanged /t", "added /t/in", "typechanged /u", "removed /u/v",
	}
	if got := changes(t, Tree{s, before}, Tree{o, after}); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := changes(t, Tree{s, before}, Tree{s, before}); got != nil {
		t.Errorf("%q", got)
	}
	for _, c := range []struct {
		at   string
		ret  error
		want []string
	}{
		{"/gone", fs.SkipDir, slices.Delete(slices.Clone(want), 4, 5)},
		{"/t", fs.SkipDir, slices.Delete(slices.Clone(want), 8, 9)},
		{"/u", fs.SkipDir, want[:10]},
		{"/new", fs.SkipAll, want[:6]},
	} {
		var got []string
		err := Diff(t.Context(), "/", Tree{s, before}, Tree{o, after}, func(ch Change) error {
			got = append(got, strings.TrimSpace(string(ch.Kind)+" "+ch.Path+" "+strings.Join(ch.What, ",")))
			if ch.Path == c.at {
				return c.ret
			}
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v at %s: %q, %v", c.ret, c.at, got, err)
		}
	}
	own := errors.New("own")
	if err := Diff(t.Context(), "/", Tree{s, before}, Tree{o, after}, func(Change) error { return own }); err != own {
		t.Error(err)
	}
}

// What is the same is not read: neither directories nor pages of a large one.
func TestDiffReadsLittle(t *testing.T) {
	s := newStore()
	files := s.many(20_000)
	same := s.dir("same", s.many(5_000)...)
	before := s.dir("", s.dir("big", files...), same)
	changed := slices.Clone(files)
	changed[10_000] = s.file(files[10_000].Name, "something else")
	changed = slices.Delete(changed, 15_000, 15_001)
	big := s.dir("big", changed...)
	after := s.dir("", big, same)
	s.loads = 0
	got := changes(t, Tree{s, before}, Tree{s, after})
	if want := []string{"modified /big/f10000 content,size", "removed /big/f15000"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// The root on both sides, and the pages around each change.
	if s.loads > 2+2*2*2 {
		t.Errorf("%d pages were read; the large directory has %d", s.loads, len(big.Content))
	}
}

func TestDiffErrors(t *testing.T) {
	s := newStore()
	before := s.dir("", s.dir("d", s.file("a", "1")))
	after := s.dir("", s.dir("d", s.file("a", "2")))
	nothing := func(Change) error { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Diff(ctx, "/", Tree{s, before}, Tree{s, after}, nothing); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	d, err := Lookup(t.Context(), s, after, "/d")
	if err != nil {
		t.Fatal(err)
	}
	delete(s.chunks, d.Content[0].Hash)
	for what, pair := range map[string][2]*Node{"both": {before, after}, "added": {s.dir(""), after}, "removed": {after, s.dir("")}} {
		err := Diff(t.Context(), "/", Tree{s, pair[0]}, Tree{s, pair[1]}, nothing)
		if !errors.Is(err, errGone) || !strings.Contains(err.Error(), `"/d"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	big := s.dir("big", s.many(2000)...)
	slices.Reverse(big.Content)
	if err := Diff(t.Context(), "/", Tree{s, s.dir("")}, Tree{s, big}, nothing); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// drawTree makes a tree of few names, so that two of them have much in common.
func drawTree(t *rapid.T, s *store, name string, depth int) *Node {
	var entries []*Node
	for _, name := range []string{"a", "a.", "b", "c"} {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 1:
			entries = append(entries, s.file(name, "one"))
		case 2:
			n := s.file(name, "two")
			n.Mode = 0o600
			entries = append(entries, n)
		case 3:
			entries = append(entries, &Node{Name: name, Type: FIFO, Links: 1})
		case 4:
			if depth > 0 {
				entries = append(entries, drawTree(t, s, name, depth-1))
			}
		}
	}
	n := s.dir(name, entries...)
	n.Mode = rapid.SampledFrom([]uint32{0o700, 0o755}).Draw(t, "mode")
	return n
}

// Diff finds what comparing two whole listings finds.
func TestDiffAgainstListings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStore()
		a, b := drawTree(t, s, "", 3), drawTree(t, s, "", 3)
		list := func(n *Node) map[string]*Node {
			all := make(map[string]*Node)
			err := Walk(context.Background(), s, "/", n, Visitor{Node: func(p string, n *Node) error { all[p] = n; return nil }})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		olds, news := list(a), list(b)
		var want []string
		for p, n := range olds {
			m := news[p]
			switch {
			case m == nil:
				want = append(want, "removed "+p)
			case m.Type != n.Type:
				want = append(want, "typechanged "+p)
			default:
				if kind, what := compare(n, m); len(what) > 0 {
					want = append(want, fmt.Sprintf("%s %s %s", kind, p, strings.Join(what, ",")))
				}
			}
		}
		for p := range news {
			if olds[p] == nil {
				want = append(want, "added "+p)
			}
		}
		got := changes(t, Tree{s, a}, Tree{s, b})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%q\n%q", got, want)
		}
	})
}
