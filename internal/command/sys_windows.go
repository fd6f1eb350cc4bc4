package command

import (
	"errors"
	"os/exec"
)

func shell(line string) *exec.Cmd { return exec.Command("cmd", "/C", line) }

func apart(*exec.Cmd) {}

func terminate(*exec.Cmd) error { return errors.ErrUnsupported }

// kill ends a command. What it has started goes on: Windows has no process groups.
func kill(c *exec.Cmd) { c.Process.Kill() }
