package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

// A runRecord is what is looked at of `runs show --json`, and of the run in a webhook's
// message.
type runRecord struct {
	ID       string `json:"run_id"`
	Status   string
	Exit     int `json:"exit_code"`
	Error    string
	Trigger  string
	Warnings []string
	Told     []struct{ Channel, Error string }
	Stages   []struct{ Name, Error string }
}

// A hearing is what a webhook has received.
type hearing struct {
	Event string
	Run   runRecord
}

// webhook is a server for messages.
type webhook struct {
	*httptest.Server
	mu    sync.Mutex
	heard []hearing
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m hearing
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, m)
}

// take returns what was heard since the last time.
func (h *webhook) take() []hearing {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.heard
	h.heard = nil
	return all
}

// A runWorld is a world with a small source, a destination, and a webhook that hears of
// everything.
type runWorld struct {
	*world
	hook   *webhook
	config string
	dest   string
}

func newRunWorld(t *testing.T) *runWorld {
	w := &runWorld{world: newWorld(t), hook: new(webhook)}
	w.hook.Server = httptest.NewServer(w.hook)
	t.Cleanup(w.hook.Close)
	w.write([]byte("hello"), "src", "file")
	w.config, w.dest = w.path("config.ini"), w.path("repo")
	w.env = append(w.env, "OPS_URL="+w.hook.URL+"/Tokenn0tToBeSeen")
	return w
}

// configure writes the configuration: source and destination, and more sections.
func (w *runWorld) configure(src, dest, more string) {
	w.t.Helper()
	w.write([]byte("[META]\nschema_version = 6\n[DEFAULT]\nsource_dir = "+src+"\nmode = incremental\n[BACKUPS]\nbackup_dirs = "+dest+
		"\n[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n[NOTIFICATIONS]\ntime_limit = 4s\n[WEBHOOK ops]\nurl = ${OPS_URL}"+
		"\nformat = full\nallow_private = True\nrepeat = 0\non = failure, warning, recovered, success\n"+more), "config.ini")
	must(w.t, os.Chmod(w.config, 0o600))
}

// hooks configures hooks alone.
func (w *runWorld) hooks(lines string) {
	w.t.Helper()
	w.configure(w.path("src"), w.dest, "[HOOKS]\n"+lines+"\n")
}

// last is the record of the newest run.
func (w *runWorld) last() (r runRecord) {
	w.t.Helper()
	out := w.want(ok, "runs", "show", "latest", "--json", "--config", w.config).out
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return r
}

func (w *runWorld) read(names ...string) string {
	w.t.Helper()
	data, err := os.ReadFile(w.path(names...))
	must(w.t, err)
	return string(data)
}

// sentinel is status and result of last_run_status.json.
func (w *runWorld) sentinel() string {
	data, err := os.ReadFile(w.path("state", "Logs", "last_run_status.json"))
	var s struct{ Status, Result string }
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return err.Error()
	}
	return s.Status + " " + s.Result
}

// ended checks how the newest run is recorded and told, and returns its record.
func (w *runWorld) ended(status string, code int, events ...string) runRecord {
	w.t.Helper()
	rec := w.last()
	if rec.Status != status || rec.Exit != code {
		w.t.Errorf("recorded as %s %d, want %s %d: %+v", rec.Status, rec.Exit, status, code, rec)
	}
	heard := w.hook.take()
	var got []string
	for _, h := range heard {
		got = append(got, h.Event)
	}
	if !slices.Equal(got, events) {
		w.t.Errorf("the webhook heard %q, want %q", got, events)
	} else if n := len(heard); n > 0 {
		if r := heard[n-1].Run; r.ID != rec.ID || r.Status != status || r.Exit != code || r.Error != rec.Error {
			w.t.Errorf("the webhook heard of %+v, recorded is %+v", r, rec)
		}
	}
	return rec
}

