package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake is an entry of a source in memory, and its Dir and File in one tree.
type fake struct {
	node tree.Node
	data []byte // of a file: what its extents, or all of it, read as
	kids []*fake

	// Faults.
	openErr     error // of Open, of a file
	dirErr      error // of Dir
	listErr     error // of the first Next; the kids are returned all the same
	completeErr error
	// opened is called with the number of the Open before it takes effect.
	opened func(n int)
	// readAt is called before a Read at that offset; its error is the Read's.
	readAt func(off int) error
	// changed says whether the file changed during the nth reading.
	changed func(n int) bool

	opens atomic.Int32
	s     *source
}

// source watches over the entries, directories and files of a fake tree.
type source struct {
	t    *testing.T
	mu   sync.Mutex
	held map[any]string // what is not closed
}

func (s *source) hold(x any, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[x] = what
}

func (s *source) close(x any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[x]; !ok {
		s.t.Errorf("%T was closed twice", x)
	}
	delete(s.held, x)
}

type fakeEntry struct{ f *fake }

func (f *fake) entry() *fakeEntry {
	e := &fakeEntry{f}
	f.s.hold(e, "entry "+f.node.Name)
	return e
}

func (e *fakeEntry) Node() *tree.Node { n := e.f.node; n.Xattrs = nil; n.Target = ""; return &n }
func (e *fakeEntry) Close()           { e.f.s.close(e) }
func (e *fakeEntry) Complete(n *tree.Node) error {
	n.Xattrs = e.f.node.Xattrs
	if e.f.completeErr == nil {
		n.Target = e.f.node.Target
	}
	return e.f.completeErr
}

func (e *fakeEntry) Dir(context.Context) (Dir, error) {
	if e.f.dirErr != nil {
		return nil, e.f.dirErr
	}
	d := &fakeDir{f: e.f}
	e.f.s.hold(d, "dir "+e.f.node.Name)
	return d, nil
}

func (e *fakeEntry) Open() (File, error) {
	n := int(e.f.opens.Add(1))
	if e.f.opened != nil {
		e.f.opened(n)
	}
	if e.f.openErr != nil {
		return nil, e.f.openErr
	}
	o := &fakeFile{f: e.f, n: n, node: e.f.node}
	e.f.s.hold(o, "file "+e.f.node.Name)
	return o, nil
}

type fakeDir struct {
	f      *fake
	listed bool
	next   int
}

// fakeBatch is how many entries come at a time.
const fakeBatch = 7

func (d *fakeDir) Next(context.Context) ([]Entry, error) {
	var all []Entry
	for _, k := range d.f.kids[d.next:min(d.next+fakeBatch, len(d.f.kids))] {
		all = append(all, k.entry())
	}
	d.next += len(all)
	if d.listed {
		return all, nil
	}
	d.listed = true
	return all, d.f.listErr
}
func (d *fakeDir) Close() error { d.f.s.close(d); return nil }

type fakeFile struct {
	f    *fake
	n    int
	off  int
	node tree.Node
}

func (o *fakeFile) Node() *tree.Node {
	n := o.node
	n.Extents = slices.Clone(n.Extents)
	return &n
}
func (o *fakeFile) Changed() (bool, error) { return o.f.changed != nil && o.f.changed(o.n), nil }
func (o *fakeFile) Close() error           { o.f.s.close(o); return nil }

// Read gives at most 10,000 bytes at a time, an odd number for those who count on
// whole blocks.
func (o *fakeFile) Read(p []byte) (int, error) {
	if o.f.readAt != nil {
		if err := o.f.readAt(o.off); err != nil {
			return 0, err
		}
	}
	want := int64(len(o.f.data))
	if o.off >= int(want) {
		size := o.node.Size
		if o.node.Extents != nil {
			size = 0
			for _, e := range o.node.Extents {
				size += e.Length
			}
		}
		if want < size {
			return 0, io.ErrUnexpectedEOF
		}
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 10_000)], o.f.data[o.off:])
	o.off += n
	return n, nil
}

var inodes atomic.Uint64

