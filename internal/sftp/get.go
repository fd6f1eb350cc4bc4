package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// readWindow is how many requests of the readers on one session are under way or
// read ahead, as writeWindow: 3 MiB at most.
const readWindow = 12

// Get implements storage.Objects. Two round trips pass until the first byte is
// there, since a file must be opened before it can be read; all others overlap,
// within the range and not beyond it.
func (s *Store) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := s.check(ctx, storage.CheckName(name)); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	r, err := do(ctx, s, func(c *session) (*reader, error) {
		return s.openObject(ctx, c, name, off, length)
	}, func(r *reader) { r.Close() })
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return r, nil
}

func (s *Store) openObject(ctx context.Context, c *session, name string, off, length int64) (*reader, error) {
	p := s.path(name)
	var f *sftp.File
	var info fs.FileInfo
	var openErr, statErr error
	var g errgroup.Group
	g.Go(func() error {
		// OpenSSH would open a directory, too.
		info, statErr = s.lstat(c, p)
		return nil
	})
	f, openErr = request(c, func(client *sftp.Client) (*sftp.File, error) { return client.Open(p) })
	_ = g.Wait()
	err := readError(c, p, info, openErr, statErr)
	if err != nil {
		if openErr == nil {
			_ = tell(c, func(*sftp.Client) error { return f.Close() })
		}
		return nil, err
	}
	start, end := byteRange(info.Size(), off, length)
	r := &reader{ctx: ctx, store: s, c: c, file: f, name: name, asker: storage.Ask(ctx), next: start, end: end}
	s.pool.load(c, 1)
	r.ahead()
	return r, nil
}

// readError makes one error of those of opening a file and looking at it.
func readError(c *session, p string, info fs.FileInfo, openErr, statErr error) error {
	for _, err := range []error{statErr, openErr} {
		switch {
		case err == nil:
		case errors.Is(err, fs.ErrNotExist):
			return err
		case errors.Is(err, fs.ErrPermission):
			return permanent("on the server, make the store belong to that user", "no permission to read %s on %s: %w", p, c.peer, err)
		case statErr == nil && !info.Mode().IsRegular():
			// falls through to the last
		case isStatus(err):
			return fmt.Errorf("open %s on %s: %w", p, c.peer, err)
		default:
			return err
		}
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s on %s is not a regular file: %w", p, c.peer, fs.ErrNotExist)
	}
	return nil
}

// byteRange turns the off and length of Get into the range [start, end) of an
// object of size bytes.
func byteRange(size, off, length int64) (start, end int64) {
	if off < 0 {
		start = max(0, size+off)
	} else {
		start = min(off, size)
	}
	if length < 0 || length > size-start {
		return start, size
	}
	return start, start + length
}

// A reader reads the range [next, end) ahead.
type reader struct {
	ctx    context.Context
	store  *Store
	c      *session
	file   *sftp.File
	name   string
	asker  *storage.Asker
	next   int64 // where the next request begins
	end    int64
	queue  []*piece // requests in order
	pos    int      // what is read of the first one
	closed bool
}

// A piece is one request, and what it has brought.
type piece struct {
	done chan struct{}
	buf  *[]byte
	data []byte
	err  error // valid once done is closed, as is data
}

// ahead makes requests until the window is full.
func (r *reader) ahead() {
	for window := r.store.pool.share(r.c, readWindow); len(r.queue) < window && r.next < r.end; {
		n := r.asker.Most(min(r.store.packet(r.c), r.end-r.next))
		p := &piece{done: make(chan struct{}), buf: r.store.buffers.Get().(*[]byte)}
		p.data = (*p.buf)[:n]
		off, turn := r.next, r.asker.Reserve(n)
		go func() {
			defer close(p.done)
			if p.err = turn(r.ctx); p.err != nil {
				return
			}
			n, err := request(r.c, func(*sftp.Client) (int, error) { return r.file.ReadAt(p.data, off) })
			switch {
			case n == len(p.data):
			case err == nil || errors.Is(err, io.EOF):
				// It was longer a moment ago; or the connection has ended.
				p.err = fmt.Errorf("%w at %d of %d", io.ErrUnexpectedEOF, off+int64(n), r.end)
			default:
				p.err = err
			}
		}()
		r.queue = append(r.queue, p)
		r.next += n
	}
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.name, err)
	}
	if r.closed {
		return 0, fmt.Errorf("read %s: %w", r.name, fs.ErrClosed)
	}
	if len(b) == 0 {
		return 0, nil
	}
	if len(r.queue) == 0 {
		return 0, io.EOF
	}
	p := r.queue[0]
	select {
	case <-p.done:
	case <-r.ctx.Done():
		return 0, fmt.Errorf("read %s: %w", r.name, r.ctx.Err())
	}
	if p.err != nil {
		return 0, fmt.Errorf("read %s: %w", r.name, p.err)
	}
	n := copy(b, p.data[r.pos:])
	r.pos += n
	if r.pos == len(p.data) {
		r.store.buffers.Put(p.buf)
		r.queue, r.pos = r.queue[1:], 0
		r.ahead()
	}
	return n, nil
}

// Close does not wait: the file is closed when all requests are answered.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	go func() {
		defer r.store.pool.load(r.c, -1)
		for _, p := range r.queue {
			<-p.done
			r.store.buffers.Put(p.buf)
		}
		_ = tell(r.c, func(*sftp.Client) error { return r.file.Close() })
	}()
	return nil
}
