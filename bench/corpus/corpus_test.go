package corpus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const testScale = 0.02 // 400 small files and 40 MB of large ones

func generate(t *testing.T, spec Spec) (string, Stats) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "corpus")
	st, err := Generate(t.Context(), root, spec)
	if err != nil {
		t.Fatal(err)
	}
	return root, st
}

// digest is a hash of every name, mode, time, link and byte below root.
func digest(t *testing.T, root string, withTimes bool) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %v\n", rel, d.Type())
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintln(h, target)
			return err
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			if withTimes {
				fmt.Fprintln(h, info.ModTime().UnixNano())
			}
			content, err := os.ReadFile(path)
			h.Write(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestGenerateDependsOnSpecOnly(t *testing.T) {
	spec := Spec{Seed: 7, Scale: 0.005}
	a, _ := generate(t, spec)
	first := digest(t, a, true)

	previous := runtime.GOMAXPROCS(1)
	b, _ := generate(t, spec)
	runtime.GOMAXPROCS(previous)
	if got := digest(t, b, true); got != first {
		t.Errorf("one worker wrote %s, several wrote %s", got, first)
	}
	c, _ := generate(t, Spec{Seed: 8, Scale: 0.005})
	if digest(t, c, true) == first {
		t.Error("another seed gave the same corpus")
	}
}

func TestGenerateRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, root string
		scale      float64
	}{
		{"directory in use", full, 0.005},
		{"scale 0", t.TempDir(), 0},
		{"negative scale", t.TempDir(), -1},
		{"scale too large", t.TempDir(), MaxScale + 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Generate(t.Context(), tc.root, Spec{Seed: 1, Scale: tc.scale}); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestShape(t *testing.T) {
	root, st := generate(t, Spec{Seed: 1, Scale: testScale})
	if n := st.SmallFiles + st.Symlinks; n != smallFiles*testScale {
		t.Errorf("%d small files and links, want %v", n, smallFiles*testScale)
	}
	// 400 draws of a heavy-tailed law spread by about a tenth.
	if mean := st.SmallBytes / int64(st.SmallFiles); mean < 16_000 || mean > 30_000 {
		t.Errorf("mean small file has %d bytes, want about 22,000", mean)
	}
	if want := int64(largeBytes * testScale); st.LargeBytes < want*99/100 || st.LargeBytes > want*101/100 {
		t.Errorf("large files have %d bytes, want %d", st.LargeBytes, want)
	}
	// Root, small, large and 2,000 scaled.
	if want := 2_000*testScale + 3; float64(st.Dirs) != want {
		t.Errorf("%d directories, want %v", st.Dirs, want)
	}
	if st.Symlinks == 0 {
		t.Error("no symlinks")
	}
	seen := map[[32]byte]int{}
	copies, files := 0, 0
	for _, content := range contents(t, filepath.Join(root, SmallDir)) {
		if len(content) == 0 {
			continue
		}
		files++
		sum := sha256.Sum256(content)
		if seen[sum]++; seen[sum] > 1 {
			copies++
		}
	}
	if copies == 0 || copies > files*5/100 {
		t.Errorf("%d of %d small files are exact copies, want about 2 %%", copies, files)
	}
}

func contents(t *testing.T, root string) map[string][]byte {
	t.Helper()
	paths, err := regularFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = content
	}
	return out
}

// ratio compresses each file by itself, as a tool without shared blocks does.
func ratio(t *testing.T, files map[string][]byte) float64 {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault)) // about zstd -3
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	var before, after int
	for _, content := range files {
		before += len(content)
		after += len(enc.EncodeAll(content, nil))
	}
	return float64(before) / float64(after)
}

