package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// ErrForeign says that a file is in the way that this program has not written.
var ErrForeign = errors.New("is there, and was not written by this program")

// A State says how a file of an installation is.
type State string

// The states of a file.
const (
	Missing State = "missing"
	Current State = "current" // as it would be written now
	Changed State = "changed" // ours, and different
	Foreign State = "foreign" // somebody else's
)

// Look says how one file of an installation in dir is.
func Look(dir string, f File) (State, error) {
	data, err := os.ReadFile(filepath.Join(dir, f.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Missing, nil
	case err != nil:
		return "", err
	case bytes.Equal(data, f.Data):
		return Current, nil
	case !ours(data):
		return Foreign, nil
	}
	return Changed, nil
}

func ours(data []byte) bool { return strings.Contains(decodeUTF16(data), Marker) }

// Installed lists the names of files in dir that an installation has written, sorted.
func Installed(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), Name) && !strings.HasPrefix(e.Name(), Label) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if ours(data) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Install writes the files into dir, which is made if need be, and returns the names of
// those that it has changed. Nothing is written if one of them is somebody else's
// (ErrForeign), unless force.
func Install(dir string, files []File, force bool) (changed []string, err error) {
	states := make([]State, len(files))
	for i, f := range files {
		if states[i], err = Look(dir, f); err != nil {
			return nil, err
		}
		if states[i] == Foreign && !force {
			return nil, fmt.Errorf("%s %w", filepath.Join(dir, f.Name), ErrForeign)
		}
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for i, f := range files {
		if states[i] == Current {
			continue
		}
		if err := durable.WriteFile(filepath.Join(dir, f.Name), f.Data, f.Perm); err != nil {
			return changed, err
		}
		changed = append(changed, f.Name)
	}
	return changed, nil
}

// Remove removes what an installation has written into dir, except keep, and returns the
// names.
func Remove(dir string, keep ...string) (removed []string, err error) {
	names, err := Installed(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if slices.Contains(keep, n) {
			continue
		}
		if err := durable.Remove(filepath.Join(dir, n)); err != nil {
			return removed, err
		}
		removed = append(removed, n)
	}
	return removed, nil
}
