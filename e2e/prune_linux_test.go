package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPruneFleet: hosts back up and forget while another process prunes again and again,
// condemning what they are just storing. Nothing is lost, and when all have gone the space
// comes back.
func TestPruneFleet(t *testing.T) {
	t.Parallel()
	const rounds = 4
	fleet := newFleet(t, 3)
	w := fleet[0].world
	a := w.path("a")
	together(t, fleet, func(h host) []string { return append([]string{"backup", "--host", h.name}, encrypted(h.src, a)...) })
	stop := make(chan struct{})
	var pruner, hosts sync.WaitGroup
	pruner.Go(func() {
		// Ever more seldom, so that on the slowest machine, too, a run comes through.
		for pause := 300 * time.Millisecond; ; pause += 200 * time.Millisecond {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
			if r := w.run("prune", "--backup-dirs", a); r.code != ok {
				t.Errorf("%v", r)
				return
			}
		}
	})
	for _, h := range fleet {
		hosts.Go(func() {
			for round := range rounds {
				h.write([]byte(strings.Repeat(fmt.Sprintf("%s, round %d ", h.name, round), 20_000)), "src", fmt.Sprint("round", round%2))
				for {
					r := h.run(append([]string{"backup", "--host", h.name}, encrypted(h.src, a)...)...)
					if r.code == ok {
						break
					}
					if !strings.Contains(r.String(), "was pruned during the run") {
						t.Errorf("%v", r)
						return
					}
				}
				if r := h.run("forget", "--keep-last", "2", "--host", h.name, "--backup-dirs", a); r.code != ok {
					t.Errorf("%v", r)
				}
			}
		})
	}
	hosts.Wait()
	close(stop)
	pruner.Wait()
	w.verify(ok, a, "--read-data")
	before := total(objects(t, a, "packs"))
	r := w.want(ok, "prune", "--alone", "--max-unused", "0", "--backup-dirs", a)
	if after := total(objects(t, a, "packs")); after >= before {
		t.Errorf("%d bytes of packs before, %d after: %v", before, after, r)
	}
	w.verify(ok, a, "--read-data")
	if n := len(w.snapshotIDs(a)); n != 2*len(fleet) {
		t.Errorf("%d snapshots", n)
	}
	for _, h := range fleet {
		same(t, h.src, w.restore(ok, a, "latest", h.src, "--host", h.name))
	}
}
