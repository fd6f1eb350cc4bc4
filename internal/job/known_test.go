package job

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A disk that is not mounted is not a new destination.
func TestKnownRepositoryGone(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	known := Known{Dir: t.TempDir()}
	run := func(dests ...string) (*BackupResult, error) {
		o := b.options(dests...)
		o.Known = known
		return Backup(t.Context(), a, o)
	}
	if res, err := run("a", "b"); err != nil || res.Failed() {
		t.Fatal(res, err)
	}
	if err := os.Rename(b.place("a"), b.place("away")); err != nil {
		t.Fatal(err)
	}
	res, err := run("a", "b")
	if err != nil || !res.Failed() || res.Destinations[1].Err != nil {
		t.Fatalf("with one of two away: %v, %+v", err, res)
	}
	if f, ok := errors.AsType[*Failure](res.Destinations[0].Err); !ok || f.Code != ExitRefused || f.Hint == "" {
		t.Errorf("a repository that is gone: %v", res.Destinations[0].Err)
	}
	if _, err := os.Stat(b.place("a")); err == nil {
		t.Error("another repository was created where the disk is mounted otherwise")
	}
	if _, err := run("a"); err == nil {
		t.Error("a run without any destination succeeds")
	} else if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused {
		t.Errorf("a run without any destination: %v", err)
	}
	if err := os.Rename(b.place("away"), b.place("a")); err != nil {
		t.Fatal(err)
	}
	if res, err := run("a", "b"); err != nil || res.Failed() {
		t.Fatal(res, err)
	}
	if len(b.content("a", "snapshots")) != 3 || len(b.content("b", "snapshots")) != 3 {
		t.Error("the destination that was away has not caught up")
	}

	// An exchanged repository is said, and used.
	if err := os.RemoveAll(b.place("a")); err != nil {
		t.Fatal(err)
	}
	b.well(a, "a") // somebody who knows nothing makes another
	res, err = run("a")
	if err != nil || !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "ANOTHER REPOSITORY") }) {
		t.Errorf("an exchanged repository: %v, notes %q", err, res.Notes)
	}
	if res, err = run("a"); err != nil || slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "ANOTHER") }) {
		t.Errorf("it is said again and again: %v, notes %q", err, res.Notes)
	}
}

// A repository without its config is not built over.
func TestLostConfig(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	b.well(a, "a")
	if err := os.Remove(filepath.Join(b.place("a"), "config")); err != nil {
		t.Fatal(err)
	}
	before := content(t, b.place("a"))
	_, err := Backup(t.Context(), a, b.options("a"))
	if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused || !strings.Contains(f.Error(), "config") {
		t.Errorf("got %v", err)
	}
	if after := content(t, b.place("a")); len(after) != len(before) {
		t.Errorf("%d files became %d", len(before), len(after))
	}
}

func (b *bench) content(parts ...string) map[string]string {
	return content(b.t, filepath.Join(append([]string{b.root}, parts...)...))
}
