package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

const (
	// lockWait bounds the wait for another run that writes its file: milliseconds of work.
	lockWait = 10 * time.Second
	lockPoll = 10 * time.Millisecond
	// fileMode lets everybody read: node_exporter runs as another user.
	fileMode = 0o644
)

// WriteFile replaces a file for node_exporter's textfile collector; its directory must be
// there. look is called while nobody else with the same lock writes, so that the last one who
// writes has looked last.
func WriteFile(name, lock string, look func() (*State, error)) error {
	held, err := wait(lock)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer held.Unlock()
	s, err := look()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		return err
	}
	if err := durable.WriteFileFor(name, b.Bytes(), fileMode); err != nil {
		return fmt.Errorf("metrics: write %s: %w", name, err)
	}
	return nil
}

func wait(name string) (*durable.Lock, error) {
	for start := time.Now(); ; time.Sleep(lockPoll) {
		lock, err := durable.TryLock(name)
		if !errors.Is(err, durable.ErrLocked) || time.Since(start) > lockWait {
			return lock, err
		}
	}
}
