package job

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
)

// A drill that is killed leaves its scratch directory, with files in clear. So each is
// noted beside the reports, in NAME.scratch, under the lock NAME.lock that ends with the
// process; the next drill removes those whose process is gone.

const (
	noteSuffix = ".scratch"
	lockSuffix = ".lock"
)

// scratchNote is the content of a note.
type scratchNote struct {
	Path  string `json:"path"`
	Inode uint64 `json:"inode"`
}

// A noted scratch directory.
type noted struct {
	*restore.Scratch
	stem string // of note and lock; "" without them
	lock *durable.Lock
}

// newScratch makes a scratch directory, and notes it if that is possible: the report of
// the drill, which goes to the same place, will say what is not.
func (r Reports) newScratch(parent string) (*noted, error) {
	s, err := restore.NewScratch(parent)
	if err != nil {
		return nil, err
	}
	n := &noted{Scratch: s}
	if r.Dir == "" || durable.MkdirAll(r.Dir, 0o700) != nil {
		return n, nil
	}
	note, err := json.Marshal(scratchNote{s.Path(), s.Inode()})
	if err != nil {
		panic("job: " + err.Error()) // a path and a number
	}
	stem := filepath.Join(r.Dir, filepath.Base(s.Path()))
	if n.lock, err = durable.TryLock(stem + lockSuffix); err != nil {
		return n, nil
	}
	n.stem = stem
	_ = durable.WriteFile(stem+noteSuffix, append(note, '\n'), 0o600)
	return n, nil
}

// Remove removes the directory, and the note if it is gone.
func (n *noted) Remove() error {
	err := n.Scratch.Remove()
	if n.lock == nil {
		return err
	}
	if err == nil {
		err = ignoreMissing(durable.Remove(n.stem + noteSuffix))
	}
	n.lock.Unlock()
	if err == nil { // no other drill has this name, and without a note nobody needs the lock
		err = ignoreMissing(durable.Remove(n.stem + lockSuffix))
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep removes the scratch directories of drills that were killed, and returns them. The
// error says which stay.
func (r Reports) Sweep() (removed []string, err error) {
	if r.Dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	for _, e := range entries {
		stem, ok := strings.CutSuffix(filepath.Join(r.Dir, e.Name()), noteSuffix)
		if !ok {
			continue
		}
		path, sweepErr := sweepOne(stem)
		if path != "" {
			removed = append(removed, path)
		}
		err = errors.Join(err, sweepErr)
	}
	return removed, err
}

func sweepOne(stem string) (removed string, err error) {
	lock, err := durable.TryLock(stem + lockSuffix)
	if errors.Is(err, durable.ErrLocked) {
		return "", nil // it is going on
	}
	if err != nil {
		return "", err
	}
	n := &noted{stem: stem, lock: lock}
	data, err := os.ReadFile(stem + noteSuffix)
	var note scratchNote
	if err == nil {
		err = json.Unmarshal(data, &note)
	}
	if err == nil {
		n.Scratch, err = restore.AdoptScratch(note.Path, note.Inode)
	}
	if errors.Is(err, fs.ErrNotExist) { // the directory, or the note: another process was faster
		lock.Unlock()
		return "", errors.Join(ignoreMissing(durable.Remove(stem+noteSuffix)), ignoreMissing(durable.Remove(stem+lockSuffix)))
	}
	if err != nil {
		lock.Unlock()
		return "", err
	}
	if err := n.Remove(); err != nil {
		return "", err
	}
	return note.Path, nil
}
