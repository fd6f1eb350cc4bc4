package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// events collects what happened to which path.
func events(o Options) (Options, map[string][]string) {
	seen := map[string][]string{}
	o.Report = func(e Event) { seen[e.Path] = append(seen[e.Path], e.Kind.String()) }
	return o, seen
}

func at(sec int64) tree.Time { return tree.Time{Sec: sec, Nsec: 7} }

// mine is a node that belongs to whoever runs the test.
func mine(name string, mode uint32) *tree.Node {
	return &tree.Node{Name: name, Mode: mode, MTime: at(1000), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Links: 1}
}

func TestSizes(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 3500
	var entries []*tree.Node
	want := map[string]string{}
	for _, n := range []int{0, 1, 999, 1000, 1001, 1999, 2000, 2001, 3499, 3500, 3501, 1_000_000, 1_024_000, 1_024_001, 3_000_001} {
		name := fmt.Sprintf("%07d", n)
		data := noise(uint64(n), n)
		entries = append(entries, m.file(mine(name, 0o600), data))
		want[name] = string(data)
	}
	if !entries[len(entries)-1].Indirect || entries[len(entries)-3].Indirect {
		t.Fatal("the sizes are on the wrong sides of the limit of direct chunks")
	}
	root := m.dir(t, mine("src", 0o700), entries...)
	for _, b := range []bounds{{}, {chunks: 7, openFiles: 1, files: 2}} {
		target := t.TempDir()
		clean(t, run(t, m, root, "/src", target, Options{bounds: b}))
		if !reflect.DeepEqual(want, contents(t, target)) {
			t.Error("content differs")
		}
	}
	for _, e := range entries {
		var b bytes.Buffer
		if err := Cat(t.Context(), m, e, &b); err != nil || b.String() != want[e.Name] {
			t.Errorf("cat %s: %d bytes, %v", e.Name, b.Len(), err)
		}
	}
}

func TestDamage(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 4000
	files := map[string]*tree.Node{}
	var entries []*tree.Node
	for i := range 30 {
		n := m.file(mine(fmt.Sprintf("%02d", i), 0o600), noise(uint64(i), 2500))
		files[n.Name] = n
		entries = append(entries, n)
	}
	big := m.file(mine("big", 0o600), noise(99, 1_500_000)) // indirect
	root := m.dir(t, mine("src", 0o700), append(entries, big)...)

	// A lost chunk, a corrupt block, a block with wrong bytes that nothing but
	// the SHA-256 notices, a corrupt block with another copy, a lost list.
	expect := map[string]bool{}
	in := func(key blockKey) {
		for name, n := range files {
			for _, c := range n.Content {
				if m.blockOf(c) == key {
					expect["/src/"+name] = true
				}
			}
		}
	}
	m.lost[files["03"].Content[1].Hash] = true
	expect["/src/03"] = true
	m.bad[m.blockOf(files["08"].Content[0])] = repo.ErrCorrupt
	in(m.blockOf(files["08"].Content[0]))
	key := m.blockOf(files["14"].Content[2])
	loc := m.chunks[files["14"].Content[2].Hash]
	m.blocks[key] = slices.Clone(m.blocks[key])
	m.blocks[key][loc.Offset] ^= 1
	expect["/src/14"] = true
	copied := m.blockOf(files["20"].Content[1])
	m.bad[copied] = repo.ErrCorrupt
	for _, n := range entries {
		for _, c := range n.Content {
			if m.blockOf(c) == copied {
				m.copies[c.Hash] = true
			}
		}
	}
	m.lost[big.Content[1].Hash] = true
	expect["/src/big"] = true

	target := t.TempDir()
	o, seen := events(Options{})
	res := run(t, m, root, "/src", target, o)
	got := map[string]bool{}
	for _, p := range res.Lost {
		got[p.Path] = true
		if !errors.Is(p.Err, repo.ErrCorrupt) && !errors.Is(p.Err, repo.ErrMissing) {
			t.Errorf("%s: %v", p.Path, p.Err)
		}
	}
	if !maps.Equal(got, expect) || res.LostCount != int64(len(expect)) || res.Complete() || res.FailedCount != 0 {
		t.Errorf("lost %v instead of %v; %+v", got, expect, res)
	}
	for path := range expect {
		if !slices.Equal(seen[path], []string{"lost"}) {
			t.Errorf("%s: %v", path, seen[path])
		}
	}
	have := contents(t, target)
	for name := range files {
		_, there := have[name]
		if there == expect["/src/"+name] {
			t.Errorf("%s: there: %v", name, there)
		}
	}
	if left := temps(t, target); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	var b bytes.Buffer
	if err := Cat(t.Context(), m, files["14"], &b); !errors.Is(err, repo.ErrCorrupt) || b.Len() != 2000 {
		t.Errorf("cat of a damaged file: %d bytes, %v", b.Len(), err)
	}
	b.Reset()
	if err := Cat(t.Context(), m, files["20"], &b); err != nil || b.String() != string(noise(20, 2500)) {
		t.Errorf("cat of a file with a second copy: %v", err)
	}
	if err := Cat(t.Context(), m, files["08"], &b); !errors.Is(err, repo.ErrCorrupt) {
		t.Errorf("cat: %v", err)
	}

	// What was there before stays when the new content is lost.
	ok(t, os.WriteFile(target+"/14", []byte("older"), 0o600))
	run(t, m, root, "/src", target, Options{})
	if got := contents(t, target)["14"]; got != "older" {
		t.Errorf("the older file became %q", got)
	}
}

