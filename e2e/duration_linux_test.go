package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
)

// lastRun is what the record has of the last run's destinations.
func (w *world) lastRun() (run struct {
	Status       string `json:"status"`
	Exit         int    `json:"exit_code"`
	Snapshot     string `json:"snapshot"`
	Destinations []struct {
		Location string `json:"location"`
		Error    string `json:"error"`
	} `json:"destinations"`
}) {
	w.t.Helper()
	must(w.t, json.Unmarshal([]byte(w.want(ok, "runs", "show", "latest", "--json").out), &run))
	return run
}

// limited runs a backup with limits, from a second on twice as long each time, until one
// of them is enough for it to make a snapshot.
func (w *world) limited(args ...string) (code int, rep backupReport) {
	w.t.Helper()
	for limit := time.Second; limit < 10*time.Minute; limit *= 2 {
		r := w.run(append([]string{"backup", "--json", "--max-duration", limit.String()}, args...)...)
		if json.Unmarshal([]byte(r.out), &rep) == nil && rep.Snapshot != "" {
			return r.code, rep
		}
		if r.code != partial || !strings.Contains(r.errout, "max_duration") {
			w.t.Fatalf("%v", r)
		}
	}
	w.t.Fatal("no time is enough")
	return 0, rep
}

// When the time is over, a destination that has the snapshot has it, and one that does
// not has failed, by itself: the run says which, and the next one copies.
func TestMaxDurationOfOne(t *testing.T) {
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var hangs atomic.Bool
	w.configure(w.s3Section(s.Proxy(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if !hangs.Load() || r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/packs/") {
			return false
		}
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return true
	})))
	src, local, far := w.tree(10, "src"), w.path("local"), "s3://bucket/repo"
	w.backup(ok, encrypted(src, local, far)...)
	w.write([]byte("news"), "src", "news")
	hangs.Store(true)
	code, rep := w.limited(encrypted(src, local, far)...)
	if code != partial || rep.ExitCode != partial || rep.Destinations[0].Error != "" || !strings.Contains(rep.Destinations[1].Error, "max_duration") {
		t.Errorf("exit code %d, %+v", code, rep)
	}
	run := w.lastRun()
	if run.Status != "failure" || run.Exit != partial || run.Snapshot != rep.Snapshot || len(run.Destinations) != 2 ||
		run.Destinations[0].Error != "" || !strings.Contains(run.Destinations[1].Error, "max_duration") {
		t.Errorf("the record: %+v", run)
	}
	same(t, src, w.restore(ok, local, rep.Snapshot, src))
	w.verify(ok, local, "--read-data")
	hangs.Store(false)
	next := w.backup(ok, encrypted(src, local, far)...)
	if !slices.Contains(next.Destinations[1].Copied, rep.Snapshot) {
		t.Errorf("not made up for: %+v", next.Destinations)
	}
	same(t, src, w.restore(ok, far, rep.Snapshot, src))
}

// A run whose time ends while its snapshot is being stored has done all that it should.
func TestMaxDurationAtTheEnd(t *testing.T) {
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var until atomic.Pointer[time.Time] // when a snapshot may be stored; nil: at once
	var waited atomic.Bool
	w.configure(w.s3Section(s.Proxy(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if at := until.Load(); at != nil && r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/snapshots/") {
			waited.Store(true)
			time.Sleep(time.Until(*at))
		}
		return false
	})))
	src, repo := w.tree(10, "src"), "s3://bucket/repo"
	w.backup(ok, encrypted(src, repo)...)
	for limit := time.Second; ; limit *= 2 {
		// The time of the run begins some moments after this, and a snapshot that is
		// being stored has ten seconds more.
		at := time.Now().Add(limit + 5*time.Second)
		until.Store(&at)
		r := w.run(append([]string{"backup", "--json", "--max-duration", limit.String()}, encrypted(src, repo)...)...)
		until.Store(nil)
		if !waited.Load() && r.code == partial && strings.Contains(r.errout, "max_duration") {
			continue // it did not come so far
		}
		var rep backupReport
		must(t, json.Unmarshal([]byte(r.out), &rep))
		if r.code != ok || rep.Snapshot == "" || rep.Destinations[0].Error != "" {
			t.Errorf("%v", r)
		}
		if run := w.lastRun(); run.Status != "success" || run.Snapshot != rep.Snapshot {
			t.Errorf("the record: %+v", run)
		}
		same(t, src, w.restore(ok, repo, rep.Snapshot, src))
		return
	}
}

// Without a snapshot, no destination is called well.
func TestMaxDurationOfAll(t *testing.T) {
	w := newWorld(t)
	w.configure("")
	src, a, b := w.tree(1, "src"), w.path("a"), w.path("b")
	w.want(partial, append([]string{"backup", "--max-duration", "1ms"}, encrypted(src, a, b)...)...).complaint(t, true, "max_duration")
	run := w.lastRun()
	if run.Status != "failure" || run.Snapshot != "" || len(run.Destinations) != 2 {
		t.Errorf("%+v", run)
	}
	for _, d := range run.Destinations {
		if !strings.Contains(d.Error, "max_duration") {
			t.Errorf("%s: error %q", d.Location, d.Error)
		}
	}
}
