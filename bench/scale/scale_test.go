package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func files(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		all[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Sources are the same everywhere, of the shape and size that was asked for, and
// no two files of them are the same.
func TestSources(t *testing.T) {
	const n = 2*filesPerDir*dirsPerProject + 3
	for _, flat := range []bool{false, true} {
		a, b := t.TempDir(), t.TempDir()
		for _, root := range []string{a, b} {
			if err := writeTree(t.Context(), root, n, flat); err != nil {
				t.Fatal(err)
			}
		}
		got, again := files(t, a), files(t, b)
		if len(got) != n || len(again) != n {
			t.Fatalf("%d and %d files", len(got), len(again))
		}
		contents, dirs := map[string]bool{}, map[string]int{}
		for path, data := range got {
			if again[path] != data {
				t.Errorf("%s differs from run to run", path)
			}
			if len(data) < minFileBytes || len(data) > maxFileBytes || contents[data] {
				t.Errorf("%s: %d bytes, or not the only one", path, len(data))
			}
			contents[data] = true
			dirs[filepath.Dir(path)]++
		}
		for dir, count := range dirs {
			if !flat && count > filesPerDir || flat && count != n {
				t.Errorf("%s holds %d files", dir, count)
			}
		}
	}
}

func TestLargeSources(t *testing.T) {
	for _, size := range []int64{1, pieceBytes - 1, pieceBytes, pieceBytes + 1, 5*pieceBytes + 7} {
		var a, b, other bytes.Buffer
		for seed, w := range map[uint64]io.Writer{1: &a, 2: &other} {
			if err := writeLargeFile(t.Context(), w, seed, size, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeLargeFile(t.Context(), &b, 1, size, true); err != nil {
			t.Fatal(err)
		}
		if int64(a.Len()) != size || !bytes.Equal(a.Bytes(), b.Bytes()) || size > 8 && bytes.Equal(a.Bytes(), other.Bytes()) {
			t.Errorf("%d of %d bytes, or not those of the seed", a.Len(), size)
		}
	}
	dir := t.TempDir()
	if err := writeLarge(t.Context(), dir, 3_000_000, true); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 1 || len(got["large-0000.bin"]) != 3_000_000 {
		t.Errorf("%d files", len(got))
	}
}

func TestMeasure(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no sh")
	}
	s, err := measure(t.Context(), []string{"sh", "-c", "echo out"}, os.Environ())
	if err != nil || s.WallSeconds <= 0 || s.PeakBytes <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	_, err = measure(t.Context(), []string{"sh", "-c", "yes x | head -c 100000 >&2; echo the end >&2; exit 3"}, os.Environ())
	if err == nil || !strings.HasSuffix(err.Error(), "the end\n") || len(err.Error()) > 2*maxErrorBytes {
		t.Errorf("error %v", err)
	}
}

var samplePoints = []point{
	{treeShape, 10_000, stepFind, sample{0.5, 0.1, 3 << 20}},
	{treeShape, 10_000, stepUnchanged, sample{1, 0.2, 30 << 20}},
	{treeShape, 1_000_000, stepFind, sample{2, 2, 3 << 20}},
	{treeShape, 1_000_000, stepUnchanged, sample{9, 8, 100 << 20}},
	{treeShape, 1_000_000, stepResticUnchanged, sample{30, 40, 600 << 20}},
	{flatShape, 1_000_000, stepUnchanged, sample{8, 7, 201 << 20}},
	{byteShape, 5 * gigabyte, stepFirst, sample{20, 30, 70 << 20}},
}

func TestTable(t *testing.T) {
	got := table(samplePoints)
	for _, want := range []string{
		"| | 10 thousand | 1 million |\n|---|---|---|\n| find | **10.0 µs**, 0.50 s, 3 MiB | **2.0 µs**, 2.00 s, 3 MiB |\n",
		"| restic: unchanged run | – | **40.0 µs**, 30 s, 600 MiB |\n",
		"| | 5 GB |\n|---|---|\n| first backup | **6.00 s**, 20 s, 70 MiB |\n",
		"tree of 1 million files, unchanged run, of the time of find: 4.5 ×, target 5 ×: kept",
		"tree of 1 million files, unchanged run, of the time of restic: 0.3 ×, target 0.2 ×: missed",
		"tree of 1 million files, memory of unchanged run: 100 MiB, target 200 MiB: kept",
		"flat of 1 million files, memory of unchanged run: 201 MiB, target 200 MiB: missed",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := table(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestPlots(t *testing.T) {
	for _, svg := range []string{plotFiles(samplePoints), plotBytes(samplePoints), plotFiles(nil)} {
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("numbers that are none: %s", svg)
		}
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in %s", err, svg)
			}
		}
	}
	if got := strings.Count(plotFiles(samplePoints), "<polyline"); got != 3 {
		t.Errorf("%d lines", got)
	}
	if a, b := plotFiles(samplePoints), plotFiles(samplePoints); a != b {
		t.Error("two plots of the same differ")
	}
}

func TestResults(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.json")
	if got, err := readPoints(name); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	if err := writePoints(name, samplePoints); err != nil {
		t.Fatal(err)
	}
	got, err := readPoints(name)
	if err != nil || table(got) != table(samplePoints) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{{"-files", "x"}, {"-files", "0"}, {"-bytes", "-1"}, {"-shapes", "round"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	o, err := parse([]string{"-files", "", "-bytes", "1,2", "-shapes", "flat"})
	if err != nil || len(o.files) != 0 || len(o.bytes) != 2 || len(o.shapes) != 1 || !o.restic {
		t.Errorf("%+v, %v", o, err)
	}
}