func TestDamagedDirectory(t *testing.T) {
	m := newMemory()
	var entries []*tree.Node
	for i := range 3000 {
		entries = append(entries, m.file(mine(fmt.Sprintf("%05d", i), 0o600), []byte{byte(i)}))
	}
	sub := m.dir(t, mine("sub", 0o700), entries...)
	gone := m.dir(t, mine("gone", 0o700), entries[0])
	root := m.dir(t, mine("src", 0o700), gone, sub, m.file(mine("z", 0o600), []byte("z")))
	if len(sub.Content) < 3 {
		t.Fatalf("%d pages", len(sub.Content))
	}
	m.lost[sub.Content[1].Hash] = true
	m.lost[gone.Content[0].Hash] = true
	lost := 0
	if _, err := tree.DecodePage(m.metadata[sub.Content[1].Hash], "", func(*tree.Node) error { lost++; return nil }); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	ok(t, os.Mkdir(target+"/sub", 0o700))
	ok(t, os.WriteFile(target+"/sub/extra", nil, 0o600))
	ok(t, os.WriteFile(target+"/extra", nil, 0o600))
	res := run(t, m, root, "/src", target, Options{Delete: true})
	if res.LostCount != 2 || res.Files != int64(3000-lost+1) || res.Deleted != 1 {
		t.Errorf("lost %d, %d files, %d deleted; want 2, %d, 1", res.LostCount, res.Files, res.Deleted, 3000-lost+1)
	}
	if _, err := os.Stat(target + "/sub/extra"); err != nil {
		t.Error("an extra was deleted although the directory's record is not complete")
	}
	if st, err := os.Stat(target + "/sub"); err != nil || st.ModTime().Unix() != 1000 {
		t.Error("the damaged directory has no metadata")
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 2 || v.Differences[0].Kind != NoRecord {
		t.Errorf("%+v, %v", v.Differences, err)
	}
}

func TestRepositoryGone(t *testing.T) {
	m := newMemory()
	m.blockSize = 1
	gone := errors.New("connection refused")
	var entries []*tree.Node
	for i := range 100 {
		n := m.file(mine(fmt.Sprintf("%02d", i), 0o600), noise(uint64(i), 100))
		entries = append(entries, n)
		m.bad[m.blockOf(n.Content[0])] = gone
	}
	res, err := Run(t.Context(), m, &tree.Snapshot{}, m.dir(t, mine("src", 0o700), entries...), "/src", t.TempDir(), Options{Workers: 1})
	if !errors.Is(err, gone) || m.readAll.Load() > 2*maxReadErrors || res.LostCount == 0 {
		t.Errorf("%v after %d blocks", err, m.readAll.Load())
	}
}

func TestCancel(t *testing.T) {
	m := newMemory()
	m.blockSize = 1
	var entries []*tree.Node
	for i := range 50 {
		entries = append(entries, m.file(mine(fmt.Sprintf("%02d", i), 0o600), noise(uint64(i), 200_000)))
	}
	root := m.dir(t, mine("src", 0o700), entries...)
	for after := int64(1); after < 200; after += 23 {
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int64
		m.inflight = func() {
			if calls.Add(1) == after {
				cancel()
			}
		}
		target := t.TempDir()
		_, err := Run(ctx, m, &tree.Snapshot{}, root, "/src", target, Options{bounds: bounds{openFiles: 1}})
		if !errors.Is(err, context.Canceled) || calls.Load() > after+100 {
			t.Errorf("after %d: %v with %d reads", after, err, calls.Load())
		}
		t.Logf("%d reads, cancelled in the %dth", calls.Load(), after)
		if left := temps(t, target); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		for name, data := range contents(t, target) {
			if len(data) != 200_000 {
				t.Errorf("%s is partial", name)
			}
		}
		cancel()
	}
}

func TestOverwrite(t *testing.T) {
	m := newMemory()
	file := func(name, data string) *tree.Node { return m.file(mine(name, 0o600), []byte(data)) }
	root := m.dir(t, mine("src", 0o755),
		file("equal", "same"), file("longer", "longer"), file("newer", "from the snapshot"), file("older", "from the snapshot"), file("sneaky", "1234"))
	prepare := func() string {
		dir := t.TempDir()
		for name, f := range map[string]struct {
			data string
			sec  int64
		}{"equal": {"same", 1000}, "longer": {"long", 1000}, "newer": {"newer", 2000}, "older": {"older", 500}, "sneaky": {"abcd", 1000}} {
			ok(t, os.WriteFile(dir+"/"+name, []byte(f.data), 0o600))
			ts := []unix.Timespec{{}, unix.NsecToTimespec(f.sec*1e9 + 7)}
			ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/"+name, ts, 0))
		}
		return dir
	}
	for _, c := range []struct {
		o    Overwrite
		want map[string]string
	}{
		{Always, map[string]string{"equal": "unchanged", "longer": "replaced", "newer": "replaced", "older": "replaced", "sneaky": "replaced"}},
		{IfChanged, map[string]string{"equal": "unchanged", "longer": "replaced", "newer": "replaced", "older": "replaced", "sneaky": "unchanged"}},
		{IfNewer, map[string]string{"equal": "kept", "longer": "kept", "newer": "kept", "older": "replaced", "sneaky": "kept"}},
		{Never, map[string]string{"equal": "kept", "longer": "kept", "newer": "kept", "older": "kept", "sneaky": "kept"}},
	} {
		dir := prepare()
		before := contents(t, dir)
		o, seen := events(Options{Overwrite: c.o})
		clean(t, run(t, m, root, "/src", dir, o))
		after := contents(t, dir)
		for name, want := range c.want {
			if !slices.Equal(seen["/src/"+name], []string{want}) {
				t.Errorf("policy %d: %s: %v instead of %s", c.o, name, seen["/src/"+name], want)
			}
			if replaced := want == "replaced"; replaced == (after[name] == before[name]) {
				t.Errorf("policy %d: %s became %q", c.o, name, after[name])
			}
		}
	}
}

func TestConflicts(t *testing.T) {
	m := newMemory()
	root := m.dir(t, mine("src", 0o755), m.dir(t, mine("dir", 0o755), m.file(mine("f", 0o600), []byte("f"))),
		m.file(mine("file", 0o600), []byte("file")), &tree.Node{Name: "link", Type: tree.Symlink, Target: "file", Mode: 0o777, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MTime: at(1)})
	for _, c := range []struct {
		o      Options
		failed int64
		files  int64
	}{{Options{}, 2, 1}, {Options{Delete: true}, 0, 2}, {Options{Overwrite: Never}, 1, 0}} {
		target := t.TempDir()
		ok(t, os.WriteFile(target+"/dir", []byte("a file"), 0o600))
		ok(t, os.MkdirAll(target+"/file/full/of", 0o700))
		ok(t, os.MkdirAll(target+"/link/full", 0o700))
		dry := c.o
		dry.DryRun = true
		before := listing(t, target)
		if res := run(t, m, root, "/src", target, dry); res.FailedCount != c.failed {
			t.Errorf("dry %+v: %+v", c.o, res)
		}
		same(t, before, listing(t, target))
		res := run(t, m, root, "/src", target, c.o)
		if res.FailedCount != c.failed || res.Files != c.files {
			t.Errorf("%+v: %+v", c.o, res)
		}
		if c.failed == 0 {
			v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{})
			if err != nil || v.DifferenceCount != 0 {
				t.Errorf("%+v: %v, %v", c.o, v.Differences, err)
			}
		}
	}
}

