package preflight

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// mountTime is how long mount may take: a disk that spins up and replays its
	// journal, a server that answers at the third attempt.
	mountTime = 2 * time.Minute
	// tagTime is how long blkid may take to read the beginning of a disk.
	tagTime = 20 * time.Second
	// lingerTime is what a program that was killed has for letting go of its output.
	lingerTime = 2 * time.Second
	// maxOutput bounds what is kept of what a program says, in bytes.
	maxOutput = 4 << 10
)

// toolDirs are where mount and blkid are looked for: what $PATH says is the user's,
// and cron's is short.
var toolDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/run/wrappers/bin", "/run/current-system/sw/bin"}

func (m *Machine) useTools() {
	m.Mount = func(ctx context.Context, point string) error {
		_, err := tool(ctx, toolDirs, mountTime, "mount", point)
		return err
	}
	// -p reads the device itself: what blkid remembers may be of the disk that was
	// there before.
	m.Tag = func(ctx context.Context, device, name string) (string, error) {
		return tool(ctx, toolDirs, tagTime, "blkid", "-p", "-o", "value", "-s", name, device)
	}
}

// tool runs a program of one of some directories and returns what it prints, without
// the newline at the end. Nothing of our environment, which may hold secrets, is passed
// on.
func tool(ctx context.Context, dirs []string, limit time.Duration, name string, args ...string) (string, error) {
	path := ""
	for _, dir := range dirs {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		return "", fmt.Errorf("%s is not installed", name)
	}
	expired := fmt.Errorf("%s took longer than %v", name, limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, expired)
	defer cancel()
	c := exec.CommandContext(ctx, path, args...)
	c.Env = []string{"PATH=" + strings.Join(dirs, ":"), "LC_ALL=C"}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = lingerTime
	var out, said head
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		if line, _, _ := strings.Cut(strings.TrimSpace(string(said.text)), "\n"); line != "" {
			err = errors.New(line)
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return strings.TrimSuffix(string(out.text), "\n"), nil
}

// head keeps the beginning of what is written.
type head struct{ text []byte }

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), maxOutput-len(h.text))]...)
	return len(p), nil
}
