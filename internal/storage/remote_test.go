package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func TestRemoteConformance(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Backend {
		return storage.NewRemote(storagetest.Serve(storage.NewMemory()), storage.RemoteOptions{SpoolDir: t.TempDir()})
	})
}

// A server is a Memory whose requests fail as fail says.
type server struct {
	storage.Objects
	mu   sync.Mutex
	ops  []string
	fail func(op string, n int) error // n: how often op was asked for before
	lose bool                         // fail after the request took effect
	body func(io.ReadCloser) io.ReadCloser
}

func newServer(fail func(op string, n int) error) *server {
	return &server{Objects: storagetest.Serve(storage.NewMemory()), fail: fail}
}

func (s *server) request(op string, do func() error) error {
	s.mu.Lock()
	n := 0
	for _, o := range s.ops {
		if o == op {
			n++
		}
	}
	s.ops = append(s.ops, op)
	s.mu.Unlock()
	err := s.fail(op, n)
	if err == nil || s.lose {
		if derr := do(); derr != nil {
			return derr
		}
	}
	return err
}

func (s *server) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	return s.request("put", func() error { return s.Objects.Put(ctx, name, content, size) })
}

func (s *server) Get(ctx context.Context, name string, off, length int64) (rc io.ReadCloser, err error) {
	err = s.request("get", func() error {
		rc, err = s.Objects.Get(ctx, name, off, length)
		return err
	})
	if err == nil && s.body != nil {
		rc = s.body(rc)
	}
	return rc, err
}

func (s *server) Delete(ctx context.Context, name string) error {
	return s.request("delete", func() error { return s.Objects.Delete(ctx, name) })
}

func (s *server) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	n := 0
	err := s.Objects.List(ctx, dir, func(i storage.Info) error {
		n++
		if n == 3 {
			if err := s.request("list", func() error { return nil }); err != nil {
				return err
			}
		}
		return fn(i)
	})
	return err
}

func failing(ops string, times int) func(string, int) error {
	return func(op string, n int) error {
		if strings.Contains(ops, op) && n < times {
			return errors.New("connection reset")
		}
		return nil
	}
}

// TestRemoteRetries: each operation succeeds behind failures, whether the request
// took effect or not.
func TestRemoteRetries(t *testing.T) {
	for _, lose := range []bool{false, true} {
		for _, size := range []int{0, 10, 100_000, 3 << 20} {
			t.Run(fmt.Sprintf("lose=%t/%d", lose, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newServer(failing("put get delete list", 3))
					s.lose = lose
					retries := 0
					b := storage.NewRemote(s, storage.RemoteOptions{OnRetry: func(string, error, time.Duration) { retries++ }})
					defer b.Close()
					data := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
					storagetest.Put(t, b, "packs/one", data)
					if got := read(t, b, "packs/one", 0, -1); !bytes.Equal(got, data) {
						t.Errorf("%d bytes, want %d", len(got), len(data))
					}
					for _, n := range []string{"packs/two", "packs/three", "packs/four"} {
						storagetest.Put(t, b, n, []byte(n))
					}
					var names []string
					if err := b.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
						t.Fatal(err)
					}
					slices.Sort(names)
					if want := []string{"packs/four", "packs/one", "packs/three", "packs/two"}; !slices.Equal(names, want) {
						t.Errorf("listed %v, want each of %v once", names, want)
					}
					if err := b.Delete(t.Context(), "packs/one"); err != nil {
						t.Error(err)
					}
					if err := b.Delete(t.Context(), "packs/one"); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("second delete: %v", err)
					}
					if retries == 0 {
						t.Error("nothing was retried")
					}
				})
			})
		}
	}
}

// TestRemoteOthersObject: a failed attempt is no excuse to take another's object
// for one's own.
func TestRemoteOthersObject(t *testing.T) {
	for _, other := range []string{"theirs", "mine!", "min", "mine and more"} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(nil)
			s.fail = func(op string, n int) error {
				if op == "put" && n == 0 {
					if err := s.Objects.Put(t.Context(), "config", strings.NewReader(other), int64(len(other))); err != nil {
						t.Fatal(err)
					}
					return errors.New("connection reset")
				}
				return nil
			}
			b := storage.NewRemote(s, storage.RemoteOptions{})
			defer b.Close()
			w, err := b.Create(t.Context(), "config")
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, "mine")
			if err := w.Commit(); !errors.Is(err, fs.ErrExist) {
				t.Errorf("commit over %q: %v, want ErrExist", other, err)
			}
		})
	}
}