func file(name string, data []byte) *fake {
	ino := inodes.Add(1)
	return &fake{data: data, node: tree.Node{Name: name, Type: tree.File, Mode: 0o644, Links: 1, Inode: ino,
		Size: int64(len(data)), MTime: tree.Time{Sec: 1000}, CTime: tree.Time{Sec: 2000}}}
}

func folder(name string, kids ...*fake) *fake {
	slices.SortFunc(kids, func(a, b *fake) int { return strings.Compare(a.node.Name, b.node.Name) })
	return &fake{kids: kids, node: tree.Node{Name: name, Type: tree.Dir, Mode: 0o755, Links: 1, Inode: inodes.Add(1),
		MTime: tree.Time{Sec: 1000}, CTime: tree.Time{Sec: 2000}}}
}

// hardlinks gives files the same inode.
func hardlinks(links uint32, all ...*fake) {
	for _, f := range all {
		f.node.Inode, f.node.Device, f.node.Links = all[0].node.Inode, 7, links
	}
}

func (f *fake) attach(s *source) {
	f.s = s
	for _, k := range f.kids {
		k.attach(s)
	}
}

// touch makes a file another one for whoever compares times.
func (f *fake) touch(data []byte) {
	f.data, f.node.Size, f.node.CTime.Sec = data, int64(len(data)), f.node.CTime.Sec+1
}

