package storage

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
)

const (
	// burstsPerSecond says how finely a rate is kept: a tenth of a second's worth
	// may pass at once.
	burstsPerSecond = 10
	// minBurst keeps slow rates from cutting data into crumbs, maxBurst any from
	// overflowing an int.
	minBurst = 4 << 10
	maxBurst = 1 << 30
)

// A Rate is a limit in bytes per second, shared by all transfers of all backends
// that were given it. nil is no limit. It may be used concurrently.
type Rate struct{ limiters []*limiter }

// A limiter is one limit, which may depend on the time of day.
type limiter struct {
	*rate.Limiter
	periods []Period
	now     func() time.Time
	current atomic.Int64 // bytes per second, 0 for no limit; of a schedule
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

// NewRate returns a limit; nil, which is none, for 0. Up to a tenth of a second's
// worth, but at least 4 KiB, passes at once.
func NewRate(bytesPerSecond int64) *Rate {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Rate{[]*limiter{{Limiter: rate.NewLimiter(rate.Limit(bytesPerSecond), burst(bytesPerSecond))}}}
}

func burst(bytesPerSecond int64) int {
	return int(min(max(bytesPerSecond/burstsPerSecond, minBurst), maxBurst))
}

// NewSchedule returns a limit that depends on the time of day: that of the first
// period that holds, none where no period does. nil for no periods. now tells the
// time; a change of it takes effect with the next piece that is moved.
func NewSchedule(periods []Period, now func() time.Time) *Rate {
	if len(periods) == 0 {
		return nil
	}
	return &Rate{[]*limiter{{Limiter: rate.NewLimiter(rate.Inf, 0), periods: periods, now: now}}}
}

// adjust puts the limit of this time of day into effect.
func (l *limiter) adjust() {
	if l.periods == nil {
		return
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
	if l.current.Swap(want) == want {
		return
	}
	if want == 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(burst(want))
	l.SetLimit(rate.Limit(want))
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

// piece bounds what may pass at once: the limiter refuses more.
func (r *Rate) piece(p []byte) []byte {
	if r == nil {
		return p
	}
	n := len(p)
	for _, l := range r.limiters {
		if l.adjust(); l.Limit() != rate.Inf {
			n = min(n, l.Burst())
		}
	}
	return p[:n]
}

// wait returns when n bytes, at most a piece, may pass. The error is the context's.
func (r *Rate) wait(ctx context.Context, n int) error {
	if r == nil {
		return nil
	}
	for _, l := range r.limiters {
		err := l.waitAll(ctx, n)
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // it would be too late when our turn comes
			return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
		}
	}
	return nil
}

// waitAll is WaitN for a burst that a schedule may just have made smaller.
func (l *limiter) waitAll(ctx context.Context, n int) error {
	for n > 0 {
		part := n
		if l.Limit() != rate.Inf {
			part = min(n, l.Burst())
		}
		if err := l.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
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
