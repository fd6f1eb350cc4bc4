package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// hashOf makes hashes for tests.
func hashOf(parts ...any) Hash { return sha256.Sum256(fmt.Append(nil, parts...)) }

func drawHash(t *rapid.T) Hash { return hashOf(rapid.Uint64().Draw(t, "hash")) }

func drawBytes(t *rapid.T, label string, most int) string {
	return string(rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, label))
}

func drawTime(t *rapid.T, label string) Time {
	sec := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, -1, math.MinInt64, math.MaxInt64})).Draw(t, label)
	return Time{sec, rapid.SampledFrom([]uint32{0, 1, 999_999_999}).Draw(t, label+" ns")}
}

func drawChunks(t *rapid.T, least int) []Chunk {
	n := rapid.IntRange(least, 5).Draw(t, "chunks")
	var chunks []Chunk
	for range n {
		size := rapid.OneOf(rapid.Uint32Min(1), rapid.SampledFrom([]uint32{1, 127, 128, math.MaxUint32})).Draw(t, "size")
		chunks = append(chunks, Chunk{drawHash(t), size})
	}
	return chunks
}

var names = rapid.Custom(func(t *rapid.T) string {
	name := rapid.OneOf(
		rapid.StringMatching(`[a-z]{1,12}`),
		rapid.Custom(func(t *rapid.T) string { return drawBytes(t, "raw name", 40) }),
		rapid.SampledFrom([]string{"...", "-", "\xff", "ä", "a\u0308", " ", "\n", "*", strings.Repeat("n", 255)}),
	).Draw(t, "name")
	name = strings.NewReplacer("/", "_", "\x00", "_").Replace(name)
	if !ValidName(name) {
		name += "x"
	}
	return name
})

