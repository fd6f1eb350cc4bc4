package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

var errIO = errors.New("input/output error")

// An inode is one file, directory or other entry of a source in memory.
type inode struct {
	node     tree.Node // complete, without name and content
	data     []byte    // of the extents, one after the other
	children map[string]*inode

	listErr, openErr error
	shown            map[string]bool // which children are listed despite listErr
	readErr          error           // after readTo bytes
	readTo           int
	changes          int  // how many more readings find the file changed
	coarse           bool // changes leave no trace in the times
	cut              int  // how many more readings end early, after readTo bytes
	onRead           func()
}

// A source is a file system in memory. It counts what is open.
type source struct {
	t     testing.TB
	mu    sync.Mutex
	top   *inode
	clock int64
	opens map[string]int
	live  atomic.Int64
}

func newSource(t testing.TB) *source {
	s := &source{t: t, opens: map[string]int{}}
	s.top = s.dir()
	return s
}

func (s *source) stamp(n *inode) {
	s.clock++
	n.node.MTime, n.node.CTime = tree.Time{Sec: 1_700_000_000 + s.clock, Nsec: 7}, tree.Time{Sec: 1_700_000_000 + s.clock, Nsec: 9}
}

func (s *source) make(typ tree.Type, mode uint32) *inode {
	n := &inode{node: tree.Node{Type: typ, Mode: mode, UID: 1000, GID: 100, Links: 1}}
	s.stamp(n)
	n.node.Inode = uint64(s.clock)
	return n
}

func (s *source) dir() *inode {
	n := s.make(tree.Dir, 0o750)
	n.children = map[string]*inode{}
	return n
}

func (s *source) newFile(data []byte) *inode {
	n := s.make(tree.File, 0o640)
	n.data, n.node.Size = data, int64(len(data))
	return n
}

// mkdir returns the directory at path, which is made if need be.
func (s *source) mkdir(path string) *inode {
	at := s.top
	for _, name := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		if at.children[name] == nil {
			at.children[name] = s.dir()
		}
		at = at.children[name]
	}
	return at
}

func (s *source) put(path string, n *inode) *inode {
	i := strings.LastIndexByte(path, '/')
	s.mkdir(path[:i]).children[path[i+1:]] = n
	return n
}

func (s *source) file(path string, data []byte) *inode { return s.put(path, s.newFile(data)) }

func (s *source) write(n *inode, data []byte) {
	n.data, n.node.Size, n.node.Extents = data, int64(len(data)), nil
	s.stamp(n)
}

func (s *source) opened(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens[path]
}

func (s *source) forgetOpens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.opens)
}

// roots returns the entries at the paths, and the directories above them.
func (s *source) roots(paths ...string) []backup.Root {
	var out []backup.Root
	for _, p := range paths {
		at, path := s.top, ""
		root := backup.Root{Path: p}
		for _, name := range strings.FieldsFunc(p, func(r rune) bool { return r == '/' }) {
			n := at.node
			n.Name = path[strings.LastIndexByte(path, '/')+1:]
			root.Ancestors = append(root.Ancestors, &n)
			at, path = at.children[name], path+"/"+name
		}
		root.Entry = s.entry(at, path, path[strings.LastIndexByte(path, '/')+1:])
		out = append(out, root)
	}
	return out
}

type entry struct {
	s          *source
	n          *inode
	path, name string
	closed     atomic.Bool
}

func (s *source) entry(n *inode, path, name string) *entry {
	s.live.Add(1)
	return &entry{s: s, n: n, path: path, name: name}
}

func (e *entry) Close() {
	if e.closed.Swap(true) {
		e.s.t.Errorf("%s was closed twice", e.path)
	}
	e.s.live.Add(-1)
}

func (e *entry) Node() *tree.Node {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	n := e.n.node
	n.Name = e.name
	n.Target, n.Xattrs, n.InodeFlags, n.Extents = "", nil, 0, nil
	return &n
}

func (e *entry) Complete(n *tree.Node) error {
	if n.Type == tree.File {
		e.s.t.Errorf("complete of the file %s", e.path)
	}
	n.Target, n.Xattrs, n.InodeFlags = e.n.node.Target, e.n.node.Xattrs, e.n.node.InodeFlags
	return nil
}

func (e *entry) Dir(ctx context.Context) (backup.Dir, error) {
	if e.n.openErr != nil {
		return nil, e.n.openErr
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.s.live.Add(1)
	return &openDir{e: e}, nil
}

type openDir struct {
	e      *entry
	listed bool
	names  []string // not returned yet
}

func (d *openDir) Close() error { d.e.s.live.Add(-1); return nil }

// Next returns at most three entries at a time.
func (d *openDir) Next(ctx context.Context) (out []backup.Entry, err error) {
	if !d.listed {
		d.listed = true
		err = d.e.n.listErr
		for _, name := range slices.Sorted(maps.Keys(d.e.n.children)) {
			if err == nil || d.e.n.shown[name] {
				d.names = append(d.names, name)
			}
		}
	}
	for len(out) < 3 && len(d.names) > 0 {
		name := d.names[0]
		d.names = d.names[1:]
		out = append(out, d.e.s.entry(d.e.n.children[name], d.e.path+"/"+name, name))
	}
	return out, err
}

func (e *entry) Open() (backup.File, error) {
	if e.closed.Load() {
		e.s.t.Errorf("%s was opened after it was closed", e.path)
	}
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.opens[e.path]++
	if e.n.openErr != nil {
		return nil, e.n.openErr
	}
	e.s.live.Add(1)
	f := &openFile{e: e, node: e.n.node, data: e.n.data, to: len(e.n.data)}
	f.node.Name = e.name
	f.node.Extents = slices.Clone(f.node.Extents)
	if e.n.node.Extents != nil && f.node.Extents == nil {
		f.node.Extents = []tree.Extent{}
	}
	if e.n.cut > 0 {
		e.n.cut--
		f.to, f.end = e.n.readTo, io.ErrUnexpectedEOF
	}
	if e.n.readErr != nil {
		f.to, f.end = e.n.readTo, e.n.readErr
	}
	return f, nil
}

type openFile struct {
	e    *entry
	node tree.Node
	data []byte
	at   int
	to   int
	end  error
}

func (f *openFile) Node() *tree.Node { return &f.node }
func (f *openFile) Close() error     { f.e.s.live.Add(-1); return nil }

func (f *openFile) Read(p []byte) (int, error) {
	if f.e.n.onRead != nil {
		f.e.n.onRead()
	}
	if f.at >= f.to {
		if f.end != nil {
			return 0, f.end
		}
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 50_000)], f.data[f.at:f.to])
	f.at += n
	return n, nil
}

