package sftptest

import (
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Proxy passes TCP connections on to a server, and disturbs them on request. All
// methods may be called at any time.
type Proxy struct {
	Host string
	Port int

	to       string
	listener net.Listener
	delay    atomic.Int64 // nanoseconds, each way
	rate     atomic.Int64 // bytes per second, each way of each connection; 0 is no limit
	frozen   atomic.Bool
	cutAfter atomic.Int64 // bytes until the next cut; negative is never
	accepted atomic.Int64
	passed   atomic.Int64 // bytes to the server
	cuts     atomic.Int64 // by CutAfter

	mu    sync.Mutex
	conns map[net.Conn]bool
	work  sync.WaitGroup
}

// NewProxy starts a proxy to an address, until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, to: to, listener: l, conns: map[net.Conn]bool{}}
	p.cutAfter.Store(-1)
	p.work.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.frozen.Store(false)
		p.Cut()
		p.work.Wait()
	})
	return p
}

// Address is host:port.
func (p *Proxy) Address() string { return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) }

// SetDelay makes bytes arrive later, on each way: the round trip takes twice that.
// They do not wait for each other, as on a long line.
func (p *Proxy) SetDelay(d time.Duration) { p.delay.Store(int64(d)) }

// SetRate limits each way of each connection; 0 is no limit.
func (p *Proxy) SetRate(bytesPerSecond int64) { p.rate.Store(bytesPerSecond) }

// SetFrozen makes the proxy pass nothing on, and keep everything open, as a network
// that drops all packets.
func (p *Proxy) SetFrozen(frozen bool) { p.frozen.Store(frozen) }

// CutAfter cuts all connections once n more bytes were passed on.
func (p *Proxy) CutAfter(n int64) { p.cutAfter.Store(n) }

// Cuts is how often CutAfter has cut the connections.
func (p *Proxy) Cuts() int { return int(p.cuts.Load()) }

// Sent is the number of bytes passed on to the server so far.
func (p *Proxy) Sent() int64 { return p.passed.Load() }

// Accepted is the number of connections so far.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Cut ends all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0) // a reset
		c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.work.Go(func() { p.pass(server, client, &p.passed) })
		p.work.Go(func() { p.pass(client, server, new(atomic.Int64)) })
	}
}

// Bounds of what is on the line.
const (
	chunkBytes  = 32 << 10
	lineChunks  = 4096 // 128 MiB: more than any window of TCP
	frozenSleep = time.Millisecond
)

type chunk struct {
	data []byte
	due  time.Time
}

// pass passes bytes on, one way.
func (p *Proxy) pass(to, from net.Conn, passed *atomic.Int64) {
	line := make(chan chunk, lineChunks)
	p.work.Go(func() {
		defer close(line)
		for {
			buf := make([]byte, chunkBytes)
			n, err := from.Read(buf)
			if n > 0 {
				line <- chunk{buf[:n], time.Now().Add(time.Duration(p.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range line {
		time.Sleep(time.Until(c.due))
		for p.frozen.Load() {
			time.Sleep(frozenSleep)
		}
		if rate := p.rate.Load(); rate > 0 {
			time.Sleep(time.Duration(int64(len(c.data)) * int64(time.Second) / rate))
		}
		n, _ := to.Write(c.data) // an error shows in the other way, too
		passed.Add(int64(n))
		if size := int64(len(c.data)); p.cutAfter.Load() >= 0 {
			if left := p.cutAfter.Add(-size); left < 0 && left+size >= 0 { // of all that pass it, one cuts
				p.Cut()
				p.cuts.Add(1)
			}
		}
	}
	to.(*net.TCPConn).CloseWrite()
	p.mu.Lock()
	delete(p.conns, to)
	p.mu.Unlock()
	to.Close()
}
