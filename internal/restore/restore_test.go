package restore

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

var _ Repository = (*repo.Repository)(nil)

// TestPortable is what every platform restores.
func TestPortable(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 2500
	file := func(name string, size int) *tree.Node {
		return m.file(&tree.Node{Name: name, Mode: 0o644, MTime: tree.Time{Sec: 1_600_000_000}}, noise(uint64(size), size))
	}
	linked := func(name string) *tree.Node {
		n := file(name, 700)
		n.Links, n.Device, n.Inode = 2, 1, 1
		return n
	}
	hole := &tree.Node{Name: "sparse", Mode: 0o644, MTime: tree.Time{Sec: 1_600_000_000}, Size: 300_000, Extents: []tree.Extent{{Offset: 70_000, Length: 1500}, {Offset: 200_000, Length: 10}}}
	m.file(hole, noise(9, 1510))
	entries := []*tree.Node{
		m.dir(t, &tree.Node{Name: "dir", MTime: tree.Time{Sec: 1_500_000_000}}, file("empty", 0), file("large", 12_345), linked("one"), linked("two")),
		file("file", 5000), hole,
	}
	root := m.dir(t, &tree.Node{Name: "src"}, entries...)
	target := filepath.Join(t.TempDir(), "new")
	for range 2 { // the second finds everything there
		res, err := Run(t.Context(), m, &tree.Snapshot{}, root, "/src", target, Options{Delete: true})
		if err != nil || !res.Complete() {
			t.Fatalf("%+v, %v", res, err)
		}
		for name, size := range map[string]int{"dir/empty": 0, "dir/large": 12_345, "dir/one": 700, "dir/two": 700, "file": 5000} {
			data, err := os.ReadFile(filepath.Join(target, filepath.FromSlash(name)))
			if err != nil || !bytes.Equal(data, noise(uint64(size), size)) {
				t.Errorf("%s: %d bytes, %v", name, len(data), err)
			}
		}
		for name, sec := range map[string]int64{"dir": 1_500_000_000, "file": 1_600_000_000} {
			st, err := os.Stat(filepath.Join(target, name))
			if err != nil || st.ModTime().Unix() != sec {
				t.Errorf("%s: %v, %v", name, st.ModTime(), err)
			}
		}
		var want bytes.Buffer
		if err := Cat(t.Context(), m, hole, &want); err != nil || want.Len() != 300_000 {
			t.Errorf("cat: %d bytes, %v", want.Len(), err)
		}
		if data, err := os.ReadFile(filepath.Join(target, "sparse")); err != nil || !bytes.Equal(data, want.Bytes()) {
			t.Errorf("sparse: %d bytes, %v", len(data), err)
		}
		v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{IgnoreOwner: true})
		if err != nil || v.Files != 6 {
			t.Errorf("%+v, %v", v, err)
		}
		for _, d := range v.Differences {
			// Modes are not those of Unix on Windows.
			if d.Kind != Metadata || runtime.GOOS != "windows" {
				t.Errorf("verify: %+v", d)
			}
		}
		if err := os.WriteFile(filepath.Join(target, "extra"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Run(t.Context(), m, &tree.Snapshot{}, m.dir(t, &tree.Node{Name: "src"}), "/src", target, Options{Delete: true}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(target); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
