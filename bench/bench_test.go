package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
)

func TestToolsNamed(t *testing.T) {
	chosen, err := toolsNamed("cp, ours")
	if err != nil || len(chosen) != 2 || chosen[0].name != "cp" || chosen[1].name != "ours" {
		t.Errorf("got %v, %v, want cp and ours in this order", chosen, err)
	}
	if _, err := toolsNamed("cp,floppy"); err == nil {
		t.Error("an unknown tool was accepted")
	}
}

func unixOnly(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs sh, cp and tar, which Windows lacks or has in other versions")
	}
}

func TestMeasure(t *testing.T) {
	unixOnly(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	env := []string{"PATH=" + os.Getenv("PATH"), "WORD=hello"}
	s, err := measure(t.Context(), pipe([]string{"sh", "-c", "echo $WORD; sleep 0.1"}, []string{"tr", "a-z", "A-Z"}).to(out), nil, env, dir)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(out); err != nil || string(content) != "HELLO\n" {
		t.Errorf("pipeline wrote %q, %v", content, err)
	}
	if s.WallSeconds < 0.1 || s.PeakBytes == 0 {
		t.Errorf("sample %+v, want at least 0.1 s and some memory", s)
	}
}

func TestMeasureFails(t *testing.T) {
	unixOnly(t)
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, tc := range []struct {
		name string
		c    command
		want string
	}{
		{"only stage", run("sh", "-c", "echo broken >&2; exit 3"), "broken"},
		{"first of two", pipe([]string{"sh", "-c", "echo broken >&2; exit 3"}, []string{"cat"}), "broken"},
		{"no such program", run("/no/such/program"), "no such file"},
		{"no such second program", pipe([]string{"sleep", "60"}, []string{"/no/such/program"}), "no such file"},
		{"no such input", run("cat").from("/no/such/file"), "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := measure(t.Context(), tc.c, nil, env, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one that says %q", err, tc.want)
			}
		})
	}
}

