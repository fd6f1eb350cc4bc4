//go:build unix

package postgres

import (
	"os"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A dump of everything awkward is restored, and dumped again: all files are the same to the
// byte, definitions too.
func TestRoundTrip(t *testing.T) {
	server := sharedServer(t)
	s := admin(server)
	dir, m := dump(t, s, DumpOptions{Databases: []string{"awkward"}})
	again, _ := dump(t, s, DumpOptions{Databases: []string{"awkward"}})
	same(t, "second dump", dir, again, "dump.json")

	p := &progress{}
	err := Restore(t.Context(), s, os.DirFS(dir), RestoreOptions{Into: "Copy \"x", Progress: p, Warn: func(l string) { t.Error(l) }})
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if len(p.begun) != len(p.done) || p.bytes != m.Bytes()-size(t, dir+"/awkward/database.json") {
		t.Errorf("progress: %d tables begun, %d done, %d bytes of %d", len(p.begun), len(p.done), p.bytes, m.Bytes())
	}
	restored, _ := dump(t, s, DumpOptions{Databases: []string{"Copy \"x"}})
	if err := os.Rename(restored+"/Copy %22x", restored+"/awkward"); err != nil {
		t.Fatal(err)
	}
	same(t, "dump of the restored database", dir, restored, "dump.json", "awkward/database.json")
	if _, err := os.Stat("/tmp/this-must-not-be"); err == nil {
		t.Error("a command within a definition was run")
	}
	server.SQL("postgres", `DROP DATABASE "Copy ""x"`)
}

// same compares the files of two directories.
func same(t *testing.T, what, a, b string, but ...string) {
	t.Helper()
	one, two := sums(t, a), sums(t, b)
	for _, name := range but {
		delete(one, name)
		delete(two, name)
	}
	for name, sum := range one {
		if two[name] != sum {
			t.Errorf("%s: %q differs (%q)", what, name, two[name])
		}
		delete(two, name)
	}
	for name := range two {
		t.Errorf("%s: %q is too much", what, name)
	}
}

func size(t *testing.T, name string) int64 {
	t.Helper()
	i, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Size()
}

// progress takes down what it is told.
type progress struct {
	begun, done []string
	bytes       int64
}

func (p *progress) Table(name string, done bool) {
	if done {
		p.done = append(p.done, name)
	} else {
		p.begun = append(p.begun, name)
	}
}

func (p *progress) Add(n int64) { p.bytes += n }

var _ = strings.Cut
