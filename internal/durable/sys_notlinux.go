//go:build !linux

package durable

import (
	"errors"
	"io/fs"
	"os"
)

// Only Linux has files without a name, and the hint to write out early.

func openUnnamed(*os.Root, fs.FileMode) (*os.File, error) {
	return nil, errors.ErrUnsupported
}

func linkUnnamed(*os.Root, *os.File, string) error { return errors.ErrUnsupported }

func startWriteback(*os.File, int64, int64) {}

func dropCache(*os.File) {}
