package filestest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// describe lists the tree: kind, mode, size, time, content and target of each
// entry whose path a system call takes.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || len(p) >= maxPathBytes {
			return nil
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%q %v", p[len(dir):], fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			s += fmt.Sprint(" ", fi.Size(), fi.ModTime().UnixNano())
			if fi.Size() < 8<<20 {
				data, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				s += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %q", to)
		case fi.IsDir():
			s += fmt.Sprint(" ", fi.ModTime().UnixNano())
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDeterministic(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	notesA, notesB := Generate(t, a), Generate(t, b)
	if len(notesA) != len(notesB) {
		t.Errorf("notes %q and %q", notesA, notesB)
	}
	equal(t, describe(t, a), describe(t, b))

	changesA, changesB := Mutate(t, a, 7), Mutate(t, b, 7)
	equal(t, changesA, changesB)
	for _, way := range []string{"rewrite ", "grow ", "shorten ", "touch ", "chmod ", "remove ", "rename ", "replace ", "add "} {
		if !slices.ContainsFunc(changesA, func(s string) bool { return strings.HasPrefix(s, way) }) {
			t.Errorf("no change %q in %q", way, changesA)
		}
	}
	if len(changesA) > 20 {
		t.Errorf("%d changes", len(changesA))
	}
	if other := Mutate(t, b, 8); slices.Equal(other, changesA) {
		t.Errorf("another seed, the same changes: %q", other)
	}
	if err := ClearFlags(a); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(a); err != nil {
		t.Error(err)
	}
}

func equal(t *testing.T, a, b []string) {
	t.Helper()
	if len(a) < 5 || len(a) != len(b) {
		t.Fatalf("%d and %d lines", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("first  %s\nsecond %s", a[i], b[i])
		}
	}
}