func TestSameTrees(t *testing.T) {
	unixOnly(t)
	when := time.Unix(1_700_000_000, 123_456_789)
	build := func(t *testing.T, change func(root string) error) string {
		root := t.TempDir()
		write := func(name, content string) {
			path := filepath.Join(root, name)
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, when, when); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(root, "d"), 0o755); err != nil {
			t.Fatal(err)
		}
		write("a", "alpha")
		write("d/b", strings.Repeat("x", readBytes)+"y")
		if err := os.Symlink("a", filepath.Join(root, "l")); err != nil {
			t.Fatal(err)
		}
		if err := change(root); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"d", "."} {
			if err := os.Chtimes(filepath.Join(root, dir), when, when); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	keepTime := func(path string, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	}
	want := build(t, func(string) error { return nil })
	for _, tc := range []struct {
		name   string
		change func(root string) error
		says   string // empty: the same
	}{
		{"same", func(string) error { return nil }, ""},
		{"missing file", func(r string) error { return os.Remove(r + "/a") }, "a: missing"},
		{"extra file", func(r string) error { return os.WriteFile(r+"/d/c", nil, 0o644) }, "entries"},
		{"last byte", func(r string) error {
			return keepTime(r+"/d/b", os.WriteFile(r+"/d/b", []byte(strings.Repeat("x", readBytes)+"z"), 0o644))
		}, "content differs"},
		{"size", func(r string) error { return keepTime(r+"/a", os.WriteFile(r+"/a", []byte("alph"), 0o644)) }, "4 bytes, want 5"},
		{"mode", func(r string) error { return os.Chmod(r+"/a", 0o600) }, "mode"},
		{"time", func(r string) error { return os.Chtimes(r+"/a", when, when.Add(time.Microsecond)) }, "modified"},
		{"link", func(r string) error {
			if err := os.Remove(r + "/l"); err != nil {
				return err
			}
			return os.Symlink("b", r+"/l")
		}, "points to b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := sameTrees(want, build(t, tc.change))
			if tc.says == "" && err != nil {
				t.Errorf("error %v, want none", err)
			}
			if tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
	if err := sameTrees(want, filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("a tree that was not restored passes")
	}
}

// What is discarded keeps its inodes, which a removal would put in the way of the
// next command, and gives back their space.
func TestDiscard(t *testing.T) {
	scratch := t.TempDir()
	b := &bencher{scratch: scratch, trash: filepath.Join(scratch, "trash")}
	for range 2 {
		dir := filepath.Join(scratch, "restored", "d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, mode := range map[string]os.FileMode{"mine": 0o644, "guarded": 0o400} {
			if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 10), mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.replace(filepath.Dir(dir)); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 0 {
			t.Fatalf("%v, %v, want an empty directory", entries, err)
		}
	}
	kept := map[string]int{}
	err := filepath.WalkDir(b.trash, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			kept[d.Name()]++
		}
		return err
	})
	if stored, sizeErr := treeBytes(b.trash); err != nil || sizeErr != nil || stored != 0 || kept["mine"] != 2 || kept["guarded"] != 2 {
		t.Errorf("the trash holds %v, %d bytes, %v, %v; want two of each, and no bytes", kept, stored, err, sizeErr)
	}
	if err := b.discard(filepath.Join(scratch, "nothing")); err != nil {
		t.Errorf("nothing to discard: %v", err)
	}
	if err := b.cleanUp(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(scratch); err != nil || len(entries) != 1 || entries[0].Name() != "trash" {
		t.Errorf("after the round there is %v, %v", entries, err)
	}
}

// smoke is a run of everything with tools that every Linux has.
func smoke(t *testing.T, chosen []tool) (*results, string, error) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs GNU cp and tar")
	}
	work := t.TempDir()
	res, err := bench(t.Context(), options{rounds: 2, spec: corpus.Spec{Seed: 1, Scale: 0.001}, tools: chosen, work: work})
	return res, work, err
}

func TestBench(t *testing.T) {
	chosen := []tool{cp(), find()}
	if _, err := exec.LookPath("zstd"); err == nil {
		chosen = append(chosen, tar())
	}
	res, work, err := smoke(t, chosen)
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range res.Tools {
		for _, s := range allSteps {
			want := 2
			if tr.Name == "cp" && s == verify || tr.Name == "find" && s != unchanged {
				want = 0
			}
			if n := len(tr.Samples[s]); n != want {
				t.Errorf("%s, %s: %d samples, want %d", tr.Name, s, n, want)
			}
			if stored := tr.StoredBytes[s]; s.writesBackup() && !tr.Looks && (len(stored) != 2 || stored[1] == 0) {
				t.Errorf("%s, %s: stored bytes %v", tr.Name, s, stored)
			}
		}
		if all, small := tr.StoredBytes[first], tr.StoredBytes[smallAlone]; !tr.Looks && (small[0] >= all[0]) {
			t.Errorf("%s: %d bytes of small files, %d of all", tr.Name, small[0], all[0])
		}
	}
	entries, err := os.ReadDir(work)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || !strings.Contains(entries[0].Name(), "corpus") {
		t.Errorf("the run left %v, want the corpus only", entries)
	}
}

func TestBenchCatchesALossyTool(t *testing.T) {
	lossy := cp()
	honest := lossy.steps[restoreAll]
	lossy.steps[restoreAll] = func(p places) command {
		c := honest(p)
		victim := filepath.Join(lossy.restored(p), corpus.LargeDir, "music.bin")
		return run("sh", "-c", c.String()+" && truncate -r '"+victim+"' -s -1 '"+victim+"'")
	}
	if _, _, err := smoke(t, []tool{lossy}); err == nil || !strings.Contains(err.Error(), "music.bin") {
		t.Errorf("error %v, want one about music.bin", err)
	}
}
