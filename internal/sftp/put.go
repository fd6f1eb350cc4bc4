package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

const (
	objectPerm = 0o600
	dirPerm    = 0o700

	// writeWindow is how many requests of the Puts on one session wait for answers at
	// a time; each Put has its share of them. 12 of
	// largePacket exceed the 2 MiB that an SSH channel of OpenSSH lets be in flight.
	writeWindow = 12

	// staleAge is the age at which a temporary file is taken for abandoned, as in
	// the local store. Both its times are the server's.
	staleAge = 24 * time.Hour

	// maxLeft bounds how many temporary files are remembered.
	maxLeft = 1000
)

// Put implements storage.Objects. In round trips, five and the transfer:
//
//  1. create a temporary file beside the object's place, under a random name,
//     refusing one that exists; at the same time look whether the name is taken, and
//     open the directory
//  2. write it, in many requests at a time; mode 0600
//  3. flush it (fsync@openssh.com), and compare its size
//  4. publish it, without replacing (publish)
//  5. remove the temporary name, close the file, flush the directory; nobody waits
//     for that to be closed
//
// A Put that is cut off leaves at most the temporary file, which no List shows. The
// next Put of this process removes it, or one into the directory a day later.
func (s *Store) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if err := s.check(ctx, storage.CheckName(name)); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if size < 0 {
		return fmt.Errorf("put %s: size %d: %w", name, size, fs.ErrInvalid)
	}
	lent := &loan{r: content}
	defer lent.end()
	_, err := do(ctx, s, func(c *session) (struct{}, error) {
		return struct{}{}, s.put(ctx, c, name, lent, size)
	}, nil)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// A loan lends content until a call returns. What goes on behind it does not read
// on: the caller may have closed the content.
type loan struct {
	mu sync.RWMutex
	r  io.ReaderAt
}

func (l *loan) ReadAt(p []byte, off int64) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.r == nil {
		return 0, context.Canceled
	}
	return l.r.ReadAt(p, off)
}

func (l *loan) end() {
	l.mu.Lock()
	l.r = nil
	l.mu.Unlock()
}

// A temp is a temporary file of a Put.
type temp struct {
	path   string
	file   *sftp.File
	closed bool
	gone   bool // renamed, or never made
}

func (s *Store) put(ctx context.Context, c *session, name string, content io.ReaderAt, size int64) error {
	object := s.path(name)
	dir := path.Dir(object)
	t := &temp{path: path.Join(dir, tempName()), gone: true}
	// Behind a call that has ended, too: nobody waits then.
	defer s.discard(c, t)

	var g errgroup.Group
	var open *sftp.File // the directory; nil if it was not there, or does not open
	g.Go(func() error { s.tidy(c); return nil })
	g.Go(func() error { return s.createTemp(c, t, dir, size) })
	g.Go(func() error { return s.wantFree(c, object) })
	g.Go(func() error { open = s.openDir(c, dir); return nil })
	err := g.Wait()
	defer func() { s.closeLater(c, open) }()
	if err != nil {
		return err
	}
	if err := s.write(ctx, c, t, content, size); err != nil {
		return err
	}
	info, err := s.flush(c, t)
	if err != nil {
		return s.writeError(c, t.path, size, err)
	}
	if info.Size() != size {
		return fmt.Errorf("%s has %d bytes on %s, %d were written", t.path, info.Size(), c.peer, size)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.publish(c, t, object); err != nil {
		return s.writeError(c, object, 0, err)
	}

	g = errgroup.Group{}
	g.Go(func() error { s.discard(c, t); return nil })
	g.Go(func() error { return s.syncDir(c, dir, open) })
	if err := g.Wait(); err != nil {
		return err
	}
	s.sweep(c, dir, info.ModTime())
	return nil
}

// tempName returns a name that durable.IsTemp recognises, so that a local store in
// the same directory tidies up as well.
func tempName() string { return ".durable-" + strings.ToLower(rand.Text()) + ".tmp" }

// createTemp makes the temporary file, and the directory if there is none: to try
// first costs no round trip where it exists, which is nearly always.
func (s *Store) createTemp(c *session, t *temp, dir string, size int64) error {
	create := func() (*sftp.File, error) {
		return request(c, func(client *sftp.Client) (*sftp.File, error) {
			return client.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		})
	}
	f, err := create()
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDirs(c, dir, s.root); err != nil {
			return err
		}
		f, err = create()
	}
	if err != nil {
		if !isStatus(err) { // nobody knows whether it is there
			s.leave(t.path)
		}
		return s.writeError(c, t.path, size, err)
	}
	t.file, t.gone = f, false
	return nil
}

// wantFree returns fs.ErrExist if something has the name already.
func (s *Store) wantFree(c *session, p string) error {
	_, err := s.lstat(c, p)
	switch {
	case err == nil:
		return fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case isStatus(err):
		return fmt.Errorf("look at %s on %s: %w", p, c.peer, err)
	}
	return err
}

