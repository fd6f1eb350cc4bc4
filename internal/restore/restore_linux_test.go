package restore

import (
	"os"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func run(t testing.TB, r Repository, n *tree.Node, path, target string, o Options) Result {
	t.Helper()
	res, err := Run(t.Context(), r, &tree.Snapshot{}, n, path, target, o)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return res
}

func clean(t testing.TB, res Result) {
	t.Helper()
	for what, list := range map[string][]Problem{"lost": res.Lost, "failed": res.Failed, "warning": res.Warnings} {
		for i, p := range list {
			if i < 10 {
				t.Errorf("%s: %s: %v", what, p.Path, p.Err)
			}
		}
	}
}

// everything is a directory with files of every kind, captured.
func everything(t testing.TB) (m *memory, n *tree.Node, want []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	filestest.Generate(t, dir)
	m = newMemory()
	n = (&capture{t, m}).source(dir)
	return m, n, listing(t, dir), dir
}

func TestEverything(t *testing.T) {
	m, n, want, _ := everything(t)
	target := t.TempDir() + "/new/target"
	t.Cleanup(func() { filestest.ClearFlags(target) })
	if os.Geteuid() != 0 {
		t.Log("as non-root: no owners, devices, trusted attributes in the tree")
	}
	var p Progress
	res := run(t, m, n, "/src", target, Options{Progress: &p})
	clean(t, res)
	same(t, want, listing(t, target))
	if p.FilesDone.Load() != p.FilesTotal.Load() || p.BytesDone.Load() != p.BytesTotal.Load() {
		t.Errorf("progress: %d of %d files, %d of %d bytes", p.FilesDone.Load(), p.FilesTotal.Load(), p.BytesDone.Load(), p.BytesTotal.Load())
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, n, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 0 || v.Files == 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}

	// Again: nothing is to be done, and nothing is done.
	for _, o := range []Options{{}, {Overwrite: IfChanged}, {Delete: true}} {
		var events []Event
		o.Report = func(e Event) { events = append(events, e) }
		res = run(t, m, n, "/src", target, o)
		clean(t, res)
		for _, e := range events {
			if e.Kind != Unchanged {
				t.Errorf("again: %s %s: %v", e.Path, e.Kind, e.Err)
			}
		}
		if res.BytesWritten != 0 {
			t.Errorf("again: %d bytes written", res.BytesWritten)
		}
	}
	same(t, want, listing(t, target))
}
