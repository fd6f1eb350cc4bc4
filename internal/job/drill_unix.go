//go:build unix

package job

import (
	"os/exec"
	"syscall"
)

// listOpenFlags keep a symlink or FIFO that has taken a file's place from being
// followed or waited for.
const listOpenFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// shell runs a command line.
func shell(line string) *exec.Cmd { return exec.Command("/bin/sh", "-c", line) }

// apart puts a command into a process group of its own: an interrupt of the terminal is
// for the drill, which ends all that the command has started.
func apart(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killAll ends a command that was put apart, and all that it has started.
func killAll(c *exec.Cmd) error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
