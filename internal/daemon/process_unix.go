//go:build unix

package daemon

import (
	"os"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// interrupt is for the process alone: it knows what to do about those it has started.
func interrupt(p *os.Process) { p.Signal(syscall.SIGINT) }

// killGroup ends the process and its group, if it has not ended yet.
func killGroup(p *os.Process) {
	if p.Signal(syscall.Signal(0)) == nil {
		syscall.Kill(-p.Pid, syscall.SIGKILL)
	}
}
