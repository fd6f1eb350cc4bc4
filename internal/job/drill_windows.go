package job

import "os/exec"

const listOpenFlags = 0

// shell runs a command line.
func shell(line string) *exec.Cmd { return exec.Command("cmd", "/C", line) }

func apart(*exec.Cmd) {}

// killAll ends a command. What it has started goes on: Windows has no process groups.
func killAll(c *exec.Cmd) error { return c.Process.Kill() }
