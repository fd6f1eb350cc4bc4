package limit

import (
	"time"

	"golang.org/x/sys/windows"
)

// processorTime is the user and kernel time of all threads of the process, ended
// ones included. Windows counts in ticks of up to 15.6 ms.
func processorTime() time.Duration {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &created, &exited, &kernel, &user); err != nil {
		panic("limit: GetProcessTimes of the process itself: " + err.Error()) // only for a bad handle
	}
	ticks := func(t windows.Filetime) int64 { return int64(t.HighDateTime)<<32 | int64(t.LowDateTime) }
	return time.Duration(ticks(kernel)+ticks(user)) * 100 // of 100 ns; Filetime.Nanoseconds would subtract an epoch
}