func TestSelectAndDelete(t *testing.T) {
	m := newMemory()
	f := func(name string) *tree.Node { return m.file(mine(name, 0o600), []byte(name)) }
	root := m.dir(t, mine("src", 0o755),
		m.dir(t, mine("a", 0o755), f("keep.log"), f("x")),
		m.dir(t, mine("b", 0o755), m.dir(t, mine("c", 0o751), f("deep"), f("other")), f("not")),
		m.dir(t, mine("none", 0o755), f("not")))
	choose := func(path string, isDir bool) Decision {
		switch {
		case strings.HasSuffix(path, ".log"):
			return Exclude
		case path == "/src" || path == "/src/a" || strings.HasPrefix(path, "/src/a/") || path == "/src/b/c/deep" || strings.HasPrefix(path, "/src/extra"):
			return Include
		case isDir:
			return Descend
		}
		return Exclude
	}
	target := t.TempDir()
	for _, name := range []string{"a/extra.log", "a/extra", "a/sub/in.log", "a/sub/in", "extra", "extra2/x", "b/unselected"} {
		ok(t, os.MkdirAll(filepath.Dir(target+"/"+name), 0o755))
		ok(t, os.WriteFile(target+"/"+name, nil, 0o600))
	}
	o := Options{Select: choose, Delete: true}
	dry := o
	dry.DryRun = true
	before := listing(t, target)
	planned, foreseen := events(dry)
	run(t, m, root, "/src", target, planned)
	same(t, before, listing(t, target))
	o, seen := events(o)
	clean(t, run(t, m, root, "/src", target, o))
	got := slices.Sorted(maps.Keys(contents(t, target)))
	want := []string{"a/extra.log", "a/sub/in.log", "a/x", "b/c/deep", "b/unselected"}
	if !slices.Equal(got, want) {
		t.Errorf("%v instead of %v", got, want)
	}
	if _, err := os.Stat(target + "/none"); err == nil {
		t.Error("a directory in which nothing is selected was created")
	}
	for path, kinds := range seen {
		if kinds[0] != "adjusted" && kinds[0] != "unchanged" && !slices.Equal(foreseen[path], kinds) {
			t.Errorf("%s: %v, but the dry run said %v", path, kinds, foreseen[path])
		}
	}
}

