package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scheduled writes a configuration with a schedule, of a small source and a destination.
func scheduled(w *world, lines string) (config, dest string) {
	dest = w.path("repo")
	w.write([]byte("hello"), "src", "file")
	config = w.write([]byte("[META]\nschema_version = 6\n[DEFAULT]\nsource_dir = "+w.path("src")+"\nmode = incremental\n[BACKUPS]\nbackup_dirs = "+dest+
		"\n[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n[SCHEDULE]\n"+lines), "config.ini")
	must(w.t, os.Chmod(config, 0o600))
	return config, dest
}

// systemd is a socket that hears what a daemon tells systemd.
type systemd struct {
	mu    sync.Mutex
	heard []string
}

func listen(w *world) *systemd {
	w.t.Helper()
	name := w.path("notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	must(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	w.env = append(w.env, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=1000000")
	s := new(systemd)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.heard = append(s.heard, strings.Split(string(buf[:n]), "\n")...)
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *systemd) count(line string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.heard {
		if l == line {
			n++
		}
	}
	return n
}

// lastDue is what the state of the schedule says was claimed last.
func lastDue(t *testing.T, w *world, kind string) time.Time {
	t.Helper()
	files, err := filepath.Glob(w.path("state", "schedule-*.json"))
	must(t, err)
	var state struct {
		Jobs map[string]struct{ Last time.Time }
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		must(t, json.Unmarshal(data, &state))
	}
	return state.Jobs[kind].Last
}

// TestDaemon: backups come when they are due, a new configuration counts when the daemon
// is told, a bad one does not, and systemd hears what it has to.
func TestDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bus := listen(w)
	config, dest := scheduled(w, "backup = every 2s\n")
	c, end := w.start("daemon", "--config", config, "--", "--tag", "nightly")
	waitFor(t, "ready", func() bool { return bus.count("READY=1") == 1 })
	waitFor(t, "two backups", func() bool { return len(w.snapshotIDs(dest)) >= 2 })
	waitFor(t, "the watchdog's food", func() bool { return bus.count("WATCHDOG=1") > 2 })
	if r := w.want(failed, "daemon", "--config", config); true {
		r.complaint(t, true, "a daemon for this configuration runs already")
	}
	if r := w.want(ok, "daemon", "next", "--config", config); strings.Contains(r.out, "no daemon runs") || !strings.Contains(r.out, "every 2s") {
		t.Errorf("%v", r)
	}

	good, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(string(good)+"verify = whenever\n"), 0o600))
	must(t, c.Process.Signal(syscall.SIGHUP))
	waitFor(t, "the second ready", func() bool { return bus.count("READY=1") == 2 })
	must(t, os.WriteFile(config, []byte(strings.Replace(string(good), "every 2s", "every 300d", 1)+"verify = every 1s\n"), 0o600))
	must(t, c.Process.Signal(syscall.SIGHUP))
	waitFor(t, "the third ready", func() bool { return bus.count("READY=1") == 3 })
	from := lastDue(t, w, "verify")
	waitFor(t, "a verification", func() bool { return lastDue(t, w, "verify").After(from) })

	must(t, c.Process.Signal(syscall.SIGTERM))
	r := end()
	if r.code != ok {
		t.Errorf("want exit code 0: %v", r)
	}
	for _, want := range []string{"daemon: backup started, due ", "exit code 0", "the old schedule goes on: ", "[SCHEDULE] verify: entry 1: must be times", "daemon: the configuration was loaded anew", "daemon: verify started"} {
		if !strings.Contains(r.errout, want) {
			t.Errorf("%q is not in %v", want, r)
		}
	}
	if n := bus.count("RELOADING=1"); n != 2 || bus.count("STOPPING=1") != 1 {
		t.Errorf("systemd heard %q", bus.heard)
	}
	if r := w.want(ok, "snapshots", "--config", config, "--tag", "nightly", "--json"); !strings.Contains(r.out, "nightly") {
		t.Errorf("the flags of backups are lost: %v", r)
	}
	w.verify(ok, dest, "--read-data")
}

// slow makes a daemon whose next backup takes a while, and waits until it is at it.
func slow(t *testing.T, w *world, lines string) (config, dest string, signal func(os.Signal), end func() result, pid int) {
	config, dest = scheduled(w, lines+"\n[LIMITS]\nupload = 512K\n")
	bigSource(w, 2) // 8 MiB: 16 s
	c, end := w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "a run", func() bool { return jobOf(c.Process.Pid) != 0 && len(objects(t, dest, "keys")) > 0 })
	return config, dest, func(s os.Signal) { must(t, c.Process.Signal(s)) }, end, c.Process.Pid
}