// makeDirs makes dir and those between it and top, which exists: a top that has
// gone (an unmounted disk) is not made again.
func (s *Store) makeDirs(c *session, dir, top string) error {
	if dir == top {
		return fmt.Errorf("the store's directory %s is missing on %s: %w", top, c.peer, fs.ErrNotExist)
	}
	err := s.makeDir(c, dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.makeDirs(c, path.Dir(dir), top); err != nil {
		return err
	}
	return s.makeDir(c, dir)
}

func (s *Store) makeDir(c *session, dir string) error {
	err := tell(c, func(client *sftp.Client) error { return client.Mkdir(dir) })
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || !isStatus(err) {
			return err
		}
		// A directory that exists is a mere failure.
		info, statErr := request(c, func(client *sftp.Client) (fs.FileInfo, error) { return client.Stat(dir) })
		if statErr == nil && info.IsDir() {
			return nil
		}
		return s.writeError(c, dir, 0, err)
	}
	var g errgroup.Group
	g.Go(func() error {
		return setMode(tell(c, func(client *sftp.Client) error { return client.Chmod(dir, dirPerm) }))
	})
	g.Go(func() error { return s.syncDir(c, path.Dir(dir), nil) })
	return g.Wait()
}

// makeRoot makes the directory of the store, and those that lead to it.
func (s *Store) makeRoot(c *session) error {
	info, err := request(c, func(client *sftp.Client) (fs.FileInfo, error) { return client.Stat(s.root) })
	if err == nil && info.IsDir() || !errors.Is(err, fs.ErrNotExist) {
		return nil // or checkRoot says what is wrong
	}
	top := "/"
	if !path.IsAbs(s.root) {
		top = "."
	}
	return s.makeDirs(c, s.root, top)
}

// write sends the content, and sets the mode of the file meanwhile: its directory
// admits nobody else.
func (s *Store) write(ctx context.Context, c *session, t *temp, content io.ReaderAt, size int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return setMode(tell(c, func(*sftp.Client) error { return t.file.Chmod(objectPerm) })) })
	packet := s.packet(c)
	var next atomic.Int64
	for range min(int64(s.pool.share(c, writeWindow)), (size+packet-1)/packet) {
		g.Go(func() error {
			buf := s.buffers.Get().(*[]byte)
			defer s.buffers.Put(buf)
			for {
				off := next.Add(packet) - packet
				if off >= size || ctx.Err() != nil {
					return ctx.Err()
				}
				p := (*buf)[:min(packet, size-off)]
				if err := readContent(content, p, off); err != nil {
					return err
				}
				if err := s.writePacket(c, t.file, p, off); err != nil {
					return s.writeError(c, t.path, size, err)
				}
			}
		})
	}
	return g.Wait()
}

func readContent(content io.ReaderAt, p []byte, off int64) error {
	if n, err := content.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read content at %d: %w", off, err)
	}
	return nil
}

// setMode passes over the refusal of a server or file system to set modes (FAT): it
// has none to keep others out by.
func setMode(err error) error {
	if err != nil && isStatus(err) {
		return nil
	}
	return err
}

func (s *Store) writePacket(c *session, f *sftp.File, p []byte, off int64) error {
	err := tell(c, func(*sftp.Client) error {
		_, err := f.WriteAt(p, off)
		return err
	})
	if len(p) > smallPacket {
		switch {
		case err == nil:
			s.largeProven.Store(true)
		case !isStatus(err) && !s.largeProven.Load():
			s.largeRefused.Store(true)
		}
	}
	return err
}

// flush makes the bytes of a temporary file durable, as far as the server can, and
// returns what is known of it then.
func (s *Store) flush(c *session, t *temp) (info fs.FileInfo, err error) {
	var g errgroup.Group
	g.Go(func() error {
		if c.has(extFsync) {
			return tell(c, func(*sftp.Client) error { return t.file.Sync() })
		}
		// Some file systems write at the end, and say only then that they cannot.
		t.closed = true
		return tell(c, func(*sftp.Client) error { return t.file.Close() })
	})
	g.Go(func() (err error) {
		info, err = request(c, func(client *sftp.Client) (fs.FileInfo, error) { return client.Lstat(t.path) })
		return err
	})
	return info, g.Wait()
}

// publish gives the temporary file its name, unless something has it.
//
// A hard link refuses a name that exists on every server. Where there are none (no
// extension; FAT, some network file systems), SSH_FXP_RENAME has to refuse, too, by
// the protocol, and OpenSSH does; the look before it is for servers that do not.
// posix-rename@openssh.com replaces, so it is of no use here.
//
// BUG(sftp): On a server without hard links whose rename replaces, two writers of
// one name at the same time can both succeed; the later one's object stays.
func (s *Store) publish(c *session, t *temp, object string) error {
	if c.has(extHardlink) {
		err := tell(c, func(client *sftp.Client) error { return client.Link(t.path, object) })
		if err == nil || !isStatus(err) {
			return err
		}
	}
	if err := s.wantFree(c, object); err != nil {
		return err
	}
	err := tell(c, func(client *sftp.Client) error { return client.Rename(t.path, object) })
	if err == nil {
		t.gone = true
		return nil
	}
	if isStatus(err) && errors.Is(s.wantFree(c, object), fs.ErrExist) {
		return fs.ErrExist
	}
	return err
}

