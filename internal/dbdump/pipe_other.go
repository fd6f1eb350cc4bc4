//go:build !linux

package dbdump

import (
	"io"
	"os"
)

// widen does nothing: the size of pipes is fixed here.
func widen(f *os.File) io.Reader { return f }
