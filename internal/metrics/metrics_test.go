package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

const config = "/etc/backup-handler/config.ini"

var monday = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

func at2(hours float64) time.Time { return monday.Add(time.Duration(hours * float64(time.Hour))) }

// run is one that took ten minutes.
func run(hours float64, command string, status journal.Status, change func(*journal.Run)) journal.Run {
	r := journal.Run{ID: fmt.Sprintf("%s-%v", command, hours), Command: command, Status: status, Config: config, Start: at2(hours), End: at2(hours).Add(10 * time.Minute)}
	if change != nil {
		change(&r)
	}
	return r
}

func ptr[T any](x T) *T { return &x }

func text(t *testing.T, s *State) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, "\n"+l+"\n") {
			t.Errorf("there is no line %s in\n%s", l, text)
		}
	}
}

// some is a state in which each metric has a series.
func some() *State {
	return &State{
		Config: config, Version: "3.0.0", GoVersion: "go1.26", Live: true,
		Due: map[string]time.Time{"backup": at2(48), "drill": {}}, MaxAge: map[string]time.Duration{"backup": 48 * time.Hour},
		Runs: []journal.Run{
			run(26, "backup", journal.Running, func(r *journal.Run) { r.End = time.Time{} }),
			run(25, "verify", journal.Crashed, func(r *journal.Run) { r.End = time.Time{} }),
			run(24, "backup", journal.Failed, func(r *journal.Run) {
				r.Exit, r.Snapshot = 3, "ab"
				r.Counts = journal.Counts{Files: 10, New: 1, Changed: 2, Bytes: 3000, Read: 300, Stored: 30, Problems: 4, Forgotten: 5}
				r.Warnings = []string{"a", "b"}
				r.Sources = []journal.SourceRun{{Path: "/home"}, {Path: "/srv", Error: "gone", Problems: 4}}
				r.Destinations = []journal.DestinationRun{{Location: "/mnt/a", FreeBytes: ptr(int64(77))}, {Location: "sftp://nas/b", Error: "no route"}}
			}),
			run(23, "backup", journal.Success, func(r *journal.Run) { r.Config = "/etc/other.ini" }),
			run(2, "verify", journal.Success, func(r *journal.Run) { r.Destinations = []journal.DestinationRun{{Location: "/mnt/a"}} }),
			run(1, "backup", journal.Refused, func(r *journal.Run) {
				r.Exit, r.Destinations = 2, []journal.DestinationRun{{Location: "sftp://nas/b"}}
			}),
			run(0, "backup", journal.Warning, func(r *journal.Run) {
				r.Snapshot = "aa"
				r.Destinations = []journal.DestinationRun{{Location: "/mnt/a"}, {Location: "sftp://nas/b", FreeBytes: ptr(int64(99))}, {Location: "/mnt/gone"}}
			}),
		},
	}
}

