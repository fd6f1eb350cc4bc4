package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// rot spoils a share of the sectors of each pack: zeros, noise, or flipped bits.
func rot(t *testing.T, repo string, seed uint64, share float64) (sectors int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 7))
	err := filepath.WalkDir(filepath.Join(repo, "packs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := 0; at < len(data); at += 4096 {
			if rnd.Float64() > share {
				continue
			}
			sectors++
			sector := data[at:min(at+4096, len(data))]
			switch rnd.IntN(3) {
			case 0:
				clear(sector)
			case 1:
				copy(sector, filestest.Bytes(fmt.Sprint(path, at), len(sector)))
			default:
				sector[rnd.IntN(len(sector))] ^= 1 << rnd.IntN(8)
			}
		}
		return os.WriteFile(path, data, 0o600)
	})
	must(t, err)
	return sectors
}

// A disk that rots: with repair data a restore gives everything back all the same, and
// verify --heal makes the repository whole, so that it needs the repair data no longer.
func TestHealRot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, repo := bigSource(w, 15), w.path("repo")
	w.write([]byte("[REPOSITORY]\nparity = 10%\n"), "parity.ini")
	must(t, os.Chmod(w.path("parity.ini"), 0o600))
	with := func(args ...string) []string { return append([]string{"--config", w.path("parity.ini")}, args...) }
	w.want(ok, with(append([]string{"backup"}, encrypted(src, repo)...)...)...)
	n := rot(t, repo, 1, 0.03)
	if n < 50 {
		t.Fatalf("only %d sectors were spoiled", n)
	}
	for _, name := range []string{"config", "keys"} {
		must(t, os.RemoveAll(filepath.Join(repo, name)))
	}
	same(t, src, w.restore(ok, repo, "latest", src))

	w.verify(failed, repo, "--read-data")
	r := w.want(ok, with("verify", "--heal", "--backup-dirs", repo)...)
	if !strings.Contains(r.out, "every snapshot is whole") || !strings.Contains(r.out, "from repair data") {
		t.Errorf("%s", r.out)
	}
	w.want(ok, with("prune", "--alone", "--backup-dirs", repo)...)
	must(t, os.RemoveAll(filepath.Join(repo, "parity")))
	w.verify(ok, repo, "--read-data")
	same(t, src, w.restore(ok, repo, "latest", src))
	// What it had lost is made again.
	w.want(ok, with("verify", "--heal", "--backup-dirs", repo)...)
	rot(t, repo, 2, 0.02)
	same(t, src, w.restore(ok, repo, "latest", src))

	// More than there is repair data for: the files themselves have it still.
	rot(t, repo, 3, 0.5)
	r = w.want(ok, with("verify", "--heal", "--backup-dirs", repo)...)
	if !strings.Contains(r.out, "from files of this host") {
		t.Errorf("%s", r.out)
	}
	same(t, src, w.restore(ok, repo, "latest", src))
	// Without them, what is lost is named.
	must(t, os.RemoveAll(src))
	rot(t, repo, 4, 0.5)
	r = w.want(failed, with("verify", "--heal", "--backup-dirs", repo)...)
	if !strings.Contains(r.out, "STILL LOST") || !strings.Contains(r.out, "NOT EVERYTHING is whole") {
		t.Errorf("%s", r.out)
	}
}

// The disk becomes full during a prune that has to move something: nothing is lost, and
// with room again it goes on.
func TestPruneFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	disk := w.mkdir("disk")
	mount(t, disk, "-t", "tmpfs", "-o", "size=80m", "tmpfs")
	repo := filepath.Join(disk, "repo")
	src := w.mkdir("src")
	for i := range 40 {
		w.write(filestest.Bytes(fmt.Sprint("one", i), 1<<20), "src", fmt.Sprintf("f%02d", i))
	}
	w.backup(ok, encrypted(src, repo)...)
	for i := range 40 { // every second one goes: half of each pack is needed
		if i%2 == 0 {
			must(t, os.Remove(w.path("src", fmt.Sprintf("f%02d", i))))
		}
	}
	rep := w.backup(ok, encrypted(src, repo)...)
	w.want(ok, "forget", "--keep-last", "1", "--backup-dirs", repo)
	filler := filepath.Join(disk, "filler")
	free := freeBytes(t, disk)
	must(t, os.WriteFile(filler, bytes.Repeat([]byte{1}, int(free)-6<<20), 0o600))
	for _, alone := range []string{"--alone", "--alone=false"} {
		r := w.want(partial, "prune", alone, "--max-unused", "0", "--backup-dirs", repo)
		if !strings.Contains(r.errout+r.out, "storage is full") {
			t.Errorf("%s %s", r.out, r.errout)
		}
		w.verify(ok, repo, "--read-data")
	}
	same(t, src, w.restore(ok, repo, rep.Snapshot, src))
	must(t, os.Remove(filler))
	w.want(ok, "prune", "--alone", "--max-unused", "0", "--backup-dirs", repo)
	w.verify(ok, repo, "--read-data")
	same(t, src, w.restore(ok, repo, rep.Snapshot, src))
	if used := freeBytes(t, disk); used < free {
		t.Errorf("%d bytes are free, before it was pruned %d", used, free)
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	must(t, syscall.Statfs(dir, &s))
	return int64(s.Bavail) * s.Bsize
}
