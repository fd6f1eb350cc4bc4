package sftp

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// spareFor is how long a Spare keeps a connection.
const spareFor = 10 * time.Second

// A Spare keeps for a moment the connection on which a store was not found, for the
// store that is made there: to connect takes a dozen round trips. Stores that have it
// in common have all Options in common. The zero value is empty.
type Spare struct {
	mu    sync.Mutex
	route string
	s     *session // nil: none
	timer *time.Timer
}

// put keeps a session that nobody uses; the one before is closed.
func (p *Spare) put(route string, s *session) {
	p.mu.Lock()
	old := p.s
	p.route, p.s = route, s
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(spareFor, func() { p.drop(s) })
	p.mu.Unlock()
	if old != nil {
		old.fail(errSpare)
	}
}

// take returns a live session along a route, or nil.
func (p *Spare) take(route string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.s
	if s == nil || p.route != route {
		return nil
	}
	p.s = nil
	p.timer.Stop()
	if s.failure() != nil {
		return nil
	}
	return s
}

var errSpare = errors.New("it is not needed any more")

func (p *Spare) drop(s *session) {
	p.mu.Lock()
	mine := p.s == s
	if mine {
		p.s = nil
	}
	p.mu.Unlock()
	if mine {
		s.fail(errSpare)
	}
}

// detach takes a live session that nobody uses out of the pool, with its connection; nil if
// there is none.
func (p *pool) detach() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.sessions, func(s *session) bool { return s.active == 0 && !s.paired && s.failure() == nil })
	if i < 0 {
		return nil
	}
	s := p.sessions[i]
	p.sessions = slices.Delete(p.sessions, i, i+1)
	return s
}
