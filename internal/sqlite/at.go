package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// errReplaced says that the path leads to something else by now.
var errReplaced = errors.New("something else took its place")

// At is the database that main has open, found by its path. Whoever can change the
// directories above can lead it elsewhere between two looks; Linux has a better way.
func At(path string, main *os.File) Source {
	return Source{
		Path: path,
		Main: main,
		State: func() (s State, err error) {
			if s.Main, err = fileState(main.Stat()); err != nil {
				return s, err
			}
			if s.WAL, err = besideState(path + WAL); err != nil {
				return s, err
			}
			if s.Journal, err = besideState(path + Journal); err != nil {
				return s, err
			}
			shm, err := besideState(path + SHM)
			s.SHM = shm != FileState{}
			return s, err
		},
		Open: func(suffix string) (*os.File, error) {
			info, err := os.Lstat(path + suffix)
			if err != nil {
				return nil, err
			}
			if !info.Mode().IsRegular() {
				return nil, fmt.Errorf("%s%s is no regular file", path, suffix)
			}
			return os.Open(path + suffix)
		},
		Opened: func() error {
			mine, err := main.Stat()
			if err != nil {
				return err
			}
			if there, err := os.Lstat(path); err != nil || !os.SameFile(mine, there) {
				return errReplaced
			}
			return nil
		},
	}
}

func fileState(info fs.FileInfo, err error) (FileState, error) {
	if err != nil || !info.Mode().IsRegular() {
		return FileState{}, err
	}
	return FileState{Size: info.Size(), MTime: info.ModTime().UnixNano()}, nil
}

// besideState is of a companion that may be missing.
func besideState(path string) (FileState, error) {
	s, err := fileState(os.Lstat(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}
