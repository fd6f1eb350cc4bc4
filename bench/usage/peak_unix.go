//go:build unix

package usage

import (
	"os"
	"runtime"
	"syscall"
)

// Peak is the most resident memory that a process that has ended held, in bytes, by the
// kernel's count; 0: it is not known.
func Peak(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	switch {
	case !ok:
		return 0
	case runtime.GOOS == "darwin" || runtime.GOOS == "ios":
		return int64(usage.Maxrss) // bytes there, KiB everywhere else
	}
	return int64(usage.Maxrss) << 10
}
