//go:build unix

package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func run(t *testing.T, c Command) (r Result, lines []string) {
	t.Helper()
	c.OnLine = func(line string, stderr bool) { lines = append(lines, fmt.Sprintf("%t %s", stderr, line)) }
	return Run(t.Context(), c), lines
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	r, lines := run(t, Command{
		Line: `pwd; echo "$X" >&2; printf 'secret \r\nlast'; exit 3`, Dir: dir, Env: []string{"X=1"},
		Redact: func(s string) string { return strings.ReplaceAll(s, "secret", "***") },
	})
	if r.ExitCode != 3 || r.Err == nil || r.Err.Error() != "failed with exit code 3" || r.TimedOut || r.Dropped != 0 {
		t.Errorf("%+v", r)
	}
	if r.LastLine != "1" {
		t.Errorf("last line %q", r.LastLine)
	}
	got := strings.Join(lines, "\n")
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"false " + real, "true 1", "false *** ", "false last"} {
		if !strings.Contains(got+"\n", want+"\n") {
			t.Errorf("no line %q in\n%s", want, got)
		}
	}
	if strings.Contains(r.Output, "secret") || !strings.Contains(r.Output, "last\n") {
		t.Errorf("%q", r.Output)
	}
	if r, _ := run(t, Command{Line: "true"}); r.Err != nil || r.ExitCode != 0 || r.Output != "" {
		t.Errorf("%+v", r)
	}
	if r, _ := run(t, Command{Line: "kill -9 $$"}); r.Err == nil || r.ExitCode != -1 || !strings.Contains(r.Err.Error(), "killed") {
		t.Errorf("%+v", r)
	}
	if r, _ := run(t, Command{Line: "true", Dir: filepath.Join(dir, "none")}); r.Err == nil || r.ExitCode != -1 {
		t.Errorf("%+v", r)
	}
}

// A secret is taken out before a line is cut.
func TestRunLongLines(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, at := range []int{maxLine - 3, readLine - 3} {
		r, lines := run(t, Command{
			Line:   fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x; printf '%s'; head -c 200000 /dev/zero | tr '\0' y`, at, secret),
			Redact: func(s string) string { return strings.ReplaceAll(s, secret, "***") },
		})
		if len(lines) != 1 || len(lines[0]) > maxLine+20 || strings.Contains(lines[0], "hun") || strings.Contains(r.Output, "hun") {
			t.Errorf("%d lines; %q", len(lines), lines[0][max(0, len(lines[0])-20):])
		}
		if r.Dropped < int64(at+200_000-maxLine-100) {
			t.Errorf("%d bytes dropped", r.Dropped)
		}
	}
}

// Output may be anything, and any amount of it.
func TestRunMuchOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MB")
	}
	r, lines := run(t, Command{Line: `head -c 100000000 /dev/urandom; echo; yes | head -n 1000000; echo end`})
	if r.Err != nil || len(lines) != maxLines || r.Dropped < 1_000_000 {
		t.Errorf("%d lines, %d bytes dropped: %v", len(lines), r.Dropped, r.Err)
	}
	if len(r.Output) > maxTail+8 || !strings.HasPrefix(r.Output, "…") || !strings.Contains(r.Output, "end\n") {
		t.Errorf("%d bytes", len(r.Output))
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// Standard output as a stream is all of it, or a failure.
func TestRunStream(t *testing.T) {
	var out bytes.Buffer
	c := Command{Line: `echo oops >&2; head -c 3000000 /dev/zero; printf '\377\n'`, Stdout: &out}
	r, lines := run(t, c)
	if want := append(make([]byte, 3_000_000), 0xff, '\n'); r.Err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes, %v", out.Len(), r.Err)
	}
	if len(lines) != 1 || lines[0] != "true oops" || r.Output != "oops\n" || r.LastLine != "oops" {
		t.Errorf("%q, %+v", lines, r)
	}
	out.Reset()
	// No shell looks at the arguments.
	if r, _ := run(t, Command{Args: []string{"printf", "%s", "$HOME; *"}, Env: os.Environ(), Stdout: &out}); r.Err != nil || out.String() != "$HOME; *" {
		t.Errorf("%q, %v", &out, r.Err)
	}
	if r, _ := run(t, Command{Args: []string{"no-such-program-here"}, Stdout: &out}); r.Err == nil || r.ExitCode != -1 {
		t.Errorf("%+v", r)
	}
	full := errors.New("full")
	if r, _ := run(t, Command{Line: "echo x", Stdout: failing{full}}); !errors.Is(r.Err, full) {
		t.Errorf("%+v", r)
	}
	if r, _ := run(t, Command{Line: "yes", Stdout: failing{full}}); r.Err == nil {
		t.Errorf("%+v", r)
	}
	// Who knows what the one in the background still has to say.
	if r, _ := run(t, Command{Line: "(sleep 600; echo more) & echo some", Stdout: &out}); r.Err == nil || !strings.Contains(r.Err.Error(), "left behind") {
		t.Errorf("%+v", r)
	}
}

// gone waits until a process is no more.
func gone(t *testing.T, pidFile string) {
	t.Helper()
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		// A killed process that nobody waits for, as in a container without an init.
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestRunEndsEverything(t *testing.T) {
	for name, c := range map[string]Command{
		"limit":           {Line: `sleep 600 & echo $! >pid; wait`, Limit: 300 * time.Millisecond},
		"limit and grace": {Line: `trap 'echo cleaned; exit 0' TERM; sleep 600 & echo $! >pid; wait`, Limit: 300 * time.Millisecond, Grace: time.Minute},
		"deaf":            {Line: `trap '' TERM; sleep 600 & echo $! >pid; while :; do wait; done`, Limit: 300 * time.Millisecond, Grace: 100 * time.Millisecond},
		"background":      {Line: `sleep 600 & echo $! >pid`},
		"holds no output": {Line: `sleep 600 >/dev/null 2>&1 & echo $! >pid`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Dir = t.TempDir()
			r, lines := run(t, c)
			gone(t, filepath.Join(c.Dir, "pid"))
			switch {
			case c.Limit == 0:
				if r.ExitCode != 0 || r.Err != nil || r.TimedOut {
					t.Errorf("%+v", r)
				}
			default:
				if name == "limit and grace" && (r.ExitCode != 0 || len(lines) != 1 || !strings.Contains(lines[0], "cleaned")) {
					t.Errorf("%+v: %q", r, lines)
				}
				if !r.TimedOut || r.Err == nil || !strings.Contains(r.Err.Error(), "longer than 300ms") {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	r := Run(ctx, Command{Line: `echo $$ >new; mv new pid; sleep 600`, Dir: dir})
	if !errors.Is(r.Err, context.Canceled) || r.TimedOut {
		t.Errorf("%+v", r)
	}
	gone(t, filepath.Join(dir, "pid"))
}
