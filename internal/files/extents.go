package files

import (
	"io"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

const (
	// minHoleBytes is the smallest hole that is kept; smaller ones are read as
	// zeros, which compress to nothing, while each extent costs a seek at
	// backup and at restore, and room in the record.
	minHoleBytes = 64 << 10
	// maxExtents bounds the record of one file. A file with more has its
	// smaller holes read as zeros, too: see findExtents.
	maxExtents = 100_000
)

// findExtents lists the data of a file of size bytes with no gap smaller than
// minHole between. Where there are more than limit extents, it doubles minHole
// until they fit. nextData returns where the first data at or after off begins,
// or size; nextHole where the data at off ends. nil: the file is not sparse.
func findExtents(size, minHole int64, limit int, nextData, nextHole func(off int64) (int64, error)) ([]tree.Extent, error) {
	extents := []tree.Extent{}
	for off := int64(0); off < size; {
		start, err := nextData(off)
		if err != nil {
			return nil, err
		}
		if start >= size {
			break
		}
		end, err := nextHole(start)
		if err != nil {
			return nil, err
		}
		// A file that is being changed can answer anything; go forward.
		start = max(start, off)
		end = min(max(end, start+1), size)
		extents = appendExtent(extents, tree.Extent{Offset: start, Length: end - start}, minHole)
		for len(extents) > limit {
			minHole *= 2
			merged := extents[:0]
			for _, e := range extents {
				merged = appendExtent(merged, e, minHole)
			}
			extents = merged
		}
		off = end
	}
	// The end of the file is a hole, too, and may be too small.
	if n := len(extents); n > 0 {
		last := &extents[n-1]
		if end := last.Offset + last.Length; size-end < minHole {
			last.Length = size - last.Offset
		}
	} else if size < minHole {
		return nil, nil
	}
	if len(extents) == 1 && extents[0] == (tree.Extent{Offset: 0, Length: size}) {
		return nil, nil
	}
	return extents, nil
}

// appendExtent adds e, which begins after the last of list, or joins it to that
// (or to the beginning of the file) where the hole between is too small.
func appendExtent(list []tree.Extent, e tree.Extent, minHole int64) []tree.Extent {
	n := len(list)
	if n == 0 {
		if e.Offset < minHole {
			e = tree.Extent{Offset: 0, Length: e.Offset + e.Length}
		}
		return append(list, e)
	}
	last := &list[n-1]
	if e.Offset-(last.Offset+last.Length) < minHole {
		last.Length = e.Offset + e.Length - last.Offset
		return list
	}
	return append(list, e)
}

// errTruncated is the type of ErrTruncated.
type errTruncated struct{}

func (errTruncated) Error() string { return "the file became shorter while it was read" }

func (errTruncated) Unwrap() error { return io.ErrUnexpectedEOF }

// extentReader reads extents, one after the other. readAt reads like pread: 0
// bytes without an error at the end of the file.
type extentReader struct {
	extents []tree.Extent // what is left of them
	readAt  func(p []byte, off int64) (int, error)
}

func newExtentReader(n *tree.Node, readAt func(p []byte, off int64) (int, error)) extentReader {
	r := extentReader{n.Extents, readAt}
	if n.Extents == nil && n.Size > 0 {
		r.extents = []tree.Extent{{Offset: 0, Length: n.Size}}
	} else {
		r.extents = append([]tree.Extent(nil), n.Extents...) // Read consumes them
	}
	return r
}

func (r *extentReader) Read(p []byte) (int, error) {
	if len(r.extents) == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	e := &r.extents[0]
	n, err := r.readAt(p[:min(int64(len(p)), e.Length)], e.Offset)
	if n == 0 && err == nil {
		err = ErrTruncated
	}
	e.Offset += int64(n)
	e.Length -= int64(n)
	if e.Length == 0 {
		r.extents = r.extents[1:]
	}
	return n, err
}
