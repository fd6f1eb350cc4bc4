package httpstore

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// until waits for something that happens soon.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestSpares: the connections for the requests after the first are there, with TLS too; and
// what is not used is closed.
func TestSpares(t *testing.T) {
	for _, secure := range []bool{false, true} {
		var open, asked atomic.Int64
		all := make(chan struct{})
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/together" {
				if asked.Add(1) == spareConns {
					close(all)
				}
				<-all
			}
		})
		server := httptest.NewUnstartedServer(handler)
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			}
		}
		o := Options{}
		if secure {
			server.StartTLS()
			o.CAFile = filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(o.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			server.Start()
		}
		defer server.Close()
		var dials atomic.Int64
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(path string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		ask("/")
		pool := c.plain
		if secure {
			pool = c.secure
		}
		until(t, "spare connections", func() bool {
			pool.mu.Lock()
			defer pool.mu.Unlock()
			return len(pool.ready) == spareConns
		})
		var requests sync.WaitGroup
		for range spareConns {
			requests.Go(func() { ask("/together") })
		}
		requests.Wait()
		if n := dials.Load(); n != 1+spareConns {
			t.Errorf("TLS %t: %d connections were made", secure, n)
		}
		c.Close()
		until(t, "the end of all connections", func() bool { return open.Load() == 0 })
	}
}

// TestSpareLate: a spare connection that comes after the end is closed, and one that does not
// come is nobody's error.
func TestSpareLate(t *testing.T) {
	begun, proceed := make(chan struct{}, spareConns), make(chan struct{})
	var open atomic.Int64
	var calls atomic.Int64
	s := newSpares(func(ctx context.Context, _, _ string) (net.Conn, error) {
		n := calls.Add(1)
		begun <- struct{}{}
		<-proceed
		if n%2 == 0 {
			return nil, errors.New("refused")
		}
		open.Add(1)
		return &counted{open: &open}, nil
	})
	first := make(chan net.Conn)
	go func() {
		c, _ := s.dial(t.Context(), "tcp", "host:1")
		first <- c
	}()
	for range spareConns + 1 {
		<-begun
	}
	s.close()
	close(proceed)
	if c := <-first; c != nil {
		c.Close()
	}
	until(t, "the end of all connections", func() bool { return calls.Load() == spareConns+1 && open.Load() == 0 })
	if s.take() != nil {
		t.Error("there is one after the end")
	}
}

type counted struct {
	net.Conn
	open *atomic.Int64
}

func (c *counted) Close() error {
	c.open.Add(-1)
	return nil
}
