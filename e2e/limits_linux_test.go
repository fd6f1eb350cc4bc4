package e2e

import (
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

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// What is asked here is only what cannot be false on a busy machine: that a limited
// run takes at least so long. How close it comes is measured by bench/limits.

// TestRateLimits: data that does not compress takes as long as the rate says, up and
// down, whatever the number of destinations.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	const (
		size = 4 << 20
		rate = 2 << 20 // bytes per second
		// A tenth of a second's worth passes at once.
		least = (size - rate/10) * time.Second / rate
	)
	w := newWorld(t)
	w.write(filestest.Bytes("limits", size), "src", "file")
	a, b := w.path("a"), w.path("b")
	slow := func(least time.Duration, args ...string) {
		t.Helper()
		if r := w.want(ok, args...); r.took < least {
			t.Errorf("took %v, want at least %v: %v", r.took, least, r)
		}
	}
	slow(least, append([]string{"backup", "--limit-upload", "2M"}, encrypted(w.path("src"), a)...)...)
	// The other destination is given the same from the first: down, then up.
	slow(least, append([]string{"backup", "--limit-download", "2M"}, encrypted(w.path("src"), a, b)...)...)
	slow(least, "verify", "--read-data", "--backup-dirs", b, "--limit-download", "2M")
	slow(least, "restore", "latest:"+w.path("src"), "--to", w.mkdir("out"), "--backup-dirs", b, "--limit-download", "2M")
	same(t, w.path("src"), w.path("out"))

	// The configuration says the same, and a flag goes before it.
	conf := w.write([]byte("[META]\nschema_version = 6\n[BACKUPS]\nbackup_dirs = "+b+"\n[LIMITS]\ndownload = 2M\n"), "home", "config.ini")
	must(t, os.Chmod(conf, 0o600))
	slow(least, "verify", "--read-data", "--config", conf)
	slow(2*least, "verify", "--read-data", "--config", conf, "--limit-download", "1M")
}

// TestRateLimitInterrupted: who waits for the rate can be stopped.
func TestRateLimitInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(filestest.Bytes("limits", 4<<20), "src", "file")
	c, _, errout := w.command(t.Context(), append([]string{"backup", "--limit-upload", "10K"}, encrypted(w.path("src"), w.path("repo"))...)...)
	must(t, c.Start())
	for deadline := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(w.path("repo", "keys")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the backup has not begun")
		}
	}
	must(t, c.Process.Signal(os.Interrupt))
	start := time.Now()
	c.Wait()
	// 4 MiB would take 400 s.
	if code, took := c.ProcessState.ExitCode(), time.Since(start); code != interrupted || took > time.Minute {
		t.Errorf("exit code %d after %v: %s", code, took, errout)
	}
}

// TestCPULimit: a run of so much processor time takes at least so long.
// Alone: it measures processor time.
func TestCPULimit(t *testing.T) {
	const share = 0.2
	// Nobody asks before the limit is known and after the last piece of work.
	const outside = 200 * time.Millisecond
	w := newWorld(t)
	for i := range 40 {
		// Digits take more time than bytes: they can be compressed.
		name := fmt.Sprintf("f%02d", i)
		w.write(fmt.Appendf(nil, "%x", filestest.Bytes(name, 1_000_000)), "src", name)
	}
	src, repo := w.path("src"), w.path("repo")
	for _, args := range [][]string{
		append([]string{"backup"}, encrypted(src, repo)...),
		{"verify", "--read-data", "--backup-dirs", repo},
		{"restore", "latest:" + src, "--to", w.mkdir("out"), "--backup-dirs", repo},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		c, out, errout := w.command(ctx, append(args, "--limit-cpu", "0.2")...)
		start := time.Now()
		err := c.Run()
		took := time.Since(start)
		cancel()
		if err != nil {
			t.Fatalf("%v: %v: %s%s", args, err, out, errout)
		}
		used := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		if allowed := time.Duration(share*float64(took)) + outside; used > allowed {
			t.Errorf("%s used %v of processor time in %v", args[0], used, took)
		}
		t.Logf("%s used %v of processor time in %v", args[0], used, took)
	}
	same(t, src, w.path("out"))
}

