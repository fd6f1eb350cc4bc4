//go:build unix && !linux

package postgrestest

import "os/exec"

func deathsig(*exec.Cmd) {}
