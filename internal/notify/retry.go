package notify

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// waits between the tries of one message; together far below a minute.
func waits() []time.Duration { return []time.Duration{time.Second, 4 * time.Second, 15 * time.Second} }

// A passing is an error after which the same may succeed.
type passing struct {
	err   error
	after time.Duration // that the other side asked to wait; 0: it did not
}

func (p *passing) Error() string { return p.err.Error() }
func (p *passing) Unwrap() error { return p.err }

// retry tries until it succeeds, fails for good, has been tried often enough, or
// would have to wait beyond the end of ctx. The error is that of the last try.
func retry(ctx context.Context, e *env, try func() error) error {
	for _, wait := range waits() {
		err := try()
		p, ok := errors.AsType[*passing](err)
		if err == nil || !ok {
			return err
		}
		// Up to a fifth more, so that hosts that failed together do not come back together.
		wait += rand.N(wait / 5)
		if p.after > 0 {
			wait = p.after
		}
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return err
		}
		if e.sleep(ctx, wait) != nil {
			return err
		}
	}
	return try()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