func TestMetrics(t *testing.T) {
	got := text(t, some())
	const c = `{config="/etc/backup-handler/config.ini",`
	want(t, "\n"+got,
		`backup_handler_build_info`+c+`version="3.0.0",goversion="go1.26"} 1`,
		`backup_handler_last_run_timestamp_seconds`+c+`command="backup"} `+fmt.Sprint(at2(24).Unix()+600),
		`backup_handler_last_run_duration_seconds`+c+`command="backup"} 600`,
		`backup_handler_last_run_exit_code`+c+`command="backup"} 3`,
		`backup_handler_last_run_status`+c+`command="backup",status="failure"} 1`,
		`backup_handler_last_run_status`+c+`command="backup",status="success"} 0`,
		`backup_handler_last_run_warnings`+c+`command="backup"} 2`,
		`backup_handler_last_run_files`+c+`command="backup"} 10`,
		`backup_handler_last_run_new_files`+c+`command="backup"} 1`,
		`backup_handler_last_run_changed_files`+c+`command="backup"} 2`,
		`backup_handler_last_run_size_bytes`+c+`command="backup"} 3000`,
		`backup_handler_last_run_read_bytes`+c+`command="backup"} 300`,
		`backup_handler_last_run_stored_bytes`+c+`command="backup"} 30`,
		`backup_handler_last_run_problems`+c+`command="backup"} 4`,
		`backup_handler_last_run_forgotten_snapshots`+c+`command="backup"} 5`,
		`backup_handler_last_success_timestamp_seconds`+c+`command="backup"} `+fmt.Sprint(at2(0).Unix()+600),
		`backup_handler_last_success_duration_seconds`+c+`command="backup"} 600`,
		// What crashed has no end.
		`backup_handler_last_run_timestamp_seconds`+c+`command="verify"} `+fmt.Sprint(at2(25).Unix()),
		`backup_handler_last_run_duration_seconds`+c+`command="verify"} 0`,
		`backup_handler_last_run_exit_code`+c+`command="verify"} -1`,
		`backup_handler_last_run_status`+c+`command="verify",status="crashed"} 1`,
		`backup_handler_last_success_timestamp_seconds`+c+`command="verify"} `+fmt.Sprint(at2(2).Unix()+600),
		`backup_handler_max_age_seconds`+c+`command="backup"} 172800`,
		`backup_handler_next_due_timestamp_seconds`+c+`command="backup"} `+fmt.Sprint(at2(48).Unix()),
		`backup_handler_recorded_runs`+c+`command="backup",status="success"} 0`, // another configuration's does not count
		`backup_handler_recorded_runs`+c+`command="backup",status="refused"} 1`,
		`backup_handler_runs_in_progress`+c+`command="backup"} 1`,
		`backup_handler_runs_in_progress`+c+`command="verify"} 0`,
		`backup_handler_source_up`+c+`source="/home"} 1`,
		`backup_handler_source_up`+c+`source="/srv"} 0`,
		`backup_handler_source_problems`+c+`source="/srv"} 4`,
		`backup_handler_destination_up`+c+`command="backup",destination="/mnt/a"} 1`,
		`backup_handler_destination_up`+c+`command="backup",destination="sftp://nas/b"} 0`,
		`backup_handler_destination_up`+c+`command="verify",destination="/mnt/a"} 1`,
		`backup_handler_destination_last_success_timestamp_seconds`+c+`command="backup",destination="/mnt/a"} `+fmt.Sprint(at2(24).Unix()+600),
		// A run that was refused has reached nothing, though it names no error.
		`backup_handler_destination_last_success_timestamp_seconds`+c+`command="backup",destination="sftp://nas/b"} `+fmt.Sprint(at2(0).Unix()+600),
		`backup_handler_destination_free_bytes`+c+`destination="/mnt/a"} 77`,
		`backup_handler_destination_free_bytes`+c+`destination="sftp://nas/b"} 99`,
	)
	for _, not := range []string{"/mnt/gone", "other.ini", `command="drill"} -`} {
		if strings.Contains(got, not) {
			t.Errorf("%s is told of", not)
		}
	}
	for _, name := range Names() {
		if !strings.Contains(got, "\n"+name+"{") {
			t.Errorf("%s has no series: the test does not see it", name)
		}
	}
	check(t, got, "check", "metrics")

	s := some()
	s.Live = false
	if got := text(t, s); strings.Contains(got, "in_progress") {
		t.Error("a file says which runs are going on")
	}
}

// Without a configuration there is no label of it, and its runs are those without one.
func TestNoConfig(t *testing.T) {
	s := some()
	s.Config = ""
	s.Runs[0].Config = ""
	s.Runs[0].Status, s.Runs[0].End = journal.Success, at2(27)
	got := text(t, s)
	want(t, "\n"+got, `backup_handler_build_info{version="3.0.0",goversion="go1.26"} 1`, `backup_handler_last_run_duration_seconds{command="backup"} 3600`)
	if strings.Contains(got, "config=") {
		t.Error(got)
	}
	check(t, got, "check", "metrics")
}

