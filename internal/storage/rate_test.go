package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// A line is Objects that note what passes, and when, in the sizes of a client: requests
// bytes at a time, ahead of them at once, each answered after rtt.
type line struct {
	storage.Objects
	size    int64 // of each object
	request int64
	ahead   int
	rtt     time.Duration

	mu     sync.Mutex
	passed []passed
}

type passed struct {
	at time.Time
	n  int64
}

func (l *line) pass(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passed = append(l.passed, passed{time.Now(), n})
}

func (l *line) String() string { return "line" }
func (l *line) Close() error   { return nil }

// Put sends as many requests at a time as it may, as SFTP and uploads in parts do.
func (l *line) Put(_ context.Context, _ string, content io.ReaderAt, size int64) error {
	var wg sync.WaitGroup
	offsets := make(chan int64)
	for range l.ahead {
		wg.Go(func() {
			buf := make([]byte, l.request)
			for off := range offsets {
				n := min(l.request, size-off)
				if _, err := content.ReadAt(buf[:n], off); err != nil {
					return
				}
				l.pass(n)
				time.Sleep(l.rtt)
			}
		})
	}
	for off := int64(0); off < size; off += l.request {
		offsets <- off
	}
	close(offsets)
	wg.Wait()
	return nil
}

// Get asks ahead as SFTP does; with ahead 0 it sends what is taken, as HTTP does.
func (l *line) Get(ctx context.Context, _ string, off, length int64) (io.ReadCloser, error) {
	r := &lineReader{l: l, ctx: ctx, asker: storage.Ask(ctx), left: min(length, l.size-off)}
	r.fill()
	return r, nil
}

type lineReader struct {
	l     *line
	ctx   context.Context
	asker *storage.Asker
	left  int64 // not asked for
	queue []chan int64
	rest  int64 // of the answer at hand
}

func (r *lineReader) fill() {
	for len(r.queue) < r.l.ahead && r.left > 0 {
		n := r.asker.Most(min(r.l.request, r.left))
		r.left -= n
		turn, answer := r.asker.Reserve(n), make(chan int64, 1)
		r.queue = append(r.queue, answer)
		go func() {
			if turn(r.ctx) != nil {
				answer <- 0
				return
			}
			r.l.pass(n)
			time.Sleep(r.l.rtt)
			answer <- n
		}()
	}
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.l.ahead == 0 {
		n := min(int64(len(p)), r.left, r.l.request)
		if n == 0 {
			return 0, io.EOF
		}
		r.left -= n
		r.l.pass(n)
		return int(n), nil
	}
	if r.rest == 0 {
		if len(r.queue) == 0 {
			return 0, io.EOF
		}
		r.rest = <-r.queue[0]
		r.queue = r.queue[1:]
		r.fill()
	}
	n := min(int64(len(p)), r.rest)
	r.rest -= n
	return int(n), nil
}

func (r *lineReader) Close() error { return nil }

// wantWithin: in no window have more than 5 % above the rate passed, nor, before the
// last, more than 5 % below it.
func (l *line) wantWithin(t *testing.T, rate int64, window time.Duration, busy bool) {
	t.Helper()
	slices.SortFunc(l.passed, func(a, b passed) int { return a.at.Compare(b.at) })
	end := l.passed[len(l.passed)-1].at
	sum, j := int64(0), 0
	for i, from := range l.passed {
		for ; j < len(l.passed) && l.passed[j].at.Before(from.at.Add(window)); j++ {
			sum += l.passed[j].n
		}
		share := float64(sum) / (float64(rate) * window.Seconds())
		if share > 1.05 || busy && share < 0.95 && from.at.Add(window).Before(end) {
			t.Errorf("from %v on, %.1f %% of the rate pass in %v", from.at.Sub(l.passed[0].at), 100*share, window)
			return
		}
		sum -= l.passed[i].n
	}
}

// TestRateOfTenSeconds: a rate is kept within 5 % in any ten seconds, the first
// included, with the requests that the clients of the stores make, by the clock of a
// bubble. A slow one, of which a request takes seconds, is kept in longer times.
func TestRateOfTenSeconds(t *testing.T) {
	const size = 4 << 20
	for _, rate := range []int64{100 << 10, 1 << 20, 10 << 20} {
		window := 10 * time.Second
		if rate < 1<<20 {
			window *= 10
		}
		for _, c := range []struct {
			name    string
			request int64
			ahead   int
			rtt     time.Duration
			readers int
		}{
			{"S3", 64 << 10, 0, 0, 8},
			{"SFTP, near", 256 << 10, 12, time.Millisecond, 8},
			{"SFTP, far", 32 << 10, 12, 200 * time.Millisecond, 8},
			{"SFTP, one reader", 256 << 10, 12, 50 * time.Millisecond, 1},
		} {
			t.Run(fmt.Sprintf("%d KiB/s, %s", rate>>10, c.name), func(t *testing.T) {
				for _, direction := range []string{"down", "up"} {
					synctest.Test(t, func(t *testing.T) {
						l := &line{size: size, request: c.request, ahead: c.ahead, rtt: c.rtt}
						if direction == "up" && l.ahead == 0 {
							l.ahead = 1
						}
						limits := storage.Limits{Upload: storage.NewRate(rate), Download: storage.NewRate(rate)}
						b := storage.NewRemote(l, storage.RemoteOptions{Limits: limits, SpoolDir: t.TempDir(), Stall: time.Minute})
						defer b.Close()
						start := time.Now()
						var wg sync.WaitGroup
						for range c.readers {
							wg.Go(func() {
								for time.Since(start) < 2*window {
									if direction == "down" {
										moveDown(t, b, size)
									} else {
										moveUp(t, b, size)
									}
								}
							})
						}
						wg.Wait()
						l.wantWithin(t, rate, window, direction == "down")
					})
				}
			})
		}
	}
}

func moveDown(t *testing.T, b storage.Backend, size int64) {
	rc, err := b.Get(t.Context(), "a", 0, size)
	if err != nil {
		t.Error(err)
		return
	}
	defer rc.Close()
	if n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{rc}, make([]byte, 64<<10)); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func moveUp(t *testing.T, b storage.Backend, size int64) {
	w, err := b.Create(t.Context(), "a")
	if err == nil {
		_, err = w.Write(bytes.Repeat([]byte{1}, int(size)))
	}
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestRateAfterPause: who was away for long begins anew, and who was late for a moment
// makes up for it.
func TestRateAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		limit := storage.NewRate(rate)
		wantTime := func(what string, size int, want time.Duration) {
			t.Helper()
			if took := put(t, limit, size); took.Round(time.Millisecond) != want {
				t.Errorf("%s took %v, want %v", what, took, want)
			}
		}
		wantTime("the first second", rate, time.Second)
		time.Sleep(50 * time.Millisecond)
		wantTime("after a moment", rate, 950*time.Millisecond)
		time.Sleep(time.Hour)
		wantTime("after an hour", rate, time.Second)
	})
}