// drawNode makes a node that can be recorded, as decoding gives it back.
func drawNode(t *rapid.T, name string) *Node {
	n := &Node{
		Name: name, Type: Type(rapid.IntRange(1, 6).Draw(t, "type")),
		Mode: rapid.Uint32Max(ModeMask).Draw(t, "mode"),
		UID:  rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		MTime: drawTime(t, "mtime"), CTime: drawTime(t, "ctime"),
		Inode: rapid.Uint64().Draw(t, "inode"), Links: 1,
	}
	if n.Type != Dir && rapid.Bool().Draw(t, "linked") {
		n.Links = rapid.Uint32Min(2).Draw(t, "links")
		n.Device = rapid.Uint64().Draw(t, "device")
	}
	if rapid.Bool().Draw(t, "flagged") {
		n.InodeFlags = rapid.Uint32Min(1).Draw(t, "flags")
	}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z.\xc0-\xff]{0,8}`), 0, 4, rapid.ID).Draw(t, "xattrs")
	slices.Sort(names)
	for _, name := range names {
		n.Xattrs = append(n.Xattrs, Xattr{name, drawBytes(t, "value", 200)})
	}
	switch n.Type {
	case Symlink:
		n.Target = drawBytes(t, "target", 100)
	case CharDevice, BlockDevice:
		n.Rdev = rapid.Uint64().Draw(t, "rdev")
	case Dir:
		n.Content = drawChunks(t, 0)
	case File:
		n.Size = rapid.OneOf(rapid.Int64Min(0), rapid.SampledFrom([]int64{0, 1, math.MaxInt64})).Draw(t, "size")
		n.Indirect = rapid.Bool().Draw(t, "indirect")
		least := 0
		if n.Indirect {
			least = 1
		}
		n.Content = drawChunks(t, least)
		n.Unstable = rapid.Bool().Draw(t, "unstable")
		if rapid.Bool().Draw(t, "hashed") {
			h := drawHash(t)
			n.SHA256 = &h
		}
		if rapid.Bool().Draw(t, "sparse") {
			n.Extents = []Extent{}
			for end := int64(0); len(n.Extents) < 5; {
				least := min(int64(len(n.Extents)), 1) // extents do not touch
				if n.Size-end < least+1 || rapid.Bool().Draw(t, "last extent") {
					break
				}
				off := end + rapid.Int64Range(least, n.Size-end-1).Draw(t, "gap")
				end = off + rapid.Int64Range(1, n.Size-off).Draw(t, "length")
				n.Extents = append(n.Extents, Extent{off, end - off})
			}
		}
	}
	return n
}

// encode returns the pages of a directory.
func encode(t interface{ Fatal(...any) }, nodes []*Node) [][]byte {
	var pages [][]byte
	w := PageWriter{Page: func(p []byte) error {
		pages = append(pages, bytes.Clone(p))
		return nil
	}}
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

func decode(pages [][]byte) (nodes []*Node, err error) {
	last := ""
	for _, p := range pages {
		if last, err = DecodePage(p, last, func(n *Node) error { nodes = append(nodes, n); return nil }); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

func TestNodesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(names, 0, 8, rapid.ID).Draw(t, "names")
		slices.Sort(all)
		var nodes []*Node
		for _, name := range all {
			nodes = append(nodes, drawNode(t, name))
		}
		pages := encode(t, nodes)
		if (len(pages) == 0) != (len(nodes) == 0) {
			t.Fatalf("%d pages of %d entries", len(pages), len(nodes))
		}
		back, err := decode(pages)
		if err != nil {
			t.Fatal(err)
		}
		if len(back) != len(nodes) {
			t.Fatalf("%d entries became %d", len(nodes), len(back))
		}
		for i := range nodes {
			if !reflect.DeepEqual(nodes[i], back[i]) {
				t.Fatalf("entry changed:\n%+v\n%+v", nodes[i], back[i])
			}
		}
		if again := encode(t, back); !reflect.DeepEqual(pages, again) {
			t.Fatal("the encoding is not canonical")
		}
	})
}

// Whatever Add accepts can be read, and what it refuses leaves the page as it was.
func TestAddRefusesWhatDecodingRefuses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := drawNode(t, names.Draw(t, "name"))
		for range rapid.IntRange(0, 2).Draw(t, "spoilt parts") {
			spoil(t, n)
		}
		_, err := DecodePage(rawPage(n), "", func(*Node) error { return nil })
		var pages [][]byte
		w := PageWriter{Page: func(p []byte) error { pages = append(pages, bytes.Clone(p)); return nil }}
		errAdd := w.Add(n)
		if errAdd != nil && !errors.Is(errAdd, ErrInvalid) {
			t.Fatal(errAdd)
		}
		if errFlush := w.Flush(); errFlush != nil {
			t.Fatal(errFlush)
		}
		if (errAdd == nil) != (err == nil) {
			// What has no place in the encoding is dropped by rawPage.
			lost := errAdd != nil && n.Type != File && n.Type != Dir && len(n.Content) > 0 || n.Size < 0 && n.Type != File
			if !lost {
				t.Fatalf("%+v\nAdd: %v\nDecodePage: %v", n, errAdd, err)
			}
		}
		if (len(pages) == 0) != (errAdd != nil) {
			t.Fatalf("%d pages after %v", len(pages), errAdd)
		}
	})
}

// rawPage is a page of one entry that nothing has checked.
func rawPage(n *Node) []byte {
	body := appendNode(nil, n)
	return append(binary.AppendUvarint([]byte{recordVersion}, uint64(len(body))), body...)
}

// spoil makes one part of n invalid, for some or all types.
func spoil(t *rapid.T, n *Node) {
	switch rapid.IntRange(0, 17).Draw(t, "spoilt") {
	case 0:
		n.Name = rapid.SampledFrom([]string{"", ".", "..", "a/b", "a\x00b", "/"}).Draw(t, "bad name")
	case 1:
		n.Name = strings.Repeat("n", maxName+rapid.IntRange(0, 1).Draw(t, "over"))
	case 2:
		n.Type = rapid.SampledFrom([]Type{0, 7, 255}).Draw(t, "bad type")
	case 3:
		n.Mode = ModeMask + uint32(rapid.IntRange(0, 1).Draw(t, "over"))
	case 4:
		n.MTime.Nsec = 1e9 - uint32(rapid.IntRange(0, 1).Draw(t, "under"))
	case 5:
		n.CTime.Nsec = 1e9
	case 6:
		n.Target = strings.Repeat("t", maxTarget+rapid.IntRange(0, 1).Draw(t, "over"))
		n.Type = Symlink
	case 7:
		n.Xattrs = []Xattr{{"b", ""}, {rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "second"), ""}}
	case 8:
		n.Xattrs = []Xattr{{strings.Repeat("x", maxName+rapid.IntRange(0, 1).Draw(t, "over")), "v"}}
	case 9:
		n.Extents = []Extent{}
	case 10:
		n.Indirect = true
	case 11:
		n.SHA256 = new(Hash)
	case 12:
		n.Unstable = true
	case 13:
		n.Size = rapid.Int64Range(-2, 2).Draw(t, "small")
	case 14:
		n.Content = []Chunk{{Size: uint32(rapid.IntRange(0, 1).Draw(t, "chunk"))}}
	case 15:
		n.Content = nil
	case 16:
		n.Size = 10
		n.Extents = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Extent {
			return Extent{rapid.Int64Range(-1, 11).Draw(t, "offset"), rapid.Int64Range(-1, 11).Draw(t, "length")}
		}), 1, 3).Draw(t, "extents")
	case 17:
		n.Size = math.MaxInt64
		n.Extents = []Extent{{rapid.Int64Min(math.MaxInt64-2).Draw(t, "offset"), rapid.Int64Range(0, 3).Draw(t, "length")}}
	}
}

func TestBounds(t *testing.T) {
	file := func(change func(*Node)) *Node {
		n := &Node{Name: "f", Type: File, Links: 1, Size: math.MaxInt64}
		change(n)
		return n
	}
	extents := func(count int) []Extent {
		out := make([]Extent, count)
		for i := range out {
			out[i] = Extent{int64(2 * i), 1}
		}
		return out
	}
	xattrs := func(count int) []Xattr {
		out := make([]Xattr, count)
		for i := range out {
			out[i].Name = fmt.Sprintf("%08d", i)
		}
		return out
	}
	frame := len(appendNode(nil, file(func(n *Node) { n.Xattrs = []Xattr{{"x", strings.Repeat("v", maxEntry-1000)}} }))) - (maxEntry - 1000)
	for _, c := range []struct {
		name string
		ok   bool
		node *Node
	}{
		{"longest name", true, file(func(n *Node) { n.Name = strings.Repeat("n", maxName) })},
		{"longer name", false, file(func(n *Node) { n.Name = strings.Repeat("n", maxName+1) })},
		{"most extents", true, file(func(n *Node) { n.Extents = extents(maxExtents) })},
		{"more extents", false, file(func(n *Node) { n.Extents = extents(maxExtents + 1) })},
		{"most xattrs", true, file(func(n *Node) { n.Xattrs = xattrs(maxXattrs) })},
		{"more xattrs", false, file(func(n *Node) { n.Xattrs = xattrs(maxXattrs + 1) })},
		{"largest entry", true, file(func(n *Node) { n.Xattrs = []Xattr{{"x", strings.Repeat("v", maxEntry-frame)}} })},
		{"larger entry", false, file(func(n *Node) { n.Xattrs = []Xattr{{"x", strings.Repeat("v", maxEntry-frame+1)}} })},
		{"longest target", true, &Node{Name: "l", Type: Symlink, Links: 1, Target: strings.Repeat("t", maxTarget)}},
		{"longer target", false, &Node{Name: "l", Type: Symlink, Links: 1, Target: strings.Repeat("t", maxTarget+1)}},
		{"extent to the end", true, file(func(n *Node) { n.Extents = []Extent{{math.MaxInt64 - 1, 1}} })},
		{"extent behind the end", false, file(func(n *Node) { n.Extents = []Extent{{math.MaxInt64, 1}} })},
	} {
		// Neighbours are there whatever becomes of the entry.
		first, last := &Node{Name: "a", Type: FIFO, Links: 1}, &Node{Name: "z", Type: FIFO, Links: 1}
		var pages [][]byte
		w := PageWriter{Page: func(p []byte) error { pages = append(pages, bytes.Clone(p)); return nil }}
		if err := w.Add(first); err != nil {
			t.Fatal(err)
		}
		err := w.Add(c.node)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := w.Add(last); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, p := range pages {
			if len(p) > 32<<20 {
				t.Errorf("%s: a page of %d bytes", c.name, len(p))
			}
		}
		want := []*Node{first, c.node, last}
		if !c.ok {
			want = []*Node{first, last}
		}
		got, err := decode(pages)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read back %d entries: %v", c.name, len(got), err)
		}
		if _, err := DecodePage(rawPage(c.node), "", func(*Node) error { return nil }); (err == nil) != c.ok {
			t.Errorf("%s: decoding: %v", c.name, err)
		}
	}
}

func TestPageWriterOrderAndReuse(t *testing.T) {
	fifo := func(name string) *Node { return &Node{Name: name, Type: FIFO, Links: 1} }
	failing := errors.New("full")
	pages := 0
	w := PageWriter{Page: func([]byte) error { pages++; return nil }}
	for _, name := range []string{"b", "c"} {
		if err := w.Add(fifo(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "c"} {
		if err := w.Add(fifo(name)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s after c: %v", name, err)
		}
	}
	if err := w.Flush(); err != nil || pages != 1 {
		t.Fatal(pages, err)
	}
	if err := w.Flush(); err != nil || pages != 1 {
		t.Fatal("an empty directory has a page", err)
	}
	if err := w.Add(fifo("a")); err != nil { // another directory
		t.Fatal(err)
	}
	w.Reset()
	if err := w.Flush(); err != nil || pages != 1 {
		t.Fatal("Reset kept an entry", err)
	}
	w.Page = func([]byte) error { return failing }
	if err := w.Add(fifo("a")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != failing {
		t.Fatal(err)
	}
}

// A change in a large directory changes the pages around it, and no others.
func TestPagesAreLocal(t *testing.T) {
	const entries = 100_000
	build := func(change func(i int, n *Node) bool) map[Hash]int {
		pages := make(map[Hash]int)
		w := PageWriter{Page: func(p []byte) error { pages[sha256.Sum256(p)] = len(p); return nil }}
		for i := range entries {
			h := hashOf("content", i)
			n := &Node{Name: fmt.Sprintf("file-%06d", i), Type: File, Links: 1, Size: 1000, Mode: 0o644,
				MTime: Time{1_700_000_000, 5}, CTime: Time{1_700_000_000, 5}, Inode: uint64(i), Content: []Chunk{{h, 1000}}}
			if !change(i, n) {
				continue
			}
			if err := w.Add(n); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return pages
	}
	base := build(func(int, *Node) bool { return true })
	sum, short := 0, 0
	for _, size := range base {
		sum += size
		if size < pageMin {
			short++
		}
		if size > pageMax+1000 {
			t.Errorf("a page of %d bytes", size)
		}
	}
	if mean := sum / len(base); mean < 20<<10 || mean > 40<<10 || short > 1 {
		t.Errorf("pages of %d bytes on average, %d short ones", mean, short)
	}
	for _, at := range []int{0, 1, 4711, 50_000, entries - 1} {
		for what, change := range map[string]func(i int, n *Node) bool{
			"change": func(i int, n *Node) bool {
				if i == at {
					n.MTime.Nsec++
				}
				return true
			},
			"remove": func(i int, _ *Node) bool { return i != at },
			"rename": func(i int, n *Node) bool {
				if i == at {
					n.Name += "~"
				}
				return true
			},
		} {
			changed := build(change)
			fresh := 0
			for h := range changed {
				if _, ok := base[h]; !ok {
					fresh++
				}
			}
			if fresh > 2 || fresh == 0 && what != "remove" {
				t.Errorf("%s of entry %d: %d of %d pages are new", what, at, fresh, len(changed))
			}
		}
	}
}

func TestSplitList(t *testing.T) {
	list := func(n int, seed string) []Chunk {
		out := make([]Chunk, n)
		for i := range out {
			out[i] = Chunk{hashOf(seed, i), 1000}
		}
		return out
	}
	for _, n := range []int{0, 1, listMin - 1, listMin, listMin + 1, listMax, listMax + 1, 100_000} {
		chunks := list(n, "a")
		pieces := SplitList(chunks)
		if joined := slices.Concat(pieces...); !slices.Equal(joined, chunks) {
			t.Fatalf("%d chunks: the pieces are another list", n)
		}
		for i, p := range pieces {
			if len(p) == 0 || len(p) > listMax || len(p) < listMin && i < len(pieces)-1 {
				t.Errorf("%d chunks: piece %d has %d", n, i, len(p))
			}
		}
	}
	// Hashes without a cut: the largest pieces.
	same := make([]Chunk, 2*listMax+1)
	for i := range same {
		same[i] = Chunk{Hash{1}, 1}
	}
	var sizes []int
	for _, p := range SplitList(same) {
		sizes = append(sizes, len(p))
	}
	if !slices.Equal(sizes, []int{listMax, listMax, 1}) {
		t.Error(sizes)
	}
	// Chunks inserted, removed, replaced in the middle: the rest stays.
	base := list(100_000, "a")
	known := make(map[Hash]bool)
	for _, p := range SplitList(base) {
		known[sha256.Sum256(AppendChunks(nil, p))] = true
	}
	for what, changed := range map[string][]Chunk{
		"insert":  slices.Concat(base[:50_000], list(3, "b"), base[50_000:]),
		"remove":  slices.Concat(base[:50_000], base[50_007:]),
		"replace": slices.Concat(base[:50_000], list(1, "b"), base[50_001:]),
	} {
		fresh, total := 0, 0
		for _, p := range SplitList(changed) {
			total++
			if !known[sha256.Sum256(AppendChunks(nil, p))] {
				fresh++
			}
		}
		if fresh == 0 || fresh > 4 {
			t.Errorf("%s: %d of %d pieces are new", what, fresh, total)
		}
	}
}

func TestChunksRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := drawChunks(t, 0)
		list := AppendChunks(nil, chunks)
		before := []Chunk{{Hash{9}, 9}}
		back, err := DecodeChunks(before, list)
		if err != nil || !slices.Equal(back, append(before, chunks...)) {
			t.Fatal(back, err)
		}
		if len(list) > 0 {
			cut := rapid.IntRange(1, len(list)-1).Draw(t, "cut")
			if got, err := DecodeChunks(nil, list[:cut]); err == nil && len(got) >= len(chunks) {
				t.Fatalf("%d of %d bytes give all chunks", cut, len(list))
			}
		}
	})
}

// Every way to write the same thing differently is refused.
func TestDecodeRefuses(t *testing.T) {
	n := &Node{Name: "ab", Type: FIFO, Mode: 0o644, Links: 1}
	good := rawPage(n)
	if _, err := DecodePage(good, "", func(*Node) error { return nil }); err != nil {
		t.Fatal(err)
	}
	body := appendNode(nil, n)
	entry := func(body []byte) []byte {
		return append(binary.AppendUvarint([]byte{recordVersion}, uint64(len(body))), body...)
	}
	with := func(at int, b ...byte) []byte { return slices.Replace(slices.Clone(body), at, at+1, b...) }
	for what, page := range map[string][]byte{
		"nothing":               {},
		"no entry":              {recordVersion},
		"version 0":             append([]byte{0}, good[1:]...),
		"version 2":             append([]byte{2}, good[1:]...),
		"cut off":               good[:len(good)-1],
		"a byte more":           append(slices.Clone(good), 0),
		"byte left in entry":    entry(append(slices.Clone(body), 0)),
		"empty entry":           {recordVersion, 0},
		"long varint":           append([]byte{recordVersion, byte(len(body)) | 0x80, 0}, body...),
		"endless varint":        bytes.Repeat([]byte{0xff}, 20),
		"overflowing varint":    {recordVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2},
		"entry twice":           append(slices.Clone(good), good[1:]...),
		"unknown bit":           entry(with(4, 0x80, 0x02)),
		"links of a lone file":  entry(with(4, hasLinks)),
		"flags that are zero":   entry(with(4, hasFlags)),
		"mode of 13 bits":       entry(with(5, 0x80, 0x40)[:len(body)]),
		"indirect FIFO":         entry(with(4, isIndirect)),
		"device without number": entry(with(0, byte(CharDevice))),
	} {
		if _, err := DecodePage(page, "", func(*Node) error { return nil }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := DecodePage(good, "ab", func(*Node) error { return nil }); !errors.Is(err, ErrCorrupt) {
		t.Error("a page that repeats the name before it:", err)
	}
	stop := errors.New("stop")
	if _, err := DecodePage(good, "aa", func(*Node) error { return stop }); err != stop {
		t.Error(err)
	}
}

func FuzzDecodePage(f *testing.F) {
	for _, n := range goldenNodes() {
		f.Add(rawPage(n))
	}
	f.Add(bytes.Join(encode(f, goldenNodes()), nil))
	f.Fuzz(func(t *testing.T, page []byte) {
		again := []byte{recordVersion}
		last, err := DecodePage(page, "", func(n *Node) error {
			if err := n.check(); err != nil {
				t.Errorf("Add refuses what DecodePage returned: %v: %+v", err, n)
			}
			body := appendNode(nil, n)
			again = append(binary.AppendUvarint(again, uint64(len(body))), body...)
			return nil
		})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if last == "" || !bytes.Equal(page, again) {
			t.Fatalf("%x is encoded as %x", page, again)
		}
	})
}

func FuzzDecodeChunks(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendChunks(nil, []Chunk{{hashOf(1), 1}, {hashOf(2), math.MaxUint32}}))
	f.Fuzz(func(t *testing.T, list []byte) {
		chunks, err := DecodeChunks(nil, list)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if again := AppendChunks(nil, chunks); !bytes.Equal(list, again) {
			t.Fatalf("%x is encoded as %x", list, again)
		}
	})
}

// goldenNodes has every kind of node and every optional part.
func goldenNodes() []*Node {
	sum := hashOf("whole")
	a, b := Chunk{hashOf("a"), 1}, Chunk{hashOf("b"), 2 << 20}
	t := Time{1_700_000_000, 123_456_789}
	return []*Node{
		{Name: " dir", Type: Dir, Mode: 0o1777, UID: 1, GID: 2, MTime: t, CTime: t, Inode: 3, Links: 1, Content: []Chunk{a, b}},
		{Name: "block", Type: BlockDevice, Mode: 0o660, MTime: t, CTime: Time{t.Sec + 1, 0}, Inode: 4, Links: 1, Rdev: 8<<32 | 1},
		{Name: "char", Type: CharDevice, Mode: 0o666, MTime: t, CTime: Time{t.Sec - 1, 1}, Inode: 5, Links: 2, Device: 9, Rdev: 1<<32 | 3},
		{Name: "empty", Type: File, Mode: 0o600, UID: math.MaxUint32, GID: math.MaxUint32, Inode: math.MaxUint64, Links: 1},
		{Name: "fifo", Type: FIFO, Mode: 0, MTime: Time{math.MinInt64, 999_999_999}, CTime: Time{math.MaxInt64, 0}, Links: 1},
		{Name: "file", Type: File, Mode: 0o6755, MTime: t, CTime: t, Inode: 6, Links: 3, Device: 9, Size: 2<<20 + 1,
			InodeFlags: FlagImmutable | FlagNoDump, Xattrs: []Xattr{{"security.capability", "\x01\x00"}, {"user.a", ""}},
			Content: []Chunk{a, b}, SHA256: &sum, Unstable: true},
		{Name: "hole", Type: File, Mode: 0o644, Links: 1, Size: 1 << 40, Extents: []Extent{}},
		{Name: "indirect", Type: File, Mode: 0o644, Links: 1, Size: 1 << 40, Content: []Chunk{b}, Indirect: true},
		{Name: "sparse", Type: File, Mode: 0o644, Links: 1, Size: 1 << 40, Extents: []Extent{{0, 1}, {1<<40 - 2<<20, 2 << 20}}, Content: []Chunk{a, b}},
		{Name: "symlink", Type: Symlink, Mode: 0o777, MTime: Time{-1, 1}, Links: 1, Target: "../\xff"},
		{Name: "\xff\xfe", Type: File, Mode: 0o644, Links: 1, Size: 1, Content: []Chunk{a}},
	}
}

// The golden page was written once: what is in repositories must stay readable.
func TestGoldenPage(t *testing.T) {
	text, err := os.ReadFile("testdata/page-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := decode([][]byte{golden})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(nodes, goldenNodes()) {
		t.Error("the golden page has other entries")
	}
	if pages := encode(t, goldenNodes()); len(pages) != 1 || !bytes.Equal(pages[0], golden) {
		t.Errorf("the golden entries are encoded as %x", pages)
	}
}
