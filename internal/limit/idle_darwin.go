package limit

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Of sys/resource.h, which x/sys does not have.
const (
	prioDarwinProcess = 4
	prioDarwinBG      = 0x1000
)

// Idle ranks the process below all others: macOS's background state, which lowers
// its rank for processors, disks and network, for all threads. The error says what
// could not be had.
func Idle() error {
	if err := unix.Setpriority(prioDarwinProcess, 0, prioDarwinBG); err != nil {
		return fmt.Errorf("enter background state: %w", err)
	}
	return nil
}
