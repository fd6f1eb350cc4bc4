package sftp

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// extraPause is how long the pool makes do with the connections, or sessions on them, it has
// after another one was refused: servers limit them, and may block a host that insists.
const extraPause = time.Minute

// A pool holds the sessions of a store. A call gets the one with the fewest calls
// on it. While all are in use, each call has a further one made in the background:
// nobody waits for it, and it may fail. Each has a connection of its own, up to the
// limit of those or what the server lets in; then each connection gets a second. Only
// if there is none does a call wait for one, and gets the error if that fails; the
// next call tries anew. The first one is made alone: only once it has logged in is it
// known how to.
type pool struct {
	limit   int // of connections
	connect func(context.Context) (*session, error)
	pair    func(*session) (*session, error)
	ctx     context.Context // ends when the pool is closed
	cancel  context.CancelFunc
	work    sync.WaitGroup // calls, and what goes on behind them

	mu       sync.Mutex
	closed   bool
	sessions []*session
	dialing  *dialing  // the one that calls wait for; nil if they need not
	further  int       // connections that are being made beside those there are
	pause    time.Time // no further connections before
	alone    time.Time // no second sessions before
}

// A dialing is a connection that is being made, for whoever waits. It belongs to
// no call: one that is cancelled must not take it from the others.
type dialing struct {
	done chan struct{}
	err  error // valid once done is closed
}

func newPool(limit int, connect func(context.Context) (*session, error), pair func(*session) (*session, error)) *pool {
	p := &pool{limit: limit, connect: connect, pair: pair}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// acquire returns a live session, to be released once.
func (p *pool) acquire(ctx context.Context) (s *session, release func(), err error) {
	for {
		s, d, err := p.pick()
		if err != nil {
			return nil, nil, err
		}
		if s != nil {
			return s, sync.OnceFunc(func() { p.release(s) }), nil
		}
		select {
		case <-d.done:
			if d.err != nil {
				return nil, nil, d.err
			}
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// pick returns a session, or if there is none, the attempt to make one.
func (p *pool) pick() (*session, *dialing, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, fs.ErrClosed
	}
	p.sessions = slices.DeleteFunc(p.sessions, func(s *session) bool { return s.failure() != nil })
	var best *session
	for _, s := range p.sessions {
		if best == nil || s.active < best.active {
			best = s
		}
	}
	if best == nil {
		if p.dialing == nil {
			p.dialing = &dialing{done: make(chan struct{})}
			p.dial(p.dialing)
		}
		return nil, p.dialing, nil
	}
	if best.active > 0 && p.dialing == nil {
		p.grow(time.Now())
	}
	best.active++
	p.work.Add(1)
	return best, nil, nil
}

// grow has a further session made, if there may be one. The lock is held.
func (p *pool) grow(now time.Time) {
	connections := p.further
	var single *session
	for _, s := range p.sessions {
		if !s.second {
			connections++
		}
		if !s.paired && single == nil {
			single = s
		}
	}
	switch {
	case connections < p.limit && now.After(p.pause):
		p.further++
		p.dial(nil)
	case single != nil && now.After(p.alone):
		single.paired = true
		p.work.Go(func() { p.addPair(single) })
	}
}

func (p *pool) addPair(single *session) {
	s, err := p.pair(single)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		single.paired = false
		p.alone = time.Now().Add(extraPause)
	case p.closed:
		s.fail(fs.ErrClosed)
	default:
		p.sessions = append(p.sessions, s)
	}
}

func (p *pool) release(s *session) {
	p.mu.Lock()
	s.active--
	p.mu.Unlock()
	p.work.Done()
}

// retain is acquire for a session that the caller holds already.
func (p *pool) retain(s *session) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.active++
	p.work.Add(1)
	return sync.OnceFunc(func() { p.release(s) })
}

// load adds n to the calls on a session. Unlike retain it is nothing that close
// waits for: a reader may be closed after its store.
func (p *pool) load(s *session, n int) {
	p.mu.Lock()
	s.active += n
	p.mu.Unlock()
}

// share is a session's part, for each call and reader on it, of n requests that may
// wait for answers: what one alone may have is enough to fill the line.
func (p *pool) share(s *session, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(n/max(s.active, 1), leastShare)
}

// leastShare lets a reader consume one answer while the next is on its way.
const leastShare = 2

// dial makes a connection in the background, for those who wait for d or, if that is
// nil, a further one. The lock is held.
func (p *pool) dial(d *dialing) {
	p.work.Go(func() {
		s, err := p.connect(p.ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.closed:
			if err == nil {
				s.fail(fs.ErrClosed)
			}
			err = fs.ErrClosed
		case err != nil:
			p.pause = time.Now().Add(extraPause)
		default:
			p.sessions = append(p.sessions, s)
		}
		if d == nil {
			p.further--
			return
		}
		p.dialing = nil
		d.err = err
		close(d.done)
	})
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// close ends all sessions, and returns when nothing goes on any more.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	sessions := p.sessions
	p.sessions = nil
	p.mu.Unlock()
	p.cancel()
	for _, s := range sessions {
		s.fail(fmt.Errorf("the store is closed: %w", fs.ErrClosed))
	}
	p.work.Wait()
}