// TestRunExitCodes: each exit code under what leads to it, on the process, in the
// record, in the state file, in what a webhook receives.
func TestRunExitCodes(t *testing.T) {
	t.Parallel()
	const nowhere = "/proc/backup-handler/repo"
	for name, c := range map[string]struct {
		setup  func(w *runWorld)
		args   []string
		code   int
		status string
		event  string
		says   string // in the record's error
	}{
		"all done":     {func(w *runWorld) { w.hooks("") }, nil, ok, "success", "success", ""},
		"usage":        {func(w *runWorld) { w.hooks("") }, []string{"--backup-mode", "sideways"}, failed, "failure", "failure", "sideways"},
		"no variable":  {func(w *runWorld) { w.configure("${NO_SUCH_SOURCE}", w.dest, "") }, nil, failed, "failure", "failure", "NO_SUCH_SOURCE"},
		"no source":    {func(w *runWorld) { w.configure(w.path("gone"), w.dest, "") }, nil, refused, "refused", "failure", "gone"},
		"all refused":  {func(w *runWorld) { w.configure(w.path("src"), nowhere, "") }, nil, refused, "refused", "failure", nowhere},
		"hook":         {func(w *runWorld) { w.hooks("pre_backup = exit 7") }, nil, refused, "refused", "failure", "exit code 7"},
		"one refused":  {func(w *runWorld) { w.configure(w.path("src"), w.dest+", "+nowhere, "") }, nil, partial, "failure", "failure", nowhere},
		"post-hook":    {func(w *runWorld) { w.hooks("post_backup = echo cannot mount >&2; exit 1") }, nil, ok, "warning", "warning", ""},
		"interrupted":  {func(w *runWorld) { w.hooks("pre_backup = kill -TERM $PPID; sleep 600") }, nil, interrupted, "interrupted", "failure", "interrupted"},
		"unreadable":   {unreadable, nil, partial, "failure", "failure", "secret"},
		"others' file": {func(w *runWorld) { w.hooks("pre_backup = true"); must(w.t, os.Chmod(w.config, 0o666)) }, nil, failed, "failure", "failure", "hooks are not run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRunWorld(t)
			c.setup(w)
			r := w.want(c.code, append([]string{"backup", "--config", w.config}, c.args...)...)
			rec := w.ended(c.status, c.code, c.event)
			if !strings.Contains(rec.Error, c.says) || (rec.Error == "") != (c.says == "") {
				t.Errorf("error %q, want %q", rec.Error, c.says)
			}
			good := c.status == "success" || c.status == "warning"
			if want := map[bool]string{true: "success ", false: "failure "}[good] + c.status; w.sentinel() != want {
				t.Errorf("last_run_status.json says %s, want %s", w.sentinel(), want)
			}
			if strings.Contains(r.out+r.errout+w.read("state", "Logs", "application.log")+w.read("state", "Logs", "runs.jsonl"), "n0tToBeSeen") {
				t.Errorf("the address of the webhook is shown: %v", r)
			}
			list := w.want(ok, "runs", "--config", w.config).out
			shown := w.want(ok, "runs", "show", "latest", "--config", w.config).out
			if !strings.Contains(list, c.status) || !strings.Contains(list, rec.ID) || !strings.Contains(shown, fmt.Sprintf("%s, exit code %d\n", c.status, c.code)) ||
				!strings.Contains(shown, "told         ops\n") {
				t.Errorf("runs:\n%sshow:\n%s", list, shown)
			}
			// What a run has not come to is not said to be done.
			for line, names := range map[string][]string{
				w.dest + "  not finished\n":      {"no source", "hook", "interrupted"},
				w.path("src") + "  not stored\n": {"all refused", "hook", "interrupted"},
			} {
				if strings.Contains(shown, line) != slices.Contains(names, name) {
					t.Errorf("%q, show:\n%s", line, shown)
				}
			}
			bad := w.want(ok, "runs", "--failed", "--json", "--config", w.config).out
			if strings.Contains(bad, rec.ID) == good {
				t.Errorf("runs --failed: %s", bad)
			}
		})
	}
	w := newRunWorld(t)
	w.hooks("")
	w.want(failed, "backup", "--no-such-flag")
	w.want(failed, "runs", "show", "latest", "--config", w.config) // no run, so none is recorded
}

