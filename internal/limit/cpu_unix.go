//go:build unix

package limit

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is the user and system time of all threads of the process, ended
// ones included.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic("limit: getrusage of the process itself: " + err.Error()) // only for a bad address
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
