//go:build unix

package command

import (
	"os/exec"
	"syscall"
)

func shell(line string) *exec.Cmd { return exec.Command("/bin/sh", "-c", line) }

// Apart puts a command into a process group of its own: an interrupt of the terminal is
// for the program, which ends the command.
func Apart(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(c *exec.Cmd) error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }

// KillGroup ends a command that was put apart, and all that it has started.
func KillGroup(c *exec.Cmd) { syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
