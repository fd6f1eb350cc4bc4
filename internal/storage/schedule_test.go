package storage_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// TestSchedule: in the fake time of a bubble, a megabyte takes as long as the first
// period says that holds at that time of day.
func TestSchedule(t *testing.T) {
	const hour = time.Hour
	day := []storage.Period{{From: 8 * hour, To: 18 * hour, BytesPerSecond: 100 << 10}}
	night := []storage.Period{{From: 22 * hour, To: 6 * hour, BytesPerSecond: 1 << 20}}
	both := []storage.Period{
		{From: 12 * hour, To: 13 * hour}, // lunch: no limit
		{From: 8 * hour, To: 18 * hour, BytesPerSecond: 100 << 10},
		{From: 0, To: 24 * hour, BytesPerSecond: 1 << 20},
	}
	for _, tt := range []struct {
		name    string
		periods []storage.Period
		at      string
		rate    int64 // bytes per second; 0: none
	}{
		{"none", nil, "12:00:00", 0},
		{"before", day, "07:59:59", 0},
		{"at the beginning", day, "08:00:00", 100 << 10},
		{"at the end", day, "17:59:59", 100 << 10},
		{"after", day, "18:00:00", 0},
		{"before midnight", night, "23:59:59", 1 << 20},
		{"after midnight", night, "00:00:00", 1 << 20},
		{"in the morning", night, "05:59:59", 1 << 20},
		{"by day", night, "06:00:00", 0},
		{"the first counts", both, "12:30:00", 0},
		{"then the second", both, "13:00:00", 100 << 10},
		{"then the third", both, "23:00:00", 1 << 20},
		{"equal times are all day", []storage.Period{{From: 5 * hour, To: 5 * hour, BytesPerSecond: 1 << 20}}, "04:00:00", 1 << 20},
		{"midnight by its other name", []storage.Period{{From: 20 * hour, To: 24 * hour, BytesPerSecond: 1 << 20}}, "23:59:59", 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock, err := time.Parse(time.TimeOnly, tt.at)
				if err != nil {
					t.Fatal(err)
				}
				took := put(t, storage.NewSchedule(tt.periods, func() time.Time { return clock }), 1<<20)
				wantTime(t, took, 1<<20, tt.rate)
			})
		})
	}
}

// A change of the limit holds for what is moved from then on, in both directions of
// change.
func TestScheduleChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at atomic.Int64 // hours since midnight
		rate := storage.NewSchedule([]storage.Period{
			{From: 1 * time.Hour, To: 2 * time.Hour, BytesPerSecond: 1 << 20},
			{From: 2 * time.Hour, To: 3 * time.Hour, BytesPerSecond: 64 << 10},
		}, func() time.Time { return time.Time{}.Add(time.Duration(at.Load()) * time.Hour) })
		for _, c := range []struct{ at, rate int64 }{{0, 0}, {1, 1 << 20}, {2, 64 << 10}, {1, 1 << 20}, {3, 0}, {2, 64 << 10}, {0, 0}} {
			at.Store(c.at)
			put(t, rate, 128<<10) // what was saved up before is used up
			wantTime(t, put(t, rate, 1<<20), 1<<20, c.rate)
		}
	})
}

// Beside a limit that always holds, the narrower one counts.
func TestScheduleAnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schedule := func(n int64) *storage.Rate {
			return storage.NewSchedule([]storage.Period{{BytesPerSecond: n}}, time.Now)
		}
		wantTime(t, put(t, storage.NewRate(1<<20).And(schedule(100<<10)), 1<<20), 1<<20, 100<<10)
		wantTime(t, put(t, storage.NewRate(100<<10).And(schedule(1<<20)), 1<<20), 1<<20, 100<<10)
		wantTime(t, put(t, storage.NewRate(100<<10).And(schedule(0)), 1<<20), 1<<20, 100<<10)
	})
}

// put writes an object of size bytes within a limit, and returns how long it took.
func put(t *testing.T, rate *storage.Rate, size int) time.Duration {
	t.Helper()
	start := time.Now()
	storagetest.Put(t, storage.Limit(storage.NewMemory(), storage.Limits{Upload: rate}), "object", make([]byte, size))
	return time.Since(start)
}

// wantTime compares with what size bytes take; a tenth of a second's worth, at least
// 4 KiB, may pass at once.
func wantTime(t *testing.T, took time.Duration, size, rate int64) {
	t.Helper()
	if rate == 0 {
		if took != 0 {
			t.Errorf("without a limit it took %v", took)
		}
		return
	}
	most := time.Duration(float64(size) / float64(rate) * float64(time.Second))
	if took > most+time.Millisecond || took < most-200*time.Millisecond {
		t.Errorf("at %d bytes a second it took %v, want %v", rate, took, most)
	}
}