// TestRemoteGivesUp: a failure that lasts ends the operation after its patience,
// one that cannot pass at once.
func TestRemoteGivesUp(t *testing.T) {
	for _, tt := range []struct {
		err      error
		min, max time.Duration
	}{
		{errors.New("connection refused"), 4 * time.Minute, 6 * time.Minute},
		{fmt.Errorf("log in: %w", &storage.PermanentError{Err: errors.New("wrong password"), Hint: "look"}), 0, 0},
		{fmt.Errorf("no room: %w", storage.ErrFull), 0, 0},
		{fs.ErrPermission, 4 * time.Minute, 6 * time.Minute}, // a server's mood, unless it says ErrReadOnly
		{storage.ErrReadOnly, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(func(string, int) error { return tt.err })
			b := storage.NewRemote(s, storage.RemoteOptions{Patience: 5 * time.Minute})
			defer b.Close()
			for what, do := range map[string]func() error{
				"put": func() error {
					w, err := b.Create(t.Context(), "a")
					if err != nil {
						return err
					}
					return w.Commit()
				},
				"get":    func() error { _, err := b.Get(t.Context(), "a", 0, -1); return err },
				"delete": func() error { return b.Delete(t.Context(), "a") },
			} {
				start := time.Now()
				err := do()
				if took := time.Since(start); !errors.Is(err, tt.err) || took < tt.min || took > tt.max {
					t.Errorf("%s: %v after %s, want %v after %s to %s", what, err, took, tt.err, tt.min, tt.max)
				}
			}
		})
	}
}

// flaky delivers at most n bytes, then an error; or, with stall, nothing more.
type flaky struct {
	io.ReadCloser
	n     int
	stall bool
	once  sync.Once
	done  chan struct{}
}

func (f *flaky) Read(p []byte) (int, error) {
	if f.n == 0 {
		if f.stall {
			<-f.done
		}
		return 0, errors.New("connection lost")
	}
	n, err := f.ReadCloser.Read(p[:min(len(p), f.n)])
	f.n -= n
	return n, err
}

func (f *flaky) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.ReadCloser.Close()
}

// TestRemoteResumes: a Get that breaks off, or stands still, goes on where it was.
func TestRemoteResumes(t *testing.T) {
	data := make([]byte, 10_000)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	for _, stall := range []bool{false, true} {
		for _, tt := range []struct{ off, length int64 }{{0, -1}, {17, 5000}, {-4000, -1}, {-100, 50}, {9000, 5000}} {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(func(string, int) error { return nil })
				s.body = func(rc io.ReadCloser) io.ReadCloser {
					n := 700
					if tt.off < 0 {
						n = 700 * len(s.ops) // progress, although it begins anew
					}
					f := &flaky{ReadCloser: rc, n: n, stall: stall, done: make(chan struct{})}
					return f
				}
				b := storage.NewRemote(&closesOnCancel{s}, storage.RemoteOptions{})
				defer b.Close()
				storagetest.Put(t, b, "a", data)
				start, end := tt.off, tt.off+tt.length
				if tt.off < 0 {
					start = int64(len(data)) + tt.off
					end = start + tt.length
				}
				if tt.length < 0 || end > int64(len(data)) {
					end = int64(len(data))
				}
				if got := read(t, b, "a", tt.off, tt.length); !bytes.Equal(got, data[start:end]) {
					t.Errorf("stall=%t %+v: %d bytes, want %d", stall, tt, len(got), end-start)
				}
			})
		}
	}
}

// closesOnCancel ends a body when its context does, as every transport.
type closesOnCancel struct{ *server }

func (c *closesOnCancel) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	rc, err := c.server.Get(ctx, name, off, length)
	if f, ok := rc.(*flaky); ok {
		context.AfterFunc(ctx, func() { f.once.Do(func() { close(f.done) }) })
	}
	return rc, err
}