// TestIOIdle: all threads of a run have the lowest rank, those that start later, too;
// and without the flag none has.
func TestIOIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.tree(40, "src")
	for _, idle := range []bool{true, false} {
		// So slow that it can be looked at in peace.
		args := append([]string{"backup", "--limit-upload", "50K"}, encrypted(w.path("src"), w.path("repo"))...)
		if idle {
			args = append(args, "--io-idle")
		}
		ctx, cancel := context.WithCancel(t.Context())
		c, _, errout := w.command(ctx, args...)
		must(t, c.Start())
		seen := map[int]bool{}
		working := time.Time{} // since when
		for deadline := time.Now().Add(timeout); working.IsZero() || time.Since(working) < 500*time.Millisecond; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the backup has not begun")
			}
			if working.IsZero() {
				// The packs' directory is made when the first block is ready, long
				// after the flags were read.
				if _, err := os.Stat(w.path("repo", "packs")); err == nil {
					working = time.Now()
				}
				continue
			}
			for tid, got := range ranks(t, c.Process.Pid) {
				seen[tid] = true
				if want := rank(t, os.Getpid(), os.Getpid()); !idle && got != want {
					t.Errorf("without --io-idle thread %d has %+v instead of %+v", tid, got, want)
				}
				if want := (threadRank{19, 3}); idle && got != want {
					t.Errorf("with --io-idle thread %d has %+v instead of %+v", tid, got, want)
				}
			}
		}
		if len(seen) < 3 {
			t.Errorf("only %d threads were seen", len(seen))
		}
		if strings.Contains(errout.String(), "--io-idle") {
			t.Errorf("a warning: %s", errout)
		}
		cancel()
		c.Wait()
	}
}

// A threadRank is what /proc and the kernel say about a thread.
type threadRank struct {
	nice    int
	ioClass int // 0 none, 1 realtime, 2 best effort, 3 idle
}

// ranks are those of a process's threads.
func ranks(t *testing.T, pid int) map[int]threadRank {
	t.Helper()
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*"))
	must(t, err)
	all := map[int]threadRank{}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		must(t, err)
		if r := rank(t, pid, tid); r.nice != ended {
			all[tid] = r
		}
	}
	return all
}

// ended is no value of nice.
const ended = 1000

func rank(t *testing.T, pid, tid int) threadRank {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(tid), "stat"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return threadRank{nice: ended}
	}
	must(t, err)
	// The name, in parentheses, may hold anything. Field 19 is nice; what follows
	// the name begins with field 3.
	_, fields, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	nice, err := strconv.Atoi(strings.Fields(fields)[19-3])
	must(t, err)
	const whoThread = 1 // IOPRIO_WHO_PROCESS
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoThread, uintptr(tid), 0)
	if errno == syscall.ESRCH {
		return threadRank{nice: ended}
	}
	if errno != 0 {
		t.Fatal(errno)
	}
	return threadRank{nice, int(prio >> 13)}
}

// TestLimitsRefused: a value that cannot be understood ends the run before it has
// done anything.
func TestLimitsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write([]byte("x"), "src", "file")
	for _, flag := range []string{
		"--limit-cpu=", "--limit-cpu=x", "--limit-cpu=-1", "--limit-cpu=0.001", "--limit-cpu=200%", "--limit-cpu=1e3",
		"--limit-upload=", "--limit-upload=-1", "--limit-upload=1.5M", "--limit-upload=10Q", "--limit-download=fast", "--io-idle=perhaps",
	} {
		r := w.want(failed, append([]string{"backup", flag}, encrypted(w.path("src"), w.path("repo"))...)...)
		name, _, _ := strings.Cut(flag, "=")
		r.complaint(t, true, name)
	}
	for _, line := range []string{"cpu = x", "cpu = 200%", "upload = fast", "download = -1", "io_idle = perhaps"} {
		conf := w.write([]byte("[META]\nschema_version = 6\n[LIMITS]\n"+line+"\n"), "home", "config.ini")
		must(t, os.Chmod(conf, 0o600))
		r := w.want(failed, append([]string{"backup", "--config", conf}, encrypted(w.path("src"), w.path("repo"))...)...)
		key, _, _ := strings.Cut(line, " ")
		r.complaint(t, true, "config.ini:4", "[LIMITS] "+key)
	}
	if _, err := os.Lstat(w.path("repo")); err == nil {
		t.Error("a repository was made")
	}
}
