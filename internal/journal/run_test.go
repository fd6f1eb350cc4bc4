package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

func testRun(id string) *Run {
	return &Run{
		ID: id, Command: "backup", Trigger: "cli", Status: Running, Host: "h", User: "u", PID: 7, Version: "3",
		Start: time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC), Lock: "a",
	}
}

func TestRuns(t *testing.T) {
	r := OpenRuns(t.TempDir())
	if runs, err := r.List(); runs != nil || err != nil {
		t.Fatal(runs, err)
	}
	if err := r.MakeLocks(); err != nil {
		t.Fatal(err)
	}
	lock, err := durable.TryLock(r.LockPath("a"))
	if err != nil {
		t.Fatal(err)
	}
	status := func(want ...Status) []Run {
		t.Helper()
		runs, err := r.List()
		if err != nil {
			t.Fatal(err)
		}
		var got []Status
		for _, run := range runs {
			got = append(got, run.Status)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		return runs
	}
	first := testRun("1-a")
	if err := r.Put(first); err != nil {
		t.Fatal(err)
	}
	status(Running)
	first.Status, first.End, first.Counts.Files = Success, first.Start.Add(time.Minute), 3
	first.Destinations = []DestinationRun{{Location: "/d"}}
	if err := r.Put(first); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*first, status(Success)[0]); d != "" {
		t.Error(d)
	}
	// Two that start; the older one must be over, since the newer holds the lock.
	if err := errors.Join(r.Put(testRun("2-b")), r.Put(testRun("3-c"))); err != nil {
		t.Fatal(err)
	}
	runs := status(Running, Crashed, Success)
	if runs[0].Took(runs[0].Start.Add(time.Hour)) != time.Hour || runs[2].Took(time.Time{}) != time.Minute {
		t.Error(runs)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	status(Crashed, Crashed, Success)

	// A crash that is recorded is not lost any more.
	wantLost := func(want ...string) {
		t.Helper()
		all, lost, err := r.Crashes("")
		if err != nil || len(all) != 3 || len(lost) != len(want) {
			t.Fatalf("%v, %v, %v", all, lost, err)
		}
		for _, id := range want {
			if !lost[id] {
				t.Errorf("%s is not among %v", id, lost)
			}
		}
	}
	wantLost("2-b", "3-c")
	crashed := status(Crashed, Crashed, Success)[1]
	if err := r.Put(&crashed); err != nil {
		t.Fatal(err)
	}
	wantLost("3-c")
	status(Crashed, Crashed, Success)

	for id, want := range map[string]string{"latest": "3-c", "2": "2-b", "b": "2-b", "1-a": "1-a"} {
		if run, err := FindRun(runs, id); err != nil || run.ID != want {
			t.Errorf("%s: %v %v", id, run, err)
		}
	}
	if _, err := FindRun(runs, "-"); !errors.Is(err, ErrNoRun) {
		t.Error(err)
	}
	if _, err := FindRun(append(runs, *testRun("2-x")), "2"); !errors.Is(err, ErrAmbiguousRun) {
		t.Error(err)
	}
}

// A crash, or a full disk, leaves a part of a line: it spoils none but itself.
func TestRunsTorn(t *testing.T) {
	dir := t.TempDir()
	r := OpenRuns(dir)
	for i := range 2 {
		run := testRun(fmt.Sprint(i))
		run.Status = Success
		if err := r.Put(run); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "Logs", runsName)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		if err := os.WriteFile(name, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		run := testRun("9")
		run.Status = Failed
		if err := r.Put(run); err != nil {
			t.Fatal(err)
		}
		runs, err := r.List()
		whole := strings.Count(string(data[:n+1]), "\n") // a line that only lacks its end counts
		if err != nil || len(runs) != whole+1 || runs[0].Status != Failed {
			t.Fatalf("cut to %d bytes: %v, %v", n, runs, err)
		}
	}
}

func TestRunsBounded(t *testing.T) {
	dir := t.TempDir()
	r := OpenRuns(dir)
	run := testRun("x")
	run.Status = Failed
	run.Error = "line\nline\x1b[2J" + strings.Repeat("é", maxRunText)
	for i := range 3 * maxRunList {
		run.Warnings = append(run.Warnings, strings.Repeat("w", maxRunText+i))
	}
	n := 0
	for last, size := int64(0), int64(1); size > last; n++ {
		last = size
		run.ID = fmt.Sprintf("%06d", n)
		if err := r.Put(run); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "Logs", runsName))
		if err != nil {
			t.Fatal(err)
		}
		if size = info.Size(); size > maxRunsFileBytes {
			t.Fatalf("%d bytes", size)
		}
	}
	runs, err := r.List()
	if err != nil || len(runs) < n/3 || len(runs) > n*2/3 {
		t.Fatalf("%d of %d runs are left: %v", len(runs), n, err)
	}
	if got := runs[0]; got.ID != run.ID || len(got.Warnings) != maxRunList || got.Cut != 2*maxRunList || strings.ContainsAny(got.Error, "\n\x1b") ||
		len(got.Error) > maxRunText+3 {
		t.Errorf("%+v", got)
	}
	if len(run.Warnings) != 3*maxRunList || len(run.Warnings[0]) != maxRunText {
		t.Error("the caller's record has changed")
	}
}
