package restore

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Targets are removed at the end only: ext4 is slow to reuse inodes that were
// deleted seconds ago, which would be most of what is measured.

// BenchmarkRun restores 20,000 small files and some large ones (about 100 MB and
// 200 MB); BenchmarkCopy is what cp -a takes for the same.
func BenchmarkRun(b *testing.B) {
	m, root := benchTree(b)
	for b.Loop() {
		target := b.TempDir() + "/t"
		res, err := Run(b.Context(), m, &tree.Snapshot{}, root, "/src", target, Options{})
		if err != nil || !res.Complete() {
			b.Fatal(res, err)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	m, root := benchTree(b)
	src := b.TempDir() + "/src"
	if res, err := Run(b.Context(), m, &tree.Snapshot{}, root, "/src", src, Options{}); err != nil || !res.Complete() {
		b.Fatal(res, err)
	}
	for b.Loop() {
		target := b.TempDir() + "/t"
		if out, err := exec.Command("cp", "-a", src, target).CombinedOutput(); err != nil {
			b.Fatalf("%s %v", out, err)
		}
	}
}

func benchTree(b *testing.B) (*memory, *tree.Node) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1<<20, 512<<10
	var dirs []*tree.Node
	for d := range 200 {
		var files []*tree.Node
		for f := range 100 {
			files = append(files, m.file(mine(fmt.Sprintf("file-%03d", f), 0o644), noise(uint64(d*100+f), 100+(d*100+f)*7919%10_000)))
		}
		dirs = append(dirs, m.dir(b, mine(fmt.Sprintf("dir-%03d", d), 0o755), files...))
	}
	for i := range 4 {
		dirs = append(dirs, m.file(mine(fmt.Sprintf("large-%d", i), 0o600), noise(uint64(1e6+i), 50<<20)))
	}
	return m, m.dir(b, mine("src", 0o755), dirs...)
}
