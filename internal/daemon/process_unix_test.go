//go:build unix

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProgram(t *testing.T) {
	t.Parallel()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := OpenState(t.TempDir(), "")
	script := func(text string) Program {
		return Program{
			Path: "/bin/sh", Args: func(j Job) []string { return []string{"-c", text, string(j.Kind)} },
			Env: []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=/x", TriggerEnv + "=cli", "KEPT=yes"}, Stdout: out, Stderr: out, State: s,
		}
	}
	job := Job{"backup", time.Date(2026, 1, 1, 2, 30, 0, 0, time.UTC), "schedule"}
	run := func(text string, do func(Process)) int {
		p, err := script(text).Start(job)
		if err != nil {
			t.Fatal(err)
		}
		do(p)
		select {
		case code := <-p.Done():
			return code
		case <-time.After(time.Minute):
			t.Fatalf("%s does not end", text)
			return 0
		}
	}
	nothing := func(Process) {}
	if code := run(`echo "$0 $KEPT $NOTIFY_SOCKET $BACKUP_HANDLER_TRIGGER $BACKUP_HANDLER_DUE"; exit 3`, nothing); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if data, _ := os.ReadFile(out.Name()); string(data) != "backup yes  schedule backup 2026-01-01T02:30:00Z "+s.id+" "+s.dir+"\n" {
		t.Errorf("the job saw %q", data)
	}
	ready := func(do func(Process)) func(Process) { // once the job has said so
		os.Truncate(out.Name(), 0)
		return func(p Process) {
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if data, _ := os.ReadFile(out.Name()); strings.Contains(string(data), "ready") {
					break
				}
			}
			do(p)
		}
	}
	if code := run(`trap 'exit 130' INT; echo ready; while :; do sleep 0.01; done`, ready(Process.Interrupt)); code != 130 {
		t.Errorf("exit code %d after an interrupt", code)
	}
	// With all that it has started: the pipe is closed when the last of them is gone.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := script(`trap '' INT; sleep 1000 & echo ready; wait`)
	p.Stderr = w
	child, err := p.Start(job)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	ready(Process.Kill)(child)
	if code := <-child.Done(); code != -1 {
		t.Errorf("exit code %d of a job that was killed", code)
	}
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("something of the job lives on: %v", err)
	}
	child.Kill() // does nothing
	if _, err := (Program{Path: "/nonexistent", Args: func(Job) []string { return nil }, State: s}).Start(job); err == nil {
		t.Error("a program that does not exist starts")
	}
}
