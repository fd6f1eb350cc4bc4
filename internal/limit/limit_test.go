package limit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// newPacer returns a pacer whose processor time is what the test says.
func newPacer(share float64, used *atomic.Int64) *Pacer {
	p := &Pacer{used: func() time.Duration { return time.Duration(used.Load()) }}
	p.start(share)
	return p
}

// TestShare: whatever the size of the pieces of work and the number of workers, the
// process takes its share, not more, and nearly all of it.
func TestShare(t *testing.T) {
	const long = 10 * time.Second
	for _, share := range []float64{0.01, 0.1, 0.5, 1, 1.5, 7} {
		for _, workers := range []int{1, 3, 16} {
			for _, piece := range []time.Duration{200 * time.Microsecond, time.Millisecond, 7 * time.Millisecond, 300 * time.Millisecond} {
				if float64(workers) < share {
					continue // could not use it
				}
				t.Run(fmt.Sprintf("%v/%d/%v", share, workers, piece), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var used atomic.Int64
						p := newPacer(share, &used)
						ctx, cancel := context.WithTimeout(With(t.Context(), p), long)
						defer cancel()
						start := time.Now()
						var wg sync.WaitGroup
						for range workers {
							wg.Go(func() {
								for Pace(ctx) == nil {
									time.Sleep(piece) // each on a processor of its own
									used.Add(int64(piece))
								}
							})
						}
						wg.Wait()
						// The meter of this test shows a piece only when it is done, so
						// that each worker may have one hidden and one begun. And
						// what was saved up.
						over := 2*float64(workers)*float64(piece+meterEvery) + share*float64(creditTime)
						want := share * float64(time.Since(start))
						got := float64(used.Load())
						if got > want+over {
							t.Errorf("used %v of %v", time.Duration(got), time.Duration(want))
						}
						// A nap may be longer than needed, and pieces end together.
						if least := 0.9*want - over; got < least {
							t.Errorf("used %v, could have used %v", time.Duration(got), time.Duration(want))
						}
					})
				})
			}
		}
	}
}

// TestCredit: after a wait for something else, no more than creditTime is made up
// for.
func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var used atomic.Int64
		p := newPacer(0.5, &used)
		ctx := With(t.Context(), p)
		time.Sleep(time.Hour)
		start := time.Now()
		for range 10 {
			if err := Pace(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			used.Add(int64(100 * time.Millisecond)) // on a hundred processors, so to speak
		}
		if err := Pace(ctx); err != nil {
			t.Fatal(err)
		}
		// 1 s of work at half a processor, less what was saved up.
		if got, want := time.Since(start), 2*time.Second-creditTime; got < want || got > want+maxNap {
			t.Errorf("took %v, want %v", got, want)
		}
	})
}

// TestDebt: work that does not ask is made up for, in naps that a cancelled context
// ends.
func TestDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var used atomic.Int64
		p := newPacer(0.25, &used)
		start := time.Now()
		time.Sleep(time.Second)
		used.Add(int64(10 * time.Second))
		ctx, cancel := context.WithCancel(With(t.Context(), p))
		time.AfterFunc(6*time.Second, cancel)
		if err := Pace(ctx); !errors.Is(err, context.Canceled) || time.Since(start) != 7*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := Pace(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := Pace(With(t.Context(), p)); err != nil || time.Since(start) != 40*time.Second {
			t.Errorf("%v after %v, want 40 s", err, time.Since(start))
		}
	})
}

func TestNoLimit(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	never := &Pacer{used: func() time.Duration { panic("asked") }}
	for _, n := range []float64{0, -1, float64(before), float64(before) + 0.5, math.Inf(1)} {
		never.Limit(n)
		if never.Limited() || runtime.GOMAXPROCS(0) != before {
			t.Errorf("%v of %d processors is a limit", n, before)
		}
	}
	if err := Pace(With(t.Context(), never)); err != nil {
		t.Error(err)
	}
	if Of(t.Context()) != nil || Pace(t.Context()) != nil {
		t.Error("a context without a pacer")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{cancelled, With(cancelled, never)} {
		if err := Pace(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

func TestLimit(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	for _, tt := range []struct {
		n, share float64
		procs    int
	}{{3.5, 3.5, 4}, {3, 3, 3}, {1.01, 1.01, 2}, {0.5, 0.5, 1}, {1e-9, MinProcessors, 1}} {
		runtime.GOMAXPROCS(4)
		var p Pacer
		p.Limit(tt.n)
		if !p.Limited() || p.share != tt.share || runtime.GOMAXPROCS(0) != tt.procs {
			t.Errorf("%v: %v of a processor, %d threads", tt.n, p.share, runtime.GOMAXPROCS(0))
		}
		if p.Limit(0); p.Limited() {
			t.Error("0 is a limit")
		}
	}
}

// TestProcessorTime: the meter counts work, in its unit.
func TestProcessorTime(t *testing.T) {
	const work = 200 * time.Millisecond
	start, before := time.Now(), processorTime()
	for processorTime()-before < work { // ends only if it counts
	}
	// Other goroutines of the test may work, too, but not on more than all processors.
	if took := time.Since(start); took*time.Duration(runtime.NumCPU()) < work {
		t.Errorf("%v of processor time in %v", work, took)
	}
}

func BenchmarkPace(b *testing.B) {
	limited := newPacer(1e6, new(atomic.Int64))
	limited.used = processorTime
	for name, ctx := range map[string]context.Context{
		"none": b.Context(), "unlimited": With(b.Context(), new(Pacer)), "limited": With(b.Context(), limited),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Pace(ctx)
			}
		})
	}
}

// Waking up costs processor time, too: it does not use up what the sleep has earned.
func TestWakingIsPaid(t *testing.T) {
	var used time.Duration
	p := Pacer{used: func() time.Duration { used += 150 * time.Microsecond; return used }}
	p.start(MinProcessors)
	p.credit = -2 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.pace(ctx); err != nil {
		t.Error("never again within its share:", err)
	}
}