// unreadable is a source with a file that its user cannot read.
func unreadable(w *runWorld) {
	if os.Geteuid() == 0 {
		w.drop()
		must(w.t, os.Chown(w.path("src"), nobody, nobody))
		w.mkdir("repo")
	}
	w.hooks("")
	must(w.t, os.Chmod(w.write([]byte("x"), "src", "secret"), 0))
}

// TestRunHooks: in order, with what they learn, without what they must not know.
func TestRunHooks(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.env = append(w.env, "OPS_TOKEN=s3cr3t-of-the-webhook")
	note := func(more string) string {
		return `echo $BACKUP_HANDLER_HOOK $BACKUP_HANDLER_STATUS $BACKUP_HANDLER_EXIT_CODE >>` + w.path("order") + "; env >" + w.path("env-") + `$BACKUP_HANDLER_HOOK; ` + more
	}
	w.configure(w.path("src"), w.dest, "auth_header = ${OPS_TOKEN}\n[HOOKS]\npre_backup = "+note("echo the token is $OPS_TOKEN")+"\npost_backup = "+note(`cp "$BACKUP_HANDLER_STATS_FILE" `+w.path("stats"))+
		"\non_success = "+note("")+"\non_failure = "+note("")+"\n[LOG]\nlevel = debug\n")
	w.want(ok, "backup", "--config", w.config)
	rec := w.ended("success", ok, "success")
	if got := w.read("order"); got != "pre_backup running\npost_backup success 0\non_success success 0\n" {
		t.Errorf("hooks:\n%s", got)
	}
	for hook, want := range map[string][]string{
		"pre_backup":  {"RUN_ID=" + rec.ID, "COMMAND=backup", "TRIGGER=cli", "CONFIG=" + w.config},
		"post_backup": {"RUN_ID=" + rec.ID, "MODE=incremental", "SNAPSHOT=" + w.snapshotIDs(w.dest)[0], "ERROR="},
		"on_success":  {"STATUS=success"},
	} {
		env := "\n" + w.read("env-"+hook)
		for _, v := range want {
			if !strings.Contains(env, "\nBACKUP_HANDLER_"+v+"\n") {
				t.Errorf("%s: no %s in %s", hook, v, env)
			}
		}
		if strings.Contains(env, "horse battery") || strings.Contains(env, "BACKUP_HANDLER_PASSPHRASE") {
			t.Errorf("%s knows the passphrase", hook)
		}
	}
	var stats runRecord
	if err := json.Unmarshal([]byte(w.read("stats")), &stats); err != nil || stats.ID != rec.ID || stats.Status != "success" {
		t.Errorf("the file of the run: %v %+v", err, stats)
	}
	text := w.read("state", "Logs", "application.log")
	if strings.Contains(text, "s3cr3t") || !strings.Contains(text, "the token is ***") || !strings.Contains(text, "path="+w.path("src", "file")) {
		t.Errorf("the log:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, " path=") && !strings.Contains(line, "level=DEBUG") || strings.Contains(line, `"run starts"`) && !strings.Contains(line, "run_id="+rec.ID) {
			t.Errorf("a line of the log: %s", line)
		}
	}
}

