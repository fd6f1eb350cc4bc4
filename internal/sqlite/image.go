package sqlite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// tick is longer than a step of the clock by which file systems stamp changes
	// (100 Hz at worst; FAT is coarser, and holds no database that matters).
	tick = 20 * time.Millisecond
	// imageAttempts is how often an image is taken of a database that changes.
	imageAttempts = 3
)

var errRestless = fmt.Errorf("it cannot be opened without a recovery, and changed during each of %d attempts to copy it for one", imageAttempts)

// image copies a database with its WAL and journal as they are, and lets SQLite recover
// that: the content of these files at one moment is what a loss of power at that moment
// leaves, and SQLite's promise is to make what is committed of it.
func (c *Copier) image(s Source) (*Copy, error) {
	dir, err := os.MkdirTemp(c.o.Dir, "backup-handler-sqlite-*") // 0700
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "db")
	for attempt := 1; ; attempt++ {
		steady, err := c.takeImage(s, name)
		if err != nil {
			return nil, fmt.Errorf("copy it for a recovery: %w", err)
		}
		if steady {
			break
		}
		if attempt == imageAttempts {
			return nil, errRestless
		}
	}
	made, err := c.online(source{path: name, mode: "rw"})
	if err != nil {
		return nil, fmt.Errorf("recover a copy of it: %w", err)
	}
	return made, nil
}

// takeImage says whether what it has copied is of one moment.
func (c *Copier) takeImage(s Source, name string) (steady bool, err error) {
	// A change before this has another time than one after it.
	select {
	case <-time.After(tick):
	case <-c.ctx.Done():
		return false, c.ctx.Err()
	}
	before, err := s.State()
	if err != nil {
		return false, err
	}
	if age := time.Now().UnixNano() - before.Touched(); age >= 0 && age < int64(tick/2) {
		return false, nil
	}
	if err := c.room(2*before.Main.Size + before.WAL.Size + before.Journal.Size); err != nil {
		return false, err
	}
	if err := c.write(name, io.NewSectionReader(s.Main, 0, before.Main.Size)); err != nil {
		return false, err
	}
	for _, suffix := range [...]string{WAL, Journal} {
		if err := c.copyCompanion(s, suffix, name); err != nil {
			return false, err
		}
	}
	after, err := s.State()
	return after == before, err
}

func (c *Copier) copyCompanion(s Source, suffix, name string) error {
	f, err := s.Open(suffix)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Remove(name + suffix) // of an attempt before
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return c.write(name+suffix, f)
}

func (c *Copier) write(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, interruptible{c, r})
	return errors.Join(err, f.Close())
}

// interruptible reads until the copier's context ends.
type interruptible struct {
	c *Copier
	r io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	if err := i.c.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
