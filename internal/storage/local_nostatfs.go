//go:build unix && !linux && !darwin && !freebsd

package storage

import (
	"errors"
	"os"
)

// The remaining Unix systems each have a call of their own for this, which
// nobody has needed yet.
func freeBytes(*os.Root) (int64, error) { return 0, errors.ErrUnsupported }
