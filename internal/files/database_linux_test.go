package files

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"golang.org/x/sys/unix"
)

// A writer is another process that keeps a database with a WAL open. In this one,
// SQLite would share its descriptors between connections.
type writer struct {
	in  io.Writer
	out *bufio.Reader
}

// exec runs statements, and returns once they are done.
func (w writer) exec(t *testing.T, statements string) {
	t.Helper()
	fmt.Fprintf(w.in, "%s\n.print done\n", statements)
	for {
		line, err := w.out.ReadString('\n')
		if err != nil {
			t.Fatalf("sqlite3 has ended: %v", err)
		}
		if line == "done\n" {
			return
		}
	}
}

func walDatabase(t *testing.T, path string) writer {
	t.Helper()
	c := exec.Command("sqlite3", "-batch", path)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	w := writer{in, bufio.NewReader(out)}
	w.exec(t, "PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (x); INSERT INTO t VALUES ('committed');")
	return w
}

func copying(t *testing.T, rep *report, so sqlite.Options) Options {
	t.Helper()
	so.Dir = t.TempDir()
	if len(so.Paths) == 0 {
		so.Find = true
	}
	c, err := sqlite.New(t.Context(), so)
	if err != nil {
		t.Fatal(err)
	}
	o := rep.options()
	o.SQLite = c
	return o
}

// walkSkipping walks as walk does, with companions that may be left out.
func walkSkipping(t *testing.T, r *Root) (all map[string]*tree.Node, listed map[string]*tree.Node) {
	t.Helper()
	all, listed = map[string]*tree.Node{}, map[string]*tree.Node{}
	d, err := r.Entry.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := listAll(d)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	for _, e := range entries {
		n := e.Node()
		listed[n.Name] = n
		if n.Type == tree.File {
			if f, err := e.Open(); err == nil {
				all[n.Name] = f.Node()
				f.Close()
			} else if !strings.Contains(err.Error(), "belongs to the database") {
				t.Errorf("open %s: %v", n.Name, err)
			}
		}
		e.Close()
	}
	r.Entry.Close()
	return all, listed
}

func sorted(m map[string]*tree.Node) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// TestDatabase: which files are left out, wherever batches end, and what change detection
// compares: the node of the next listing with the one that was stored.
func TestDatabase(t *testing.T) {
	dir := t.TempDir()
	db := walDatabase(t, filepath.Join(dir, "m.db"))
	for _, name := range []string{"a-wal", "a", "m.db 2", "m.db+", "m.db-x", "n.db-journal", "n.db-wal"} {
		write(t, filepath.Join(dir, name), "of no database")
	}
	if err := os.Symlink("m.db", filepath.Join(dir, "z.db")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "z.db-wal"), "beside a symlink")
	fds := openFDs(t)
	var stored *tree.Node
	for size := 1; size < 8; size++ {
		var rep report
		r := openRoot(t, dir, copying(t, &rep, sqlite.Options{}))
		r.batchEntries = size
		all, listed := walkSkipping(t, r)
		if got, want := sorted(all), []string{"a", "a-wal", "m.db", "m.db 2", "m.db+", "m.db-x", "n.db-journal", "n.db-wal", "z.db-wal"}; !slices.Equal(got, want) {
			t.Fatalf("batches of %d: %q, want %q", size, got, want)
		}
		if len(rep.skipped) != 2 || len(rep.problems) != 0 {
			t.Errorf("skipped %v, problems %v", rep.skipped, rep.problems)
		}
		if n := listed["m.db"]; stored != nil && (n.CTime != stored.CTime || n.MTime != stored.MTime || n.Inode != stored.Inode) {
			t.Errorf("listed %v %v, stored %v %v", n.CTime, n.MTime, stored.CTime, stored.MTime)
		}
		stored = all["m.db"]
	}
	if now := openFDs(t); now != fds {
		t.Errorf("%d descriptors open, %d before", now, fds)
	}
	time.Sleep(2 * clockTick)
	db.exec(t, "INSERT INTO t VALUES (2);")
	var rep report
	_, listed := walkSkipping(t, openRoot(t, dir, copying(t, &rep, sqlite.Options{})))
	if listed["m.db"].CTime == stored.CTime {
		t.Error("a commit to the WAL is not seen")
	}
	// Without [SQLITE], and of what is not named, nothing is left out.
	for _, o := range []Options{{}, copying(t, &rep, sqlite.Options{Paths: []string{dir + "/x/*"}})} {
		all, listed := walkSkipping(t, openRoot(t, dir, o))
		if len(all) != 11 || listed["m.db"].CTime == stored.CTime {
			t.Errorf("as files: %q", sorted(all))
		}
	}
	// What is excluded has no say.
	rules, err := exclude.New(exclude.Options{Patterns: []string{"m.db"}})
	if err != nil {
		t.Fatal(err)
	}
	o := copying(t, &rep, sqlite.Options{})
	o.Rules = rules
	if all, _ := walkSkipping(t, openRoot(t, dir, o)); all["m.db-wal"] == nil || all["m.db"] != nil {
		t.Errorf("the database is excluded: %q", sorted(all))
	}
}

// TestDatabaseAlone: a source that is a database, also by a symlink.
func TestDatabaseAlone(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "m.db")
	walDatabase(t, db)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(db, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{db, link} {
		var rep report
		r := openRoot(t, path, copying(t, &rep, sqlite.Options{Paths: []string{path}}))
		if l, ok := r.Entry.(backup.Latecomer); !ok || l.Late() != backup.LateSize {
			t.Error("its size is taken for known")
		}
		got := walk(t, r)[""]
		if !bytes.Contains(got.content, []byte("committed")) || got.node.Size != int64(len(got.content)) || got.node.Name != filepath.Base(path) {
			t.Errorf("%s: %d bytes, node %+v", path, len(got.content), got.node)
		}
	}
}

// TestDatabaseElsewhere: nothing but the file that was listed is opened.
func TestDatabaseElsewhere(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	walDatabase(t, filepath.Join(other, "m.db"))
	walDatabase(t, filepath.Join(dir, "m.db"))
	var rep report
	r := openRoot(t, dir, copying(t, &rep, sqlite.Options{}))
	defer r.Entry.Close()
	d, err := r.Entry.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries, err := listAll(d)
	if err != nil {
		t.Fatal(err)
	}
	e := entries[0].(*entry)
	f := &file{e: e}
	if f.fd, err = e.openFile(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(f.fd)
	if err := f.init(); err != nil {
		t.Fatal(err)
	}
	s := f.source(-1)
	s.Path = filepath.Join(other, "m.db") // as if somebody had moved the directory
	elsewhere, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	state := sqlite.At(s.Path, elsewhere).State
	s.State = state
	if made, err := r.opts.SQLite.Copy(s); err != ErrReplaced {
		t.Errorf("copied %v, %v", made, err)
	}
	for _, e := range entries {
		e.Close()
	}
}

func BenchmarkFindDatabases(b *testing.B) {
	var names [][]byte
	for i := range 1000 {
		names = append(names, fmt.Appendf(nil, "file-%d.html", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		findDatabases(slices.Values(names), nil, nil)
	}
}