func (f *openFile) Changed() (bool, error) {
	f.e.s.mu.Lock()
	defer f.e.s.mu.Unlock()
	if f.e.n.changes == 0 {
		return false, nil
	}
	f.e.n.changes--
	if f.e.n.coarse {
		copy(f.e.n.data, random(uint64(f.e.n.changes), len(f.data)))
		return true, nil
	}
	f.e.s.write(f.e.n, append([]byte("changed "), f.data...))
	return true, nil
}

// random returns n bytes that do not compress and depend on the seed.
func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// small are chunks so small that few bytes have many.
var small = chunk.Params{Min: 256, Avg: 1024, Max: 4096}

func newStore(t testing.TB) *storage.Memory {
	t.Helper()
	m := storage.NewMemory()
	if err := repo.Init(context.Background(), m, repo.InitOptions{Lockers: []seal.Locker{seal.None{}}, Params: small, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)}}); err != nil {
		t.Fatal(err)
	}
	return m
}

func tryOpen(b storage.Backend) (*repo.Repository, error) {
	r, err := repo.Open(context.Background(), b, repo.Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		return nil, err
	}
	_, err = r.LoadIndex(context.Background())
	return r, err
}

func open(t testing.TB, b storage.Backend) *repo.Repository {
	t.Helper()
	r, err := tryOpen(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func options(roots []backup.Root) backup.Options {
	return backup.Options{Roots: roots, Readers: 2, Now: time.Now}
}

// run backs up, and checks that everything is closed.
func (s *source) run(b storage.Backend, o backup.Options) (*tree.Snapshot, error) {
	s.t.Helper()
	r, err := tryOpen(b)
	if err != nil {
		for _, root := range o.Roots {
			root.Entry.Close()
		}
		return nil, err
	}
	snap, err := backup.Run(context.Background(), r, tree.Snapshot{Time: time.Now(), Host: "h", Mode: tree.Full}, o)
	if n := s.live.Load(); n != 0 {
		s.t.Errorf("%d entries, files or directories are still open", n)
	}
	return snap, err
}

func (s *source) mustRun(b storage.Backend, o backup.Options) *tree.Snapshot {
	s.t.Helper()
	snap, err := s.run(b, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return snap
}

// A seen is an entry of a snapshot or source: its node without what refers to the
// content, and the content.
type seen struct {
	node tree.Node
	data string
}

// content reads a file of a snapshot.
func content(r *repo.Repository, n *tree.Node) ([]byte, error) {
	var data []byte
	err := tree.EachChunk(context.Background(), r, n, func(c tree.Chunk) error {
		b, err := r.Load(context.Background(), c.Hash, c.Size, nil)
		data = append(data, b...)
		return err
	})
	return data, err
}

func read(r *repo.Repository, s *tree.Snapshot) (map[string]seen, error) {
	all := map[string]seen{}
	err := tree.Walk(context.Background(), r, "/", s.RootNode(), tree.Visitor{Node: func(path string, n *tree.Node) error {
		var data []byte
		var err error
		if n.Type == tree.File {
			if data, err = content(r, n); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		c := *n
		c.Content, c.Indirect, c.SHA256 = nil, false, nil
		if path != "/" {
			all[path] = seen{c, string(data)}
		}
		return nil
	}})
	return all, err
}

func mustRead(t testing.TB, b storage.Backend, s *tree.Snapshot) map[string]seen {
	t.Helper()
	got, err := read(open(t, b), s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// want is what a snapshot of the paths has to hold.
func (s *source) want(paths ...string) map[string]seen {
	all := map[string]seen{}
	var add func(path string, n *inode, below bool)
	add = func(path string, n *inode, below bool) {
		c := n.node
		c.Name = path[strings.LastIndexByte(path, '/')+1:]
		all[path] = seen{c, string(n.data)}
		for name, child := range n.children {
			if below {
				add(path+"/"+name, child, true)
			}
		}
	}
	for _, p := range paths {
		at, path := s.top, ""
		for _, name := range strings.FieldsFunc(p, func(r rune) bool { return r == '/' }) {
			at, path = at.children[name], path+"/"+name
			add(path, at, path == p)
		}
		if p == "/" {
			for name, child := range s.top.children {
				add("/"+name, child, true)
			}
		}
	}
	return all
}

func differences(got, want map[string]seen) (out []string) {
	for path, w := range want {
		g, ok := got[path]
		switch {
		case !ok:
			out = append(out, path+" is missing")
		case !reflect.DeepEqual(g.node, w.node):
			out = append(out, fmt.Sprintf("%s is\n%+v, want\n%+v", path, g.node, w.node))
		case g.data != w.data:
			out = append(out, fmt.Sprintf("%s has other content: %d bytes, want %d", path, len(g.data), len(w.data)))
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			out = append(out, path+" is too much")
		}
	}
	slices.Sort(out)
	return out
}

func wantSame(t testing.TB, got, want map[string]seen) {
	t.Helper()
	for _, d := range differences(got, want) {
		t.Error(d)
	}
}

// wantProblems compares problems, each as "kind path".
func wantProblems(t testing.TB, s *tree.Snapshot, want ...string) {
	t.Helper()
	var got []string
	for _, p := range s.Problems {
		got = append(got, p.Kind+" "+string(p.Path))
		if p.Text == "" {
			t.Errorf("%s: the problem has no text", p.Path)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
	if s.Counts.Problems != int64(len(want)) {
		t.Errorf("%d problems are counted, want %d", s.Counts.Problems, len(want))
	}
}

// sample is a source with an entry of each kind.
func sample(t testing.TB) *source {
	s := newSource(t)
	s.file("/src/empty", nil)
	s.file("/src/small", []byte("small"))
	s.file("/src/large", random(1, 300_000))
	s.file("/src/sub/deep/file", random(2, 20_000)).node.Xattrs = []tree.Xattr{{Name: "user.a", Value: "b"}}
	s.file("/src/sub/\xff\n", []byte("strange"))
	s.mkdir("/src/nothing").node.Xattrs = []tree.Xattr{{Name: "user.dir", Value: ""}}
	link := s.put("/src/link", s.make(tree.Symlink, 0o777))
	link.node.Target = "../elsewhere"
	s.put("/src/fifo", s.make(tree.FIFO, 0o600))
	s.put("/src/null", s.make(tree.CharDevice, 0o666)).node.Rdev = 1<<32 | 3
	sparse := s.file("/src/sparse", random(3, 9000))
	sparse.node.Size, sparse.node.Extents = 1<<30, []tree.Extent{{Offset: 4096, Length: 5000}, {Offset: 1 << 20, Length: 4000}}
	hole := s.file("/src/hole", nil)
	hole.node.Size, hole.node.Extents = 1<<40, []tree.Extent{}
	return s
}

func TestRunRoundTrip(t *testing.T) {
	s, m := sample(t), newStore(t)
	snap := s.mustRun(m, options(s.roots("/src")))
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
	wantProblems(t, snap)
	c := snap.Counts
	if c.Files != 7 || c.Dirs != 5 || c.Symlinks != 1 || c.Others != 2 || c.New != 7 || c.Changed != 0 || c.Unmodified != 0 {
		t.Errorf("counts: %+v", c)
	}
	if want := int64(5 + 300_000 + 20_000 + 7 + 9000); c.BytesRead != want || c.DataAdded != want {
		t.Errorf("%d bytes read, %d added, want %d", c.BytesRead, c.DataAdded, want)
	}
	raw, err := open(t, m).Snapshots(t.Context())
	if err != nil || len(raw) != 1 || raw[0].Err != nil {
		t.Fatalf("snapshots: %+v, %v", raw, err)
	}
	stored, err := tree.DecodeSnapshot(raw[0].ID, raw[0].Body)
	if err != nil || stored.ID != snap.ID || !reflect.DeepEqual(stored.Root, snap.Root) || stored.Counts != snap.Counts || stored.End.IsZero() {
		t.Errorf("the snapshot stored is %+v, %v; returned was %+v", stored, err, snap)
	}
}

func TestRunRoots(t *testing.T) {
	for _, paths := range [][]string{
		{"/"}, {"/a/b/one", "/a/b/two", "/a/c", "/d"}, {"/a/b/file"}, {"/a/b/file", "/d"}, {"/d"},
	} {
		t.Run(strings.Join(paths, " "), func(t *testing.T) {
			s, m := newSource(t), newStore(t)
			s.file("/a/b/one/x", []byte("x"))
			s.file("/a/b/two/y", []byte("y"))
			s.file("/a/b/file", random(1, 10_000))
			s.file("/a/b/beside", []byte("not a source"))
			s.file("/a/c/z", nil)
			s.file("/d/e/f", []byte("f"))
			snap := s.mustRun(m, options(s.roots(paths...)))
			wantSame(t, mustRead(t, m, snap), s.want(paths...))
			wantProblems(t, snap)

			s.forgetOpens()
			o := options(s.roots(paths...))
			o.Parent = snap
			again := s.mustRun(m, o)
			wantSame(t, mustRead(t, m, again), s.want(paths...))
			if len(s.opens) > 0 || again.Counts.Unmodified != again.Counts.Files || !slices.Equal(again.Root, snap.Root) {
				t.Errorf("unchanged: opened %v, %+v", s.opens, again.Counts)
			}
		})
	}
}

// What files may do while they are backed up. The file is called f.
func TestRunTroubles(t *testing.T) {
	data := random(9, 100_000)
	tests := map[string]struct {
		do      func(s *source, f *inode)
		problem string // its kind; "" for none
		absent  bool
		check   func(t *testing.T, f *inode, got seen)
		opens   int
	}{
		"unstable": {
			do: func(_ *source, f *inode) { f.changes = 1000 }, problem: backup.Unstable, opens: 3,
			check: func(t *testing.T, f *inode, got seen) {
				if !got.node.Unstable || got.data != "changed changed "+string(data) {
					t.Errorf("unstable %t, %.30q", got.node.Unstable, got.data)
				}
			},
		},
		"changes once": {
			do: func(_ *source, f *inode) { f.changes = 1 }, opens: 2,
			check: func(t *testing.T, f *inode, got seen) {
				if got.node.Unstable || got.data != "changed "+string(data) {
					t.Errorf("unstable %t, %.30q", got.node.Unstable, got.data)
				}
			},
		},
		"unstable, times too coarse to tell": {
			do: func(_ *source, f *inode) { f.changes, f.coarse = 3, true }, problem: backup.Unstable, opens: 3,
		},
		"vanished": {
			do: func(_ *source, f *inode) {
				f.openErr = &fs.PathError{Op: "open", Path: "f", Err: fs.ErrNotExist}
			},
			problem: backup.Vanished, absent: true, opens: 1,
		},
		"replaced": {
			do:      func(_ *source, f *inode) { f.openErr = errors.New("it was replaced by a fifo") },
			problem: backup.Unreadable, absent: true, opens: 1,
		},
		"unreadable": {
			do:      func(_ *source, f *inode) { f.openErr = fs.ErrPermission },
			problem: backup.Unreadable, absent: true, opens: 1,
		},
		"read error": {
			do:      func(_ *source, f *inode) { f.readErr, f.readTo = errIO, 60_001 },
			problem: backup.Unreadable, absent: true, opens: 1,
		},
		"truncated once": {
			do: func(_ *source, f *inode) { f.cut, f.readTo = 1, 60_001 }, opens: 2,
			check: func(t *testing.T, f *inode, got seen) {
				if got.node.Unstable || got.data != string(data) {
					t.Errorf("unstable %t, %d bytes", got.node.Unstable, len(got.data))
				}
			},
		},
		"truncated": {
			do: func(_ *source, f *inode) { f.cut, f.readTo = 3, 60_001 }, problem: backup.Unstable, opens: 3,
			check: func(t *testing.T, f *inode, got seen) {
				if !got.node.Unstable || got.data != string(data[:60_001]) || got.node.Size != 60_001 {
					t.Errorf("unstable %t, %d bytes, size %d", got.node.Unstable, len(got.data), got.node.Size)
				}
			},
		},
		"truncated to nothing": {
			do: func(_ *source, f *inode) { f.cut, f.readTo = 3, 0 }, problem: backup.Unstable, opens: 3,
			check: func(t *testing.T, f *inode, got seen) {
				if !got.node.Unstable || got.data != "" || got.node.Size != 0 {
					t.Errorf("unstable %t, %d bytes, size %d", got.node.Unstable, len(got.data), got.node.Size)
				}
			},
		},
	}
	for _, at := range []struct {
		to   int
		size int64
		left []tree.Extent
	}{
		{0, 1000, []tree.Extent{}},
		{1, 1001, []tree.Extent{{Offset: 1000, Length: 1}}},
		{40_000, 1 << 20, []tree.Extent{{Offset: 1000, Length: 40_000}}},
		{40_001, 1<<20 + 1, []tree.Extent{{Offset: 1000, Length: 40_000}, {Offset: 1 << 20, Length: 1}}},
	} {
		tests[fmt.Sprint("truncated sparse to ", at.to)] = struct {
			do      func(s *source, f *inode)
			problem string
			absent  bool
			check   func(t *testing.T, f *inode, got seen)
			opens   int
		}{
			do: func(_ *source, f *inode) {
				f.node.Size, f.node.Extents = 1<<30, []tree.Extent{{Offset: 1000, Length: 40_000}, {Offset: 1 << 20, Length: 60_000}}
				f.cut, f.readTo = 3, at.to
			}, problem: backup.Unstable, opens: 3,
			check: func(t *testing.T, f *inode, got seen) {
				if !got.node.Unstable || got.data != string(data[:at.to]) || got.node.Size != at.size || !reflect.DeepEqual(got.node.Extents, at.left) {
					t.Errorf("unstable %t, %d bytes, size %d, extents %v", got.node.Unstable, len(got.data), got.node.Size, got.node.Extents)
				}
			},
		}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, m := newSource(t), newStore(t)
			f := s.file("/src/f", data)
			s.file("/src/other", []byte("other"))
			f.data = bytes.Clone(data)
			tt.do(s, f)
			var told atomic.Int64
			o := options(s.roots("/src"))
			o.OnProblem = func(tree.Problem) { told.Add(1) }
			snap := s.mustRun(m, o)
			if tt.problem != "" {
				wantProblems(t, snap, tt.problem+" /src/f")
			} else {
				wantProblems(t, snap)
			}
			if told.Load() != snap.Counts.Problems {
				t.Errorf("%d problems were told, %d counted", told.Load(), snap.Counts.Problems)
			}
			got := mustRead(t, m, snap)
			one, ok := got["/src/f"]
			if ok == tt.absent {
				t.Fatalf("in the snapshot: %t", ok)
			}
			if tt.check != nil {
				tt.check(t, f, one)
			}
			if got["/src/other"].data != "other" {
				t.Error("the other file is not there")
			}
			if n := s.opened("/src/f"); n != tt.opens {
				t.Errorf("opened %d times, want %d", n, tt.opens)
			}

			// When the trouble is over, the next run sets it right.
			f.changes, f.cut, f.openErr, f.readErr = 0, 0, nil, nil
			o = options(s.roots("/src"))
			o.Parent = snap
			next := s.mustRun(m, o)
			wantProblems(t, next)
			wantSame(t, mustRead(t, m, next), s.want("/src"))
		})
	}
}

func TestRunDirectories(t *testing.T) {
	for name, tt := range map[string]struct {
		do      func(d *inode)
		problem string
		left    []string
	}{
		"cannot be opened":        {func(d *inode) { d.openErr = fs.ErrPermission }, backup.Unreadable, nil},
		"vanished":                {func(d *inode) { d.openErr = fs.ErrNotExist }, backup.Vanished, nil},
		"cannot be listed":        {func(d *inode) { d.listErr = errIO }, backup.Unreadable, nil},
		"cannot be listed to end": {func(d *inode) { d.listErr, d.shown = errIO, map[string]bool{"a": true} }, backup.Unreadable, []string{"/src/d/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, m := newSource(t), newStore(t)
			s.file("/src/d/a", []byte("a"))
			s.file("/src/d/e/b", []byte("b"))
			s.file("/src/other", []byte("other"))
			tt.do(s.mkdir("/src/d"))
			snap := s.mustRun(m, options(s.roots("/src")))
			wantProblems(t, snap, tt.problem+" /src/d")
			got := slices.Sorted(maps.Keys(mustRead(t, m, snap)))
			want := append([]string{"/src", "/src/d", "/src/other"}, tt.left...)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
	t.Run("source", func(t *testing.T) {
		for _, do := range []func(d *inode){func(d *inode) { d.openErr = errIO }, func(d *inode) { d.listErr, d.shown = errIO, map[string]bool{"a": true} }} {
			s, m := newSource(t), newStore(t)
			s.file("/src/a", []byte("a"))
			do(s.mkdir("/src"))
			before := storagetest.Objects(t, m)
			if _, err := s.run(m, options(s.roots("/src"))); !errors.Is(err, errIO) || !strings.Contains(err.Error(), "/src") {
				t.Errorf("a source that cannot be read: %v", err)
			}
			if !reflect.DeepEqual(storagetest.Objects(t, m), before) {
				t.Error("something was written")
			}
		}
	})
}

func TestRunHardLinks(t *testing.T) {
	names := []string{"/src/a", "/src/b/second", "/src/c"}
	for name, fails := range map[string]bool{"whole": false, "the first name fails": true} {
		t.Run(name, func(t *testing.T) {
			s, m := newSource(t), newStore(t)
			f := s.newFile(random(1, 200_000))
			f.node.Links, f.node.Device = 3, 42
			if fails {
				f.openErr = errIO
			}
			for _, n := range names {
				s.put(n, f)
			}
			s.file("/src/z", []byte("z"))
			snap := s.mustRun(m, options(s.roots("/src")))
			opens := 0
			for _, n := range names {
				opens += s.opened(n)
			}
			if opens != 1 {
				t.Errorf("read %d times", opens)
			}
			got := mustRead(t, m, snap)
			if !fails {
				wantProblems(t, snap)
				wantSame(t, got, s.want("/src"))
				if snap.Counts.Files != 4 || snap.Counts.BytesRead != 200_001 {
					t.Errorf("%+v", snap.Counts)
				}
				return
			}
			wantProblems(t, snap, "unreadable /src/a", "unreadable /src/b/second", "unreadable /src/c")
			if got["/src/z"].data != "z" || len(got) != 3 {
				t.Errorf("%d entries", len(got))
			}
		})
	}
}

func TestRunSilentChange(t *testing.T) {
	s, m := sample(t), newStore(t)
	first := s.mustRun(m, options(s.roots("/src")))
	large := s.mkdir("/src").children["large"]
	large.data = random(77, len(large.data)) // bit rot: nothing else changes
	o := options(s.roots("/src"))
	o.Parent = first
	unseen := s.mustRun(m, o)
	wantProblems(t, unseen)
	if got := mustRead(t, m, unseen)["/src/large"].data; got != string(random(1, 300_000)) {
		t.Error("a file that seems unchanged was read")
	}
	o = options(s.roots("/src"))
	o.Parent, o.ReadAll = first, true
	snap := s.mustRun(m, o)
	wantProblems(t, snap, "silent-change /src/large")
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
}

func TestRunEmptySource(t *testing.T) {
	s, m := newSource(t), newStore(t)
	s.mkdir("/src/empty")
	s.file("/src/full/x", []byte("x"))
	before := storagetest.Objects(t, m)
	if _, err := s.run(m, options(s.roots("/src/empty", "/src/full"))); !errors.Is(err, backup.ErrEmptySource) {
		t.Errorf("an empty source: %v", err)
	}
	if _, err := s.run(m, options(s.roots("/src/full", "/src/empty"))); !errors.Is(err, backup.ErrEmptySource) {
		t.Errorf("an empty source at the end: %v", err)
	}
	for name := range storagetest.Objects(t, m) {
		if _, ok := before[name]; !ok && strings.HasPrefix(name, "snapshots/") {
			t.Errorf("%s was written", name)
		}
	}
	o := options(s.roots("/src/empty", "/src/full"))
	o.AllowEmpty = true
	wantSame(t, mustRead(t, m, s.mustRun(m, o)), s.want("/src/empty", "/src/full"))
}

func TestRunUnchanged(t *testing.T) {
	s, m := sample(t), newStore(t)
	first := s.mustRun(m, options(s.roots("/src")))
	s.write(s.mkdir("/src").children["small"], []byte("new text"))
	s.file("/src/sub/new", []byte("new file"))
	delete(s.mkdir("/src").children, "fifo")
	s.forgetOpens()
	states := map[string]string{}
	var mu sync.Mutex
	o := options(s.roots("/src"))
	o.Parent = first
	o.OnFile = func(path, state string) {
		mu.Lock()
		defer mu.Unlock()
		states[path] = state
	}
	sizes := map[string]int64{}
	o.OnStored = func(path string, n *tree.Node) {
		mu.Lock()
		defer mu.Unlock()
		sizes[path] = n.Size
	}
	snap := s.mustRun(m, o)
	if len(sizes) != 8 || sizes["/src/small"] != int64(len("new text")) {
		t.Errorf("stored: %v", sizes)
	}
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
	wantSame(t, mustRead(t, m, first), func() map[string]seen { // the earlier snapshot stays as it was
		return sample(t).want("/src")
	}())
	if want := map[string]int{"/src/small": 1, "/src/sub/new": 1}; !maps.Equal(s.opens, want) {
		t.Errorf("opened %v, want %v", s.opens, want)
	}
	if states["/src/small"] != "changed" || states["/src/sub/new"] != "new" || states["/src/large"] != "unmodified" || len(states) != 8 {
		t.Errorf("states: %v", states)
	}
	if c := snap.Counts; c.New != 1 || c.Changed != 1 || c.Unmodified != 6 || c.BytesRead != 16 {
		t.Errorf("%+v", c)
	}
	if snap.Parent == nil || *snap.Parent != first.ID {
		t.Error("the parent is not named")
	}
}

// Where there is no change time, nothing can be taken for unchanged.
func TestRunNoChangeTime(t *testing.T) {
	s, m := newSource(t), newStore(t)
	f := s.file("/src/f", []byte("before"))
	f.node.CTime = tree.Time{}
	o := options(s.roots("/src"))
	first := s.mustRun(m, o)
	f.data = []byte("behind")
	o = options(s.roots("/src"))
	o.Parent = first
	wantSame(t, mustRead(t, m, s.mustRun(m, o)), s.want("/src"))
}

// remove deletes an object.
func remove(t testing.TB, m *storage.Memory, name string) {
	t.Helper()
	if err := m.Delete(context.Background(), name); err != nil {
		t.Fatal(err)
	}
}

func packOf(t testing.TB, m *storage.Memory, h tree.Hash) string {
	t.Helper()
	at, ok := open(t, m).Locate(h)
	if !ok {
		t.Fatal("the chunk is nowhere")
	}
	id := at.Block.Pack.String()
	return "packs/" + id[:2] + "/" + id
}

// Whatever pack is lost, the next run stores its content again, though no file has
// changed.
func TestRunHeals(t *testing.T) {
	s, m := sample(t), newStore(t)
	s.file("/src/indirect", random(5, 3_000_000))
	first := s.mustRun(m, options(s.roots("/src")))
	packs := 0
	for name := range storagetest.Objects(t, m) {
		if !strings.HasPrefix(name, "packs/") {
			continue
		}
		packs++
		left := m.Clone()
		remove(t, left, name)
		o := options(s.roots("/src"))
		o.Parent = first
		snap := s.mustRun(left, o)
		wantProblems(t, snap)
		wantSame(t, mustRead(t, left, snap), s.want("/src"))
		wantSame(t, mustRead(t, left, first), s.want("/src"))
	}
	if packs < 2 {
		t.Errorf("%d packs", packs)
	}
}

// A previous record whose bytes are damaged is as good as none.
func TestRunDamagedRecord(t *testing.T) {
	s, m := sample(t), newStore(t)
	first := s.mustRun(m, options(s.roots("/src")))
	name := packOf(t, m, first.Root[0].Hash)
	bytes := storagetest.Objects(t, m)[name]
	for i := range bytes[:len(bytes)/2] {
		bytes[i] ^= 0x40
	}
	remove(t, m, name)
	storagetest.Put(t, m, name, bytes)
	for _, d := range []string{"/src", "/src/sub", "/src/sub/deep", "/src/nothing"} {
		s.stamp(s.mkdir(d)) // else the records are the same, and taken to be there
	}
	s.stamp(s.mkdir("/src/sub/deep").children["file"])
	s.file("/src/sub/new", nil)
	s.file("/src/nothing/new", nil)
	s.forgetOpens()
	o := options(s.roots("/src"))
	o.Parent = first
	snap := s.mustRun(m, o)
	wantProblems(t, snap)
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
	if s.opened("/src/large") != 1 {
		t.Error("the files of the damaged directory were not read")
	}
}

// A record that is damaged, and would be stored again byte for byte, is: the
// snapshot must not rely on what cannot be read.
func TestRunDamagedRecordUnchanged(t *testing.T) {
	s, m := sample(t), newStore(t)
	first := s.mustRun(m, options(s.roots("/src")))
	name := packOf(t, m, first.Root[0].Hash)
	bytes := storagetest.Objects(t, m)[name]
	for i := range bytes[:len(bytes)/2] {
		bytes[i] ^= 0x40
	}
	remove(t, m, name)
	storagetest.Put(t, m, name, bytes)
	o := options(s.roots("/src"))
	o.Parent = first
	snap := s.mustRun(m, o)
	wantProblems(t, snap)
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
}

func TestRunIndirect(t *testing.T) {
	s, m := newSource(t), newStore(t)
	f := s.file("/src/big", random(1, 4_000_000))
	first := s.mustRun(m, options(s.roots("/src")))
	n := lookup(t, m, first, "/src/big")
	if !n.Indirect || len(n.Content) < 2 || n.SHA256 != nil {
		t.Fatalf("%d chunks in the node, indirect %t", len(n.Content), n.Indirect)
	}
	wantSame(t, mustRead(t, m, first), s.want("/src"))
	s.write(f, append([]byte("front"), f.data...))
	o := options(s.roots("/src"))
	o.Parent, o.FileSHA256 = first, true
	snap := s.mustRun(m, o)
	wantSame(t, mustRead(t, m, snap), s.want("/src"))
	if c := snap.Counts; c.DataAdded > 100_000 {
		t.Errorf("%d bytes stored for 5 in front", c.DataAdded)
	}
	if n := lookup(t, m, snap, "/src/big"); n.SHA256 == nil || *n.SHA256 != tree.Hash(sha256.Sum256(f.data)) {
		t.Errorf("SHA-256: %v", n.SHA256)
	}
}

func lookup(t testing.TB, b storage.Backend, s *tree.Snapshot, path string) *tree.Node {
	t.Helper()
	n, err := tree.Lookup(t.Context(), open(t, b), s.RootNode(), path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRunFileSHA256(t *testing.T) {
	s, m := sample(t), newStore(t)
	s.file("/src/unstable", random(8, 50_000)).changes = 100
	o := options(s.roots("/src"))
	o.FileSHA256 = true
	snap := s.mustRun(m, o)
	got := mustRead(t, m, snap)
	known := 0
	for path, e := range got {
		n := lookup(t, m, snap, path)
		sum, ok := n.ContentHash()
		if sparse := n.Extents != nil; n.Type == tree.File && ok == sparse {
			t.Errorf("%s: hash known: %t", path, ok)
		}
		if ok {
			known++
			if sum != tree.Hash(sha256.Sum256([]byte(e.data))) {
				t.Errorf("%s: the hash is wrong", path)
			}
		}
	}
	if known != 6 {
		t.Errorf("%d hashes are known", known)
	}
}

func TestRunInvalidEntries(t *testing.T) {
	s, m := newSource(t), newStore(t)
	s.file("/src/a", []byte("a"))
	s.file("/src/bad", []byte("bad")).node.Xattrs = []tree.Xattr{{Name: "z"}, {Name: "a"}}
	s.file("/src/dir/fine", []byte("fine"))
	s.put("/src/dir/mode", s.make(tree.FIFO, 0o1_000_000))
	s.put("/src/long", s.make(tree.Symlink, 0o777)).node.Target = strings.Repeat("x", 2<<20)
	s.file("/src/z", []byte("z"))
	snap := s.mustRun(m, options(s.roots("/src")))
	wantProblems(t, snap, "unreadable /src/bad", "unreadable /src/dir/mode", "unreadable /src/long")
	got := slices.Sorted(maps.Keys(mustRead(t, m, snap)))
	if want := []string{"/src", "/src/a", "/src/dir", "/src/dir/fine", "/src/z"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRunProblemBound(t *testing.T) {
	s, m := newSource(t), newStore(t)
	const n = tree.MaxProblems + 5
	for i := range n {
		s.file(fmt.Sprintf("/src/%06d", i), []byte("x")).openErr = fs.ErrPermission
	}
	var told atomic.Int64
	o := options(s.roots("/src"))
	o.Progress = new(backup.Progress)
	o.OnProblem = func(tree.Problem) { told.Add(1) }
	o.Extra = func() ([]tree.Problem, int64) {
		return []tree.Problem{{Path: "/p", Kind: backup.Metadata, Text: "t"}}, 3
	}
	snap := s.mustRun(m, o)
	if len(snap.Problems) != tree.MaxProblems || snap.Counts.Problems != n+3 || told.Load() != n || o.Progress.Problems.Load() != n {
		t.Errorf("%d listed, %d counted, %d told", len(snap.Problems), snap.Counts.Problems, told.Load())
	}
	if !slices.IsSortedFunc(snap.Problems, func(a, b tree.Problem) int { return strings.Compare(string(a.Path), string(b.Path)) }) {
		t.Error("problems are not sorted")
	}
	if got := mustRead(t, m, snap); len(got) != 1 {
		t.Errorf("%d entries", len(got))
	}
}

func TestRunCancel(t *testing.T) {
	for _, when := range []int64{1, 5, 40, 400} {
		t.Run(fmt.Sprint("at read ", when), func(t *testing.T) {
			s, m := newSource(t), newStore(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var reads atomic.Int64
			shared := s.newFile(random(1, 200_000))
			shared.node.Links, shared.node.Device = 20, 1
			for i := range 200 {
				f := shared
				if i%10 > 0 {
					f = s.newFile(random(uint64(i), 200_000))
				}
				s.put(fmt.Sprintf("/src/%d/%d", i%7, i), f)
				f.onRead = func() {
					if reads.Add(1) == when {
						cancel()
					}
				}
			}
			r := open(t, m)
			before := goleak.IgnoreCurrent()
			o := options(s.roots("/src"))
			done := make(chan error, 1)
			go func() {
				_, err := backup.Run(ctx, r, tree.Snapshot{}, o)
				done <- err
			}()
			<-ctx.Done()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			case <-time.After(time.Second):
				t.Fatal("not ended within a second")
			}
			goleak.VerifyNone(t, before)
			if n := s.live.Load(); n != 0 {
				t.Errorf("%d are still open", n)
			}
			raw, err := open(t, m).Snapshots(t.Context())
			if err != nil || len(raw) != 0 {
				t.Errorf("%d snapshots, %v", len(raw), err)
			}
		})
	}
}

func TestRunDry(t *testing.T) {
	s, m := sample(t), newStore(t)
	first := s.mustRun(m, options(s.roots("/src")))
	s.write(s.mkdir("/src").children["small"], []byte("new text"))
	s.file("/src/new", []byte("new file"))
	f := s.newFile([]byte("two names"))
	f.node.Links, f.node.Device = 2, 1
	s.put("/src/n1", f)
	s.put("/src/n2", f)
	before := storagetest.Objects(t, m)
	s.forgetOpens()
	for _, parent := range []*tree.Snapshot{first, nil} {
		for _, all := range []bool{false, true} {
			o := options(s.roots("/src"))
			o.Parent, o.DryRun, o.ReadAll = parent, true, all
			c := s.mustRun(m, o).Counts
			if parent != nil && (c.New != 3 || c.Changed != 1 || c.Unmodified != 6) || parent == nil && c.New != 10 || c.BytesRead != 0 {
				t.Errorf("parent %t, all %t: %+v", parent != nil, all, c)
			}
		}
	}
	if len(s.opens) > 0 {
		t.Errorf("opened %v", s.opens)
	}
	if !reflect.DeepEqual(storagetest.Objects(t, m), before) {
		t.Error("something was written")
	}
	// A dry run needs no repository.
	o := options(s.roots("/src"))
	o.DryRun = true
	if snap, err := backup.Run(t.Context(), nil, tree.Snapshot{}, o); err != nil || snap.Counts.New != 10 {
		t.Errorf("without repository: %v", err)
	}
}

// faulty is a store with one snapshot, and a source that has changed since.
func faulty(t testing.TB) (s *source, m *storage.Memory, old *tree.Snapshot, was map[string]seen) {
	s, m = newSource(t), newStore(t)
	s.file("/src/kept", random(1, 100_000))
	s.file("/src/sub/changed", random(2, 50_000))
	old = s.mustRun(m, options(s.roots("/src")))
	was = s.want("/src")
	s.write(s.mkdir("/src/sub").children["changed"], random(3, 60_000))
	s.file("/src/big", random(4, 2_600_000))
	s.file("/src/sub/new", random(5, 30_000))
	return s, m, old, was
}

// wholeSnapshots checks that old is whole, and every other snapshot is what the
// source is. It returns the number of others.
func wholeSnapshots(t *testing.T, b storage.Backend, old *tree.Snapshot, was, is map[string]seen) (others int) {
	t.Helper()
	r := open(t, b)
	raw, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, x := range raw {
		if x.Err != nil {
			t.Fatal(x.Err)
		}
		snap, err := tree.DecodeSnapshot(x.ID, x.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(r, snap)
		if err != nil {
			t.Fatalf("snapshot %s: %v", x.ID.Short(), err)
		}
		if x.ID == old.ID {
			found = true
			wantSame(t, got, was)
			continue
		}
		others++
		wantSame(t, got, is)
	}
	if !found {
		t.Error("the earlier snapshot is lost")
	}
	return others
}

// Whatever operation on the store fails, is lost, or is the last before a crash:
// the earlier snapshot is whole, the new one whole or absent, and the next run
// commits without storing again what was durable.
func TestRunFaults(t *testing.T) {
	s, start, old, was := faulty(t)
	is := s.want("/src")
	attempt := func(b storage.Backend) (*tree.Snapshot, error) {
		o := options(s.roots("/src"))
		o.Parent = old
		return s.run(b, o)
	}
	clean := storagetest.NewFault(start.Clone(), func(storagetest.Op, int) storagetest.Outcome { return storagetest.Pass })
	full, err := attempt(clean)
	if err != nil {
		t.Fatal(err)
	}
	chunks, all := chunksOf(t, clean, full), int64(0)
	for _, size := range chunks {
		all += int64(size)
	}
	total := len(clean.Ops())
	if total < 12 {
		t.Fatalf("%d operations only", total)
	}
	step := 1
	if testing.Short() { // the same goroutines, a quarter as often
		step = 4
	}
	for name, outcome := range map[string]storagetest.Outcome{
		"cut": storagetest.Cut, "lose and cut": storagetest.LoseCut, "fail": storagetest.Fail, "lose": storagetest.Lose,
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			for n := 0; n < total; n += step {
				left := start.Clone()
				f := storagetest.At(left, n, outcome)
				_, err := attempt(f)
				if happened := len(f.Ops()) > n; happened && err == nil && f.IsCut() || !happened && err != nil {
					t.Errorf("operation %d: happened %t, %v", n, happened, err)
				}
				others := wholeSnapshots(t, left, old, was, is)
				if others > 1 || err == nil && others != 1 {
					t.Errorf("operation %d: %d new snapshots, %v", n, others, err)
				}
				// What is durable, by its table, is not stored again.
				durable, r := int64(0), open(t, left)
				for h, size := range chunks {
					if at, ok := r.Locate(h); ok && at.Size == size {
						durable += int64(size)
					}
				}
				again, err := attempt(left)
				if err != nil {
					t.Fatalf("operation %d: the run after: %v", n, err)
				}
				if again.Counts.DataAdded > all-durable {
					t.Errorf("operation %d: %d of %d bytes were durable, and %d were stored again", n, durable, all, again.Counts.DataAdded)
				}
				wantSame(t, mustRead(t, left, again), is)
				wholeSnapshots(t, left, old, was, is)
			}
		})
	}
}

// chunksOf lists the chunks of files of a snapshot with their sizes.
func chunksOf(t testing.TB, b storage.Backend, s *tree.Snapshot) map[tree.Hash]uint32 {
	t.Helper()
	all := map[tree.Hash]uint32{}
	r := open(t, b)
	err := tree.Walk(t.Context(), r, "/", s.RootNode(), tree.Visitor{Node: func(_ string, n *tree.Node) error {
		if n.Type != tree.File {
			return nil
		}
		return tree.EachChunk(t.Context(), r, n, func(c tree.Chunk) error {
			all[c.Hash] = c.Size
			return nil
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Reads that fail while the run goes on end in an error or a whole snapshot.
func TestRunReadFaults(t *testing.T) {
	s, start, old, was := faulty(t)
	is := s.want("/src")
	for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut} {
		for n := range 40 {
			left := start.Clone()
			reads := 0
			f := storagetest.NewFault(left, func(op storagetest.Op, _ int) storagetest.Outcome {
				if op.Kind != storagetest.Get && op.Kind != storagetest.List {
					return storagetest.Pass
				}
				if reads++; reads == n+1 {
					return outcome
				}
				return storagetest.Pass
			}, storagetest.Get, storagetest.List)
			o := options(s.roots("/src"))
			o.Parent = old
			_, err := s.run(f, o)
			if others := wholeSnapshots(t, left, old, was, is); others != 0 && err != nil && outcome != storagetest.Cut || err == nil && others != 1 {
				t.Errorf("read %d, outcome %d: %d snapshots, %v", n, outcome, others, err)
			}
			if reads <= n {
				break
			}
		}
	}
}

// Over any history of edits and runs, every snapshot always reads back as the
// source was.
func TestRunProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSource(t)
		m := newStore(t)
		names := []string{"a", "b", "c-d", "\xfe", "long name"}
		dirs := []string{"/src", "/src/x", "/src/x/y", "/src/z"}
		seed := uint64(0)
		type past struct {
			snap *tree.Snapshot
			was  map[string]seen
		}
		var history []past
		s.mkdir("/src")
		edit := func(rt *rapid.T) {
			path := rapid.SampledFrom(dirs).Draw(rt, "dir")
			d := s.mkdir(path)
			name := rapid.SampledFrom(names).Draw(rt, "name")
			seed++
			size := rapid.SampledFrom([]int{0, 1, 100, 3000, 20_000, 200_000}).Draw(rt, "size")
			old := d.children[name]
			switch rapid.IntRange(0, 6).Draw(rt, "edit") {
			case 0:
				delete(d.children, name)
			case 1:
				n := s.make(tree.Symlink, 0o777)
				n.node.Target = fmt.Sprint("target", seed)
				d.children[name] = n
			case 2:
				n := s.newFile(random(seed, size))
				n.node.Size += 10_000
				n.node.Extents = []tree.Extent{}
				if size > 0 {
					n.node.Extents = []tree.Extent{{Offset: 10_000, Length: int64(size)}}
				}
				d.children[name] = n
			case 3:
				if old != nil && old.node.Type == tree.File {
					s.write(old, append(bytes.Clone(old.data), random(seed, size)...))
				}
			case 4:
				if old != nil {
					old.node.Mode ^= 0o111
					s.stamp(old)
				}
			default:
				d.children[name] = s.newFile(random(seed, size))
			}
		}
		steps := rapid.IntRange(1, 6).Draw(rt, "runs")
		for range steps {
			for range rapid.IntRange(0, 12).Draw(rt, "edits") {
				edit(rt)
			}
			o := options(s.roots("/src"))
			o.AllowEmpty = true
			o.Readers = rapid.IntRange(1, 3).Draw(rt, "readers")
			o.ReadAll = rapid.Bool().Draw(rt, "full")
			o.FileSHA256 = rapid.Bool().Draw(rt, "sha256")
			if len(history) > 0 && rapid.IntRange(0, 4).Draw(rt, "parent") > 0 {
				o.Parent = rapid.SampledFrom(history).Draw(rt, "which").snap
			}
			snap, err := s.run(m, o)
			if err != nil {
				rt.Fatal(err)
			}
			if len(snap.Problems) > 0 {
				rt.Fatalf("%+v", snap.Problems)
			}
			history = append(history, past{snap, s.want("/src")})
			r, err := tryOpen(m)
			if err != nil {
				rt.Fatal(err)
			}
			for i, h := range history {
				got, err := read(r, h.snap)
				if err != nil {
					rt.Fatal(err)
				}
				if d := differences(got, h.was); len(d) > 0 {
					rt.Fatalf("snapshot %d: %s", i, strings.Join(d, "\n"))
				}
			}
		}
	})
}