// TestRemoteStalledPut: a Put that stands still is given up and tried again; one
// that waits for its rate is not.
func TestRemoteStalledPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &hanging{server: newServer(func(string, int) error { return nil }), hang: 2}
		b := storage.NewRemote(s, storage.RemoteOptions{Stall: time.Minute})
		defer b.Close()
		start := time.Now()
		storagetest.Put(t, b, "a", []byte("content"))
		if took := time.Since(start); took < 2*time.Minute || took > 3*time.Minute {
			t.Errorf("took %s, want two stalls of a minute", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(string, int) error { return nil })
		b := storage.NewRemote(s, storage.RemoteOptions{Stall: time.Second, Limits: storage.Limits{Upload: storage.NewRate(1000)}})
		defer b.Close()
		start := time.Now()
		storagetest.Put(t, b, "a", make([]byte, 60_000))
		if took := time.Since(start); took < 55*time.Second || took > 61*time.Second {
			t.Errorf("60,000 bytes at 1,000 a second took %s", took)
		}
		if len(s.ops) != 1 {
			t.Errorf("requests %v, want one put", s.ops)
		}
	})
}

type hanging struct {
	*server
	hang int
}

func (h *hanging) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if h.hang > 0 {
		h.hang--
		<-ctx.Done()
		return ctx.Err()
	}
	return h.server.Put(ctx, name, content, size)
}

// TestRemoteCancelled: a wait between attempts ends with the context.
func TestRemoteCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(string, int) error { return errors.New("connection refused") })
		b := storage.NewRemote(s, storage.RemoteOptions{})
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := b.Get(ctx, "a", 0, -1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

// TestRemoteSpool: what is on its way lies in the directory meant for it, and
// nowhere after that.
func TestRemoteSpool(t *testing.T) {
	dir := t.TempDir()
	b := storage.NewRemote(storagetest.Serve(storage.NewMemory()), storage.RemoteOptions{SpoolDir: dir})
	defer b.Close()
	data := make([]byte, 5<<20)
	w, err := b.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Abort()
	storagetest.Put(t, b, "b", data)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	missing := storage.NewRemote(storagetest.Serve(storage.NewMemory()), storage.RemoteOptions{SpoolDir: dir + "/missing"})
	defer missing.Close()
	if w, err = missing.Create(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	_, err = w.Write(data)
	if p, ok := errors.AsType[*storage.PermanentError](err); !ok || p.Hint == "" || !strings.Contains(err.Error(), dir) {
		t.Errorf("write without a spool directory: %v", err)
	}
	if err := w.Commit(); err == nil {
		t.Error("committed what could not be spooled")
	}
}

func read(t *testing.T, b storage.Backend, name string, off, length int64) []byte {
	t.Helper()
	rc, err := b.Get(t.Context(), name, off, length)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestUnpaced: a checksum computed before sending does not halve the rate.
func TestUnpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		s := newServer(func(string, int) error { return nil })
		b := storage.NewRemote(twice{s}, storage.RemoteOptions{Limits: storage.Limits{Upload: storage.NewRate(size / 10)}})
		defer b.Close()
		start := time.Now()
		storagetest.Put(t, b, "packs/one", make([]byte, size))
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("sending took %s, not 10s: reading for the checksum counted", took)
		}
	})
}

// twice reads all content before it sends it.
type twice struct{ storage.Objects }

func (o twice) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if _, err := io.Copy(io.Discard, io.NewSectionReader(storage.Unpaced(content), 0, size)); err != nil {
		return err
	}
	return o.Objects.Put(ctx, name, content, size)
}

func TestPermanentErrorKind(t *testing.T) {
	for _, kind := range []error{storage.ErrDenied, storage.ErrClock, nil} {
		err := fmt.Errorf("open: %w", &storage.PermanentError{Err: errors.New("no"), Kind: kind})
		for _, is := range []error{storage.ErrDenied, storage.ErrClock} {
			if errors.Is(err, is) != (is == kind) {
				t.Errorf("of the kind %v: errors.Is %v is %t", kind, is, is != kind)
			}
		}
	}
}
