// Package usage tells what a program that has ended took: for all measurements below
// bench.
//
// usage.go: the mark of this process. peak_unix.go, peak_other.go: that of another.
package usage

import (
	"os"
	"runtime"
	"runtime/debug"
)

// Shrink lowers this process's own high-water mark of memory; it is called before a
// command is started. Linux lets a child begin with the mark of the process that started
// it, so that without this every small command would seem to need as much as the harness
// once did. Failure leaves the mark as it is: peaks have a higher floor then. Other systems
// need nothing.
func Shrink() {
	if runtime.GOOS != "linux" {
		return
	}
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // 5: reset the peak, see proc(5)
}
