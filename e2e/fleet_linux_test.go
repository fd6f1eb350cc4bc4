package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// A host is a machine of a fleet: a world with a source of its own.
type host struct {
	*world
	name, src string
}

// newFleet makes hosts whose sources have a part in common.
func newFleet(t *testing.T, n int) []host {
	var fleet []host
	for i := range n {
		w := newWorld(t)
		h := host{w, fmt.Sprint("host", i), w.tree(6, "src")}
		w.write(bytes.Repeat([]byte(h.name+" "), 50_000), "src", "own")
		fleet = append(fleet, h)
	}
	return fleet
}

// together runs the program on every host at the same time; all must end with ok.
func together(t *testing.T, fleet []host, args func(h host) []string) {
	t.Helper()
	results := make([]result, len(fleet))
	var wg sync.WaitGroup
	for i, h := range fleet {
		wg.Go(func() { results[i] = h.run(args(h)...) })
	}
	wg.Wait()
	for _, r := range results {
		if r.code != ok {
			t.Fatalf("want exit code %d: %v", ok, r)
		}
	}
}

// TestFleet: hosts that share repositories back up to them at the same time, from the
// very first run, in which all of them try to create the repositories. Everything is
// whole, and each host's snapshots restore what it had.
func TestFleet(t *testing.T) {
	t.Parallel()
	const rounds = 3
	fleet := newFleet(t, 4)
	w := fleet[0].world
	a, b := w.path("a"), w.path("b")
	for round := range rounds {
		for _, h := range fleet {
			h.write([]byte(fmt.Sprintf("%s, round %d", h.name, round)), "src", fmt.Sprint("round", round))
		}
		together(t, fleet, func(h host) []string {
			return append([]string{"backup", "--host", h.name}, encrypted(h.src, a, b)...)
		})
	}
	for _, dest := range []string{a, b} {
		w.verify(ok, dest, "--read-data")
		if n := len(w.snapshotIDs(dest)); n != rounds*len(fleet) {
			t.Errorf("%s: %d snapshots", dest, n)
		}
		for _, h := range fleet {
			// Any host restores any other, if told to.
			same(t, h.src, w.restore(ok, dest, "latest", h.src, "--host", h.name))
		}
		// None was created beside another.
		if _, err := os.Stat(dest + "/backup-handler.repo"); err == nil {
			t.Error("there are two repositories")
		}
	}
	// Every snapshot restores, not only the newest of each.
	for _, id := range w.snapshotIDs(a) {
		w.restore(ok, a, id, "/")
	}
	r := w.want(failed, "restore", "latest", "--to", w.mkdir("to"), "--backup-dirs", a)
	r.complaint(t, true, "no such snapshot of this host")

	// Each sees the others.
	r = w.want(ok, "status", "--all-hosts", "--json", "--backup-dirs", a)
	var rep struct {
		Destinations []struct {
			Newest []struct {
				Host      string
				Snapshots int
				Problems  int
			}
		}
	}
	must(t, json.Unmarshal([]byte(r.out), &rep))
	newest := rep.Destinations[0].Newest
	if len(newest) != len(fleet) {
		t.Errorf("%v", r)
	}
	for _, n := range newest {
		if !strings.HasPrefix(n.Host, "host") || n.Snapshots != rounds || n.Problems != 0 {
			t.Errorf("%+v", n)
		}
	}

	// Others copy away and repair while hosts back up.
	c := w.path("c")
	var wg sync.WaitGroup
	var copied result
	wg.Go(func() { copied = w.run("copy", "--from", a, "--to", c) })
	together(t, fleet[1:], func(h host) []string {
		return append([]string{"backup", "--host", h.name}, encrypted(h.src, a, b)...)
	})
	wg.Wait()
	if copied.code != ok {
		t.Errorf("%v", copied)
	}
	for pack := range objects(t, c, "packs") {
		flip(t, pack)
	}
	w.verify(failed, c, "--read-data")
	w.want(ok, "repair", "--from", a, "--backup-dirs", c)
	must(t, os.RemoveAll(a))
	must(t, os.RemoveAll(b))
	for _, h := range fleet {
		same(t, h.src, w.restore(ok, c, "latest", h.src, "--host", h.name))
	}
}
