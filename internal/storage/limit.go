package storage

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
)

const (
	// piecesPerSecond says how finely a rate is kept: content moves in pieces of at
	// most a tenth of a second's worth, each when its time is over.
	piecesPerSecond = 10
	// minPiece keeps slow rates from cutting data into crumbs, maxPiece any from
	// overflowing an int.
	minPiece = 4 << 10
	maxPiece = 1 << 30
	// slack is how much of the time that somebody came late, because the machine or
	// the line was busy, is made up for. Who was away for longer begins anew: a pause
	// earns nothing.
	slack = time.Second / piecesPerSecond
)

// A Rate is a limit in bytes per second, shared by all transfers of all backends
// that were given it. nil is no limit. It may be used concurrently.
//
// In any time, what passes is at most what the rate allows for that time and slack; from
// the start of a transfer, or after a pause, at most what the rate allows.
type Rate struct{ limiters []*limiter }

// A limiter is one limit, which may depend on the time of day.
type limiter struct {
	periods []Period // nil: always the same
	now     func() time.Time

	mu             sync.Mutex
	bytesPerSecond int64     // 0 is no limit
	free           time.Time // when the time of all that was let pass is over
	last           time.Time // when somebody was let pass last
}

// A Period is a part of each day, in local time.
type Period struct {
	// From and To are durations since midnight by the clock on the wall, from 0
	// to 24 hours. A period whose To is before its From lasts over midnight; if
	// they are equal, all day.
	From, To       time.Duration
	BytesPerSecond int64 // 0 is no limit
}

func (p Period) contains(at time.Duration) bool {
	if p.From < p.To {
		return p.From <= at && at < p.To
	}
	return at >= p.From || at < p.To
}

// NewRate returns a limit; nil, which is none, for 0.
func NewRate(bytesPerSecond int64) *Rate {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Rate{[]*limiter{{bytesPerSecond: bytesPerSecond}}}
}

// NewSchedule returns a limit that depends on the time of day: that of the first
// period that holds, none where no period does. nil for no periods. now tells the
// time; a change of it takes effect with the next piece that is moved.
func NewSchedule(periods []Period, now func() time.Time) *Rate {
	if len(periods) == 0 {
		return nil
	}
	return &Rate{[]*limiter{{periods: periods, now: now}}}
}

// rate is the limit of this time of day. The caller holds mu.
func (l *limiter) rate() int64 {
	if l.periods == nil {
		return l.bytesPerSecond
	}
	now := l.now()
	at := time.Duration(now.Hour())*time.Hour + time.Duration(now.Minute())*time.Minute + time.Duration(now.Second())*time.Second
	var want int64
	for _, p := range l.periods {
		if p.contains(at) {
			want = p.BytesPerSecond
			break
		}
	}
	if l.bytesPerSecond != want {
		// What waits for the old one does not hold up the new one.
		l.bytesPerSecond, l.free = want, time.Time{}
	}
	return want
}

// most is how many bytes are a piece.
func (l *limiter) most() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.rate()
	if rate == 0 {
		return maxPiece
	}
	return int(min(max(rate/piecesPerSecond, minPiece), maxPiece))
}

// reserve takes the time of n bytes, and returns when it is over. Who comes first is
// first served.
func (l *limiter) reserve(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	rate := l.rate()
	if rate == 0 {
		return now
	}
	from := now
	if now.Sub(l.last) <= slack {
		from = now.Add(-slack)
	}
	if l.free.Before(from) {
		l.free = from
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	l.last = now
	if l.free.After(now) {
		l.last = l.free
	}
	return l.free
}

// And returns the limit of whoever has to keep both.
func (r *Rate) And(other *Rate) *Rate {
	switch {
	case r == nil:
		return other
	case other == nil:
		return r
	}
	return &Rate{slices.Concat(r.limiters, other.limiters)}
}

// piece is what may move at once.
func (r *Rate) piece(p []byte) []byte {
	if r == nil {
		return p
	}
	return p[:r.most(len(p))]
}

// most is how many of n bytes may move at once.
func (r *Rate) most(n int) int {
	if r != nil {
		for _, l := range r.limiters {
			n = min(n, l.most())
		}
	}
	return n
}

// reserve takes the time of n bytes, and returns when they may pass.
func (r *Rate) reserve(n int) (at time.Time) {
	if r == nil || n == 0 {
		return at
	}
	for _, l := range r.limiters {
		if t := l.reserve(n); t.After(at) {
			at = t
		}
	}
	return at
}

// wait returns when n bytes may pass. The error is the context's.
func (r *Rate) wait(ctx context.Context, n int) error { return waitUntil(ctx, r.reserve(n)) }

func waitUntil(ctx context.Context, at time.Time) error {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Limits bound what goes through a backend: Upload the content of objects written,
// Download that of objects read, wherever the backend keeps them. Names, listings
// and what a protocol adds are not counted.
type Limits struct {
	Upload, Download *Rate
}

// Limit returns b with limits, and paced by the context of each call
// ([limit.Pace]). Several may be put on top of each other: a rate for all
// destinations, and one for a single one below it. It is a Spacer if b is one.
func Limit(b Backend, l Limits) Backend {
	w := limited{b, l}
	if s, ok := b.(Spacer); ok {
		return limitedSpacer{w, s}
	}
	return w
}

type limited struct {
	Backend
	limits Limits
}

type limitedSpacer struct {
	limited
	Spacer
}

// Create implements Backend.
func (b limited) Create(ctx context.Context, name string) (Writer, error) {
	w, err := b.Backend.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	return limitedWriter{w, ctx, name, b.limits.Upload}, nil
}

type limitedWriter struct {
	Writer
	ctx  context.Context
	name string
	rate *Rate
}

// Write waits before it writes: what is sent is never ahead of the rate.
func (w limitedWriter) Write(p []byte) (int, error) {
	if err := limit.Pace(w.ctx); err != nil {
		return 0, fmt.Errorf("write %s: %w", w.name, err)
	}
	written := 0
	for {
		piece := w.rate.piece(p[written:])
		if err := w.rate.wait(w.ctx, len(piece)); err != nil {
			return written, fmt.Errorf("write %s: %w", w.name, err)
		}
		n, err := w.Writer.Write(piece)
		if written += n; err != nil || written >= len(p) {
			return written, err
		}
	}
}

// Get implements Backend.
func (b limited) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := limit.Pace(ctx); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	r, err := b.Backend.Get(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	return limitedReader{r, ctx, name, b.limits.Download}, nil
}

type limitedReader struct {
	io.ReadCloser
	ctx  context.Context
	name string
	rate *Rate
}

// Read waits after it has read, since nobody knows before how much there is. What
// has not been asked for stays with the sender.
func (r limitedReader) Read(p []byte) (int, error) {
	if err := limit.Pace(r.ctx); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.name, err)
	}
	n, err := r.ReadCloser.Read(r.rate.piece(p))
	if werr := r.rate.wait(r.ctx, n); werr != nil {
		return n, fmt.Errorf("read %s: %w", r.name, werr)
	}
	return n, err
}
