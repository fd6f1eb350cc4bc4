package postgrestest

import (
	"os/exec"
	"syscall"
)

// deathsig ends a server with the test, even if that is killed.
func deathsig(c *exec.Cmd) { c.SysProcAttr.Pdeathsig = syscall.SIGINT }
