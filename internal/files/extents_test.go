package files

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"pgregory.net/rapid"
)

// layout answers like a file system whose files have data in ext.
func layout(ext []tree.Extent, size int64) (nextData, nextHole func(int64) (int64, error)) {
	nextData = func(off int64) (int64, error) {
		for _, e := range ext {
			if off < e.Offset+e.Length {
				return max(off, e.Offset), nil
			}
		}
		return size, nil
	}
	nextHole = func(off int64) (int64, error) {
		for _, e := range ext {
			if e.Offset <= off && off < e.Offset+e.Length {
				return e.Offset + e.Length, nil
			}
		}
		return off, nil
	}
	return nextData, nextHole
}

func TestFindExtents(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		data []tree.Extent
		want []tree.Extent
	}{
		{"all data", 100, []tree.Extent{{Offset: 0, Length: 100}}, nil},
		{"all hole", 100, nil, []tree.Extent{}},
		{"all hole, too small", 9, nil, nil},
		{"all hole, just large enough", 10, nil, []tree.Extent{}},
		{"leading", 100, []tree.Extent{{Offset: 10, Length: 90}}, []tree.Extent{{Offset: 10, Length: 90}}},
		{"leading, too small", 100, []tree.Extent{{Offset: 9, Length: 91}}, nil},
		{"trailing", 100, []tree.Extent{{Offset: 0, Length: 90}}, []tree.Extent{{Offset: 0, Length: 90}}},
		{"trailing, too small", 100, []tree.Extent{{Offset: 0, Length: 91}}, nil},
		{"middle", 100, []tree.Extent{{Offset: 0, Length: 40}, {Offset: 50, Length: 50}}, []tree.Extent{{Offset: 0, Length: 40}, {Offset: 50, Length: 50}}},
		{"middle, too small", 100, []tree.Extent{{Offset: 0, Length: 40}, {Offset: 49, Length: 51}}, nil},
		{"island", 100, []tree.Extent{{Offset: 50, Length: 1}}, []tree.Extent{{Offset: 50, Length: 1}}},
		{"beyond the end", 60, []tree.Extent{{Offset: 50, Length: 50}}, []tree.Extent{{Offset: 50, Length: 10}}},
	} {
		d, h := layout(c.data, c.size)
		got, err := findExtents(c.size, 10, 100, d, h)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	bad := func(int64) (int64, error) { return 0, errors.New("broken") }
	if _, err := findExtents(1, 1, 1, bad, bad); err == nil {
		t.Error("error lost")
	}
	// Answers that make no sense must not loop.
	zero := func(int64) (int64, error) { return 0, nil }
	if got, err := findExtents(1000, 10, 100, zero, zero); err != nil || got != nil {
		t.Errorf("nonsense: %v, %v", got, err)
	}
}

// Whatever the layout: all data is covered, extents ascend and do not touch,
// no kept hole is too small, and there are not too many.
func TestFindExtentsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var data []tree.Extent
		off := int64(0)
		for range rapid.IntRange(0, 40).Draw(t, "n") {
			off += rapid.Int64Range(1, 50).Draw(t, "hole")
			n := rapid.Int64Range(1, 50).Draw(t, "data")
			data = append(data, tree.Extent{Offset: off, Length: n})
			off += n
		}
		size := off + rapid.Int64Range(0, 50).Draw(t, "tail")
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		d, h := layout(data, size)
		got, err := findExtents(size, 10, limit, d, h)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil {
			return
		}
		if len(got) > limit {
			t.Fatalf("%d extents, limit %d", len(got), limit)
		}
		end := int64(0)
		for i, e := range got {
			if e.Length <= 0 || e.Offset < 0 || e.Offset+e.Length > size {
				t.Fatalf("extent %v of a file of %d", e, size)
			}
			if gap := e.Offset - end; gap < 10 && (i > 0 || gap > 0) {
				t.Fatalf("hole of %d before %v", gap, e)
			}
			end = e.Offset + e.Length
		}
		for _, want := range data {
			covered := false
			for _, e := range got {
				covered = covered || e.Offset <= want.Offset && want.Offset+want.Length <= e.Offset+e.Length
			}
			if !covered {
				t.Fatalf("data %v is not in %v", want, got)
			}
		}
	})
}

func TestExtentReader(t *testing.T) {
	file := []byte("0123456789")
	readAt := func(p []byte, off int64) (int, error) {
		if off >= int64(len(file)) {
			return 0, nil
		}
		return copy(p[:min(len(p), 3)], file[off:]), nil
	}
	n := &tree.Node{Size: 10, Extents: []tree.Extent{{Offset: 1, Length: 2}, {Offset: 5, Length: 4}}}
	for range 2 { // the node is not used up
		r := newExtentReader(n, readAt)
		if err := iotest.TestReader(&r, []byte("125678")); err != nil {
			t.Error(err)
		}
	}
	r := newExtentReader(&tree.Node{Size: 8}, readAt)
	if got, err := io.ReadAll(&r); string(got) != "01234567" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	r = newExtentReader(&tree.Node{Size: 12}, readAt)
	if got, err := io.ReadAll(&r); !bytes.Equal(got, file) || !errors.Is(err, ErrTruncated) {
		t.Errorf("%q, %v", got, err)
	}
	r = newExtentReader(&tree.Node{Size: 12, Extents: []tree.Extent{}}, readAt)
	if got, err := io.ReadAll(&r); len(got) != 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
