//go:build unix && !linux && !darwin

package limit

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// lowestNice is the lowest rank for processor time.
const lowestNice = 19

// Idle ranks the process below all others for processors. The error says what
// could not be had: there are no classes of I/O here. The rest is in effect.
func Idle() error {
	var nice error
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, lowestNice); err != nil {
		nice = fmt.Errorf("lower processor priority: %w", err)
	}
	return errors.Join(nice, errors.New("no I/O classes on "+runtime.GOOS))
}
