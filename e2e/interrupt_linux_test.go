package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// bigSource is a source whose backup takes a while: n files of 4 MiB.
func bigSource(w *world, n int) string {
	for i := range n {
		w.write(filestest.Bytes(fmt.Sprint("big", i), 4<<20), "src", fmt.Sprintf("d%d", i%3), fmt.Sprint(i))
	}
	return w.path("src")
}

// start executes the program without waiting for its end.
func (w *world) start(args ...string) (c *exec.Cmd, end func() result) {
	w.t.Helper()
	c, out, errout := w.command(context.Background(), args...)
	must(w.t, c.Start())
	return c, func() result {
		c.Wait()
		return result{args, c.ProcessState.ExitCode(), out.String(), errout.String(), 0}
	}
}

// waitFor waits until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(timeout); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// TestSignals: a run that is told to stop does so at once, and nothing that it has
// stored is lost.
func TestSignals(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			w := newWorld(t)
			w.configure()
			src, dest := bigSource(w, 100), w.path("repo")
			args := append([]string{"backup"}, encrypted(src, dest)...)
			c, end := w.start(args...)
			waitFor(t, "some packs", func() bool { return len(objects(t, dest, "packs")) >= 2 })
			must(t, c.Process.Signal(sig))
			before := total(objects(t, dest, "packs"))
			r := end()
			// Those packs that were being written, of 400 MiB in all.
			if more := total(objects(t, dest, "packs")) - before; more > 5<<24 {
				t.Errorf("%d MiB were stored after it", more>>20)
			} else {
				t.Logf("%d MiB were there, %d were stored after it", before>>20, more>>20)
			}
			if r.code != interrupted {
				t.Fatalf("want exit code %d: %v", interrupted, r)
			}
			r.complaint(t, true, "interrupted")
			if ids := w.snapshotIDs(dest); len(ids) != 0 {
				t.Errorf("snapshots %q", ids)
			}
			if r := w.verify(failed, dest); !strings.Contains(r.out, "no snapshot") {
				t.Errorf("%v", r)
			}
			goesOn(t, w, src, dest)
		})
	}
}

// goesOn runs a backup after one that was cut off: it stores what is missing only.
func goesOn(t *testing.T, w *world, src, dest string) {
	t.Helper()
	stored := total(objects(t, dest, "packs"))
	c := w.backup(ok, encrypted(src, dest)...).Details.Counts
	// Some 2 % for padding and tables, and the packs that were not whole.
	if c.Stored+stored > c.Bytes+c.Bytes/50+1<<20 || stored > 64<<20 && c.Stored >= c.Bytes {
		t.Errorf("stored %d bytes again: %d were there of %d", c.Stored, stored, c.Bytes)
	}
	w.verify(ok, dest, "--read-data")
	same(t, src, w.restore(ok, dest, "latest", src))
}

