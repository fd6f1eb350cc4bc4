package limit

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary double as the process that TestIdle looks at: a
// rank cannot be taken back.
func TestMain(m *testing.M) {
	if os.Getenv("LIMIT_TEST_IDLE") != "" {
		if err := idleWhileThreadsStart(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// idleWhileThreadsStart ranks the process while goroutines start new threads all the
// time, and looks at all threads.
func idleWhileThreadsStart() error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var started sync.WaitGroup
				for range 4 {
					started.Go(func() {
						runtime.LockOSThread() // which ends with the goroutine
						time.Sleep(time.Millisecond)
					})
				}
				started.Wait()
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	if err := Idle(); err != nil {
		return err
	}
	for range 20 {
		time.Sleep(2 * time.Millisecond)
		tids, err := threads()
		if err != nil {
			return err
		}
		for _, tid := range tids {
			nice, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
			if err != nil {
				continue // it has ended
			}
			prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
			if errno == 0 && (20-nice != lowestNice || prio != ioprioIdle) {
				return fmt.Errorf("thread %d has nice %d and I/O priority %#x", tid, 20-nice, prio)
			}
		}
	}
	close(stop)
	wg.Wait()
	return Idle() // once more does no harm
}

func TestIdle(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LIMIT_TEST_IDLE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
}
