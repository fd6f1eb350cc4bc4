//go:build unix && !linux && !darwin

package durable

import (
	"errors"
	"os"
)

// The other Unix systems have no rename that refuses to replace.
func renameNoReplace(*os.Root, string, string) error { return errors.ErrUnsupported }