// TestKillBackup kills backups at random moments, and the first ones of
// repositories above all. Whatever the moment, there is nothing to clean up.
func TestKillBackup(t *testing.T) {
	t.Parallel()
	kills, fresh := 20, 8
	if testing.Short() {
		kills, fresh = 6, 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	w.configure()
	src := bigSource(w, 30)

	start := time.Now()
	w.backup(ok, encrypted(src, w.path("measured"))...)
	whole := time.Since(start)
	dest := ""
	for i := range kills {
		if i <= fresh {
			dest = w.path(fmt.Sprint("repo", i))
		} else if i%3 == 0 {
			w.write(filestest.Bytes(fmt.Sprint("more", i), 10<<20), "src", fmt.Sprint("more", i))
		}
		c, end := w.start(append([]string{"backup"}, encrypted(src, dest)...)...)
		time.Sleep(time.Duration(rng.Int64N(int64(whole + whole/10))))
		must(t, c.Process.Kill())
		r := end()
		if r.code > 0 {
			t.Fatalf("it failed before it was killed: %v", r)
		}
		if locks, _ := filepath.Glob(filepath.Join(dest, "*lock*")); len(locks) > 0 {
			t.Errorf("kill %d left %q", i, locks)
		}
		if _, err := os.Stat(filepath.Join(dest, "config")); err == nil {
			if n := len(w.snapshotIDs(dest)); n > 0 {
				w.verify(ok, dest, "--read-data")
			} else if r := w.verify(failed, dest); !strings.Contains(r.out, "no snapshot") || strings.Contains(r.out, "damaged") {
				t.Errorf("after kill %d: %v", i, r)
			}
		}
		if i <= fresh || i == kills-1 {
			goesOn(t, w, src, dest)
		}
		if i < fresh {
			removeAll(t, dest)
		}
	}
}

// TestKillRestore kills restores at random moments: a file that has its name is
// whole, and the next run does the rest.
func TestKillRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := bigSource(w, 60), w.path("repo")
	for i := range 300 {
		w.write(filestest.Bytes(fmt.Sprint("small", i), 1000*i), "src", "small", fmt.Sprint(i))
	}
	w.backup(ok, encrypted(src, dest)...)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	kills := 8
	if testing.Short() {
		kills = 3
	}
	inTheMiddle := 0
	for i := range kills {
		to := w.mkdir(fmt.Sprint("to", i))
		args := []string{"restore", "latest:" + src, "--to", to, "--backup-dirs", dest}
		c, end := w.start(args...)
		waitFor(t, "the first file", func() bool {
			names, _ := os.ReadDir(to)
			return len(names) > 0
		})
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		must(t, c.Process.Kill())
		end()
		if n := wholeOnly(t, src, to); n > 0 && n < 360 {
			inTheMiddle++
		}
		w.want(ok, args...)
		same(t, src, to)
		removeAll(t, to)
	}
	t.Logf("%d of %d kills came in the middle", inTheMiddle, kills)
}

// TestKillCopy kills runs with two destinations: each is whole, and the next run
// makes both equal.
func TestKillCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src := bigSource(w, 30)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	kills := 4
	if testing.Short() {
		kills = 2
	}
	for i := range kills {
		a, b := w.path(fmt.Sprint("a", i)), w.path(fmt.Sprint("b", i))
		c, end := w.start(append([]string{"backup"}, encrypted(src, a, b)...)...)
		// From the first pack of the copy on.
		waitFor(t, "the copy", func() bool { return len(objects(t, b, "packs")) > 0 || len(w.snapshotIDs(a)) > 0 })
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		must(t, c.Process.Kill())
		end()
		w.verify(ok, a, "--read-data")
		if len(w.snapshotIDs(b)) > 0 {
			w.verify(ok, b, "--read-data")
		}
		w.backup(ok, encrypted(src, a, b)...)
		equalDestinations(t, w, src, a, b)
		removeAll(t, a)
		removeAll(t, b)
	}
}

// equalDestinations checks that destinations have the same snapshots, and that each
// is whole by itself.
func equalDestinations(t *testing.T, w *world, src string, dests ...string) {
	t.Helper()
	want := w.snapshotIDs(dests[0])
	for _, d := range dests {
		if got := w.snapshotIDs(d); !slices.Equal(got, want) {
			t.Errorf("%s has the snapshots %q, %s %q", dests[0], want, d, got)
		}
		w.verify(ok, d, "--read-data")
		same(t, src, w.restore(ok, d, "latest", src))
	}
}

// A run to a pipe that nobody reads any more, and to a full disk, does not end as if
// it had told anything.
func TestOutputCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(2, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	c, _, _ := w.command(t.Context(), "snapshots", "--backup-dirs", dest)
	c.Stdout = full
	err = c.Run()
	if exit, isExit := errors.AsType[*exec.ExitError](err); !isExit || exit.ExitCode() != failed {
		t.Errorf("with a full standard output: %v", err)
	}
	out := w.want(ok, "snapshots", "--backup-dirs", dest, "--json").out
	if !json.Valid([]byte(out)) {
		t.Errorf("not JSON: %s", out)
	}
}
