package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	readBytes      = 1 << 20 // per read of a file
	maxDifferences = 10      // named in an error
)

// sameTrees is an error that names the first differences if the trees at want
// and got are not the same: names, types, permissions, modification times of
// files and directories to the nanosecond, link targets, every byte. A tool
// that loses something must not look fast.
func sameTrees(want, got string) error {
	var differences []string
	note := func(format string, args ...any) error {
		differences = append(differences, fmt.Sprintf(format, args...))
		if len(differences) == maxDifferences {
			return fs.SkipAll
		}
		return nil
	}
	entries := 0
	err := filepath.WalkDir(want, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		difference, err := sameEntry(path, filepath.Join(got, rel))
		if err != nil || difference == "" {
			return err
		}
		return note("%s: %s", rel, difference)
	})
	if err != nil {
		return fmt.Errorf("compare restored tree: %w", err)
	}
	restored := 0
	err = filepath.WalkDir(got, func(path string, d fs.DirEntry, err error) error {
		restored++
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("compare restored tree: %w", err)
	}
	if restored != entries && len(differences) < maxDifferences {
		_ = note("%d entries, want %d", restored, entries)
	}
	if len(differences) > 0 {
		return fmt.Errorf("restored tree is wrong:\n  %s", strings.Join(differences, "\n  "))
	}
	return nil
}

// sameEntry describes the first difference of two files, directories or links,
// or returns "".
func sameEntry(want, got string) (string, error) {
	w, err := os.Lstat(want)
	if err != nil {
		return "", err
	}
	g, err := os.Lstat(got)
	if errors.Is(err, fs.ErrNotExist) {
		return "missing", nil
	}
	if err != nil {
		return "", err
	}
	switch {
	case w.Mode() != g.Mode():
		return fmt.Sprintf("mode %v, want %v", g.Mode(), w.Mode()), nil
	case w.Mode()&fs.ModeSymlink != 0:
		a, err := os.Readlink(want)
		if err != nil {
			return "", err
		}
		b, err := os.Readlink(got)
		if err != nil || a == b {
			return "", err
		}
		return fmt.Sprintf("points to %s, want %s", b, a), nil
	case !w.ModTime().Equal(g.ModTime()):
		return fmt.Sprintf("modified %v, want %v", g.ModTime(), w.ModTime()), nil
	case w.IsDir():
		return "", nil
	case w.Size() != g.Size():
		return fmt.Sprintf("%d bytes, want %d", g.Size(), w.Size()), nil
	}
	same, err := sameBytes(want, got)
	if err != nil || same {
		return "", err
	}
	return "content differs", nil
}

func sameBytes(want, got string) (bool, error) {
	a, err := os.Open(want)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return false, err
	}
	defer b.Close()
	bufA, bufB := make([]byte, readBytes), make([]byte, readBytes)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		atEnd := func(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
		if errA != nil && !atEnd(errA) {
			return false, errA
		}
		if errB != nil && !atEnd(errB) {
			return false, errB
		}
		if errA != nil || errB != nil {
			return (errA != nil) == (errB != nil), nil
		}
	}
}

// warm reads every byte below root, so that it comes from memory next time.
func warm(root string) error {
	buf := make([]byte, readBytes)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			_, err := f.Read(buf)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", root, err)
	}
	return nil
}

// treeBytes is the sum of the lengths of all files below root.
func treeBytes(root string) (int64, error) {
	var total int64
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", root, err)
	}
	return total, nil
}
