package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestAdHoc: a backup of something else than what the configuration names does not hide
// that those of the configuration fail.
func TestAdHoc(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	var mu sync.Mutex
	var beats []string
	heart := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		beats = append(beats, r.URL.Path)
	}))
	defer heart.Close()
	heard := func() []string {
		mu.Lock()
		defer mu.Unlock()
		all := beats
		beats = nil
		return all
	}
	w.write([]byte("another"), "elsewhere", "file")
	stream := w.path("stream")
	w.configure(w.path("src"), w.dest, "[STREAM s]\ncommand = cat "+stream+"\n[HEARTBEAT]\nurl = "+heart.URL+"/beat\nprotocol = healthchecks\nallow_private = True\n")
	with := func(more ...string) []string { return append([]string{"backup", "--config", w.config}, more...) }
	// The nightly backup fails: its stream has nothing to print.
	w.want(partial, with()...)
	if b := heard(); len(b) != 2 || b[1] != "/beat/3" {
		t.Errorf("%v", b)
	}
	before, err := os.ReadFile(w.path("state", "Logs", "last_run_status.json"))
	must(t, err)
	for _, args := range [][]string{
		with("--stdin-filename", "x", "--stdin-from-command", "--", "echo", "x"),
		with("--source-dir", w.path("elsewhere")),
		with("--source-dir", w.path("src")), // without the stream
		with("--operation-modes", "local", "--source-dir", w.path("src")),
	} {
		w.hook.take()
		r := w.want(ok, args...)
		if !strings.Contains(r.errout, "ad-hoc") || !strings.Contains(r.errout, "it leaves out ") {
			t.Errorf("%v", r)
		}
		if b := heard(); len(b) != 0 {
			t.Errorf("%v: the heartbeat was told %v", args, b)
		}
		if s, err := os.ReadFile(w.path("state", "Logs", "last_run_status.json")); err != nil || string(s) != string(before) {
			t.Errorf("%v: %s, %v", args, s, err)
		}
		if r := w.want(2, "status", "--check", "--config", w.config); !strings.Contains(r.out, "CRITICAL") || !strings.Contains(r.out, "the last backup has failed") {
			t.Errorf("%v: %v", args, r)
		}
		for _, e := range w.hook.take() {
			if e.Event != "success" {
				t.Errorf("%v: %+v", args, e)
			}
		}
	}
	r := w.want(failed, "status", "--config", w.config)
	if !strings.Contains(r.out, "never good; last failure") || !strings.Contains(r.out, "  ad hoc      good ") {
		t.Errorf("%v", r)
	}
	var rep struct {
		Runs struct {
			AdHoc struct{ Command, Status string } `json:"last_ad_hoc"`
		}
	}
	must(t, json.Unmarshal([]byte(w.want(failed, "status", "--json", "--config", w.config).out), &rep))
	if rep.Runs.AdHoc.Command != "ad-hoc backup" || rep.Runs.AdHoc.Status != "success" {
		t.Errorf("%+v", rep)
	}
	if r := w.want(ok, "runs", "--config", w.config); strings.Count(r.out, "ad-hoc backup") != 4 {
		t.Errorf("%v", r)
	}

	// And the other way round: one that fails takes nothing from a good nightly one.
	w.write([]byte("there"), "stream")
	w.want(ok, with()...)
	if b := heard(); len(b) != 2 || b[1] != "/beat" {
		t.Errorf("%v", b)
	}
	w.want(partial, with("--stdin-from-command", "--", "false")...)
	if b := heard(); len(b) != 0 {
		t.Errorf("%v", b)
	}
	if r := w.want(ok, "status", "--check", "--config", w.config); !strings.Contains(r.out, "OK") {
		t.Errorf("%v", r)
	}
	// All of it, and more, by flags: that is one of the configuration. So is what the schedule
	// starts.
	w.configure(w.path("src"), w.dest, "[HEARTBEAT]\nurl = "+heart.URL+"/beat\nprotocol = healthchecks\nallow_private = True\n")
	w.want(ok, with("--source-dir", w.path("src"), "--source-dir", w.path("elsewhere"))...)
	if b := heard(); len(b) != 2 {
		t.Errorf("%v", b)
	}
	// Command lines of 2.5 that share the work by modes count, each.
	w.configure(w.path("src"), w.dest, "[STREAM s]\ncommand = cat "+stream+"\n[HEARTBEAT]\nurl = "+heart.URL+"/beat\nprotocol = healthchecks\nallow_private = True\n")
	w.want(ok, with("--operation-modes", "local")...)
	if b := heard(); len(b) != 2 {
		t.Errorf("%v", b)
	}
	w.env = append(w.env, "BACKUP_HANDLER_TRIGGER=schedule")
	w.want(ok, with("--source-dir", w.path("elsewhere"))...)
	if b := heard(); len(b) != 2 {
		t.Errorf("%v", b)
	}
}