func TestDryRun(t *testing.T) {
	m := newMemory()
	n, _ := small(t, m)
	for _, exists := range []bool{false, true} {
		base := t.TempDir()
		if exists {
			prepare(t, m, base+"/target")
		}
		before := listing(t, base)
		o, seen := events(Options{Delete: true, DryRun: true, cut: func(op string) error {
			t.Errorf("%s in a dry run", op)
			return nil
		}})
		run(t, m, n, "/src", base+"/target", o)
		same(t, before, listing(t, base))
		want := map[string]string{"/src/a": "created", "/src/d1/link2": "created", "/src/d1/symlink": "created"}
		if exists {
			maps.Copy(want, map[string]string{"/src/changed": "replaced", "/src/was-file": "replaced", "/src/was-dir": "replaced", "/src/d1/extra/deep/file": "deleted", "/src/d1/extra": "deleted"})
		}
		for path, kind := range want {
			if !slices.Equal(seen[path], []string{kind}) {
				t.Errorf("%s: %v instead of %s", path, seen[path], kind)
			}
		}
	}
}

func TestHardLinks(t *testing.T) {
	m := newMemory()
	linked := func(name string, links uint32, data string) *tree.Node {
		n := m.file(mine(name, 0o600), []byte(data))
		n.Links, n.Device, n.Inode = links, 5, 77
		return n
	}
	inodes := func(dir string, names ...string) (out []uint64) {
		for _, name := range names {
			var st unix.Stat_t
			ok(t, unix.Lstat(dir+"/"+name, &st))
			out = append(out, st.Ino)
		}
		return slices.Compact(out)
	}
	root := m.dir(t, mine("src", 0o755), linked("1", 4, "data"), m.dir(t, mine("2", 0o500), linked("x", 4, "data")), linked("3", 4, "data"))

	t.Run("links outside of the selection", func(t *testing.T) {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		res := run(t, m, root, "/src", target, Options{})
		clean(t, res)
		if res.Links != 2 || len(inodes(target, "1", "2/x", "3")) != 1 {
			t.Errorf("%+v", res)
		}
		if st, err := os.Stat(target + "/2"); err != nil || st.Mode().Perm() != 0o500 {
			t.Error(st.Mode(), err)
		}
	})
	t.Run("first excluded", func(t *testing.T) {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		res := run(t, m, root, "/src", target, Options{Select: func(path string, _ bool) Decision {
			if path == "/src/1" {
				return Exclude
			}
			return Include
		}})
		clean(t, res)
		if res.Links != 1 || len(inodes(target, "2/x", "3")) != 1 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("first fails", func(t *testing.T) {
		for _, b := range []bounds{{}, {files: 1}} {
			target := t.TempDir()
			t.Cleanup(func() { release(target) })
			ok(t, os.MkdirAll(target+"/1/full", 0o700))
			res := run(t, m, root, "/src", target, Options{bounds: b})
			if res.Links != 1 || res.FailedCount != 1 || len(inodes(target, "2/x", "3")) != 1 {
				t.Errorf("%+v", res)
			}
		}
	})
	t.Run("creation of the first fails", func(t *testing.T) {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		failed := false
		res := run(t, m, root, "/src", target, Options{cut: func(op string) error {
			if op == "create" && !failed {
				failed = true
				return unix.EACCES
			}
			return nil
		}})
		if res.Links != 1 || res.FailedCount != 1 || len(inodes(target, "2/x", "3")) != 1 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("lost", func(t *testing.T) {
		c := root // all names are lost
		hash := sha256.Sum256([]byte("data"))
		m.lost[hash] = true
		defer delete(m.lost, hash)
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		res := run(t, m, c, "/src", target, Options{})
		if res.LostCount != 3 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("no links here", func(t *testing.T) {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		res := run(t, m, root, "/src", target, Options{cut: func(op string) error {
			if op == "link" {
				return unix.EMLINK
			}
			return nil
		}})
		if res.Files != 3 || res.Links != 0 || res.WarningsCount != 2 || !res.Complete() {
			t.Errorf("%+v", res)
		}
	})
	t.Run("changed in between", func(t *testing.T) {
		target := t.TempDir()
		odd := m.dir(t, mine("src", 0o755), linked("1", 2, "data"), linked("2", 2, "newr"))
		res := run(t, m, odd, "/src", target, Options{})
		if res.Files != 2 || res.WarningsCount != 1 || contents(t, target)["2"] != "newr" {
			t.Errorf("%+v", res)
		}
	})
	t.Run("existing", func(t *testing.T) {
		target := t.TempDir()
		t.Cleanup(func() { release(target) })
		ok(t, os.WriteFile(target+"/3", []byte("old"), 0o600))
		ok(t, os.Link(target+"/3", target+"/other"))
		clean(t, run(t, m, root, "/src", target, Options{}))
		if data, err := os.ReadFile(target + "/other"); err != nil || string(data) != "old" || len(inodes(target, "1", "2/x", "3")) != 1 {
			t.Error("not linked, or written through a link")
		}
	})
}

// TestForeignLink has a file in the target that is another name of a file
// outside, with the right content: its metadata must not be touched.
func TestForeignLink(t *testing.T) {
	m := newMemory()
	root := m.dir(t, mine("src", 0o755), m.file(mine("f", 0o666), []byte("known content")))
	base := t.TempDir()
	ok(t, os.Mkdir(base+"/target", 0o755))
	ok(t, os.WriteFile(base+"/precious", []byte("known content"), 0o600))
	ok(t, os.Link(base+"/precious", base+"/target/f"))
	clean(t, run(t, m, root, "/src", base+"/target", Options{}))
	st, err := os.Stat(base + "/precious")
	if err != nil || st.Mode().Perm() != 0o600 || st.ModTime().Unix() == 1000 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(base + "/target/f"); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestReuse changes little of a large file: only that is fetched.
func TestReuse(t *testing.T) {
	m := newMemory()
	m.blockSize = 1
	data := noise(1, 20*m.chunkSize)
	n := m.file(mine("f", 0o600), data)
	target := t.TempDir()
	for _, size := range []int{len(data), len(data) - 100, 3*m.chunkSize + 1} {
		changed := slices.Clone(data[:size])
		changed[2*m.chunkSize+1] ^= 1
		ok(t, os.WriteFile(target+"/f", changed, 0o600))
		m.readAll.Store(0)
		clean(t, run(t, m, n, "/src/f", target, Options{}))
		if contents(t, target)["f"] != string(data) {
			t.Error("content differs")
		}
		if want := int64(20 - size/m.chunkSize + 1); m.readAll.Load() != want {
			t.Errorf("%d bytes there: %d blocks read instead of %d", size, m.readAll.Load(), want)
		}
	}
}

func TestOwners(t *testing.T) {
	needRoot(t)
	m := newMemory()
	n := m.file(&tree.Node{Name: "f", Mode: 0o4755, UID: 1001, GID: 2002}, []byte("x"))
	link := &tree.Node{Name: "l", Type: tree.Symlink, Target: "f", Mode: 0o777, UID: 1003, GID: 2003}
	root := m.dir(t, &tree.Node{Name: "src", UID: 1001, GID: 2009}, n, link)
	snap := &tree.Snapshot{Users: map[uint32]string{1001: "alice", 1003: "gone"}, Groups: map[uint32]string{2002: "staff"}}
	lookup := func(name string) (uint32, bool) {
		id, ok := map[string]uint32{"alice": 7001, "staff": 7002}[name]
		return id, ok
	}
	for _, c := range []struct {
		numeric bool
		want    [4]uint32
	}{{false, [4]uint32{7001, 7002, 1003, 2003}}, {true, [4]uint32{1001, 2002, 1003, 2003}}} {
		target := t.TempDir()
		res, err := Run(t.Context(), m, snap, root, "/src", target, Options{NumericOwner: c.numeric, lookupUser: lookup, lookupGroup: lookup})
		ok(t, err)
		clean(t, res)
		var f, l unix.Stat_t
		ok(t, unix.Lstat(target+"/f", &f))
		ok(t, unix.Lstat(target+"/l", &l))
		if got := [4]uint32{f.Uid, f.Gid, l.Uid, l.Gid}; got != c.want || f.Mode&0o7777 != 0o4755 {
			t.Errorf("numeric %v: %v instead of %v, mode %o", c.numeric, got, c.want, f.Mode)
		}
		v, err := Verify(t.Context(), m, snap, root, "/src", target, VerifyOptions{NumericOwner: c.numeric, lookupUser: lookup, lookupGroup: lookup})
		if err != nil || v.DifferenceCount != 0 {
			t.Errorf("%v, %v", v.Differences, err)
		}
	}
}

// TestForeignOwners restores, as a user, what belonged to others.
func TestForeignOwners(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("runs in the second run, which is not root")
	}
	m := newMemory()
	program := m.file(mine("program", 0o6755), []byte("x"))
	program.UID = 0
	root := m.dir(t, mine("src", 0o755), m.file(mine("mine", 0o6755), []byte("y")), program,
		&tree.Node{Name: "zero", Type: tree.CharDevice, Rdev: 1<<32 | 5, Links: 1})
	target := t.TempDir()
	res := run(t, m, root, "/src", target, Options{})
	if res.OwnersKept != 1 || res.WarningsCount != 1 || res.FailedCount != 1 {
		t.Errorf("%+v", res)
	}
	for name, want := range map[string]uint32{"mine": 0o6755, "program": 0o2755} {
		var st unix.Stat_t
		ok(t, unix.Lstat(target+"/"+name, &st))
		if st.Mode&0o7777 != want {
			t.Errorf("%s: mode %o instead of %o", name, st.Mode&0o7777, want)
		}
	}
}

func TestInherited(t *testing.T) {
	needRoot(t)
	m := newMemory()
	root := m.dir(t, mine("src", 0o755), m.dir(t, mine("d", 0o751), m.file(mine("f", 0o640), []byte("x"))), m.file(mine("g", 0o604), []byte("y")))
	root.GID, root.Xattrs = 0, nil
	target := t.TempDir()
	// An ACL for what is created in it: user 1234 may write.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xd2\x04\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	ok(t, unix.Setxattr(target, "system.posix_acl_default", []byte(acl), 0))
	chattr(t, target, tree.FlagNoDump)
	ok(t, os.Chown(target, 0, 4444))
	ok(t, os.Chmod(target, 0o2755|os.ModeSetgid))
	clean(t, run(t, m, root, "/src", target, Options{}))
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 0 {
		t.Errorf("%+v, %v", v.Differences, err)
	}
}

func TestVerify(t *testing.T) {
	m := newMemory()
	n, _ := small(t, m)
	target := t.TempDir()
	t.Cleanup(func() { release(target) })
	clean(t, run(t, m, n, "/src", target, Options{}))
	release(target)
	p := func(name string) string { return filepath.Join(target, name) }
	flip := func(name string, off int64) func() {
		return func() {
			var st unix.Stat_t
			ok(t, unix.Stat(p(name), &st))
			ok(t, os.Chmod(p(name), 0o600))
			f, err := os.OpenFile(p(name), os.O_RDWR, 0)
			ok(t, err)
			var b [1]byte
			_, err = f.ReadAt(b[:], off)
			ok(t, err)
			b[0] ^= 0x10
			_, err = f.WriteAt(b[:], off)
			ok(t, err)
			f.Close()
			ok(t, unix.Chmod(p(name), st.Mode&0o7777))
			ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, p(name), []unix.Timespec{st.Atim, st.Mtim}, 0))
		}
	}
	changes := []struct {
		path string
		kind DifferenceKind
		do   func()
	}{
		{"/src/changed", Content, flip("changed", 70_000)},
		{"/src/hole", Content, flip("hole", 200_000)},
		{"/src/sparse", Content, flip("sparse", 512<<10+100)},
		{"/src/a", Content, func() { ok(t, os.Truncate(p("a"), 99)) }},
		{"/src/none", Missing, func() { ok(t, os.Remove(p("none"))) }},
		{"/src/extra", Extra, func() { ok(t, os.WriteFile(p("extra"), nil, 0o600)) }},
		{"/src/d1/fifo", OtherType, func() { ok(t, os.Remove(p("d1/fifo"))); ok(t, os.Mkdir(p("d1/fifo"), 0o700)) }},
		{"/src/d1/symlink", Content, func() { ok(t, os.Remove(p("d1/symlink"))); ok(t, os.Symlink("else", p("d1/symlink"))) }},
		{"/src/d1/link2", Metadata, func() {
			ok(t, os.Remove(p("d1/link2")))
			ok(t, os.WriteFile(p("d1/link2"), noise(4, 2000), 0o600))
		}},
		{"/src/was-dir", Metadata, func() { ok(t, os.Chmod(p("was-dir"), 0o601)) }},
		{"/src/xattr", Metadata, func() { ok(t, unix.Setxattr(p("xattr"), "user.c", nil, 0)) }},
		{"/src/empty", Metadata, func() { ok(t, os.Chtimes(p("empty"), time.Time{}, time.Unix(5, 0))) }},
	}
	for _, c := range changes {
		c.do()
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, n, "/src", target, VerifyOptions{})
	ok(t, err)
	found := map[string][]DifferenceKind{}
	for _, d := range v.Differences {
		found[d.Path] = append(found[d.Path], d.Kind)
	}
	for _, c := range changes {
		if !slices.Contains(found[c.path], c.kind) {
			t.Errorf("%s: %v, without %s", c.path, found[c.path], c.kind)
		}
		delete(found, c.path)
	}
	// The directories that were changed have another time, and release cleared flags.
	for path, kinds := range found {
		if !slices.Equal(kinds, []DifferenceKind{Metadata}) {
			t.Errorf("%s: %v", path, kinds)
		}
	}
}

func TestCatSparse(t *testing.T) {
	m := newMemory()
	n, dir := small(t, m)
	want := contents(t, dir)
	ok(t, tree.ReadDir(t.Context(), m, n.Content, func(e *tree.Node) error {
		if e.Type != tree.File {
			return nil
		}
		var b bytes.Buffer
		if err := Cat(t.Context(), m, e, &b); err != nil || b.String() != want[e.Name] {
			t.Errorf("%s: %v", e.Name, err)
		}
		wrong := repo.Hash{1}
		if e.SHA256 = &wrong; e.Extents == nil && Cat(t.Context(), m, e, &b) == nil {
			t.Errorf("%s: a wrong SHA-256 of the whole was not noticed", e.Name)
		}
		return nil
	}))
	if err := Cat(t.Context(), m, n, &bytes.Buffer{}); err == nil {
		t.Error("cat of a directory")
	}
}

// TestInconsistent has records that contradict themselves.
func TestInconsistent(t *testing.T) {
	m := newMemory()
	short, long, hole := m.file(mine("1", 0o600), []byte("data")), m.file(mine("2", 0o600), []byte("data")), m.file(mine("3", 0o600), []byte("data"))
	short.Size, long.Size = 3, 5
	hole.Size, hole.Extents = 100, []tree.Extent{{Offset: 10, Length: 3}}
	target := t.TempDir()
	res := run(t, m, m.dir(t, mine("src", 0o755), short, long, hole), "/src", target, Options{})
	if res.LostCount != 3 || len(contents(t, target)) != 0 || len(temps(t, target)) != 0 {
		t.Errorf("%+v", res)
	}
}

// TestDeep restores paths longer than the system takes, with few handles.
func TestDeep(t *testing.T) {
	m := newMemory()
	n := m.file(mine("bottom", 0o600), []byte("bottom"))
	const levels = 600
	for i := range levels {
		n = m.dir(t, mine(fmt.Sprintf("%d-%s", i, strings.Repeat("d", 90)), 0o700), n)
	}
	root := m.dir(t, mine("src", 0o700), n)
	target := t.TempDir()
	res := run(t, m, root, "/src", target, Options{})
	clean(t, res)
	if res.Files != 1 || res.Dirs != levels {
		t.Errorf("%+v", res)
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 0 || v.Dirs != levels+1 {
		t.Errorf("%v, %v", v.Differences, err)
	}
	if res := run(t, m, m.dir(t, mine("src", 0o700)), "/src", target, Options{Delete: true}); res.Deleted != levels+1 {
		t.Errorf("%d deleted", res.Deleted)
	}
}

// TestStale has what killed restores leave: it goes, and nothing else does.
func TestStale(t *testing.T) {
	m := newMemory()
	own := m.file(mine(TempPrefix+"00000000000000ff", 0o600), []byte("of the snapshot itself"))
	root := m.dir(t, mine("src", 0o755), own, m.file(mine("f", 0o600), []byte("f")))
	target := t.TempDir()
	gone := TempPrefix + "0123456789abcdef"
	stay := []string{TempPrefix + "0123456789abcdeg", TempPrefix + "0123", "x" + gone}
	for _, name := range append(stay, gone, own.Name) {
		ok(t, os.WriteFile(target+"/"+name, []byte("partial"), 0o600))
	}
	ok(t, os.Mkdir(target+"/"+TempPrefix+"0000000000000000", 0o700))
	before := listing(t, target)
	run(t, m, root, "/src", target, Options{DryRun: true})
	same(t, before, listing(t, target))
	clean(t, run(t, m, root, "/src", target, Options{}))
	got, err := os.ReadDir(target)
	ok(t, err)
	if len(got) != len(stay)+3 {
		t.Errorf("%v", got)
	}
	if data, err := os.ReadFile(target + "/" + own.Name); err != nil || string(data) != "of the snapshot itself" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestAdjust corrects the owner of files whose content is right, which takes the
// setuid bit and the capabilities away.
func TestAdjust(t *testing.T) {
	needRoot(t)
	m := newMemory()
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	suid, capable := mine("suid", 0o4755), mine("capable", 0o755)
	capable.Xattrs = []tree.Xattr{{Name: "security.capability", Value: caps}, {Name: "user.a", Value: "a"}}
	root := m.dir(t, mine("src", 0o755), m.file(capable, []byte("c")), m.file(suid, []byte("s")))
	target := t.TempDir()
	clean(t, run(t, m, root, "/src", target, Options{}))
	for _, name := range []string{"suid", "capable"} {
		ok(t, os.Chown(target+"/"+name, 4000, 4000))
	}
	ok(t, os.Chmod(target+"/suid", 0o4755|os.ModeSetuid))
	ok(t, unix.Setxattr(target+"/capable", "security.capability", []byte(caps), 0))
	ok(t, unix.Setxattr(target+"/capable", "user.extra", []byte("x"), 0))
	res := run(t, m, root, "/src", target, Options{})
	if clean(t, res); res.Adjusted != 2 || res.BytesWritten != 0 {
		t.Errorf("%+v", res)
	}
	v, err := Verify(t.Context(), m, &tree.Snapshot{}, root, "/src", target, VerifyOptions{})
	if err != nil || v.DifferenceCount != 0 {
		t.Errorf("%v, %v", v.Differences, err)
	}
}

// spread stores files whose chunks lie in the blocks by turns, so that all are
// unfinished until the end.
func spread(t *testing.T, m *memory, files, chunks int) (root *tree.Node, want map[string]string) {
	m.chunkSize, m.blockSize = 500, files*500
	want = map[string]string{}
	nodes := make([]*tree.Node, files)
	for i := range nodes {
		nodes[i] = mine(fmt.Sprintf("%03d", i), 0o600)
		want[nodes[i].Name] = string(noise(uint64(i), chunks*500))
	}
	for k := range chunks {
		for _, n := range nodes {
			m.add([]byte(want[n.Name])[k*500 : (k+1)*500])
		}
	}
	for _, n := range nodes {
		m.file(n, []byte(want[n.Name]))
	}
	return m.dir(t, mine("src", 0o755), nodes...), want
}

func TestOpenFiles(t *testing.T) {
	m := newMemory()
	root, want := spread(t, m, 300, 4)
	most := 0
	m.inflight = func() {
		fds, _ := os.ReadDir("/proc/self/fd")
		most = max(most, len(fds))
	}
	fds, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	target := t.TempDir()
	clean(t, run(t, m, root, "/src", target, Options{Workers: 1}))
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
	if most-len(fds) > maxOpenFiles {
		t.Errorf("%d files were open", most-len(fds))
	}
	if left, err := os.ReadDir("/proc/self/fd"); err != nil || len(left) != len(fds) {
		t.Errorf("%d descriptors are left, %v", len(left)-len(fds), err)
	}
}

// TestReplacedTemp replaces an unfinished, closed file by another name of a file
// outside: that is not written to.
func TestReplacedTemp(t *testing.T) {
	m := newMemory()
	root, _ := spread(t, m, 40, 3)
	base := t.TempDir()
	target := base + "/target"
	ok(t, os.WriteFile(base+"/precious", make([]byte, 1500), 0o600))
	m.inflight = func() {
		names, _ := filepath.Glob(target + "/" + TempPrefix + "*")
		for _, name := range names {
			os.Remove(name)
			os.Link(base+"/precious", name)
		}
	}
	res := run(t, m, root, "/src", target, Options{Workers: 1, bounds: bounds{openFiles: 1}})
	if data, err := os.ReadFile(base + "/precious"); err != nil || !bytes.Equal(data, make([]byte, 1500)) {
		t.Errorf("written to a file outside, %v", err)
	}
	if st, err := os.Stat(base + "/precious"); err != nil || st.ModTime().Unix() == 1000 {
		t.Error("changed the time of a file outside")
	}
	if res.FailedCount < 38 {
		t.Errorf("%+v", res)
	}
}
