package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/usage"
)

// A sample is what one run of one command cost.
type sample struct {
	WallSeconds float64 `json:"wall_seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"` // user and system
	PeakBytes   int64   `json:"peak_bytes"`  // of resident memory; 0: not known here
}

// maxErrorBytes bounds what is kept of a command's messages.
const maxErrorBytes = 4 << 10

// measure runs a command. What it prints is thrown away, but for the last messages
// of one that fails.
func measure(ctx context.Context, argv, env []string) (sample, error) {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var messages tail
	c.Env, c.Stdout, c.Stderr = env, io.Discard, &messages
	usage.Shrink()
	start := time.Now()
	if err := c.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, messages.buf)
	}
	s := sample{WallSeconds: time.Since(start).Seconds()}
	s.CPUSeconds = (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	s.PeakBytes = usage.Peak(c.ProcessState)
	return s, nil
}

// A tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - maxErrorBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}
