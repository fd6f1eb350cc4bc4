package durable

import (
	"errors"
	"fmt"

	"github.com/gofrs/flock"
)

// ErrLocked says that another holder has the lock.
var ErrLocked = errors.New("locked by another process")

// A Lock is an exclusive lock that the system releases when the process ends, in
// whatever way. It is advisory: it binds those who ask for it. It is held by the
// value, not the process: a second TryLock in the same process fails too.
type Lock struct {
	flock *flock.Flock
}

// TryLock takes the lock on the file name, without waiting. The file is created
// if need be (0600, in a directory that exists) and is never removed: whoever
// removed it could let two processes lock two files of the same name.
//
// If another has the lock, the error is ErrLocked. Over NFS this relies on the
// server's locks; on a file system without any it is an error.
func TryLock(name string) (*Lock, error) {
	l := flock.New(name, flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if !ok {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	return &Lock{l}, nil
}

// Unlock releases the lock. A second call does nothing.
func (l *Lock) Unlock() error { return l.flock.Unlock() }
