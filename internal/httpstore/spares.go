package httpstore

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// spareConns is how many connections are made along with the first: who opens a
	// repository asks for eight things at a time as soon as the store has answered once, and to
	// connect takes a round trip, with TLS two.
	spareConns = 7
	// spareFor is how long they are kept for somebody who needs them. Servers close
	// those on which nothing is asked, and a request on such a one fails.
	spareFor = 4 * time.Second
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// spares makes the connections of a client, and spareConns more as soon as the first is
// asked for. A Client closes them when a request fails on its way: what broke one connection
// may have broken all. It may be used concurrently.
type spares struct {
	connect dialFunc
	first   sync.Once
	addr    string // of the first
	ctx     context.Context
	stop    context.CancelFunc

	mu    sync.Mutex
	ready []net.Conn
}

func newSpares(connect dialFunc) *spares {
	s := &spares{connect: connect}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// dial is a dialFunc.
func (s *spares) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	first := false
	s.first.Do(func() {
		first, s.addr = true, addr
		for range spareConns {
			go s.add(network, addr)
		}
		time.AfterFunc(spareFor, s.close)
	})
	if !first && addr == s.addr {
		if c := s.take(); c != nil {
			return c, nil
		}
	}
	return s.connect(ctx, network, addr)
}

// add makes a connection. If that fails, whoever needs one learns why.
func (s *spares) add(network, addr string) {
	c, err := s.connect(s.ctx, network, addr)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		c.Close()
		return
	}
	s.ready = append(s.ready, c)
}

func (s *spares) take() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.ready)
	if n == 0 {
		return nil
	}
	c := s.ready[n-1]
	s.ready = s.ready[:n-1]
	return c
}

// close closes those that nobody has taken.
func (s *spares) close() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.ready {
		c.Close()
	}
	s.ready = nil
}
