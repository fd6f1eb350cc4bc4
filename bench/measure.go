package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/usage"
)

// A command is a pipeline of programs; most have one stage.
type command struct {
	stages [][]string
	stdout string // file for the last stage's output; empty: captured
	stdin  string // file for the first stage's input; empty: none
	dir    string // working directory; empty: the scratch directory
}

func run(argv ...string) command { return command{stages: [][]string{argv}} }

func pipe(stages ...[]string) command { return command{stages: stages} }

func (c command) to(file string) command { c.stdout = file; return c }

func (c command) from(file string) command { c.stdin = file; return c }

func (c command) in(dir string) command { c.dir = dir; return c }

func (c command) String() string {
	var parts []string
	for _, argv := range c.stages {
		parts = append(parts, strings.Join(argv, " "))
	}
	line := strings.Join(parts, " | ")
	if c.stdin != "" {
		line += " < " + c.stdin
	}
	if c.stdout != "" {
		line += " > " + c.stdout
	}
	return line
}

// A sample is what one run of one command cost.
type sample struct {
	WallSeconds float64 `json:"wall_seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"` // user and system, of all stages
	// PeakBytes is the largest resident size; of a pipeline the sum of its
	// stages' peaks, since they run at the same time. 0: not known here.
	PeakBytes int64 `json:"peak_bytes"`
}

// maxOutputBytes bounds the output kept of a command for its error message.
const maxOutputBytes = 64 << 10

// measure runs c with exactly the environment env, each stage behind prefix
// (taskset and its arguments, or nothing). A stage that fails is an error that
// carries the output of all of them.
func measure(ctx context.Context, c command, prefix, env []string, scratch string) (sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Output goes to a file, not through the harness, which must stay small
	// and idle while a command runs.
	output, err := os.CreateTemp(scratch, "output-")
	if err != nil {
		return sample{}, fmt.Errorf("start %s: %w", c, err)
	}
	defer os.Remove(output.Name())
	defer output.Close()
	var opened []io.Closer
	defer func() {
		for _, o := range opened {
			o.Close()
		}
	}()

	procs := make([]*exec.Cmd, len(c.stages))
	for i, argv := range c.stages {
		argv = append(append([]string{}, prefix...), argv...)
		p := exec.CommandContext(ctx, argv[0], argv[1:]...)
		p.Env, p.Dir, p.Stdout, p.Stderr = env, c.dir, output, output
		if p.Dir == "" {
			p.Dir = scratch
		}
		procs[i] = p
	}
	// Pipes between the stages are the kernel's, so the harness copies nothing.
	for i := range procs[1:] {
		r, w, err := os.Pipe()
		if err != nil {
			return sample{}, fmt.Errorf("start %s: %w", c, err)
		}
		opened = append(opened, r, w)
		procs[i].Stdout, procs[i+1].Stdin = w, r
	}
	if c.stdin != "" {
		f, err := os.Open(c.stdin)
		if err != nil {
			return sample{}, fmt.Errorf("start %s: %w", c, err)
		}
		opened = append(opened, f)
		procs[0].Stdin = f
	}
	if c.stdout != "" {
		f, err := os.Create(c.stdout)
		if err != nil {
			return sample{}, fmt.Errorf("start %s: %w", c, err)
		}
		opened = append(opened, f)
		procs[len(procs)-1].Stdout = f
	}

	usage.Shrink()
	start := time.Now()
	var failed error
	started := 0
	for _, p := range procs {
		if err := p.Start(); err != nil {
			failed = err
			cancel()
			break
		}
		started++
	}
	for _, o := range opened { // the children hold their own ends
		o.Close()
	}
	opened = nil
	for i, p := range procs[:started] {
		if err := p.Wait(); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", c.stages[i][0], err))
		}
	}
	s := sample{WallSeconds: time.Since(start).Seconds()}
	if failed != nil {
		return sample{}, fmt.Errorf("run %s: %w\n%s", c, failed, lastBytes(output, maxOutputBytes))
	}
	for _, p := range procs {
		s.CPUSeconds += (p.ProcessState.UserTime() + p.ProcessState.SystemTime()).Seconds()
		s.PeakBytes += usage.Peak(p.ProcessState)
	}
	return s, nil
}

// lastBytes is the end of a file, for messages to people.
func lastBytes(f *os.File, limit int64) string {
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	content, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
	if err != nil {
		return err.Error()
	}
	return string(content)
}