// discard closes a temporary file and removes its name. What fails is left to tidy,
// or to sweep.
func (s *Store) discard(c *session, t *temp) {
	var g errgroup.Group
	if t.file != nil && !t.closed {
		t.closed = true
		g.Go(func() error { return tell(c, func(*sftp.Client) error { return t.file.Close() }) })
	}
	if !t.gone {
		t.gone = true
		g.Go(func() error { s.remove(c, t.path); return nil })
	}
	_ = g.Wait()
}

// remove removes a temporary file, now or when there is a connection again.
func (s *Store) remove(c *session, p string) {
	err := tell(c, func(client *sftp.Client) error { return client.Remove(p) })
	if err != nil && !isStatus(err) {
		s.leave(p)
	}
}

// leave remembers a temporary file that was on the server when the connection was
// lost.
func (s *Store) leave(p string) {
	s.leftMu.Lock()
	defer s.leftMu.Unlock()
	if len(s.left) < maxLeft {
		s.left = append(s.left, p)
	}
}

// tidy removes what was left.
func (s *Store) tidy(c *session) {
	s.leftMu.Lock()
	left := s.left
	s.left = nil
	s.leftMu.Unlock()
	for _, p := range left {
		s.remove(c, p)
	}
}

// What dirSync holds.
const (
	dirSyncUnknown = iota
	dirSyncWorks
	dirSyncLacking
)

// syncDir makes the names in a directory durable. SFTP has no request for that; but
// OpenSSH opens a directory like a file, and flushes what it has opened. Servers
// and file systems that refuse are not asked again; once it has worked, a failure
// is one. open is the directory, if the caller has opened it.
func (s *Store) syncDir(c *session, dir string, open *sftp.File) error {
	if !s.syncsDirs(c) {
		return nil
	}
	err := s.syncOpen(c, dir, open)
	switch {
	case err == nil:
		s.dirSync.Store(dirSyncWorks)
	case isStatus(err) && s.dirSync.CompareAndSwap(dirSyncUnknown, dirSyncLacking):
		return nil
	case isStatus(err) && s.dirSync.Load() == dirSyncLacking:
		return nil
	case isStatus(err):
		return fmt.Errorf("flush directory %s on %s: %w", dir, c.peer, err)
	}
	return err
}

func (s *Store) syncsDirs(c *session) bool {
	return s.dirSync.Load() != dirSyncLacking && c.has(extFsync)
}

func (s *Store) syncOpen(c *session, dir string, f *sftp.File) (err error) {
	if f == nil {
		f, err = request(c, func(client *sftp.Client) (*sftp.File, error) { return client.Open(dir) })
		if err != nil {
			return err
		}
		defer s.closeLater(c, f)
	}
	return tell(c, func(*sftp.Client) error { return f.Sync() })
}

// openDir opens a directory that is going to be flushed: what is wrong with it comes
// out then.
func (s *Store) openDir(c *session, dir string) *sftp.File {
	if !s.syncsDirs(c) {
		return nil
	}
	f, err := request(c, func(client *sftp.Client) (*sftp.File, error) { return client.Open(dir) })
	if err != nil {
		return nil
	}
	return f
}

// closeLater closes a directory behind the call, which holds the session. That is no
// reason to make another connection.
func (s *Store) closeLater(c *session, f *sftp.File) {
	if f == nil {
		return
	}
	s.pool.work.Go(func() { _ = tell(c, func(*sftp.Client) error { return f.Close() }) })
}

// sweep removes from a directory, once, what Puts that were cut off have left in
// it. It goes on behind the call, in one directory at a time; what is in its way
// is left for another time.
func (s *Store) sweep(c *session, dir string, now time.Time) {
	if _, done := s.swept.Load(dir); done {
		return
	}
	select {
	case s.sweeping <- struct{}{}:
	default:
		return
	}
	release := s.pool.retain(c)
	go func() {
		defer release()
		defer func() { <-s.sweeping }()
		s.swept.Store(dir, struct{}{})
		entries, err := request(c, func(client *sftp.Client) ([]fs.FileInfo, error) { return client.ReadDir(dir) })
		if err != nil {
			return
		}
		for _, e := range entries {
			if durable.IsTemp(e.Name()) && e.Mode().IsRegular() && now.Sub(e.ModTime()) > staleAge {
				_ = tell(c, func(client *sftp.Client) error { return client.Remove(path.Join(dir, e.Name())) })
			}
		}
	}()
}