// bytesOf are n bytes that depend on the seed.
func bytesOf(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

type fixture struct {
	t     *testing.T
	store storage.Backend
	key   *seal.KeyFile
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	k, err := seal.NewKeyFile(bytes.Repeat([]byte{1}, 32))
	must(t, err)
	x := &fixture{t, storage.NewMemory(), k}
	must(t, repo.Init(t.Context(), x.store, repo.InitOptions{
		Lockers: []seal.Locker{k}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
		Params: chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10},
	}))
	return x
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type unclosed struct{ storage.Backend }

func (unclosed) Close() error { return nil }

func (x *fixture) open(b storage.Backend) *repo.Repository {
	x.t.Helper()
	r, err := repo.Open(x.t.Context(), unclosed{b}, repo.Options{Credentials: []seal.Credential{x.key}})
	must(x.t, err)
	x.t.Cleanup(func() { r.Close() })
	_, err = r.LoadIndex(x.t.Context())
	must(x.t, err)
	return r
}

// run backs up a tree as /src. It checks that everything was closed.
func (x *fixture) run(ctx context.Context, b storage.Backend, top *fake, o Options) (*tree.Snapshot, error) {
	x.t.Helper()
	s := &source{t: x.t, held: map[any]string{}}
	top.attach(s)
	o.Roots = append(o.Roots, Root{Path: "/src", Ancestors: []*tree.Node{{Type: tree.Dir, Mode: 0o755, Links: 1}}, Entry: top.entry()})
	if o.Readers == 0 {
		o.Readers = 3
	}
	if o.maxPending == 0 {
		o.maxPending = 2
	}
	o.Now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	snap, err := Run(ctx, x.open(b), tree.Snapshot{Host: "host", Sources: []tree.Path{"/src"}, Time: o.Now()}, o)
	for _, what := range s.held {
		x.t.Errorf("%s was not closed", what)
	}
	return snap, err
}

func (x *fixture) backup(top *fake, o Options) *tree.Snapshot {
	x.t.Helper()
	snap, err := x.run(x.t.Context(), x.store, top, o)
	must(x.t, err)
	return snap
}

// contents are the files of a snapshot below /src, read from the repository as it
// is stored.
func (x *fixture) contents(snap *tree.Snapshot) map[string]string {
	x.t.Helper()
	r := x.open(x.store)
	raw, err := r.SnapshotBody(x.t.Context(), snap.ID)
	must(x.t, err)
	stored, err := tree.DecodeSnapshot(snap.ID, raw)
	must(x.t, err)
	all := map[string]string{}
	var walk func(n *tree.Node, path string)
	walk = func(n *tree.Node, path string) {
		must(x.t, tree.ReadDir(x.t.Context(), r, n.Content, func(k *tree.Node) error {
			p := path + "/" + k.Name
			switch k.Type {
			case tree.Dir:
				all[p+"/"] = ""
				walk(k, p)
			case tree.File:
				var data []byte
				err := tree.EachChunk(x.t.Context(), r, k, func(c tree.Chunk) error {
					b, err := r.Load(x.t.Context(), c.Hash, c.Size, nil)
					data = append(data, b...)
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				if k.Extents == nil && int64(len(data)) != k.Size {
					x.t.Errorf("%s: %d bytes, size %d", p, len(data), k.Size)
				}
				all[p] = string(data)
			default:
				all[p] = k.Type.String() + " " + k.Target
			}
			return nil
		}))
	}
	walk(stored.RootNode(), "")
	return all
}

func (x *fixture) wantFiles(snap *tree.Snapshot, want map[string][]byte) {
	x.t.Helper()
	got := x.contents(snap)
	for p, data := range want {
		if b, ok := got[p]; !ok || b != string(data) {
			x.t.Errorf("%s: stored %v with %d bytes, want %d", p, ok, len(b), len(data))
		}
		delete(got, p)
	}
	for p := range got {
		if !strings.HasSuffix(p, "/") {
			x.t.Errorf("%s is too much", p)
		}
	}
}

// wantProblems compares "kind path" lines, and the count.
func wantProblems(t *testing.T, snap *tree.Snapshot, want ...string) {
	t.Helper()
	var got []string
	for _, p := range snap.Problems {
		got = append(got, p.Kind+" "+string(p.Path))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || snap.Counts.Problems != int64(len(want)) {
		t.Errorf("problems %q, count %d; want %q", got, snap.Counts.Problems, want)
	}
}

func TestEverything(t *testing.T) {
	x := newFixture(t)
	big, small := bytesOf(1, 3_000_000), bytesOf(2, 100)
	many := bytesOf(3, 20_000_000) // more chunks than a node lists itself
	sparse := file("sparse", bytesOf(4, 50_000))
	sparse.node.Size = 1 << 40
	sparse.node.Extents = []tree.Extent{{Offset: 5, Length: 20_000}, {Offset: 1 << 39, Length: 30_000}}
	link := &fake{node: tree.Node{Name: "link", Type: tree.Symlink, Mode: 0o777, Links: 1, Target: "to"}}
	fifo := &fake{node: tree.Node{Name: "fifo", Type: tree.FIFO, Links: 1}}
	top := folder("src", file("big", big), file("empty", nil), file("many", many), sparse, link, fifo,
		folder("d", file("small", small), folder("e")))
	snap := x.backup(top, Options{FileSHA256: true})
	wantProblems(t, snap)
	x.wantFiles(snap, map[string][]byte{"/src/big": big, "/src/empty": nil, "/src/many": many, "/src/d/small": small,
		"/src/sparse": sparse.data, "/src/link": []byte("symlink to"), "/src/fifo": []byte("fifo ")})
	c := snap.Counts
	if c.Files != 5 || c.Symlinks != 1 || c.Others != 1 || c.New != 5 || c.Changed+c.Unmodified != 0 {
		t.Errorf("%+v", c)
	}
	if want := int64(len(big) + len(small) + len(many) + len(sparse.data)); c.BytesRead != want {
		t.Errorf("%d bytes read, want %d", c.BytesRead, want)
	}

	// Nothing changed: nothing is opened, nothing stored.
	again := x.backup(top, Options{Parent: snap})
	if c := again.Counts; c.Unmodified != 5 || c.BytesRead != 0 || c.ChunksAdded != 0 {
		t.Errorf("%+v", c)
	}
	if n := top.kids[0].opens.Load(); n != 1 {
		t.Errorf("opened %d times", n)
	}
	if got, want := x.contents(again), x.contents(snap); len(got) != len(want) || got["/src/many"] != want["/src/many"] || got["/src/link"] != want["/src/link"] {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}

	// One file has another content, one is gone, one is new.
	top.kids[0].touch(small)
	top.kids = append(slices.Delete(top.kids, 1, 2), file("zzz", big))
	slices.SortFunc(top.kids, func(a, b *fake) int { return strings.Compare(a.node.Name, b.node.Name) })
	third := x.backup(top, Options{Parent: again})
	if c := third.Counts; c.New != 1 || c.Changed != 1 || c.Files != c.New+c.Changed+c.Unmodified {
		t.Errorf("%+v", c)
	}
}

func TestFaultsOfFiles(t *testing.T) {
	data := bytesOf(1, 100_000)
	noAccess := fmt.Errorf("open: %w", fs.ErrPermission)
	gone := fmt.Errorf("open: %w", fs.ErrNotExist)
	broken := errors.New("input/output error")
	for _, c := range []struct {
		name     string
		file     func() *fake
		problems []string
		stored   []byte // nil: the file is left out
		unstable bool
		opens    int32
	}{
		{"whole", func() *fake { return file("f", data) }, nil, data, false, 1},
		{"unreadable", func() *fake { f := file("f", data); f.openErr = noAccess; return f }, []string{"unreadable /src/f"}, nil, false, 1},
		{"vanished", func() *fake { f := file("f", data); f.openErr = gone; return f }, []string{"vanished /src/f"}, nil, false, 1},
		{"replaced by something else", func() *fake { f := file("f", data); f.openErr = errors.New("is a FIFO now"); return f }, []string{"unreadable /src/f"}, nil, false, 1},
		{"read error at the start", func() *fake {
			f := file("f", data)
			f.readAt = func(int) error { return broken }
			return f
		}, []string{"unreadable /src/f"}, nil, false, 1},
		{"read error in the middle", func() *fake {
			f := file("f", data)
			f.readAt = func(off int) error {
				if off >= 50_000 {
					return broken
				}
				return nil
			}
			return f
		}, []string{"unreadable /src/f"}, nil, false, 1},
		{"changes once", func() *fake { f := file("f", data); f.changed = func(n int) bool { return n == 1 }; return f }, nil, data, false, 2},
		{"changes always", func() *fake { f := file("f", data); f.changed = func(int) bool { return true }; return f }, []string{"unstable /src/f"}, data, true, readAttempts},
		{"shrinks while it is read", func() *fake {
			f := file("f", data)
			f.opened = func(n int) {
				if n == 1 {
					f.node.Size = int64(len(data)) + 1000 // what it was, for the first reading
				} else {
					f.node.Size = int64(len(data))
				}
			}
			return f
		}, nil, data, false, 2},
		{"shorter than it says, always", func() *fake { f := file("f", data[:60_000]); f.node.Size = 100_000; return f }, []string{"unstable /src/f"}, data[:60_000], true, readAttempts},
		{"nothing left", func() *fake { f := file("f", nil); f.node.Size = 100_000; return f }, []string{"unstable /src/f"}, []byte{}, true, readAttempts},
		{"grows while it is read", func() *fake {
			f := file("f", data)
			f.changed = func(n int) bool { return n < 3 }
			return f
		}, nil, data, false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			f := c.file()
			var told atomic.Int32
			snap := x.backup(folder("src", file("before", data[:10]), f, file("later", data[:20])), Options{OnProblem: func(tree.Problem) { told.Add(1) }})
			wantProblems(t, snap, c.problems...)
			if int(told.Load()) != len(c.problems) {
				t.Errorf("told of %d problems", told.Load())
			}
			want := map[string][]byte{"/src/before": data[:10], "/src/later": data[:20]}
			files := int64(2)
			if c.stored != nil {
				want["/src/f"] = c.stored
				files++
			}
			x.wantFiles(snap, want)
			if snap.Counts.Files != files {
				t.Errorf("%d files", snap.Counts.Files)
			}
			if f.opens.Load() != c.opens {
				t.Errorf("opened %d times, want %d", f.opens.Load(), c.opens)
			}
			// What was left out, or is not sure, is tried again by the next run; what
			// is whole is not.
			f.openErr, f.readAt, f.changed, f.opened, f.data, f.node.Size = nil, nil, nil, nil, data, int64(len(data))
			before := f.opens.Load()
			again := x.backup(folder("src", f), Options{Parent: snap})
			wantProblems(t, again)
			x.wantFiles(again, map[string][]byte{"/src/f": data})
			if read := f.opens.Load() > before; read != (c.stored == nil || c.unstable) {
				t.Errorf("read again: %t", read)
			}
		})
	}
}

// A sparse file that became shorter keeps what could be read, at its place.
func TestTruncatedSparse(t *testing.T) {
	for _, got := range []int{0, 500, 1000, 1500, 2500} {
		x := newFixture(t)
		f := file("f", bytesOf(1, got))
		f.node.Size = 1 << 30
		f.node.Extents = []tree.Extent{{Offset: 100, Length: 1000}, {Offset: 1 << 20, Length: 1000}, {Offset: 1 << 21, Length: 1000}}
		snap := x.backup(folder("src", f), Options{})
		wantProblems(t, snap, "unstable /src/f")
		x.wantFiles(snap, map[string][]byte{"/src/f": f.data})
	}
}

func TestFaultsOfDirectories(t *testing.T) {
	data := []byte("data")
	broken := errors.New("input/output error")
	bad := folder("bad", file("x", data))
	bad.dirErr = fs.ErrPermission
	gone := folder("gone", file("x", data))
	gone.dirErr = fs.ErrNotExist
	partly := folder("partly", file("listed", data))
	partly.listErr = broken
	noAttrs := folder("no-attrs", file("inside", data))
	noAttrs.completeErr = broken
	link := &fake{node: tree.Node{Name: "unreadable-link", Type: tree.Symlink, Links: 1}, completeErr: broken}
	x := newFixture(t)
	snap := x.backup(folder("src", bad, gone, partly, noAttrs, link, file("z", data)), Options{})
	wantProblems(t, snap, "unreadable /src/bad", "vanished /src/gone", "unreadable /src/partly", "metadata /src/no-attrs", "unreadable /src/unreadable-link")
	x.wantFiles(snap, map[string][]byte{"/src/partly/listed": data, "/src/no-attrs/inside": data, "/src/z": data})
}

// A source that cannot be listed ends the run: a snapshot without it would look like
// one of a machine that has lost everything.
func TestFaultsOfTheSource(t *testing.T) {
	for name, spoil := range map[string]func(*fake){
		"cannot be opened": func(f *fake) { f.dirErr = fs.ErrPermission },
		"cannot be listed": func(f *fake) { f.listErr = errors.New("input/output error") },
		"is empty":         func(f *fake) { f.kids = nil },
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			top := folder("src", file("f", []byte("data")))
			spoil(top)
			snap, err := x.run(t.Context(), x.store, top, Options{})
			if err == nil || snap != nil || !strings.Contains(err.Error(), "/src") {
				t.Fatalf("%v, %v", snap, err)
			}
			if errors.Is(err, ErrEmptySource) != (name == "is empty") {
				t.Error(err)
			}
			if all, err := x.open(x.store).Snapshots(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("%d snapshots, %v", len(all), err)
			}
		})
	}
	x := newFixture(t)
	snap := x.backup(folder("src"), Options{AllowEmpty: true})
	x.wantFiles(snap, nil)
}

// The names of one file are read once; if the first name fails, all do, by name.
func TestHardLinks(t *testing.T) {
	data := bytesOf(1, 200_000)
	for _, readers := range []int{1, 4} {
		for _, first := range []string{"good", "unreadable"} {
			t.Run(fmt.Sprint(first, readers), func(t *testing.T) {
				x := newFixture(t)
				a, b, c := file("a", data), file("b", data), file("c", data)
				hardlinks(4, a, b, c) // a fourth name is not in the source
				want := map[string][]byte{"/src/z": data[:7]}
				var problems []string
				if first == "unreadable" {
					for _, f := range []*fake{a, b, c} {
						f.openErr = fs.ErrPermission
						problems = append(problems, "unreadable /src/d/"+f.node.Name)
					}
				} else {
					want["/src/d/a"], want["/src/d/b"], want["/src/d/c"] = data, data, data
				}
				top := folder("src", folder("d", a, b, c), file("z", data[:7]))
				snap := x.backup(top, Options{Readers: readers})
				wantProblems(t, snap, problems...)
				x.wantFiles(snap, want)
				if n := a.opens.Load() + b.opens.Load() + c.opens.Load(); n != 1 {
					t.Errorf("read %d times", n)
				}
				// The first name is gone, the others are unchanged.
				top.kids[0].kids = []*fake{b, c}
				b.openErr, c.openErr = nil, nil
				again := x.backup(top, Options{Parent: snap, Readers: readers})
				wantProblems(t, again)
				x.wantFiles(again, map[string][]byte{"/src/d/b": data, "/src/d/c": data, "/src/z": data[:7]})
			})
		}
	}
}

func TestSilentChange(t *testing.T) {
	x := newFixture(t)
	data, other := bytesOf(1, 100_000), bytesOf(2, 100_000)
	rots, changes, wasUnstable := file("rots", data), file("changes", data), file("unstable", data)
	wasUnstable.changed = func(int) bool { return true }
	top := folder("src", rots, changes, wasUnstable)
	first := x.backup(top, Options{ReadAll: true})
	wantProblems(t, first, "unstable /src/unstable")

	wasUnstable.changed = nil
	rots.data, wasUnstable.data = other, other
	changes.touch(other)
	// Who does not read does not notice.
	second := x.backup(top, Options{Parent: first})
	wantProblems(t, second)
	x.wantFiles(second, map[string][]byte{"/src/rots": data, "/src/changes": other, "/src/unstable": other})
	full := x.backup(top, Options{Parent: first, ReadAll: true})
	wantProblems(t, full, "silent-change /src/rots")
	x.wantFiles(full, map[string][]byte{"/src/rots": other, "/src/changes": other, "/src/unstable": other})
}

// What the repository has lost is read again, though it has not changed.
func TestLostPackHeals(t *testing.T) {
	x := newFixture(t)
	direct, indirect := bytesOf(1, 100_000), bytesOf(2, 20_000_000)
	top := folder("src", file("direct", direct), file("indirect", indirect), folder("d", file("x", []byte("x"))))
	first := x.backup(top, Options{})
	var packs []string
	must(t, x.store.List(t.Context(), "packs", func(i storage.Info) error { packs = append(packs, i.Name); return nil }))
	if len(packs) < 2 {
		t.Fatalf("packs %q", packs)
	}
	want := map[string][]byte{"/src/direct": direct, "/src/indirect": indirect, "/src/d/x": []byte("x")}
	for _, lost := range packs {
		t.Run("", func(t *testing.T) {
			x := &fixture{t, x.store.(*storage.Memory).Clone(), x.key}
			must(t, x.store.Delete(t.Context(), lost))
			again := x.backup(top, Options{Parent: first})
			wantProblems(t, again)
			x.wantFiles(again, want)
			if again.Counts.ChunksAdded == 0 {
				t.Error("nothing was stored")
			}
		})
	}
	must(t, x.store.List(t.Context(), "packs", func(i storage.Info) error { return x.store.Delete(t.Context(), i.Name) }))
	x.wantFiles(x.backup(top, Options{Parent: first}), want)
}

func TestHugeDirectory(t *testing.T) {
	x := newFixture(t)
	const n = 30_000
	var kids []*fake
	want := map[string][]byte{}
	for i := range n {
		name := fmt.Sprintf("%06d", i)
		kids = append(kids, file(name, []byte(name)))
		want["/src/"+name] = []byte(name)
	}
	top := folder("src", kids...)
	snap := x.backup(top, Options{})
	x.wantFiles(snap, want)
	kids[n/2].touch([]byte("changed"))
	want["/src/"+kids[n/2].node.Name] = []byte("changed")
	again := x.backup(top, Options{Parent: snap})
	// One file, one page, and the two directories above.
	if c := again.Counts; c.Unmodified != n-1 || c.ChunksAdded > 6 {
		t.Errorf("%+v", c)
	}
	x.wantFiles(again, want)
}

// Problems are counted beyond the length of their list, the source's own included.
func TestManyProblems(t *testing.T) {
	x := newFixture(t)
	var kids []*fake
	for i := range tree.MaxProblems + 5 {
		f := file(fmt.Sprintf("%06d", i), nil)
		f.openErr = fs.ErrPermission
		kids = append(kids, f)
	}
	snap := x.backup(folder("src", kids...), Options{Extra: func() ([]tree.Problem, int64) {
		return []tree.Problem{{Path: "/src/other", Kind: Metadata}}, 3
	}})
	if len(snap.Problems) != tree.MaxProblems || snap.Counts.Problems != tree.MaxProblems+5+3 {
		t.Errorf("%d listed, %d counted", len(snap.Problems), snap.Counts.Problems)
	}
}

func TestDryRun(t *testing.T) {
	x := newFixture(t)
	a, b := file("a", []byte("a")), file("b", []byte("b"))
	top := folder("src", a, b)
	first := x.backup(top, Options{})
	b.touch([]byte("bb"))
	f := storagetest.NewFault(x.store, func(storagetest.Op, int) storagetest.Outcome { return storagetest.Cut })
	snap, err := x.run(t.Context(), f, top, Options{Parent: first, DryRun: true})
	must(t, err)
	if c := snap.Counts; c.Unmodified != 1 || c.Changed != 1 || c.BytesRead != 0 || b.opens.Load() != 1 {
		t.Errorf("%+v", c)
	}
}

// A run that is told to stop does so in the middle of a file, closes everything and
// commits nothing.
func TestCancel(t *testing.T) {
	for _, when := range []string{"before", "while a file is read", "while waiting for readers"} {
		t.Run(when, func(t *testing.T) {
			x := newFixture(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var kids []*fake
			for i := range 200 {
				f := file(fmt.Sprintf("%03d", i), bytesOf(i, 50_000))
				if when == "while a file is read" && i == 50 || when == "while waiting for readers" && i == 0 {
					f.readAt = func(off int) error {
						if off >= 20_000 {
							if when == "while waiting for readers" {
								time.Sleep(20 * time.Millisecond)
							}
							cancel()
						}
						return nil
					}
				}
				kids = append(kids, f)
			}
			hardlinks(3, kids[50], kids[51], kids[150])
			if when == "before" {
				cancel()
			}
			snap, err := x.run(ctx, x.store, folder("src", kids...), Options{Readers: 2})
			if snap != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", snap, err)
			}
			if all, err := x.open(x.store).Snapshots(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("%d snapshots, %v", len(all), err)
			}
		})
	}
}

// A store that fails at any write ends the run with its error; what was stored is
// used by the next run.
func TestStoreFails(t *testing.T) {
	data := bytesOf(1, 300_000)
	tops := func() *fake {
		return folder("src", file("a", data), folder("d", file("b", data[:1000])), file("c", data[5:]))
	}
	x := newFixture(t)
	f := storagetest.CutAfter(x.store.(*storage.Memory).Clone(), 1<<30)
	_, err := x.run(t.Context(), f, tops(), Options{})
	must(t, err)
	writes := len(f.Ops())
	if writes < 4 {
		t.Fatalf("only %d writes", writes)
	}
	for n := range writes {
		m := x.store.(*storage.Memory).Clone()
		f := storagetest.CutAfter(m, n)
		snap, err := x.run(t.Context(), f, tops(), Options{})
		// How many writes there are depends on how blocks fall to packs.
		if f.IsCut() && (err == nil || snap != nil) {
			t.Errorf("cut after %d of %d writes: no error", n, writes)
		}
		y := &fixture{t, m, x.key}
		y.wantFiles(y.backup(tops(), Options{}), map[string][]byte{"/src/a": data, "/src/d/b": data[:1000], "/src/c": data[5:]})
	}
}