// jobOf is the process that a daemon has started; 0: none.
func jobOf(daemon int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", daemon, daemon))
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", daemon))
	for _, task := range tasks {
		more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", daemon, task.Name()))
		data = append(append(data, ' '), more...)
	}
	pid := 0
	fmt.Sscan(string(data), &pid)
	return pid
}

func alive(pid int) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(state), ") Z ")
}

// TestDaemonStops: a run is interrupted cleanly, and made up for by the next daemon.
func TestDaemonStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config, dest, signal, end, pid := slow(t, w, "backup = every 3s")
	child := jobOf(pid)
	signal(syscall.SIGTERM)
	r := end()
	if r.code != ok || !strings.Contains(r.errout, "told to stop: interrupts backup") || !strings.Contains(r.errout, "exit code 130") {
		t.Fatalf("%v", r)
	}
	if alive(child) {
		t.Error("the run lives on")
	}
	if ids := w.snapshotIDs(dest); len(ids) != 0 {
		t.Fatalf("snapshots %q", ids)
	}
	// The next daemon: by the schedule nothing is due for 300 days.
	data, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.NewReplacer("every 3s", "every 300d", "512K", "0").Replace(string(data))), 0o600))
	c, end2 := w.start("daemon", "--config", config)
	waitFor(t, "the run that is owed", func() bool { return len(w.snapshotIDs(dest)) == 1 })
	must(t, c.Process.Signal(syscall.SIGINT))
	if r := end2(); r.code != ok || !strings.Contains(r.errout, "makes up for a run that was missed or interrupted") {
		t.Errorf("%v", r)
	}
	w.verify(ok, dest, "--read-data")
}

// TestDaemonKilled: its run lives on; the next daemon waits for it, and makes up for what
// was due meanwhile, once.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config, dest, signal, end, pid := slow(t, w, "backup = every 3s")
	child := jobOf(pid)
	claimed := lastDue(t, w, "backup")
	signal(syscall.SIGKILL)
	waitFor(t, "its end", func() bool { return !alive(pid) })
	if !alive(child) {
		t.Fatal("the run has died with its daemon")
	}
	data, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(data), "512K", "0", 1)), 0o600))
	time.Sleep(time.Until(claimed.Add(4 * time.Second))) // something was missed
	c, end2 := w.start("daemon", "--config", config)
	waitFor(t, "a second daemon's run", func() bool { return jobOf(c.Process.Pid) != 0 })
	if alive(child) { // it may have been quick
		if got := lastDue(t, w, "backup"); !got.Equal(claimed) {
			t.Errorf("a run of %v began while that of %v was at it", got, claimed)
		}
	}
	waitFor(t, "both runs", func() bool { return len(w.snapshotIDs(dest)) >= 2 })
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end2(); r.code != ok {
		t.Errorf("%v", r)
	}
	end()
	w.verify(ok, dest, "--read-data")
}

// TestDaemonFinishes: with on_stop = finish the run ends first; a second signal
// interrupts it.
func TestDaemonFinishes(t *testing.T) {
	t.Parallel()
	for _, hurry := range []bool{false, true} {
		t.Run(fmt.Sprint("hurry=", hurry), func(t *testing.T) {
			w := newWorld(t)
			_, dest, signal, end, _ := slow(t, w, "backup = every 3s\non_stop = finish")
			signal(syscall.SIGTERM)
			want := 1
			if hurry {
				// Two signals at once are one.
				log := w.path("state", "Logs", "application.log")
				waitFor(t, "the first", func() bool {
					data, _ := os.ReadFile(log)
					return strings.Contains(string(data), "waits for the end of backup")
				})
				signal(syscall.SIGTERM)
				want = 0
			}
			if r := end(); r.code != ok || !strings.Contains(r.errout, "waits for the end of backup") {
				t.Errorf("%v", r)
			}
			if ids := w.snapshotIDs(dest); len(ids) != want {
				t.Errorf("snapshots %q, want %d", ids, want)
			}
		})
	}
}

// TestScheduled: the command line of 2.5.
func TestScheduled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config, dest := scheduled(w, "backup = every 1s\n")
	c, end := w.start("--config", config, "--scheduled", "--exclude", "*.tmp")
	waitFor(t, "a backup", func() bool { return len(w.snapshotIDs(dest)) >= 1 })
	must(t, c.Process.Signal(syscall.SIGTERM))
	r := end()
	if r.code != ok || !slices.ContainsFunc(strings.Split(r.errout, "\n"), func(l string) bool { return strings.HasPrefix(l, "daemon: backup started") }) {
		t.Errorf("%v", r)
	}
}
