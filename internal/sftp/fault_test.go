package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// patience is how long a call of a test may take that must end soon; slow machines
// are the reason that it is far longer than the limits that are tested.
const patience = 20 * time.Second

// bounded makes a call, and fails the test if it does not end.
func bounded(t *testing.T, name string, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s hangs", name)
		return nil
	}
}

var serial atomic.Int64

// calls are all that a store can do, on an object "a" that exists.
func calls(s *Store) map[string]func() error {
	return map[string]func() error{
		"put": func() error { return put(s, fmt.Sprint("new/", serial.Add(1)), random(5<<20)) },
		"get": func() error { _, err := get(s, "a", 0, -1); return err },
		"list": func() error {
			return s.List(context.Background(), "", func(storage.Info) error { return nil })
		},
		"delete": func() error {
			err := s.Delete(context.Background(), "missing")
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		},
		"free": func() error { _, err := s.Free(context.Background()); return err },
	}
}

// The network swallows everything, under each kind of call.
func TestFrozen(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	// Far longer than a busy machine leaves a connection silent that is well.
	options.KeepAlive = 2 * time.Second
	options.ConnectTimeout = 5 * time.Second
	options.Connections = 2
	s := mustCreate(t, target, options)
	if err := put(s, "a", random(8<<20)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := func(want string) {
		t.Helper()
		bounded(t, "all calls", func() error {
			var wg sync.WaitGroup
			for name, call := range calls(s) {
				wg.Go(func() {
					start := time.Now()
					err := call()
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%s: %v, want %s", name, err, want)
					}
					t.Logf("%s: %v after %v", name, err, time.Since(start).Round(time.Millisecond))
				})
			}
			wg.Wait()
			return nil
		})
	}
	all("<nil>")
	proxy.SetFrozen(true)
	all("no sign of life for 6s")
	all("no answer within 5s")
	if err := bounded(t, "read", func() error { _, err := io.Copy(io.Discard, r); return err }); err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("the reader has read on: %v", err)
	}
	proxy.SetFrozen(false)
	// What was swallowed arrives; the connections are given up all the same.
	wantRecovery(t, s)
}

// A context ends calls long before the connection is given up.
func TestCancelled(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	options.KeepAlive = time.Hour
	s := mustCreate(t, target, options)
	if err := put(s, "a", random(1<<20)); err != nil {
		t.Fatal(err)
	}
	proxy.SetFrozen(true)
	content := &lender{data: random(8 << 20)}
	for name, call := range map[string]func(context.Context) error{
		"put":    func(ctx context.Context) error { return s.Put(ctx, "b", content, 8<<20) },
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "a", 0, -1); return err },
		"list":   func(ctx context.Context) error { return s.List(ctx, "", func(storage.Info) error { return nil }) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "a") },
		"free":   func(ctx context.Context) error { _, err := s.Free(ctx); return err },
		"open":   func(ctx context.Context) error { _, err := Open(ctx, target, options); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := bounded(t, name, func() error { return call(ctx) }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	content.end()
	proxy.SetFrozen(false)
	bounded(t, "recovery", func() error { wantRecovery(t, s); return nil })
	if content.late.Load() {
		t.Error("content was read after Put had returned")
	}
	if _, err := get(s, "b", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the put that was cancelled: %v", err)
	}
}

// A lender is content that notices when it is read too late.
type lender struct {
	data []byte
	over atomic.Bool
	late atomic.Bool
}

func (l *lender) end() { l.over.Store(true) }

func (l *lender) ReadAt(p []byte, off int64) (int, error) {
	if l.over.Load() {
		l.late.Store(true)
	}
	return bytes.NewReader(l.data).ReadAt(p, off)
}

// The connection is cut after ever more bytes, in the middle of everything. A put
// that reports success has succeeded, one that does not has left a whole object or
// none, and the next calls work.
func TestCut(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	s := mustCreate(t, target, options)
	if err := put(s, "a", random(3<<20)); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	data := random(size)
	written := map[string]bool{}
	failures := 0
	for n := int64(50); n < 4<<20; n = n*3 + 100 {
		proxy.CutAfter(n)
		name := fmt.Sprint("packs/", n%7, "/", n)
		err := bounded(t, "put", func() error { return put(s, name, data) })
		if written[name] = err == nil; err != nil {
			failures++
		}
		for call, f := range calls(s) {
			if err := bounded(t, call, f); err != nil {
				failures++
			}
		}
		proxy.CutAfter(-1)
		wantRecovery(t, s)
	}
	if failures < 8 {
		t.Errorf("only %d calls have failed", failures)
	}
	for name, success := range written {
		got, err := get(s, name, 0, -1)
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Errorf("%s has %d wrong bytes", name, len(got))
		case errors.Is(err, fs.ErrNotExist) && !success:
		case err != nil:
			t.Errorf("%s, which was written: %t: %v", name, success, err)
		}
	}
	// Nothing but objects and what sweep knows.
	filepath.WalkDir(server.Dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && storage.CheckName(e.Name()) != nil && !durable.IsTemp(e.Name()) {
			t.Errorf("left behind: %s", p)
		}
		return err
	})
}

