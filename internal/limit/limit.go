// Package limit keeps the process small on a busy machine: how much processor
// time it takes ([Pacer]), and how the system ranks it against others ([Idle]).
//
// It knows nothing of backups: those who work call [Pace] between two pieces of
// work, wherever they would look whether their context has been cancelled. The
// limits on bytes per second belong to those who move the bytes, package storage.
//
// Invariants: a pacer never lets the process run ahead of its share by more than
// what is done between two calls of Pace; without a limit, Pace costs a look into
// the context.
//
// limit.go: pacing. cpu_unix.go, cpu_windows.go: how much processor time was
// used. idle_linux.go, idle_darwin.go, idle_bsd.go, idle_windows.go: rank.
package limit

import (
	"context"
	"math"
	"runtime"
	"sync"
	"time"
)

const (
	// MinProcessors is the smallest share of a processor: less is a mistake, not
	// a wish, and a run would take days.
	MinProcessors = 0.01

	// creditTime bounds what an idle process saves up: the processor time of so
	// long a time at its share. It makes up for waits for disks, and is too
	// short to be noticed as a burst.
	creditTime = 100 * time.Millisecond

	// minNap and maxNap bound one sleep: short ones cost more in switches than
	// they make smooth, long ones miss that others have stopped working. Waking up
	// takes 50 to 200 µs of the processor: a sleep earns at least minEarned, or with
	// a small share each would cost what it has earned, and nothing else were done.
	minNap    = 2 * time.Millisecond
	maxNap    = 100 * time.Millisecond
	minEarned = time.Millisecond

	// meterEvery is how long a reading of the process's processor time is good
	// for: a reading is a system call, and a walk calls Pace for every entry.
	meterEvery = 500 * time.Microsecond
)

// A Pacer keeps the processor time of the whole process, its garbage collector
// and all that runs in the kernel on its behalf included, to a number of
// processors. It may be used concurrently. The zero value has no limit.
//
// The accounting is that of a bucket: time fills it at the rate of the share,
// processor time empties it, and whoever finds it overdrawn sleeps until it is
// not. Work that does not call Pace is counted and made up for afterwards.
type Pacer struct {
	used func() time.Duration // processor time of the process so far; nil: the real one

	mu       sync.Mutex
	share    float64 // processors; 0 is no limit
	at       time.Time
	meter    time.Duration
	credit   time.Duration // processor time that may be used; negative: overdrawn
	measured time.Time
}

// Limit sets the number of processors, at least MinProcessors, from now on. As
// many as the process may use anyway, or more, or 0, are no limit. Threads that run
// Go code are bounded, too: a process with half a processor has no use for two
// threads at a time. What is in the kernel is not bounded by that, only paced.
func (p *Pacer) Limit(processors float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share = 0
	if processors <= 0 || processors >= float64(Processors()) {
		return
	}
	runtime.GOMAXPROCS(int(math.Ceil(processors)))
	p.start(max(processors, MinProcessors))
}

// Processors is how many processors the process may use, by its affinity and its
// control group. A Pacer's Limit lowers it.
func Processors() int { return runtime.GOMAXPROCS(0) }

// start begins the accounting. The caller has the mutex, or the only reference.
func (p *Pacer) start(share float64) {
	if p.used == nil {
		p.used = processorTime
	}
	p.share, p.credit = share, 0
	p.at, p.meter = time.Now(), p.used()
	p.measured = p.at
}

// Limited says whether there is a limit.
func (p *Pacer) Limited() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share > 0
}

// wait returns how long the caller has to sleep before it asks again; 0: not at
// all.
func (p *Pacer) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.share == 0 {
		return 0
	}
	now := time.Now()
	if p.credit >= 0 && now.Sub(p.measured) < meterEvery {
		return 0
	}
	p.measured = now
	used := p.used()
	p.credit += time.Duration(p.share*float64(now.Sub(p.at))) - (used - p.meter)
	p.at, p.meter = now, used
	p.credit = min(p.credit, time.Duration(p.share*float64(creditTime)))
	if p.credit >= 0 {
		return 0
	}
	return min(max(time.Duration(float64(max(-p.credit, minEarned))/p.share), minNap), maxNap)
}

// pace sleeps until the process is within its share.
func (p *Pacer) pace(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		d := p.wait()
		if d == 0 {
			return nil
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

type key struct{}

// With returns a context whose work is paced by p.
func With(ctx context.Context, p *Pacer) context.Context { return context.WithValue(ctx, key{}, p) }

// Of returns the pacer of a context; nil if it has none.
func Of(ctx context.Context) *Pacer {
	p, _ := ctx.Value(key{}).(*Pacer)
	return p
}

// Pace is called between two pieces of work, of a few milliseconds at best. It
// sleeps while the process is ahead of the share of ctx's pacer. The error is
// ctx's: Pace stands where a loop asks for it.
func Pace(ctx context.Context) error {
	if p := Of(ctx); p != nil {
		return p.pace(ctx)
	}
	return ctx.Err()
}
