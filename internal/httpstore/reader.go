package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// MaxObject is more bytes than an object of any store has: offsets beyond it need
// not be asked for, and some servers cannot read such numbers.
const MaxObject = 1 << 50

// A Reader is the content of an object, or of a part of it.
type Reader struct {
	c        *Client
	ctx      context.Context // the caller's
	done     func()
	body     io.ReadCloser // nil: nothing
	left     int64         // bytes that are wanted
	describe func(error) error
}

// NewReader returns a reader of up to length bytes of body, all if length is
// negative; none if body is nil. What goes wrong is described by describe. Close
// calls done.
func (c *Client) NewReader(ctx context.Context, done func(), body io.ReadCloser, length int64, describe func(error) error) *Reader {
	if length < 0 {
		length = math.MaxInt64
	}
	return &Reader{c, ctx, done, body, length, describe}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.c.Usable(r.ctx); err != nil {
		return 0, err
	}
	if r.body == nil || r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errCut
	}
	return n, r.describe(err)
}

// Close implements io.Closer. Beyond what was wanted a few bytes may be left, of a
// server that does not know ranges or of a suffix of which only the start was
// wanted; the connection is not worth reading them.
func (r *Reader) Close() error {
	r.done()
	if r.body != nil {
		r.body.Close() // says that the request was cancelled, if not all was read
		r.body = nil
	}
	return nil
}

// SkipTo reads what comes in body before the byte that off means (as in
// storage.Backend.Get). contentRange is the header of the answer, "" if it has none
// and so is the whole object, of size bytes: a server may answer a range so. A range
// other than the one asked for is an error.
func SkipTo(body io.Reader, contentRange string, size, off int64) error {
	skip, err := answered(contentRange, size, off)
	if err != nil || skip == 0 {
		return err
	}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil && err != io.EOF {
		return err
	}
	return nil
}

func answered(contentRange string, size, off int64) (skip int64, err error) {
	if contentRange == "" {
		if off < 0 && size < 0 {
			return 0, errors.New("the server sent an object of unknown size instead of a part of it")
		}
		if off < 0 {
			return max(0, size+off), nil
		}
		return off, nil
	}
	var first, last, total int64
	if n, err := fmt.Sscanf(strings.ToLower(contentRange), "bytes %d-%d/%d", &first, &last, &total); n != 3 || err != nil {
		return 0, fmt.Errorf("the server sent a range that makes no sense: %s", OneLine(contentRange))
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
