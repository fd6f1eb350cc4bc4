package daemon

import (
	"errors"
	"os"
	"os/exec"
	"strings"
)

// A Program is what jobs are run with.
type Program struct {
	Path string
	// Args are the arguments for a job.
	Args func(Job) []string
	// Env is the environment of the daemon; jobs get it without what systemd has meant
	// for the daemon alone.
	Env            []string
	Stdout, Stderr *os.File
	State          *State
}

// TriggerEnv tells a run what has started it.
const TriggerEnv = "BACKUP_HANDLER_TRIGGER"

// ofDaemon are variables that mean the process that systemd has started.
var ofDaemon = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", TriggerEnv, ClaimEnv}

// Start starts a job as a process in a process group of its own, so that it lives on if
// the daemon is killed, and a terminal's Ctrl-C does not reach it twice.
func (p Program) Start(j Job) (Process, error) {
	c := exec.Command(p.Path, p.Args(j)...)
	for _, v := range p.Env {
		name, _, _ := strings.Cut(v, "=")
		mine := false
		for _, own := range ofDaemon {
			mine = mine || own == name
		}
		if !mine {
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, TriggerEnv+"="+j.Trigger, ClaimEnv+"="+p.State.Env(j))
	// Files, not pipes: who inherits them from the job does not keep us waiting.
	c.Stdout, c.Stderr = p.Stdout, p.Stderr
	c.SysProcAttr = ownGroup()
	if err := c.Start(); err != nil {
		return nil, err
	}
	proc := &process{c.Process, make(chan int, 1)}
	go func() {
		err := c.Wait()
		code := c.ProcessState.ExitCode()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ok && exit.ExitCode() < 0 {
			code = -1
		}
		proc.done <- code
	}()
	return proc, nil
}

type process struct {
	os   *os.Process
	done chan int
}

func (p *process) Done() <-chan int { return p.done }
func (p *process) Interrupt()       { interrupt(p.os) }
func (p *process) Kill()            { killGroup(p.os) }
