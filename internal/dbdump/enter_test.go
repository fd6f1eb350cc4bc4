//go:build unix

package dbdump

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckEnter(t *testing.T) {
	top, err := os.MkdirTemp("", "enter-") // others may enter this one's parents
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	inner := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	const other = 54321
	for mode, in := range map[os.FileMode]bool{0o755: true, 0o711: true, 0o701: true, 0o700: false, 0o750: false} {
		if err := os.Chmod(top, mode); err != nil {
			t.Fatal(err)
		}
		err := CheckEnter(inner, other, other)
		if in && err != nil || !in && (err == nil || !strings.Contains(err.Error(), top) || Hint(err) == "") {
			t.Errorf("%o: %v", mode, err)
		}
		if err := CheckEnter(inner, uint32(os.Getuid()), uint32(os.Getgid())); err != nil {
			t.Errorf("%o: %v", mode, err)
		}
		if err := CheckEnter(inner, other, uint32(os.Getgid())); (err == nil) != (mode&0o010 != 0) {
			t.Errorf("%o, by the group: %v", mode, err)
		}
	}
	if err := CheckEnter(filepath.Join(top, "none"), other, other); err == nil {
		t.Error("what is not there can be entered")
	}
}
