package daemon

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// interrupt sends Ctrl-Break, which Go programs see as os.Interrupt. A daemon without a
// console cannot; then the job ends when its time is up.
func interrupt(p *os.Process) {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(p.Pid))
}

// killGroup ends the process alone: what a job has started lives on.
func killGroup(p *os.Process) { p.Kill() }
