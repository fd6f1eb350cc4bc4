package limit

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// ioPriorityVeryLow is what background programs use (IO_PRIORITY_HINT of wdm.h).
const ioPriorityVeryLow uint32 = 0

// Idle ranks the process below all others: the idle priority class for processors,
// very low priority for disks, both for all threads. The error says what could not
// be had; the rest is in effect.
//
// It is not PROCESS_MODE_BACKGROUND_BEGIN, which does the same and keeps the
// working set to 32 MiB besides: slower by two orders of magnitude.
func Idle() error {
	var class, disk error
	if err := windows.SetPriorityClass(windows.CurrentProcess(), windows.IDLE_PRIORITY_CLASS); err != nil {
		class = fmt.Errorf("lower processor priority: %w", err)
	}
	hint := ioPriorityVeryLow
	err := windows.NtSetInformationProcess(windows.CurrentProcess(), windows.ProcessIoPriority, unsafe.Pointer(&hint), uint32(unsafe.Sizeof(hint)))
	if err != nil {
		disk = fmt.Errorf("lower I/O priority: %w", err)
	}
	return errors.Join(class, disk)
}
