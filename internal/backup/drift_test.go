package backup

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// words are n bytes of text.
func words(seed, n int) []byte {
	var b []byte
	for i := seed; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d bottles of beer, %x\n", i*7919%1000, i*i)
	}
	return b[:n]
}

// driftOf makes a snapshot of before and returns what a run over after finds.
func driftOf(t *testing.T, before, after *fake, o Options) tree.Drift {
	t.Helper()
	x := newFixture(t)
	first := x.backup(before, Options{Write: o.Write})
	if first.Drift != nil {
		t.Errorf("the first run: %+v", first.Drift)
	}
	o.Parent = first
	snap := x.backup(after, o)
	if snap.Drift == nil {
		t.Fatal("the second run has no drift")
	}
	return *snap.Drift
}

func TestDrift(t *testing.T) {
	jpeg := func(seed int) []byte { return append([]byte("\xff\xd8\xff\xe0"), bytesOf(seed, 3000)...) }
	doc := func() *fake { return file("a.doc", words(1, 3000)) }
	keep := file("keep", words(9, 5000))
	type drift = tree.Drift
	// changed is f with other content, as an editor leaves it.
	changed := func(f *fake, name string, data []byte) *fake {
		c := file(name, data)
		c.node.Inode = f.node.Inode
		c.touch(data)
		return c
	}
	long := bytes.Repeat(words(3, 5000), 20)
	for name, c := range map[string]struct {
		before, after []*fake
		want          drift
	}{
		"nothing":           {[]*fake{keep}, []*fake{keep}, drift{Files: 1}},
		"new":               {[]*fake{keep}, []*fake{keep, file("n", words(2, 2000))}, drift{Files: 1}},
		"new noise":         {[]*fake{keep}, []*fake{keep, file("n", bytesOf(2, 2000))}, drift{Files: 1, Noise: 1}},
		"new photo":         {[]*fake{keep}, []*fake{keep, file("n", jpeg(2))}, drift{Files: 1}},
		"edited":            {[]*fake{doc(), keep}, []*fake{changed(keep, "a.doc", words(2, 3000)), keep}, drift{Files: 2, Rewritten: 1}},
		"touched":           {[]*fake{doc()}, []*fake{changed(keep, "a.doc", words(1, 3000))}, drift{Files: 1}},
		"deleted":           {[]*fake{doc(), keep, file("z", words(4, 700))}, []*fake{keep}, drift{Files: 3, Deleted: 2}},
		"renamed":           {[]*fake{doc(), keep}, []*fake{keep, file("z.doc", words(1, 3000))}, drift{Files: 2, Renamed: 1}},
		"longer name":       {[]*fake{doc()}, []*fake{file("a.doc.bak", words(1, 3000))}, drift{Files: 1, Renamed: 1, Extended: 1}},
		"other number":      {[]*fake{file("img1", words(1, 3000))}, []*fake{file("img12", words(1, 3000))}, drift{Files: 1, Renamed: 1}},
		"compressed":        {[]*fake{doc()}, []*fake{file("a.doc.gz", append([]byte("\x1f\x8b"), bytesOf(2, 900)...))}, drift{Files: 1, Deleted: 1}},
		"encrypted":         {[]*fake{file("a.txt", words(1, 3000)), keep}, []*fake{changed(keep, "a.txt", bytesOf(5, 3000)), keep}, drift{Files: 2, Rewritten: 1, Scrambled: 1}},
		"locked":            {[]*fake{doc(), keep}, []*fake{file("a.doc.locked", bytesOf(5, 3000)), keep}, drift{Files: 2, Renamed: 1, Extended: 1, Scrambled: 1}},
		"other names":       {[]*fake{doc(), keep, file("b", words(7, 900))}, []*fake{file("0123", bytesOf(5, 3000)), keep}, drift{Files: 3, Deleted: 2, Noise: 1, Replaced: 1}},
		"photo lost":        {[]*fake{file("p.jpg", jpeg(1))}, []*fake{changed(keep, "p.jpg", bytesOf(5, 3000))}, drift{Files: 1, Rewritten: 1, Scrambled: 1}},
		"photo edited":      {[]*fake{file("p.jpg", jpeg(1))}, []*fake{changed(keep, "p.jpg", jpeg(2))}, drift{Files: 1, Rewritten: 1}},
		"vault":             {[]*fake{file("v", bytesOf(1, 3000))}, []*fake{changed(keep, "v", bytesOf(5, 3000))}, drift{Files: 1, Rewritten: 1}},
		"vault among words": {[]*fake{file("v", bytesOf(1, 3000)), file("w", words(1, 9000))}, []*fake{changed(keep, "v", bytesOf(5, 3000)), file("w", words(1, 9000))}, drift{Files: 2, Rewritten: 1}},
		"vault renewed":     {[]*fake{file("v", bytesOf(1, 3000))}, []*fake{file("u", bytesOf(5, 3000))}, drift{Files: 1, Deleted: 1, Noise: 1}},
		"too small":         {[]*fake{file("s", words(1, 300))}, []*fake{changed(keep, "s", bytesOf(5, 300))}, drift{Files: 1, Rewritten: 1}},
		"middle": {[]*fake{file("l", long)}, []*fake{changed(keep, "l", slices.Concat(long[:40_000], bytesOf(5, 20_000), long[60_000:]))},
			drift{Files: 1, Rewritten: 1, Scrambled: 1}},
		"directory gone": {[]*fake{folder("d", doc(), folder("e", file("x", words(3, 600)))), keep}, []*fake{keep}, drift{Files: 3, Deleted: 2}},
		"directory renamed": {[]*fake{folder("d", doc(), folder("e", file("x", words(3, 600)))), keep},
			[]*fake{folder("d2", doc(), folder("e", file("x", words(3, 600)))), keep}, drift{Files: 3, Renamed: 2}},
		"directory becomes a file": {[]*fake{folder("d", doc())}, []*fake{file("d", words(8, 600))}, drift{Files: 1, Deleted: 1}},
		"file becomes a directory": {[]*fake{doc()}, []*fake{folder("a.doc", keep)}, drift{Files: 1, Deleted: 1}},
		"all behind the last":      {[]*fake{keep, file("x1", words(1, 600)), file("x2", words(2, 600))}, []*fake{keep, folder("a")}, drift{Files: 3, Deleted: 2}},
		"names that begin alike": {[]*fake{file("a.doc", words(1, 900)), file("a.doc-old", words(2, 900)), keep},
			[]*fake{file("a.doc-old.locked", bytesOf(1, 900)), file("a.doc.locked", bytesOf(2, 900)), keep}, drift{Files: 3, Renamed: 2, Extended: 2, Scrambled: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, o := range []Options{{}, {ReadAll: true}, {Write: repo.WriterOptions{Compression: repo.NoCompression}}} {
				if got := driftOf(t, folder("src", c.before...), folder("src", c.after...), o); got != c.want {
					t.Errorf("%+v\ngot  %+v\nwant %+v", o.Write, got, c.want)
				}
			}
		})
	}
}

