package limit

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of linux/ioprio.h, which x/sys does not have.
const (
	ioprioWhoProcess = 1       // in fact a thread
	ioprioIdle       = 3 << 13 // IOPRIO_CLASS_IDLE
)

// lowestNice is the lowest rank for processor time.
const lowestNice = 19

// idlePasses bounds how often the threads are gone through: each pass but the last
// has found a thread that was started by one not yet ranked.
const idlePasses = 100

// Idle ranks the process below all others: the idle class for disks, nice 19 for
// processors. It needs no privilege, and cannot be taken back without one. The
// error says what could not be had; the rest is in effect.
//
// On Linux both belong to threads, and a new thread inherits them from the one
// that starts it. So all threads are set, again and again until a pass finds
// none that was not: then nobody is left who could start one.
func Idle() error {
	for range idlePasses {
		tids, err := threads()
		if err != nil {
			return err
		}
		changed := false
		for _, tid := range tids {
			c, err := idleThread(tid)
			if err != nil && !errors.Is(err, unix.ESRCH) { // else it has ended
				return err
			}
			changed = changed || c
		}
		if !changed {
			return nil
		}
	}
	return errors.New("threads start faster than their priority is lowered")
}

func threads() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("list the process's threads: %w", err)
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// idleThread ranks one thread, and tells whether it was not before.
func idleThread(tid int) (changed bool, err error) {
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil {
		return false, fmt.Errorf("read processor priority: %w", err)
	}
	if 20-nice != lowestNice { // the system call returns 20 - nice
		changed = true
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, lowestNice); err != nil {
			return false, fmt.Errorf("lower processor priority: %w", err)
		}
	}
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno == 0 && prio == ioprioIdle {
		return changed, nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), ioprioIdle); errno != 0 {
		return false, fmt.Errorf("set idle I/O class: %w", errno)
	}
	return true, nil
}
