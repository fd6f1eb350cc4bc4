package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A line passes TCP connections on to a server. What is sent arrives half a round
// trip later, each way, and so does a new connection after one and a half, as TCP's
// own does. The line is as wide as the machine: nothing waits for what was sent
// before it. TCP's slow start, losses and jitter are not there.
type line struct {
	listener net.Listener
	to       string
	half     time.Duration
	accepted atomic.Int64
	bytes    atomic.Int64 // both ways
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

const (
	pieceBytes = 256 << 10
	// linePieces is what may be on the way in one direction of a connection:
	// hundreds of megabytes, more than any window of TCP or SSH.
	linePieces = 16 << 10
)

func newLine(to string, rtt time.Duration) (*line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &line{listener: l, to: to, half: rtt / 2, conns: map[net.Conn]struct{}{}}
	x.work.Go(x.serve)
	return x, nil
}

func (l *line) address() string { return l.listener.Addr().String() }

// close cuts what is left.
func (l *line) close() {
	l.listener.Close()
	l.mu.Lock()
	for c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
}

func (l *line) serve() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.accepted.Add(1)
		l.work.Go(func() { l.connect(client) })
	}
}

func (l *line) connect(client net.Conn) {
	defer client.Close()
	time.Sleep(3 * l.half)
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	l.mu.Lock()
	l.conns[client], l.conns[server] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	open := time.Now() // what the client has sent meanwhile is here already
	both.Go(func() { l.pass(server, client, open) })
	both.Go(func() { l.pass(client, server, time.Time{}) })
	both.Wait()
	l.mu.Lock()
	delete(l.conns, client)
	delete(l.conns, server)
	l.mu.Unlock()
}

type piece struct {
	buf *[]byte
	n   int
	due time.Time
}

var pieces = sync.Pool{New: func() any { b := make([]byte, pieceBytes); return &b }}

// pass passes bytes on, one way. The first that is there counts as sent before.
func (l *line) pass(to, from net.Conn, first time.Time) {
	way := make(chan piece, linePieces)
	go func() {
		defer close(way)
		for {
			buf := pieces.Get().(*[]byte)
			n, err := from.Read(*buf)
			if n > 0 {
				due := time.Now().Add(l.half)
				if !first.IsZero() && time.Since(first) < l.half {
					due = first
				}
				way <- piece{buf, n, due}
			} else {
				pieces.Put(buf)
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		if l.half > 0 {
			time.Sleep(time.Until(p.due))
		}
		n, _ := to.Write((*p.buf)[:p.n]) // an error shows in the other way, too
		l.bytes.Add(int64(n))
		pieces.Put(p.buf)
	}
	to.(*net.TCPConn).CloseWrite()
}