// A source that is not among those of this run is not gone; in each of several, what is
// gone counts.
func TestDriftSources(t *testing.T) {
	x := newFixture(t)
	other := func(files ...*fake) []Root {
		s := &source{t: t, held: map[any]string{}}
		top := folder("other", files...)
		top.attach(s)
		return []Root{{Path: "/other", Ancestors: []*tree.Node{{Type: tree.Dir, Mode: 0o755, Links: 1}}, Entry: top.entry()}}
	}
	a, b, c := file("a", words(1, 900)), file("b", words(2, 900)), file("c", words(3, 900))
	both := x.backup(folder("src", a, b), Options{Roots: other(a, b, c)})
	for name, y := range map[string]struct {
		snap *tree.Snapshot
		want tree.Drift
	}{
		"one of them": {x.backup(folder("src", a), Options{Parent: both}), tree.Drift{Files: 2, Deleted: 1}},
		"both":        {x.backup(folder("src", a), Options{Parent: both, Roots: other(c)}), tree.Drift{Files: 5, Deleted: 3}},
		"from one into the other": {x.backup(folder("src", a, b, file("z", words(3, 900))), Options{Parent: both, Roots: other(a, b)}),
			tree.Drift{Files: 5, Renamed: 1}},
	} {
		if *y.snap.Drift != y.want {
			t.Errorf("%s: %+v, want %+v", name, *y.snap.Drift, y.want)
		}
	}
}

