//go:build unix

package dbdump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "second"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := FindProgram("pkg", []string{dir}, "first-that-is-not-there", "second"); err != nil || path != filepath.Join(dir, "second") {
		t.Errorf("%q, %v", path, err)
	}
	_, err := FindProgram("some-package", nil, "first-that-is-not-there", "nor-this")
	if !errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), "first-that-is-not-there or nor-this") || !strings.Contains(Hint(err), "some-package") {
		t.Errorf("%v; %s", err, Hint(err))
	}
}

func shell(line string) Child { return Child{Path: "/bin/sh", Args: []string{"-c", line}} }

func TestChild(t *testing.T) {
	t.Setenv("MYSQL_PWD", "of somebody else")
	var out bytes.Buffer
	c := shell(`cat; echo "$X$MYSQL_PWD"; echo 'hunter2 is wrong' >&2; exit 3`)
	c.Env, c.Secrets, c.Stdin, c.Stdout = []string{"X=1"}, []string{"hunter2"}, strings.NewReader("in\n"), &out
	err := c.Run(t.Context())
	failed, ok := errors.AsType[*ChildError](err)
	if !ok || err.Error() != "sh: *** is wrong" || failed.Stderr != "*** is wrong\n" || out.String() != "in\n1\n" {
		t.Errorf("%v; %q", err, out.String())
	}
	if err := shell("exit 0").Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever ends a child ends all that it has started.
func TestChildEnds(t *testing.T) {
	broken := errors.New("broken")
	for name, change := range map[string]func(c *Child, cancel func()){
		"context": func(c *Child, cancel func()) { c.OnLine = func(string) { cancel() } },
		"stdin":   func(c *Child, _ func()) { c.Stdin = iotest.ErrReader(broken) },
		"stdout":  func(c *Child, _ func()) { c.Stdout = failing{broken} },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			pid := filepath.Join(t.TempDir(), "pid")
			c := shell(`sleep 600 & echo $! >"$PIDFILE"; echo out; echo err >&2; wait`)
			c.Env = []string{"PIDFILE=" + pid}
			change(&c, func() { cancel(broken) })
			if err := c.Run(ctx); !errors.Is(err, broken) {
				t.Errorf("%v", err)
			}
			data, err := os.ReadFile(pid)
			if err != nil {
				return // ended before it started anything
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				return
			}
			for range 1000 {
				stat, err := os.ReadFile("/proc/" + strconv.Itoa(n) + "/stat")
				if errors.Is(syscall.Kill(n, 0), syscall.ESRCH) || err == nil && strings.Contains(string(stat), ") Z ") {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("process %d is still there", n)
		})
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A slow reader loses nothing of a program that has ended long before.
func TestChildSlowOutput(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for 3 s")
	}
	var out slow
	if err := (Child{Path: "/bin/echo", Args: []string{"all of it"}, Stdout: &out}).Run(t.Context()); err != nil || out.String() != "all of it\n" {
		t.Errorf("%v: %q", err, out.String())
	}
}

type slow struct{ bytes.Buffer }

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(childWait + time.Second)
	return s.Buffer.Write(p)
}

func (s *slow) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{s}, r) }