// TestRunHookThatFails: nothing is written, and what the hook has begun is not ended.
func TestRunHookThatFails(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.hooks("pre_backup = echo no database >&2; exit 4\npost_backup = touch " + w.path("post") + "\non_failure = touch " + w.path("failure"))
	w.want(refused, "backup", "--config", w.config).complaint(t, true, "the hook pre_backup failed with exit code 4: no database")
	w.ended("refused", refused, "failure")
	if _, err := os.Stat(w.path("failure")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"repo", "post"} {
		if _, err := os.Stat(w.path(name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// TestRunHookThatHangs: it is ended at its limit, with all that it has started.
func TestRunHookThatHangs(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.hooks("timeout = 1s\npre_backup = sh -c 'trap \"\" TERM; echo $$ >" + w.path("child") + "; while :; do sleep 1; done' & sleep 600")
	w.want(refused, "backup", "--config", w.config).complaint(t, true, "pre_backup was ended", "longer than 1s")
	w.ended("refused", refused, "failure")
	pid, err := strconv.Atoi(strings.TrimSpace(w.read("child")))
	must(t, err)
	waitFor(t, "the end of the child", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// TestRunHookThatFloods: 100 MB of anything fill neither memory nor the log. Alone:
// it measures memory.
func TestRunHookThatFloods(t *testing.T) {
	w := newRunWorld(t)
	memory := func(hook string) int64 {
		t.Helper()
		w.hooks("pre_backup = " + hook)
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		c, out, errout := w.command(ctx, "backup", "--config", w.config)
		peak := w.peak(c)
		if err := c.Run(); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errout)
		}
		w.hook.take()
		return peak()
	}
	usual := memory("true")
	for _, hook := range []string{"head -c 100000000 /dev/urandom", "head -c 100000000 /dev/zero >&2", "yes a line | head -c 100000000"} {
		if most := memory(hook); most > usual+50_000_000 {
			t.Errorf("%s: %d bytes of memory, %d without", hook, most, usual)
		}
	}
	logs, err := filepath.Glob(w.path("state", "Logs", "application*"))
	must(t, err)
	size := int64(0)
	for _, l := range logs {
		info, err := os.Stat(l)
		must(t, err)
		size += info.Size()
	}
	if size > 30<<20 {
		t.Errorf("the log has %d bytes", size)
	}
}

// TestRunInterrupted: SIGTERM during a backup; hooks, record and messages have their time.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	bigSource(w.world, 2)
	note := "echo $BACKUP_HANDLER_HOOK $BACKUP_HANDLER_STATUS >>" + w.path("order")
	w.configure(w.path("src"), w.dest, "[HOOKS]\npost_backup = "+note+"\non_success = "+note+"\non_failure = "+note+"\n[LIMITS]\nupload = 256K\n")
	c, end := w.start("backup", "--config", w.config)
	waitFor(t, "the work", func() bool { return len(objects(t, w.dest, "keys")) > 0 })
	if s := w.sentinel(); s != "started running" {
		t.Errorf("last_run_status.json says %s", s)
	}
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end(); r.code != interrupted {
		t.Fatalf("%v", r)
	}
	w.ended("interrupted", interrupted, "failure")
	if got := w.read("order"); got != "post_backup interrupted\non_failure interrupted\n" {
		t.Errorf("hooks:\n%s", got)
	}
	if s := w.sentinel(); s != "failure interrupted" {
		t.Errorf("last_run_status.json says %s", s)
	}
}

// TestRunAlone: one at a time, and a run that was killed is in nobody's way.
func TestRunAlone(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	block := w.write(nil, "block")
	w.hooks("pre_backup = touch " + w.path("there") + "; while [ -e " + block + " ]; do sleep 0.02; done")
	there := func() bool { return os.Remove(w.path("there")) == nil }
	first, end := w.start("backup", "--config", w.config)
	waitFor(t, "the hook", there)
	r := w.want(refused, "backup", "--config", w.config)
	r.complaint(t, true, "another backup of this configuration is going on", fmt.Sprintf("process %d", first.Process.Pid))
	if w.ended("refused", refused, "failure"); w.sentinel() != "started running" {
		t.Errorf("last_run_status.json is not that of the run that goes on: %s", w.sentinel())
	}
	if out := w.want(ok, "runs", "--config", w.config).out; !strings.Contains(out, "running") {
		t.Errorf("runs:\n%s", out)
	}
	_, waited := w.start("backup", "--config", w.config, "--wait", "2m")
	waitFor(t, "one that waits", func() bool {
		return strings.Contains(w.read("state", "Logs", "application.log"), "waits for another run")
	})
	must(t, first.Process.Kill())
	end()
	waitFor(t, "its turn", there)
	if out := w.want(ok, "runs", "--failed", "--config", w.config).out; !strings.Contains(out, "-  crashed  the run ended without a word") {
		t.Errorf("runs:\n%s", out)
	}
	must(t, os.Remove(block))
	if r := waited(); r.code != ok {
		t.Fatalf("%v", r)
	}
	heard := w.hook.heard
	w.ended("success", ok, "failure", "recovered")
	if heard[0].Run.Status != "crashed" || heard[0].Run.Exit != -1 {
		t.Errorf("the webhook heard %+v", heard)
	}
	w.want(ok, "backup", "--config", w.config)
	w.ended("success", ok, "success") // the crash is told once
	w.verify(ok, w.dest, "--config", w.config)
}

// TestRunStateDirectory: one that is full or cannot be written ends no backup without
// a word.
func TestRunStateDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "mounts")
	for name, prepare := range map[string]func(w *runWorld){
		"full": func(w *runWorld) {
			f, err := os.Create(w.path("state", "filler"))
			must(t, err)
			for buf := make([]byte, 4096); err == nil; {
				_, err = f.Write(buf)
			}
			f.Close()
		},
		"read-only": func(w *runWorld) {
			must(t, syscall.Mount("tmpfs", w.path("state"), "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		},
	} {
		for _, fresh := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, fresh %t", name, fresh), func(t *testing.T) {
				w := newRunWorld(t)
				mount(t, w.path("state"), "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs")
				w.hooks("")
				if !fresh {
					w.want(ok, "backup", "--config", w.config)
					w.hook.take()
				}
				before := len(w.snapshotIDs(w.dest))
				prepare(w)
				r := w.run("backup", "--config", w.config)
				heard := w.hook.take()
				if len(heard) != 1 || heard[0].Run.Exit != r.code {
					t.Errorf("the webhook heard %+v: %v", heard, r)
				}
				switch after := len(w.snapshotIDs(w.dest)); r.code {
				case ok:
					if after != before+1 || !strings.Contains(r.errout, "warning: ") || heard[0].Run.Status != "warning" {
						t.Errorf("%d snapshots: %v", after, r)
					}
					w.env = append(w.env, "BACKUP_HANDLER_DATA_DIR="+w.path("home"))
					w.verify(ok, w.dest, "--config", w.config)
				case refused:
					r.complaint(t, true, "")
					if after != before {
						t.Errorf("%d snapshots: %v", after, r)
					}
				default:
					t.Errorf("%v", r)
				}
			})
		}
	}
}

// TestRunUntold: channels that do not work change nothing about a run, and are recorded.
func TestRunUntold(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	certs := notifytest.Certificates(t, notifytest.CertificateOptions{Expired: true})
	expired := httptest.NewUnstartedServer(w.hook)
	expired.TLS, expired.Config.ErrorLog = certs.Config(t), log.New(io.Discard, "", 0)
	expired.StartTLS()
	defer expired.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, closed.Close())
	w.env = append(w.env, "OLD_URL="+expired.URL)
	w.configure(w.path("src"), w.dest, fmt.Sprintf("[WEBHOOK old]\nurl = ${OLD_URL}\nformat = full\nallow_private = True\nca_file = %s\n[SMTP]\nhost = 127.0.0.1\nport = %d\nfrom_addr = b@example.org\nto_addrs = a@example.org\ntls = none\n",
		certs.CAFile, closed.Addr().(*net.TCPAddr).Port))
	w.want(ok, "backup", "--config", w.config)
	rec := w.last()
	var events []string
	for _, h := range w.hook.take() {
		events = append(events, h.Event)
	}
	if rec.Status != "success" || rec.Exit != ok || !slices.Equal(events, []string{"success", "channel", "channel"}) {
		t.Errorf("the webhook heard %q of %+v", events, rec)
	}
	told := map[string]string{}
	for _, c := range rec.Told {
		told[c.Channel] = c.Error
	}
	if !strings.Contains(told["old"], "expired") || !strings.Contains(told["smtp"], "refused") || told["ops"] != "" || len(told) != 3 {
		t.Errorf("told %v", told)
	}
	if shown := w.want(ok, "runs", "show", "latest", "--config", w.config).out; !strings.Contains(shown, "told         old  FAILED: ") {
		t.Errorf("%s", shown)
	}
}
