package preflight

import (
	"context"
	"errors"
	"path/filepath"
	"time"
)

// A Machine is where the checks look, so that tests can show them another one. Its
// methods may be called concurrently.
type Machine struct {
	// MountInfo is the file that says what is mounted, in the form of
	// /proc/self/mountinfo. Systems other than Linux are asked instead.
	MountInfo string
	// Fstab says what should be mounted where; a missing file: nothing.
	Fstab string
	// DevDisk is the directory whose by-uuid and by-label name volumes.
	DevDisk string
	// Mount mounts what Fstab has for a mount point; nil: this system cannot.
	Mount func(ctx context.Context, point string) error
	// Tag asks a device itself for its UUID, LABEL or TYPE; nil: this system cannot.
	// An error: it could not be found out.
	Tag func(ctx context.Context, device, name string) (string, error)
	// Wait is how long a file system may take to answer.
	Wait time.Duration
}

// DefaultWait is longer than a disk takes to spin up, and a network file system to come
// back after a short outage.
const DefaultWait = 30 * time.Second

// This is the machine that the program runs on.
func This() *Machine {
	m := &Machine{MountInfo: "/proc/self/mountinfo", Fstab: "/etc/fstab", DevDisk: "/dev/disk", Wait: DefaultWait}
	m.useTools()
	return m
}

// answer returns what f does, or errNoAnswer if that takes longer than Wait: a file
// system of a server that is gone blocks whoever asks it, for ever. What blocks is
// left behind.
func answer[T any](ctx context.Context, m *Machine, f func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.Wait, errNoAnswer)
	defer cancel()
	type both struct {
		x   T
		err error
	}
	done := make(chan both, 1)
	go func() {
		x, err := f()
		done <- both{x, err}
	}()
	select {
	case b := <-done:
		return b.x, b.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// errNoAnswer says that Wait has passed.
var errNoAnswer = errors.New("the file system does not answer")

// within makes the checks of a path, and refuses it if they do not come back in time.
func (m *Machine) within(ctx context.Context, check Check, path string, f func() []Result) []Result {
	results, err := answer(ctx, m, func() ([]Result, error) { return f(), nil })
	if err == nil {
		return results
	}
	return []Result{{Check: check, State: Refused, Subject: path, Text: err.Error(), Hint: trouble(err)}}
}

// trouble is what to do about a file system that does not do what it should.
func trouble(err error) string {
	if errors.Is(err, errNoAnswer) {
		return "is the server that it is on gone? 'umount -f -l' gets rid of a file system that hangs"
	}
	return "is its disk well? 'dmesg' may tell"
}

// resolve returns path, absolute and without symlinks, as far as it exists.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for at := abs; ; at = filepath.Dir(at) {
		resolved, err := filepath.EvalSymlinks(at)
		if err == nil {
			return filepath.Join(resolved, rest), nil
		}
		if at == filepath.Dir(at) {
			return abs, nil
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

// isWithin says whether path is dir or below it; both are clean.
func isWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