func TestCompressesLikeRealData(t *testing.T) {
	root, _ := generate(t, Spec{Seed: 1, Scale: testScale})
	small := contents(t, filepath.Join(root, SmallDir))
	got := ratio(t, small)
	t.Logf("small files: %.2f", got)
	if got < 3.5 || got > 4.5 {
		t.Errorf("small files compress %.2f times, want 3.5 to 4.5 like source code", got)
	}
	for path, content := range contents(t, filepath.Join(root, LargeDir)) {
		got := ratio(t, map[string][]byte{path: content})
		t.Logf("%s: %.2f", filepath.Base(path), got)
		switch {
		case strings.HasSuffix(path, ".bin"):
			if got > 1.001 {
				t.Errorf("%s compresses %.3f times, want not at all", path, got)
			}
		case got < 3 || got > 5:
			t.Errorf("%s compresses %.2f times, want 3 to 5", path, got)
		}
	}
}

func TestMutate(t *testing.T) {
	spec := Spec{Seed: 1, Scale: testScale}
	a, _ := generate(t, spec)
	before := contents(t, a)
	done, err := Mutate(a, spec)
	if err != nil {
		t.Fatal(err)
	}
	after := contents(t, a)

	if done.Edited == 0 || done.Appended == 0 || done.Added == 0 || done.Renamed == 0 || done.Deleted == 0 {
		t.Errorf("a kind of change is missing: %+v", done)
	}
	gone, fresh, changed := 0, 0, 0
	for path, content := range before {
		if now, ok := after[path]; !ok {
			gone++
		} else if string(now) != string(content) {
			changed++
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			fresh++
		}
	}
	if want := done.Renamed + done.Deleted; gone != want {
		t.Errorf("%d paths are gone, want %d", gone, want)
	}
	if want := done.Renamed + done.Added; fresh != want {
		t.Errorf("%d paths are new, want %d", fresh, want)
	}
	if want := done.Edited + done.Appended + 1; changed != want {
		t.Errorf("%d files changed, want %d: edits, appends and one large file", changed, want)
	}

	dump := filepath.Join(a, filepath.FromSlash(dumpFile))
	if string(after[dump]) != headInsert+string(before[dump]) {
		t.Error("the dump is not its old content behind ten new bytes")
	}

	b, _ := generate(t, spec)
	if _, err := Mutate(b, spec); err != nil {
		t.Fatal(err)
	}
	if digest(t, a, false) != digest(t, b, false) {
		t.Error("the same spec changed two corpora differently")
	}
}

func TestPatchPages(t *testing.T) {
	spec := Spec{Seed: 1, Scale: testScale}
	a, _ := generate(t, spec)
	before := contents(t, a)
	wrote, err := PatchPages(a, spec)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(a, filepath.FromSlash(imageFile))
	for path, now := range contents(t, a) {
		if path != image && string(now) != string(before[path]) {
			t.Errorf("%s changed, too", path)
		}
		if path != image {
			continue
		}
		pages := 0
		for at := 0; at < len(before[path]); at += pageBytes {
			if string(before[path][at:at+pageBytes]) != string(now[at:at+pageBytes]) {
				pages++
			}
		}
		if len(before[path]) != len(now) || pages == 0 || pages > wrote {
			t.Errorf("%d pages of the image differ, want 1 to %d", pages, wrote)
		}
	}

	b, _ := generate(t, spec)
	if _, err := PatchPages(b, spec); err != nil {
		t.Fatal(err)
	}
	if digest(t, a, false) != digest(t, b, false) {
		t.Error("the same spec patched two corpora differently")
	}
}

// A change of the generator must change Version, or stored corpora of before
// would be taken for new ones.
func TestVersionNamesTheContent(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the digest is of amd64; other processors may round a file's size differently")
	}
	const wantVersion, want = 1, "57228524841c1d140bc3ba8b17d119456bbe4296545e7470fba4ad5155335496"
	root, _ := generate(t, Spec{Seed: 1, Scale: 0.005})
	if got := digest(t, root, true); got != want || Version != wantVersion {
		t.Errorf("version %d has digest %s, want version %d with %s: raise Version and set both here", Version, got, wantVersion, want)
	}
}