func TestServerAway(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	s := mustCreate(t, target, options)
	server.Stop()
	proxy.Cut()
	for range 3 {
		if err := bounded(t, "free", func() error { _, err := s.Free(t.Context()); return err }); err == nil {
			t.Error("succeeded without a server")
		} else if _, ok := errors.AsType[*storage.PermanentError](err); ok {
			t.Errorf("a server that is away may come back: %v", err)
		}
	}
	server.Restart(t)
	wantRecovery(t, s)
}

// Something accepts connections, and says nothing.
func TestConnectTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	target := Target{User: "u", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Path: "/"}
	err = bounded(t, "open", func() error {
		_, err := Open(t.Context(), target, Options{ConnectTimeout: 300 * time.Millisecond})
		return err
	})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("no answer within 300ms")) {
		t.Errorf("error is %v", err)
	}
}

// Close ends what is in progress.
func TestCloseMeanwhile(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	s := mustCreate(t, target, options)
	if err := put(s, "a", random(8<<20)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() // after the store
	proxy.SetFrozen(true)
	var wg sync.WaitGroup
	for name, call := range calls(s) {
		wg.Go(func() {
			if err := call(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if err := bounded(t, "close", s.Close); err != nil {
		t.Error(err)
	}
	if err := bounded(t, "calls", func() error { wg.Wait(); return nil }); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reader: %v", err)
	}
}

// A slow line that is full of data is not a dead one: keep-alives wait behind the
// data for far longer than they may.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	options.KeepAlive = time.Second
	options.AnswerTimeout = 5 * time.Second
	options.Connections = 1
	s := mustCreate(t, target, options)
	proxy.SetRate(1 << 19)
	data := random(4 << 20)
	if err := put(s, "a", data); err != nil {
		t.Fatal(err)
	}
	if got, err := get(s, "a", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Requests overlap: a range of 64 packets would take 64 round trips one by one, and
// reading 100 directories 400.
func TestLatency(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	s := mustCreate(t, target, options)
	data := random(16 << 20)
	for i := range 100 {
		if err := os.MkdirAll(filepath.Join(server.Dir, "packs", fmt.Sprint(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const roundTrip = 100 * time.Millisecond
	proxy.SetDelay(roundTrip / 2)
	for name, tt := range map[string]struct {
		most int // round trips: a fraction of the 512 and 400 that one request at a time takes, as machines are busy
		call func() error
	}{
		"put":  {200, func() error { return put(s, "a", data) }},
		"list": {200, func() error { return s.List(t.Context(), "", func(storage.Info) error { return nil }) }},
	} {
		start := time.Now()
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		took := time.Since(start)
		t.Logf("%s: %.1f round trips", name, took.Seconds()/roundTrip.Seconds())
		if took > time.Duration(tt.most)*roundTrip {
			t.Errorf("%s took %v, more than %d round trips", name, took, tt.most)
		}
	}
	start := time.Now()
	if got, err := get(s, "a", 12345, 1<<20); err != nil || !bytes.Equal(got, data[12345:12345+1<<20]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	t.Logf("1 MiB: %.1f round trips", time.Since(start).Seconds()/roundTrip.Seconds())
}

// A store that is not there is made over the connection that has found that out; one
// that has died meanwhile is made anew.
func TestSpare(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, filepath.Join(server.Dir, "new"))
	options.Spare = new(Spare)
	for i, cut := range []bool{false, true} {
		target.Path += fmt.Sprint(i)
		before := proxy.Accepted()
		if _, err := Open(t.Context(), target, options); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		want := before + 1
		if cut {
			c := options.Spare.s
			proxy.Cut()
			<-c.lost
			want++
		}
		s := mustCreate(t, target, options)
		if err := put(s, "a", []byte("content")); err != nil {
			t.Error(err)
		}
		if got := proxy.Accepted(); got != want {
			t.Errorf("cut: %t: %d connections, want %d", cut, got-before, want-before)
		}
		if options.Spare.take("") != nil || options.Spare.s != nil {
			t.Error("a connection is left")
		}
	}
}

// Further connections come with calls that overlap, and are not missed if the
// server refuses them. Then those that there are get a second session.
func TestConnections(t *testing.T) {
	for _, limited := range []bool{false, true} {
		server := sftptest.Start(t, sftptest.Config{})
		proxy := sftptest.NewProxy(t, server.Address())
		target, options := through(t, server, proxy, server.Dir)
		var dials atomic.Int64
		options.Connections = 3
		options.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) > 1 && limited {
				return nil, errors.New("refused")
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		s := mustCreate(t, target, options)
		proxy.SetDelay(10 * time.Millisecond)
		use := func() {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if _, err := get(s, fmt.Sprint("none", i), 0, 1); !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		enough := func() bool { return proxy.Accepted() == 3 || limited && dials.Load() >= 2 }
		for deadline := time.Now().Add(patience); !enough() && time.Now().Before(deadline); {
			use()
		}
		for range 5 {
			use()
		}
		paired := func() bool {
			s.pool.mu.Lock()
			defer s.pool.mu.Unlock()
			return len(s.pool.sessions) > proxy.Accepted()
		}
		for deadline := time.Now().Add(patience); !paired() && time.Now().Before(deadline); {
			use()
		}
		if !paired() {
			t.Errorf("limited: %t: no second session on a connection", limited)
		}
		s.Close()
		want := 3
		if limited {
			want = 1
		}
		if proxy.Accepted() != want {
			t.Errorf("limited: %t: %d connections, want %d", limited, proxy.Accepted(), want)
		}
		if limited && dials.Load() > 3 { // those that were under way when the first failed
			t.Errorf("%d attempts, want no more so soon", dials.Load())
		}
	}
}

// A connection that is in use gets a second session, unless the server allows but one, and
// does not end with it. Both end with the connection, and a new one takes their place.
func TestPairs(t *testing.T) {
	for _, extra := range []string{"", "MaxSessions 1"} {
		server := sftptest.Start(t, sftptest.Config{Extra: extra})
		proxy := sftptest.NewProxy(t, server.Address())
		target, options := through(t, server, proxy, server.Dir)
		options.Connections = 1
		s := mustCreate(t, target, options)
		data := random(3 << 20)
		if err := put(s, "object", data); err != nil {
			t.Fatal(err)
		}
		sessions := func() (n int, tried bool) {
			s.pool.mu.Lock()
			defer s.pool.mu.Unlock()
			return len(s.pool.sessions), !s.pool.alone.IsZero()
		}
		read := func() {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if got, err := get(s, "object", 0, -1); err != nil || !bytes.Equal(got, data) {
						t.Errorf("%q: %d bytes, %v", extra, len(got), err)
					}
				})
			}
			wg.Wait()
		}
		busy := func(want int) {
			t.Helper()
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
				read()
				if n, tried := sessions(); n == want && (n == 2 || tried) {
					return
				}
			}
			n, tried := sessions()
			t.Errorf("%q: %d sessions, want %d; refused: %t", extra, n, want, tried)
		}
		want := 2
		if extra != "" {
			want = 1
		}
		busy(want)
		if proxy.Accepted() != 1 {
			t.Errorf("%q: %d connections", extra, proxy.Accepted())
		}
		if want == 2 { // the second one is closed: the first goes on, and is left alone
			s.pool.mu.Lock()
			first, second := s.pool.sessions[0], s.pool.sessions[1]
			s.pool.mu.Unlock()
			second.client.Close()
			<-second.lost
			read()
			if n, _ := sessions(); n != 1 || first.failure() != nil || proxy.Accepted() != 1 {
				t.Errorf("%d sessions, %d connections, %v", n, proxy.Accepted(), first.failure())
			}
		}
		proxy.Cut()
		wantRecovery(t, s)
		busy(want)
		if n := proxy.Accepted(); n != 2 {
			t.Errorf("%q: %d connections after a cut", extra, n)
		}
		s.Close()
	}
}

// What a Put whose connection was lost has left goes with the next one.
func TestTidy(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	options.Connections = 1
	s := mustCreate(t, target, options)
	for i := range 3 {
		proxy.CutAfter(1 << 20)
		if err := put(s, fmt.Sprint("cut", i), random(8<<20)); err == nil {
			t.Fatal("the connection was not cut")
		}
	}
	if err := put(s, "whole", random(1000)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(server.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			t.Errorf("%s is left", e.Name())
		}
	}
}
