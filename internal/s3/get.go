package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Get implements storage.Objects. It takes one request: a GET with a range, or a
// HEAD if no bytes are wanted.
func (s *Store) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := s.check(ctx, name); err != nil {
		return nil, err
	}
	opCtx, done := s.begin(ctx)
	r := &reader{s: s, ctx: ctx, done: done}
	if err := r.open(opCtx, s.loc.key(name), off, length); err != nil {
		done()
		return nil, s.describe(ctx, actGet, err)
	}
	return r, nil
}

// A reader delivers the content of an object, or a part of it.
type reader struct {
	s    *Store
	ctx  context.Context // the caller's
	done func()
	rc   io.ReadCloser // nil: nothing
	left int64         // bytes that are wanted; math.MaxInt64: all that come
}

func (r *reader) open(ctx context.Context, key string, off, length int64) error {
	bucket := r.s.loc.Bucket
	if length == 0 {
		_, err := r.s.core.StatObject(ctx, bucket, key, minio.StatObjectOptions{})
		return err
	}
	var o minio.GetObjectOptions
	asked := byteRange(off, length)
	if asked != "" {
		o.Set("Range", asked)
	}
	rc, info, header, err := r.s.core.GetObject(ctx, bucket, key, o)
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok && resp.Code == "InvalidRange" {
		return nil // the object has no such bytes
	}
	if err != nil {
		return err
	}
	r.rc, r.left = rc, math.MaxInt64
	if length > 0 {
		r.left = length
	}
	if asked == "" {
		return nil
	}
	skip, err := answered(header.Get("Content-Range"), info.Size, off)
	if err == nil && skip > 0 {
		_, err = io.CopyN(io.Discard, rc, skip)
		if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		rc.Close()
	}
	return err
}

// byteRange returns the header for a part of an object; "" for all of it.
func byteRange(off, length int64) string {
	switch {
	case off == math.MinInt64, off == 0 && length < 0:
		return "" // more than any object has
	case off < 0:
		return "bytes=" + strconv.FormatInt(off, 10)
	case length < 0, length > math.MaxInt64-off:
		return "bytes=" + strconv.FormatInt(off, 10) + "-"
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+length-1)
}

// answered returns how many bytes of a body come before the byte that off means. A
// server may answer a range with the whole object (no Content-Range; size is the
// body's then), and with no range other than the one asked for.
func answered(contentRange string, size, off int64) (skip int64, err error) {
	if contentRange == "" {
		if size < 0 {
			return 0, errors.New("the server sent an object of unknown size instead of a part of it")
		}
		if off < 0 {
			return max(0, size+off), nil
		}
		return min(off, size), nil
	}
	var first, last, total int64
	if n, err := fmt.Sscanf(strings.ToLower(contentRange), "bytes %d-%d/%d", &first, &last, &total); n != 3 || err != nil {
		return 0, fmt.Errorf("the server sent a range that makes no sense: %s", oneLine(contentRange))
	}
	want := off
	if off < 0 {
		want = max(0, total+off)
	}
	if first != want {
		return 0, fmt.Errorf("the server sent another range than it was asked for: from byte %d, not %d", first, want)
	}
	return 0, nil
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.s.usable(r.ctx); err != nil {
		return 0, err
	}
	if r.rc == nil || r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.rc.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errCut
	}
	return n, r.s.describe(r.ctx, actGet, err)
}

// Close implements io.Closer. Beyond what was wanted a few bytes may be left, of a
// server that does not know ranges or a suffix of which only the start was wanted;
// the connection is not worth reading them.
func (r *reader) Close() error {
	r.done()
	if r.rc == nil {
		return nil
	}
	r.rc.Close() // says that the request was cancelled, if not all was read
	r.rc = nil
	return nil
}
