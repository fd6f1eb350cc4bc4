package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// Bounds of what is taken of a real tree: of a larger one, only the directories are
// that fit, in the order of their names.
const (
	maxRealBytes = 230 << 20
	maxRealFiles = 15_500
)

// TestRealTrees backs up a copy of trees as they are on machines, changes one
// file in a hundred, backs up again, and restores both.
func TestRealTrees(t *testing.T) {
	t.Parallel()
	goEnv := strings.Split(strings.TrimSpace(tool(t, "", "go", "env", "GOROOT", "GOMODCACHE")), "\n")
	trees := []string{"/etc", goEnv[0], "/usr/share", goEnv[1]}
	if testing.Short() {
		trees = trees[:1]
	}
	for _, tree := range trees {
		t.Run(strings.ReplaceAll(tree[1:], "/", "-"), func(t *testing.T) {
			t.Parallel()
			realTree(t, tree)
		})
	}
}

func realTree(t *testing.T, tree string) {
	w := newWorld(t)
	src, dest := w.mkdir("src"), w.path("repo")
	copyTree(t, tree, src)
	before := factsOf(t, src, true)
	rep := w.backup(ok, encrypted(src, dest)...)
	got := w.restore(ok, dest, "latest", src)
	same(t, src, got)

	if len(filestest.Mutate(t, src, 2)) == 0 {
		t.Fatal("nothing was changed")
	}
	rep2 := w.backup(ok, encrypted(src, dest)...)
	c := rep2.Details.Counts
	if c.Unmodified < c.Files*97/100-10 || c.Stored > rep.Details.Counts.Stored/2+1<<20 {
		t.Errorf("after changes to 1 %%: %+v", c)
	}
	t.Logf("%d files, %d MiB; stored %d MiB, then %d MiB", c.Files, c.Bytes>>20, rep.Details.Counts.Stored>>20, c.Stored>>20)
	w.verify(ok, dest, "--read-data")

	// The second point over the first, and back: what a user does who looks for the
	// right one.
	w.want(ok, "restore", rep2.Snapshot+":"+src, "--to", got, "--backup-dirs", dest, "--delete")
	same(t, src, got)
	w.want(ok, "verify", "latest:"+src, "--against", src, "--backup-dirs", dest)
	w.want(ok, "restore", rep.Snapshot+":"+src, "--to", got, "--backup-dirs", dest, "--delete")
	sameFacts(t, before, got)
}

// copyTree copies a tree, or what of it fits, without what cannot be read.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	must(t, err)
	var used, files int64
	for _, e := range entries {
		p := filepath.Join(from, e.Name())
		size, n := treeSize(p)
		if used+size > maxRealBytes || files+n > maxRealFiles {
			t.Logf("left out %s: %d MiB in %d files", p, size>>20, n)
			continue
		}
		used, files = used+size, files+n
		c := exec.Command("cp", "-a", p, to+"/")
		if out, err := c.CombinedOutput(); err != nil && os.Geteuid() == 0 {
			t.Fatalf("copy %s: %v: %s", p, err, out) // others cannot read everything
		}
	}
	if os.Geteuid() != 0 {
		tool(t, "", "chmod", "-R", "u+rwX", to)
	}
}

func treeSize(p string) (size, files int64) {
	filepath.WalkDir(p, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // not readable: not copied either
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size, files = size+info.Size(), files+1
		}
		return nil
	})
	return size, files
}