// What cannot be listed or read is not gone.
func TestDriftPartial(t *testing.T) {
	files := func() []*fake {
		return []*fake{file("a", words(1, 900)), file("b", words(2, 900)), file("c", words(3, 900))}
	}
	locked := folder("d", files()...)
	locked.dirErr = errors.New("permission denied")
	if got := driftOf(t, folder("src", folder("d", files()...)), folder("src", locked), Options{}); got != (tree.Drift{}) {
		t.Errorf("a directory that cannot be opened: %+v", got)
	}
	half := folder("d", files()[0])
	half.listErr = errors.New("input/output error")
	if got := driftOf(t, folder("src", folder("d", files()...)), folder("src", half), Options{}); got.Deleted != 0 {
		t.Errorf("a directory that cannot be listed: %+v", got)
	}
	bad := files()
	bad[1] = file("b.x", words(2, 900))
	bad[1].openErr = errors.New("permission denied")
	if got := driftOf(t, folder("src", files()...), folder("src", bad...), Options{}); got != (tree.Drift{Files: 3, Deleted: 1}) {
		t.Errorf("a file that cannot be read: %+v", got)
	}
}

// Of more files than are remembered, the numbers are estimates, and good ones.
func TestMovesBounded(t *testing.T) {
	var m moves
	const n = 4 * maxMoves
	for i := range n {
		var h tree.Hash
		copy(h[:], bytesOf(i+1, len(h)))
		node := &tree.Node{Name: "x", Size: 1, Content: []tree.Chunk{{Hash: h, Size: 1}}}
		m.add(&m.gone, node)
		if i%4 == 0 {
			m.add(&m.came, node)
		}
		if got := len(m.gone) + len(m.came); got > maxMoves {
			t.Fatalf("%d files are remembered", got)
		}
	}
	if got := m.matched(); got < n/4*9/10 || got > n/4*11/10 {
		t.Errorf("%d of %d have moved", got, n/4)
	}
	for k := range m.gone {
		if bits.TrailingZeros64(k) < m.level {
			t.Fatal("a key that should have been forgotten")
		}
	}
}

func TestLonger(t *testing.T) {
	for _, c := range []struct {
		name, old string
		want      bool
	}{{"a.doc.locked", "a.doc", true}, {"a.doc[id-1].x", "a.doc", true}, {"a.doc", "a.doc", false}, {"img12", "img1", false}, {"b.doc.x", "a.doc", false}} {
		if got := longer(c.name, c.old); got != c.want {
			t.Errorf("%s of %s: %v", c.name, c.old, got)
		}
	}
}

// BenchmarkProbe is what a file that is read because it is new or changed costs, besides
// being read.
func BenchmarkProbe(b *testing.B) {
	p := newProbe()
	data := []byte(strings.Repeat(string(bytesOf(1, 4<<10)), 16))
	n := &tree.Node{Size: int64(len(data))}
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			p.begin(n)
			p.take(data, 0)
		}
	})
	b.Run("noise", func(b *testing.B) {
		for b.Loop() {
			if !p.isNoise() || !guard.Noise(p.mid) {
				b.Fatal("noise is not found")
			}
		}
	})
	b.Run("words", func(b *testing.B) {
		p.begin(&tree.Node{Size: 5000})
		p.take(words(1, 5000), 0)
		for b.Loop() {
			if p.isNoise() {
				b.Fatal("words are noise")
			}
		}
	})
}
