package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// A Body is content on its way to the server: the io.ReadSeekCloser that a request
// wants of an io.ReaderAt. http.Transport may go on reading for a moment after it
// has returned; Finish ends that, so that the content may be thrown away.
type Body struct {
	mu       sync.Mutex
	content  io.ReaderAt
	size     int64
	off      int64
	err      error // of content
	finished bool
}

// NewBody returns the first size bytes of content.
func NewBody(content io.ReaderAt, size int64) *Body {
	return &Body{content: content, size: size}
}

var errFinished = errors.New("the request has ended")

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finished {
		return 0, errFinished
	}
	if b.off >= b.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.size-b.off)]
	n, err := b.content.ReadAt(p, b.off)
	b.off += int64(n)
	switch {
	case n == len(p):
		return n, nil
	case err == nil, err == io.EOF:
		err = fmt.Errorf("%d bytes to go: %w", b.size-b.off, io.ErrUnexpectedEOF)
	}
	b.err = unreadable(err)
	return n, b.err
}

func unreadable(err error) error {
	if _, ok := errors.AsType[*storage.PermanentError](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return Permanent(fmt.Errorf("read what is to be stored: %w", err), "")
}

// Seek implements io.Seeker.
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += b.off
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	b.off = offset
	return offset, nil
}

// Close implements io.Closer. It does nothing: a request that is sent again on a
// fresh connection closes its body first.
func (b *Body) Close() error { return nil }

// Finish ends all reading, that under way included. Its error is why the content
// could not be read, if that has happened.
func (b *Body) Finish() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finished = true
	return b.err
}

// sumBytes is read at a time.
const sumBytes = 256 << 10

// Sum writes the first size bytes of content to h, hashes, without their counting as sent.
func Sum(ctx context.Context, h io.Writer, content io.ReaderAt, size int64) error {
	r := io.NewSectionReader(storage.Unpaced(content), 0, size)
	buf := make([]byte, min(size, sumBytes))
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(left, sumBytes)])
		h.Write(buf[:n])
		left -= int64(n)
		if err != nil {
			return unreadable(err)
		}
	}
	return nil
}
