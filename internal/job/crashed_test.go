//go:build unix

package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A crier notes what it is told to tell.
type crier struct {
	told []string
	fail bool
}

func (c *crier) Started(context.Context, *journal.Run) []journal.Told { return nil }
func (c *crier) Ended(_ context.Context, run *journal.Run, all []journal.Run) []journal.Told {
	c.told = append(c.told, fmt.Sprint(run.ID, " ", run.Status, " of ", len(all)))
	if c.fail {
		return []journal.Told{{Channel: "a", Error: "down"}, {Channel: "b", Error: "down"}}
	}
	return []journal.Told{{Channel: "a", Error: "down"}, {Channel: "b"}}
}

func TestTellCrashes(t *testing.T) {
	runs := journal.OpenRuns(t.TempDir())
	put := func(id, command, config string, s journal.Status) {
		t.Helper()
		if err := runs.Put(&journal.Run{ID: id, Command: command, Config: config, Status: s, Start: time.Now(), Lock: command + ".lock"}); err != nil {
			t.Fatal(err)
		}
	}
	c := &crier{}
	tell := func(want ...string) {
		t.Helper()
		c.told = nil
		if err := TellCrashes(t.Context(), runs, "c", "", c, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		if strings.Join(c.told, ", ") != strings.Join(want, ", ") {
			t.Errorf("told %q, want %q", c.told, want)
		}
	}
	tell()
	put("1", "backup", "c", journal.Running)
	put("2", "backup", "c", journal.Running)
	put("3", "verify", "other", journal.Running)
	put("4", "verify", "c", journal.Running)
	put("5", "drill", "c", journal.Running)
	put("6", "drill", "c", journal.Success) // somebody has seen that

	// Nobody can be told: the next one tries.
	c.fail = true
	tell("4 crashed of 6", "2 crashed of 6")
	// Somebody else is at it.
	lock, err := durable.TryLock(runs.LockPath(crashedLock))
	if err != nil {
		t.Fatal(err)
	}
	tell()
	lock.Unlock()
	c.fail = false
	tell("4 crashed of 6", "2 crashed of 6")
	tell()
	all, lost, err := runs.Crashes("")
	if err != nil || len(lost) != 1 || !lost["3"] {
		t.Errorf("lost %v, %v", lost, err)
	}
	for _, r := range all {
		if want := map[string]int{"2": 2, "4": 2}[r.ID]; len(r.Told) != want {
			t.Errorf("%s was told to %v", r.ID, r.Told)
		}
	}

	// One that goes on has not crashed.
	put("7", "prune", "c", journal.Running)
	if lock, err = durable.TryLock(runs.LockPath("prune.lock")); err != nil {
		t.Fatal(err)
	}
	tell()
	lock.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := TellCrashes(ctx, runs, "c", "", c, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	tell("7 crashed of 7")

	// An ad-hoc backup says nothing about the configuration's.
	put("8", "backup", "c", journal.Running)
	if err := runs.Put(&journal.Run{ID: "9", Command: "backup", AdHoc: true, Config: "c", Status: journal.Success, Start: time.Now(), Lock: "other.lock"}); err != nil {
		t.Fatal(err)
	}
	tell("8 crashed of 9")
}

// TestRunTellsOfCrash: of its own lock, before it begins.
func TestRunTellsOfCrash(t *testing.T) {
	b := newRunBench(t)
	if err := b.r.Runs.Put(&journal.Run{ID: "1", Command: "backup", Status: journal.Running, Start: time.Now(), Lock: LockName("backup", "c")}); err != nil {
		t.Fatal(err)
	}
	var fresh []journal.Run
	_, err := b.run(t.Context(), "2", func(context.Context, *journal.Run) error {
		fresh = append(fresh, b.ended...)
		return nil
	})
	if err != nil || len(fresh) != 1 || fresh[0].ID != "1" || fresh[0].Status != journal.Crashed {
		t.Errorf("%v: told %+v before it began, %+v at all", err, fresh, b.ended)
	}
}
