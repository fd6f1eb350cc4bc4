package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// A Copy is a copy of a database, in a temporary file that nobody else can read. It is
// gone once it is closed; on Unix, also if the process ends.
type Copy struct {
	*os.File
	size int64
}

// Size is the length of the copy in bytes.
func (c *Copy) Size() int64 { return c.size }

// Close removes the copy.
func (c *Copy) Close() error {
	err := c.File.Close()
	if rm := os.Remove(c.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

func (c *Copier) newCopy() (*Copy, error) {
	f, err := os.CreateTemp(c.o.Dir, "backup-handler-sqlite-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return &Copy{File: f}, nil
}

// hide removes the name, once SQLite has opened it.
func (c *Copy) hide() error {
	if runtime.GOOS == "windows" {
		return nil // Close does: what is open has to keep its name
	}
	return os.Remove(c.Name())
}

// measure notes the size.
func (c *Copy) measure() error {
	info, err := c.Stat()
	if err == nil {
		c.size = info.Size()
	}
	return err
}