func TestNothingRecorded(t *testing.T) {
	got := text(t, &State{Config: config, Version: "v", GoVersion: "g"})
	if strings.Count(got, "\n") != 3 || !strings.Contains(got, "build_info") {
		t.Errorf("got %s", got)
	}
	check(t, got, "check", "metrics")
}

// Names that are not text, or that look like the format, are kept apart from it.
func TestHostileNames(t *testing.T) {
	s := &State{Config: "/a\\b\"c\nd\xff", Version: "v", GoVersion: "g", Runs: []journal.Run{
		run(0, "backup", journal.Success, func(r *journal.Run) {
			r.Config, r.Snapshot = "/a\\b\"c\nd\xff", "x"
			r.Sources = []journal.SourceRun{{Path: "/\xff"}, {Path: "/\xfe"}, {Path: "/x\"} 1\nevil 2"}, {Path: "/twice"}, {Path: "/twice"}}
		}),
	}}
	got := text(t, s)
	if strings.Contains(got, "\nevil") || strings.Count(got, `source_up{config="/a\\b\"c\nd`+"\uFFFD"+`",source="/`+"\uFFFD"+`"} 1`) != 1 || strings.Count(got, `_up{`) != 3 {
		t.Errorf("got\n%s", got)
	}
	check(t, got, "check", "metrics")
}

// The file is one that others can read, and the old one is there until the new one is whole.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	name, lock := filepath.Join(dir, "b.prom"), filepath.Join(dir, "lock")
	write := func(s *State, err error) error {
		return WriteFile(name, lock, func() (*State, error) { return s, err })
	}
	if err := write(some(), nil); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(name)
	if err != nil || string(before) != text(t, some()) {
		t.Fatalf("%v: %s", err, before)
	}
	if info, err := os.Stat(name); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	broken := errors.New("broken")
	if err := write(nil, broken); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: %s", err, after)
	}
	err = WriteFile(filepath.Join(dir, "none", "b.prom"), lock, func() (*State, error) { return some(), nil })
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "b.prom") {
		t.Errorf("error %v", err)
	}
}

// Of several runs that end at the same time, the last one to write has looked last.
func TestFileOfManyRuns(t *testing.T) {
	dir := t.TempDir()
	name, lock := filepath.Join(dir, "b.prom"), filepath.Join(dir, "lock")
	looked := 0 // without a lock of its own: the file's has to do
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := WriteFile(name, lock, func() (*State, error) {
				looked++
				return &State{Version: fmt.Sprint(looked), GoVersion: "g"}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(got), `version="8"`) {
		t.Errorf("%v: %s", err, got)
	}
}

func TestServer(t *testing.T) {
	var fault error
	var warned []error
	s := NewServer(func() (*State, error) { return some(), fault }, func(err error) { warned = append(warned, err) })
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("no bounds: %+v", s)
	}
	hs := httptest.NewServer(s.Handler)
	defer hs.Close()
	call := func(method, path string) (int, http.Header, string) {
		t.Helper()
		req, err := http.NewRequest(method, hs.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := hs.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header, string(body)
	}
	code, h, body := call("GET", "/metrics?x=y")
	if code != 200 || h.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" || body != text(t, some()) {
		t.Errorf("%d %v %s", code, h, body)
	}
	for _, x := range []struct {
		method, path string
		code         int
	}{{"POST", "/metrics", 405}, {"HEAD", "/metrics", 405}, {"DELETE", "/metrics", 405}, {"GET", "/", 404}, {"GET", "/metrics/", 404}, {"GET", "/debug/pprof", 404}, {"POST", "/", 404}} {
		if code, h, body := call(x.method, x.path); code != x.code || strings.Contains(body, "backup_handler") || code == 405 && h.Get("Allow") != "GET" {
			t.Errorf("%s %s: %d %v %s", x.method, x.path, code, h, body)
		}
	}
	fault = errors.New("read the record of /very/private")
	if code, _, body := call("GET", "/metrics"); code != 500 || strings.Contains(body, "private") || !slices.Equal(warned, []error{fault}) {
		t.Errorf("%d %s, warned %v", code, body, warned)
	}
}
