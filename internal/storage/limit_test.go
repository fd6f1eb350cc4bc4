package storage_test

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// fast is a rate that no test waits for, but that splits what it is given.
const fast = 100 << 20

func TestLimitConformance(t *testing.T) {
	limits := storage.Limits{Upload: storage.NewRate(fast), Download: storage.NewRate(fast)}
	t.Run("Memory", func(t *testing.T) {
		storagetest.Test(t, func(*testing.T) storage.Backend { return storage.Limit(storage.NewMemory(), limits) })
	})
	t.Run("Local", func(t *testing.T) { // a Spacer
		storagetest.Test(t, func(t *testing.T) storage.Backend {
			l, err := storage.OpenLocal(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			b := storage.Limit(l, limits)
			if _, ok := b.(storage.Spacer); !ok {
				t.Error("no longer a Spacer")
			}
			return storage.Limit(b, storage.Limits{}) // twice
		})
	})
	if _, ok := storage.Limit(storage.NewMemory(), limits).(storage.Spacer); ok {
		t.Error("a Spacer on top of none")
	}
}

func TestNewRate(t *testing.T) {
	for _, n := range []int64{0, -1} {
		if storage.NewRate(n) != nil {
			t.Errorf("%d is a limit", n)
		}
	}
	// The largest does not overflow.
	b := storage.Limit(storage.NewMemory(), storage.Limits{Upload: storage.NewRate(math.MaxInt64)})
	storagetest.Put(t, b, "a", make([]byte, 1<<20))
}

// TestRates: in the fake time of a bubble, what is moved takes as long as it should,
// by one or by several, whatever the size of the pieces.
func TestRates(t *testing.T) {
	for _, tt := range []struct {
		name             string
		rate             int64
		workers          int
		size, piece      int
		upload, download bool
	}{
		{"one byte a second", 1, 1, 4<<10 + 10, 1 << 20, true, false},
		{"a write larger than what may pass at once", 1 << 20, 1, 10 << 20, 10 << 20, true, false},
		{"small writes", 1 << 20, 1, 1 << 20, 1000, true, false},
		{"four at a time", 1 << 20, 4, 3 << 20, 1 << 20, true, false},
		{"read", 1 << 20, 1, 10 << 20, 10 << 20, false, true},
		{"four read", 1 << 20, 4, 3 << 20, 64 << 10, false, true},
		{"both", 1 << 20, 2, 5 << 20, 1 << 20, true, true},
		{"fast", 1 << 30, 2, 50 << 20, 32 << 20, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l storage.Limits
				// Each worker has a backend of its own: the rate is everybody's.
				took := func() time.Duration {
					start := time.Now()
					var wg sync.WaitGroup
					for range tt.workers {
						b := storage.Limit(storage.NewMemory(), l)
						wg.Go(func() { transfer(t, b, tt.size, tt.piece) })
					}
					wg.Wait()
					return time.Since(start)
				}
				if got := took(); got != 0 {
					t.Errorf("without limits it took %v", got)
				}
				directions := 0
				if tt.upload {
					l.Upload = storage.NewRate(tt.rate)
					directions++
				}
				if tt.download {
					l.Download = storage.NewRate(tt.rate)
					directions++
				}
				seconds := func(n int64) time.Duration { return time.Duration(float64(n) / float64(tt.rate) * 1e9) }
				burst := seconds(max(tt.rate/10, 4<<10))
				most := seconds(int64(tt.size * tt.workers * directions))
				// Those who write and read may overlap.
				least := seconds(int64(tt.size*tt.workers)) - burst - time.Millisecond
				if got := took(); got < least || got > most+time.Millisecond {
					t.Errorf("took %v, want %v to %v", got, least, most)
				}
			})
		})
	}
}

// transfer writes an object and reads it back.
func transfer(t *testing.T, b storage.Backend, size, piece int) {
	w, err := b.Create(t.Context(), "object")
	if err != nil {
		t.Error(err)
		return
	}
	for left := size; left > 0; left -= piece {
		n, err := w.Write(make([]byte, min(left, piece)))
		if err != nil || n != min(left, piece) {
			t.Error(n, err)
			return
		}
	}
	if err := w.Commit(); err != nil {
		t.Error(err)
		return
	}
	r, err := b.Get(t.Context(), "object", 0, -1)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	got := 0
	for buf := make([]byte, piece); ; {
		n, err := r.Read(buf)
		got += n
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
	if got != size {
		t.Errorf("read %d of %d bytes", got, size)
	}
}

// TestLimitCancelled: a wait ends with the context, and with its error.
func TestLimitCancelled(t *testing.T) {
	type ending struct {
		name string
		with func(context.Context) (context.Context, context.CancelFunc)
		want error
	}
	for _, e := range []ending{
		{"cancel", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(3*time.Second, cancel)
			return ctx, cancel
		}, context.Canceled},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 3*time.Second)
		}, context.DeadlineExceeded},
	} {
		t.Run(e.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := storage.NewMemory()
				storagetest.Put(t, m, "there", make([]byte, 1<<20))
				b := storage.Limit(m, storage.Limits{Upload: storage.NewRate(1000), Download: storage.NewRate(1000)})
				start := time.Now()
				ctx, cancel := e.with(t.Context())
				defer cancel()
				w, err := b.Create(ctx, "object")
				if err != nil {
					t.Fatal(err)
				}
				defer w.Abort()
				if n, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, e.want) || n > 8<<10 {
					t.Errorf("write: %d, %v", n, err)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("the write ended after %v", took)
				}
				ctx, cancel = e.with(t.Context())
				defer cancel()
				start = time.Now()
				r, err := b.Get(ctx, "there", 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if _, err := io.ReadAll(r); !errors.Is(err, e.want) {
					t.Errorf("read: %v", err)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("the read ended after %v", took)
				}
			})
		})
	}
}

// TestRateAnd: of two rates that both hold, the slower one decides, and each counts
// what passes through the other.
func TestRateAnd(t *testing.T) {
	slow, quick := storage.NewRate(1<<20), storage.NewRate(4<<20)
	if slow.And(nil) != slow || (*storage.Rate)(nil).And(quick) != quick {
		t.Error("no limit changes a limit")
	}
	synctest.Test(t, func(t *testing.T) {
		slow, quick := storage.NewRate(1<<20), storage.NewRate(4<<20)
		b := storage.Limit(storage.NewMemory(), storage.Limits{Upload: quick.And(slow)})
		start := time.Now()
		storagetest.Put(t, b, "a", make([]byte, 10<<20))
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %s", took)
		}
	})
}
