package command

import (
	"errors"
	"os/exec"
)

func shell(line string) *exec.Cmd { return exec.Command("cmd", "/C", line) }

// Apart does nothing: Windows has no process groups.
func Apart(*exec.Cmd) {}

func terminate(*exec.Cmd) error { return errors.ErrUnsupported }

// KillGroup ends a command. What it has started goes on: Windows has no process groups.
func KillGroup(c *exec.Cmd) { c.Process.Kill() }
