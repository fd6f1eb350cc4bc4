package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// report collects what a root tells.
type report struct {
	mu       sync.Mutex
	problems []Problem
	skipped  []Skipped
}

func (r *report) options() Options {
	return Options{
		OnProblem: func(p Problem) { r.mu.Lock(); r.problems = append(r.problems, p); r.mu.Unlock() },
		OnSkipped: func(s Skipped) { r.mu.Lock(); r.skipped = append(r.skipped, s); r.mu.Unlock() },
	}
}

// openRoot opens a source whose directories give a few entries at a time.
func openRoot(t testing.TB, path string, o Options) *Root {
	t.Helper()
	r, err := OpenRoot(path, o)
	if err != nil {
		t.Fatal(err)
	}
	r.batchEntries = 3
	return r
}

// listAll returns all entries of a directory.
func listAll(d backup.Dir) (all []backup.Entry, failed error) {
	for {
		batch, err := d.Next(context.Background())
		if err != nil {
			failed = errors.Join(failed, err)
		}
		if len(batch) == 0 {
			return all, failed
		}
		all = append(all, batch...)
	}
}

// found is an entry as a backup would record it.
type found struct {
	node    *tree.Node
	content []byte // of files of at most maxContent; the extents only
}

const maxContent = 8 << 20

// walk reads all below the root, which it closes.
func walk(t testing.TB, r *Root) map[string]found {
	t.Helper()
	all := map[string]found{}
	walkEntry(t, r.Entry, "", all)
	return all
}

func walkEntry(t testing.TB, e backup.Entry, rel string, all map[string]found) {
	t.Helper()
	defer e.Close()
	n := e.Node()
	switch n.Type {
	case tree.File:
		f, err := e.Open()
		if err != nil {
			t.Errorf("open %q: %v", rel, err)
			return
		}
		defer f.Close()
		n = f.Node()
		var content []byte
		if n.Size <= maxContent {
			if content, err = io.ReadAll(f); err != nil {
				t.Errorf("read %q: %v", rel, err)
			}
		}
		if changed, err := f.Changed(); changed || err != nil {
			t.Errorf("%q: changed %v, %v", rel, changed, err)
		}
		all[rel] = found{n, content}
	case tree.Dir:
		if err := e.Complete(n); err != nil {
			t.Errorf("complete %q: %v", rel, err)
		}
		all[rel] = found{n, nil}
		d, err := e.Dir(context.Background())
		if err != nil {
			t.Errorf("open %q: %v", rel, err)
			return
		}
		entries, err := listAll(d)
		if err != nil {
			t.Errorf("list %q: %v", rel, err)
		}
		d.Close()
		last := ""
		for _, c := range entries {
			name := c.Node().Name
			if name <= last && last != "" {
				t.Errorf("%q: %q does not sort after %q", rel, name, last)
			}
			last = name
			child := name
			if rel != "" {
				child = rel + "/" + name
			}
			walkEntry(t, c, child, all)
		}
	default:
		if err := e.Complete(n); err != nil {
			t.Errorf("complete %q: %v", rel, err)
		}
		all[rel] = found{n, nil}
	}
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(all map[string]found) []string {
	var s []string
	for n := range all {
		s = append(s, n)
	}
	slices.Sort(s)
	return s
}

// child returns the entry of that name in the root's directory.
func child(t testing.TB, r *Root, name string) backup.Entry {
	t.Helper()
	d, err := r.Entry.Dir(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries, err := listAll(d)
	if err != nil {
		t.Fatal(err)
	}
	var e backup.Entry
	for _, c := range entries {
		if c.Node().Name == name {
			e = c
		} else {
			c.Close()
		}
	}
	if e == nil {
		t.Fatalf("no entry %q", name)
	}
	t.Cleanup(func() { e.Close(); r.Entry.Close() })
	return e
}

func TestExcluded(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"keep", "a.tmp", "build/x/y", "cache/CACHEDIR.TAG", "cache/data", "nocache/CACHEDIR.TAG", "nocache/data", "marked/.nobackup", "marked/sub/x", "d/big", "d/small"} {
		write(t, filepath.Join(dir, f), f)
	}
	write(t, filepath.Join(dir, "cache/CACHEDIR.TAG"), exclude.CacheTagSignature+"\n# more")
	write(t, filepath.Join(dir, "d/big"), "0123456789")
	rules, err := exclude.New(exclude.Options{Patterns: []string{"*.tmp"}, IgnoreRules: []string{"build/"}, IfPresent: []string{".nobackup"}, Caches: true, MaxSize: 9})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "nocache/CACHEDIR.TAG"), "no tag")
	write(t, filepath.Join(dir, "nocache/data"), "small")
	write(t, filepath.Join(dir, "marked/.nobackup"), "")
	// The tag itself is longer than MaxSize: rules other than markers apply to
	// it, too; the directory is kept.
	var rep report
	o := rep.options()
	o.Rules = rules
	r := openRoot(t, dir, o)
	got := names(walk(t, r))
	want := []string{"", "cache", "d", "d/small", "keep", "marked", "marked/.nobackup", "nocache", "nocache/CACHEDIR.TAG", "nocache/data"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if c := r.Counts(); c.Excluded != 6 || c.Skipped != 0 || c.Problems != 0 || len(rep.skipped) != 6 {
		t.Errorf("counts %+v, skipped %v", c, rep.skipped)
	}
	for _, s := range rep.skipped {
		if s.Kind != Excluded || !filepath.IsAbs(s.Path) || s.Reason == "" || !errors.Is(s, backup.ErrSkipped) {
			t.Errorf("skipped %+v", s)
		}
	}
}

