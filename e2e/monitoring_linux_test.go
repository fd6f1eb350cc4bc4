package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// freeAddress is one of loopback that nobody listens at.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// scrape gets the metrics of a daemon; "" if it does not answer.
func scrape(address string) string {
	res, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return ""
	}
	return string(text)
}

// TestDaemonMetrics: a daemon tells of its runs while it runs, of those before it too, and
// promtool has nothing to find in it. Alone: its port must stay free.
func TestDaemonMetrics(t *testing.T) {
	w := newWorld(t)
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	config, _ := scheduled(w, "backup = every 300d\nverify = every 2s\n[METRICS]\nlisten = "+port+"\ntextfile = "+w.path("b.prom")+"\n")
	w.want(ok, "backup", "--config", config)
	c, end := w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	has := func(parts ...string) func() bool {
		return func() bool {
			for line := range strings.Lines(scrape(address)) {
				if all := true; strings.HasPrefix(line, parts[0]+"{") {
					for _, p := range parts[1:] {
						all = all && strings.Contains(line, p)
					}
					if all {
						return true
					}
				}
			}
			return false
		}
	}
	waitFor(t, "a backup of before the daemon", has("backup_handler_last_success_timestamp_seconds", `command="backup"`))
	waitFor(t, "a verification", has("backup_handler_last_run_exit_code", `command="verify"`, "} 0\n"))
	waitFor(t, "when it is due", has("backup_handler_next_due_timestamp_seconds", `command="verify"`))
	waitFor(t, "what is going on", has("backup_handler_runs_in_progress", `command="backup"`, "} 0\n"))
	text := scrape(address)
	if strings.Contains(text, "correct horse") {
		t.Error("the metrics hold the passphrase")
	}
	if out, err := exec.Command("sh", "../scripts/tools", "promtool").CombinedOutput(); err != nil {
		t.Fatalf("scripts/tools promtool: %v\n%s", err, out)
	}
	for _, text := range []string{text, string(read(t, w.path("b.prom")))} {
		check := exec.Command("../build/tools/promtool", "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s\nof\n%s", err, out, text)
		}
	}
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end(); r.code != ok || !strings.Contains(r.errout, "metrics at http://127.0.0.1:"+port+"/metrics") {
		t.Errorf("%v", r)
	}

	// An address that another has is a warning, and backups go on.
	taken, err := net.Listen("tcp", address)
	must(t, err)
	defer taken.Close()
	verified := lastDue(t, w, "verify")
	c, end = w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "a verification all the same", func() bool { return lastDue(t, w, "verify").After(verified) })
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end(); r.code != ok || !strings.Contains(r.errout, "warning: no metrics: listen tcp ") {
		t.Errorf("%v", r)
	}
}

// TestTextfileIsReadable: whatever the umask is, as in the service. Alone: all that is
// made meanwhile has that umask.
func TestTextfileIsReadable(t *testing.T) {
	w := newWorld(t)
	config, _ := scheduled(w, "backup = every 300d\n[METRICS]\ntextfile = "+w.path("b.prom")+"\n")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	w.want(ok, "backup", "--config", config)
	info, err := os.Stat(w.path("b.prom"))
	must(t, err)
	if info.Mode() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestTraces: a collector gets a trace of each run, a failed one too, with the header that
// only it may see.
func TestTraces(t *testing.T) {
	t.Parallel()
	type span struct {
		TraceID, SpanID, ParentSpanID, Name string
		Status                              struct {
			Code    int
			Message string
		}
	}
	var mu sync.Mutex
	var traces [][]span
	var auth []string
	collector := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var body struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/v1/traces" || len(body.ResourceSpans) != 1 {
			t.Errorf("%s: %v", r.URL, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		traces = append(traces, body.ResourceSpans[0].ScopeSpans[0].Spans)
		auth = append(auth, r.Header.Get("Authorization"))
		fmt.Fprint(rw, "{}")
	}))
	defer collector.Close()
	w := newWorld(t)
	w.env = append(w.env, "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20s3cret-token")
	config, _ := scheduled(w, "backup = every 300d\n[METRICS]\notlp_endpoint = "+collector.URL+"\notlp_headers = ${OTEL_EXPORTER_OTLP_HEADERS}\n[HOOKS]\npre_backup = true\n")
	w.want(ok, "backup", "--config", config)
	must(t, os.Rename(w.path("src"), w.path("away")))
	w.want(refused, "backup", "--config", config)
	w.want(ok, "snapshots", "--config", config) // is no run
	if len(traces) != 2 {
		t.Fatalf("%d traces", len(traces))
	}
	good, bad := traces[0], traces[1]
	var names []string
	for i, s := range good {
		names = append(names, s.Name)
		if s.Status.Code != 0 || s.TraceID != good[0].TraceID || (i == 0) != (s.ParentSpanID == "") {
			t.Errorf("%+v", s)
		}
	}
	if strings.Join(names, " ") != "backup preflight pre_backup backup" {
		t.Errorf("spans %q", names)
	}
	if bad[0].Status.Code != 2 || !strings.Contains(bad[0].Status.Message, "src") || bad[0].TraceID == good[0].TraceID {
		t.Errorf("%+v", bad)
	}
	if strings.Join(auth, ",") != "Bearer s3cret-token,Bearer s3cret-token" {
		t.Errorf("authorization %q", auth)
	}
}

// TestStatusColours: on a terminal only, and not with NO_COLOR.
func TestStatusColours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config, _ := scheduled(w, "backup = every 300d\n")
	w.want(ok, "backup", "--config", config)
	onTerminal := func(env ...string) string {
		t.Helper()
		c := exec.Command("script", "-qec", fmt.Sprintf("%s status --local --config %s", binary, config), "/dev/null")
		like, _, _ := w.command(t.Context())
		c.Env, c.Dir = append(append(like.Env, "TERM=xterm"), env...), like.Dir
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "good ") {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := onTerminal(); !strings.Contains(out, "\x1b[32mok\x1b[0m") {
		t.Errorf("no colours: %q", out)
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if out := onTerminal(env); strings.Contains(out, "\x1b") {
			t.Errorf("%s: %q", env, out)
		}
	}
	if r := w.want(ok, "status", "--config", config); strings.Contains(r.out, "\x1b") {
		t.Errorf("no terminal: %q", r.out)
	}
}