func TestSkipPaths(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data/x"), "x")
	write(t, filepath.Join(dir, "data/repo/packs/p"), "p")
	skip := filepath.Join(dir, "data/repo")
	if err := os.Symlink(skip, filepath.Join(dir, "elsewhere")); err == nil {
		skip = filepath.Join(dir, "elsewhere")
	} else if runtime.GOOS != "windows" {
		t.Fatal(err)
	}
	var rep report
	o := rep.options()
	o.SkipPaths = []string{filepath.Join(dir, "none"), skip}
	got := names(walk(t, openRoot(t, filepath.Join(dir, "data"), o)))
	if want := []string{"", "x"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if len(rep.skipped) != 1 || rep.skipped[0].Kind != SkipPath || rep.skipped[0].Path != filepath.Join(dir, "data", "repo") {
		t.Errorf("skipped %+v", rep.skipped)
	}
	if _, err := OpenRoot(filepath.Join(dir, "data", "repo"), o); !errors.Is(err, ErrSkipPath) {
		t.Errorf("the destination as source: %v", err)
	}
}

func TestOpenRoot(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sub/file"), "content")
	if _, err := OpenRoot(filepath.Join(dir, "none"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
	if _, err := OpenRoot("", Options{}); err == nil {
		t.Error("empty path accepted")
	}

	r := openRoot(t, filepath.Join(dir, "sub", "..", "sub"), Options{})
	if r.Path != filepath.Join(dir, "sub") || r.Entry.Node().Name != "sub" {
		t.Errorf("path %q, name %q", r.Path, r.Entry.Node().Name)
	}
	if len(r.Ancestors) < 2 || r.Ancestors[0].Name != "" || r.Ancestors[len(r.Ancestors)-1].Name != filepath.Base(dir) {
		t.Errorf("ancestors %+v", r.Ancestors)
	}
	for _, n := range r.Ancestors {
		if n.Type != tree.Dir || n.Links != 1 {
			t.Errorf("ancestor %+v", n)
		}
	}
	if got := names(walk(t, r)); !slices.Equal(got, []string{"", "file"}) {
		t.Errorf("got %q", got)
	}

	r = openRoot(t, filepath.Join(dir, "sub", "file"), Options{})
	all := walk(t, r)
	if f := all[""]; len(all) != 1 || f.node.Name != "file" || string(f.content) != "content" || r.Ancestors[len(r.Ancestors)-1].Name != "sub" {
		t.Errorf("a file as source: %+v", all)
	}
}

func TestFileChanges(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, "0123456789")
	r := openRoot(t, dir, Options{})
	e := child(t, r, "f")

	// A file that grows is read up to the size it had.
	f, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, "0123456789abcdef")
	data, err := io.ReadAll(f)
	if err != nil || string(data) != "0123456789" {
		t.Errorf("grown: %q, %v", data, err)
	}
	if changed, err := f.Changed(); !changed || err != nil {
		t.Errorf("grown: changed %v, %v", changed, err)
	}
	f.Close()

	// One that shrinks is an error.
	if f, err = e.Open(); err != nil {
		t.Fatal(err)
	}
	if n := f.Node(); n.Size != 16 {
		t.Errorf("size %d at the second open", n.Size)
	}
	if err := os.Truncate(p, 3); err != nil {
		t.Fatal(err)
	}
	data, err = io.ReadAll(f)
	if !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || string(data) != "012" {
		t.Errorf("shrunk: %q, %v", data, err)
	}
	f.Close()

	// Same size, same content, another time.
	if f, err = e.Open(); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Changed(); changed || err != nil {
		t.Errorf("unchanged: changed %v, %v", changed, err)
	}
	if err := os.Chtimes(p, f.Node().MTime.Time(), f.Node().MTime.Time().Add(1e9)); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Changed(); !changed || err != nil {
		t.Errorf("touched: changed %v, %v", changed, err)
	}
	f.Close()

	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if err := os.Mkdir(p, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Open(); !errors.Is(err, ErrReplaced) {
		t.Errorf("replaced by a directory: %v", err)
	}
}

func TestOwners(t *testing.T) {
	var o Owners
	for i := range uint32(3) {
		o.add(0, 0)
		o.add(4_000_000_000+i, 4_000_000_000+i)
	}
	users, groups := o.Users(), o.Groups()
	if len(o.users) != 4 || len(o.groups) != 4 || len(users) > 1 || len(groups) > 1 {
		t.Errorf("users %v of %v, groups %v of %v", users, o.users, groups, o.groups)
	}
	if runtime.GOOS == "linux" && users[0] != "root" {
		t.Errorf("users %v", users)
	}
	for i := range uint32(maxOwners + 10) {
		o.mu.Lock()
		if len(o.users) < maxOwners { // without a look-up each
			o.users[1_000_000+i] = ""
		}
		o.mu.Unlock()
	}
	o.add(5, 5)
	if len(o.users) != maxOwners {
		t.Errorf("%d users", len(o.users))
	}
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "")
	r := openRoot(t, dir, Options{})
	defer r.Entry.Close()
	d, err := r.Entry.Dir(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestBatches(t *testing.T) {
	const bound = 7
	for _, count := range []int{0, 1, bound - 1, bound, bound + 1, 2*bound - 1, 2 * bound, 5*bound + 1} {
		for _, rules := range []bool{false, true} {
			dir := t.TempDir()
			var want []string
			for i := range count {
				name := fmt.Sprintf("%03d", i*37%1000)
				write(t, filepath.Join(dir, name), "")
				want = append(want, name)
			}
			slices.Sort(want)
			var o Options
			var err error
			if rules { // a whole batch of them, and the ends of others
				out := func(name string) bool { return name[0] == '3' || name[2] == '5' }
				if o.Rules, err = exclude.New(exclude.Options{Patterns: []string{"3*", "*5"}}); err != nil {
					t.Fatal(err)
				}
				want = slices.DeleteFunc(want, out)
			}
			r := openRoot(t, dir, o)
			r.batchEntries = bound
			d, err := r.Entry.Dir(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for {
				batch, err := d.Next(context.Background())
				if err != nil || len(batch) > bound {
					t.Fatalf("%d entries, %v", len(batch), err)
				}
				if len(batch) == 0 {
					break
				}
				for _, e := range batch {
					got = append(got, e.Node().Name)
					e.Close()
				}
			}
			if batch, err := d.Next(context.Background()); len(batch) > 0 || err != nil {
				t.Errorf("behind the end: %d entries, %v", len(batch), err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d files: got %q, want %q", count, got, want)
			}
			d.Close()
			r.Entry.Close()
		}
	}
}

// What changes between two batches is taken as it is then; what is new is not
// seen, as in any listing.
func TestBatchesWhileChanging(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		write(t, filepath.Join(dir, name), name)
	}
	r := openRoot(t, dir, Options{})
	defer r.Entry.Close()
	d, err := r.Entry.Dir(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries, err := d.Next(context.Background())
	if err != nil || len(entries) != 3 {
		t.Fatal(len(entries), err)
	}
	move := func(from, to string) {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"d", "e", "f", "h"} { // all of the second batch
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	move("a", "g")   // back to front: over another
	move("j", "bb")  // front to back: missed
	move("i", "new") // to a name that was not there
	write(t, filepath.Join(dir, "h", "x"), "x")
	rest, err := listAll(d)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range append(entries, rest...) {
		n := e.Node()
		got = append(got, fmt.Sprintf("%s %s %d", n.Name, n.Type, n.Size))
		e.Close()
	}
	if want := []string{"a file 1", "b file 1", "c file 1", "g file 1", "h dir 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
