package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// overlapping are bounds with which nearly every file is a window of its own, and
// the next is gathered while it is written.
var overlapping = bounds{start: 1, files: 3, live: 4, kept: 1 << 20}

// hooked calls load before a page or list is read, and read before a block is.
type hooked struct {
	*memory
	load, read func()
}

func (h hooked) Load(ctx context.Context, hash tree.Hash, size uint32, buf []byte) ([]byte, error) {
	if h.load != nil {
		h.load()
	}
	return h.memory.Load(ctx, hash, size, buf)
}

func (h hooked) ReadBlock(ctx context.Context, b *repo.Block, buf []byte) ([]byte, error) {
	if h.read != nil {
		h.read()
	}
	return h.memory.ReadBlock(ctx, b, buf)
}

// dirsOf stores directories of files, each in a block of its own.
func dirsOf(t *testing.T, m *memory, dirs, files int) (root *tree.Node, want map[string]string) {
	m.blockSize = 1
	want = map[string]string{}
	var all []*tree.Node
	for d := range dirs {
		var entries []*tree.Node
		for f := range files {
			data := noise(uint64(1000*d+f), 3000)
			entries = append(entries, m.file(mine(fmt.Sprintf("%03d", f), 0o600), data))
			want[fmt.Sprintf("%03d/%03d", d, f)] = string(data)
		}
		all = append(all, m.dir(t, mine(fmt.Sprintf("%03d", d), 0o755), entries...))
	}
	return m.dir(t, mine("src", 0o755), all...), want
}

// waitFor ends the test if done is not closed: the restore is stuck.
func waitFor(t *testing.T, what string, done <-chan struct{}) {
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		panic("waited in vain for " + what) // on any goroutine
	}
}

// TestOverlap reads no content before the walk has come to the last directory: it
// goes on while files wait for their content.
func TestOverlap(t *testing.T) {
	m := newMemory()
	root, want := dirsOf(t, m, 4, 2)
	loads, last := atomic.Int64{}, make(chan struct{})
	r := hooked{m, func() {
		if loads.Add(1) == 5 {
			close(last)
		}
	}, func() { waitFor(t, "the walk", last) }}
	target := t.TempDir()
	clean(t, run(t, r, root, "/src", target, Options{bounds: bounds{start: 1}}))
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
}

// TestOverlapBound has the walk wait for a window that is not restored yet.
func TestOverlapBound(t *testing.T) {
	m := newMemory()
	const files = 5
	root, want := dirsOf(t, m, 8, 10)
	var p Progress
	var once sync.Once
	r := hooked{m, nil, func() {
		once.Do(func() {
			// One file is a window of its own. As its block is being read already, the next
			// begins, with one file or some; then a full one waits for the first.
			for end := time.Now().Add(30 * time.Second); p.FilesTotal.Load() < 2+files; {
				if time.Now().After(end) {
					panic("the walk does not go on")
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond)
			if n := p.FilesTotal.Load(); n > 1+2*files {
				t.Errorf("%d files are in memory", n)
			}
		})
	}}
	target := t.TempDir()
	clean(t, run(t, r, root, "/src", target, Options{Progress: &p, bounds: bounds{start: 1, files: files}}))
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
}

// TestLastBlock lets a block arrive only after one of the window after was asked for: the
// last of a window leave no worker idle.
func TestLastBlock(t *testing.T) {
	m := newMemory()
	const files = 4
	root, want := dirsOf(t, m, 4, files)
	reads, next := atomic.Int64{}, make(chan struct{})
	r := hooked{m, nil, func() {
		switch reads.Add(1) {
		case 1:
			waitFor(t, "a block of the next window", next)
		case files + 1:
			close(next)
		}
	}}
	target := t.TempDir()
	clean(t, run(t, r, root, "/src", target, Options{Workers: 2, bounds: bounds{start: files, files: files}}))
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
}

// TestLive gathers the next window no faster than the files of the one before end. A walk that
// does not wait has eight files in memory while the first block is being read.
func TestLive(t *testing.T) {
	m := newMemory()
	const files, live = 2, 5
	root, want := dirsOf(t, m, 20, files)
	var loads, reads atomic.Int64
	r := hooked{m, func() {
		walked := files * (loads.Add(1) - 2) // the first page is the root's, the second that of the first directory
		if inMemory := walked - reads.Load(); inMemory > live {
			t.Errorf("%d files are in memory", inMemory)
		}
	}, func() {
		if reads.Add(1) == 1 {
			time.Sleep(100 * time.Millisecond)
		}
	}}
	target := t.TempDir()
	clean(t, run(t, r, root, "/src", target, Options{Workers: 1, bounds: bounds{start: 4, files: 4, live: live}}))
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
}

// TestOverlapEverything restores everything with windows of a few files.
func TestOverlapEverything(t *testing.T) {
	m, n, want, _ := everything(t)
	for _, b := range []bounds{overlapping, {start: 1, files: 1, chunks: 2, kept: 1, openFiles: 1, idleDirs: 1}, {start: 2, weight: 2}, {start: 2, files: 3, live: 1}} {
		target := t.TempDir()
		t.Cleanup(func() { filestest.ClearFlags(target) })
		var p Progress
		clean(t, run(t, m, n, "/src", target, Options{Workers: 4, Progress: &p, bounds: b}))
		same(t, want, listing(t, target))
		if p.FilesDone.Load() != p.FilesTotal.Load() || p.BytesDone.Load() != p.BytesTotal.Load() {
			t.Errorf("progress: %d of %d files, %d of %d bytes", p.FilesDone.Load(), p.FilesTotal.Load(), p.BytesDone.Load(), p.BytesTotal.Load())
		}
	}
}

// TestOverlapCancel cancels at each read of a page or a block.
func TestOverlapCancel(t *testing.T) {
	m := newMemory()
	root, want := dirsOf(t, m, 6, 5)
	m.blockSize = 1
	fds, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	routines := runtime.NumGoroutine()
	for after := int64(1); ; after++ {
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int64
		hook := func() {
			if calls.Add(1) == after {
				cancel()
			}
		}
		target := t.TempDir()
		ok(t, os.Mkdir(target+"/000", 0o750))
		res, err := Run(ctx, hooked{m, hook, hook}, &tree.Snapshot{}, root, "/src", target, Options{bounds: overlapping})
		cancel()
		got := contents(t, target)
		for name, data := range got {
			if data != want[name] {
				t.Errorf("after %d: %s is partial", after, name)
			}
		}
		if left := temps(t, target); len(left) > 0 {
			t.Errorf("after %d: left: %v", after, left)
		}
		if int64(len(got)) != res.Files || res.LostCount+res.FailedCount+res.WarningsCount != 0 {
			t.Errorf("after %d: %d files, %+v", after, len(got), res)
		}
		if err == nil {
			if after < 37 || len(got) != len(want) {
				t.Errorf("after %d: no error, %d files", after, len(got))
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d: %v", after, err)
		}
	}
	if left, err := os.ReadDir("/proc/self/fd"); err != nil || len(left) != len(fds) {
		t.Errorf("%d descriptors are left, %v", len(left)-len(fds), err)
	}
	for range 100 { // what ended may need a moment to be gone
		if runtime.NumGoroutine() <= routines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), routines)
}

// turning is a context that ends behind the first look at it.
type turning struct {
	context.Context
	looks atomic.Int64
}

func (c *turning) Err() error {
	if c.looks.Add(1) > 1 {
		return context.Canceled
	}
	return nil
}

// A run that is stopped just as a new directory is finished had it set back to a mode that it
// never had, which ended the program.
func TestStoppedAtDirectory(t *testing.T) {
	target := t.TempDir()
	s := &session{ctx: &turning{Context: t.Context()}, sys: new(sys), snap: &tree.Snapshot{}, o: Options{Progress: new(Progress)}}
	s.owners = newOwners(s.snap, &s.o)
	h, err := openTarget(s.sys, target)
	ok(t, err)
	d := &dir{s: s, parent: &dir{s: s, name: "/"}, name: "new", node: mine("new", 0o750), made: true, created: true, selected: true}
	ok(t, s.enter(d, h))
	d.before = nil
	s.finishDir(d)
	if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestOverlapDamage loses what one window needs while the next is gathered, and
// a part of the tree while a window is written.
func TestOverlapDamage(t *testing.T) {
	m := newMemory()
	root, want := dirsOf(t, m, 5, 4)
	var dirs []*tree.Node
	ok(t, tree.ReadDir(t.Context(), m, root.Content, func(n *tree.Node) error {
		dirs = append(dirs, n)
		return nil
	}))
	m.lost[dirs[3].Content[0].Hash] = true
	for f := range 4 {
		delete(want, fmt.Sprintf("003/%03d", f))
	}
	for i, err := range []error{repo.ErrCorrupt, repo.ErrMissing, errors.New("connection reset")} {
		name := fmt.Sprintf("001/%03d", i)
		data := want[name]
		m.bad[m.blockOf(tree.Chunk{Hash: hashOf(data)})] = err
		delete(want, name)
	}
	loads, last := atomic.Int64{}, make(chan struct{})
	r := hooked{m, func() {
		if loads.Add(1) == 6 {
			close(last)
		}
	}, func() { waitFor(t, "the walk", last) }}
	target := t.TempDir()
	res := run(t, r, root, "/src", target, Options{bounds: bounds{start: 1}})
	if res.LostCount != 4 || res.FailedCount != 0 || res.Files != int64(len(want)) {
		t.Errorf("%+v", res)
	}
	if !reflect.DeepEqual(want, contents(t, target)) {
		t.Error("content differs")
	}
}

// TestOverlapFullDisk fails a write of the first window for good while the walk is
// on its way: the walk ends, too.
func TestOverlapFullDisk(t *testing.T) {
	m := newMemory()
	root, _ := dirsOf(t, m, 50, 2)
	var loads atomic.Int64
	r := hooked{m, func() { loads.Add(1) }, nil}
	target := t.TempDir()
	res, err := Run(t.Context(), r, &tree.Snapshot{}, root, "/src", target, Options{bounds: overlapping, cut: func(op string) error {
		if op == "write" {
			return unix.ENOSPC
		}
		return nil
	}})
	if !errors.Is(err, unix.ENOSPC) || res.FailedCount == 0 || res.Files != 0 || loads.Load() > 20 {
		t.Errorf("%v after %d pages; %+v", err, loads.Load(), res)
	}
	if len(contents(t, target)) != 0 || len(temps(t, target)) != 0 {
		t.Errorf("left: %v %v", contents(t, target), temps(t, target))
	}
}

// TestOverlapCut ends a restore of overlapping windows before any of its
// operations. No file is ever partial, and the next restore completes.
func TestOverlapCut(t *testing.T) {
	m := newMemory()
	n, dir := small(t, m)
	want, full := listing(t, dir), contents(t, dir)
	base := t.TempDir()
	for k := int64(0); ; k += 3 {
		target := filepath.Join(base, fmt.Sprint(k))
		ok(t, os.Mkdir(target, 0o700))
		prepare(t, m, target)
		before := contents(t, target)
		var ops atomic.Int64
		_, err := Run(t.Context(), m, &tree.Snapshot{}, n, "/src", target, Options{Delete: true, Workers: 2, bounds: overlapping,
			cut: func(op string) error {
				if ops.Add(1) > k {
					return errCut
				}
				return nil
			}})
		if err == nil {
			if k < 60 {
				t.Fatalf("after %d operations: no error", k)
			}
			same(t, want, listing(t, target))
			release(target)
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("after %d operations: %v", k, err)
		}
		if os.Geteuid() != 0 {
			release(target) // to look
		}
		for name, data := range contents(t, target) {
			old, was := before[name]
			now, is := full[name]
			if !(is && data == now || was && data == old) {
				t.Fatalf("cut before operation %d: %s is partial: %d bytes", k, name, len(data))
			}
		}
		clean(t, run(t, m, n, "/src", target, Options{Delete: true, bounds: overlapping}))
		same(t, want, listing(t, target))
		if t.Failed() {
			t.Fatalf("restore after a cut before operation %d", k)
		}
		release(target)
		ok(t, os.RemoveAll(target))
	}
}

// TestOverlapLinks has the names of a file in many windows; the content of some is
// lost, and some first names cannot be created.
func TestOverlapLinks(t *testing.T) {
	m := newMemory()
	m.blockSize = 1
	const groups, dirs = 7, 9
	var all []*tree.Node
	for d := range dirs {
		var entries []*tree.Node
		for g := range groups {
			n := m.file(mine(fmt.Sprintf("%d", g), 0o600), noise(uint64(g), 5000))
			n.Links, n.Device, n.Inode = dirs, 5, uint64(100+g)
			entries = append(entries, n, m.file(mine(fmt.Sprintf("%d-alone", g), 0o600), noise(uint64(1000+100*d+g), 500)))
		}
		all = append(all, m.dir(t, mine(fmt.Sprintf("%03d", d), 0o755), entries...))
	}
	root := m.dir(t, mine("src", 0o755), all...)
	m.lost[hashOf(string(noise(3, 5000)))] = true
	for _, b := range []bounds{overlapping, {}, {start: 1, weight: 3}} {
		target := t.TempDir()
		ok(t, os.MkdirAll(target+"/000/5/full", 0o755)) // in the way of the first name
		res := run(t, m, root, "/src", target, Options{Workers: 3, bounds: b})
		if res.LostCount != dirs || res.FailedCount != 1 || res.Files != (2*groups-1)*dirs-1 || res.Links != (groups-1)*(dirs-1)-1 {
			t.Errorf("%+v", res)
		}
		for g := range groups {
			inodes := map[uint64]int{}
			for d := range dirs {
				var st unix.Stat_t
				if err := unix.Lstat(fmt.Sprintf("%s/%03d/%d", target, d, g), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
					inodes[st.Ino]++
				}
			}
			want := map[int]int{3: 0, 5: dirs - 1}
			n, special := want[g]
			if !special {
				n = dirs
			}
			total := 0
			for _, count := range inodes {
				total += count
			}
			if len(inodes) > 1 || total != n {
				t.Errorf("file %d has %d names, of %d inodes", g, total, len(inodes))
			}
		}
	}
}

// TestKept reads blocks that windows share once, as long as they may be kept. With more than
// one worker, a block may be read for two windows at a time.
func TestKept(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 10_000
	var entries []*tree.Node
	want := map[string]string{}
	for i := range 95 {
		data := noise(uint64(i), 1000)
		want[fmt.Sprintf("%02d", i)] = string(data)
		entries = append(entries, m.file(mine(fmt.Sprintf("%02d", i), 0o600), data))
	}
	root := m.dir(t, mine("src", 0o755), entries...)
	for kept, most := range map[int]int64{20_000: 10, 1: 95} {
		m.readAll.Store(0)
		target := t.TempDir()
		clean(t, run(t, m, root, "/src", target, Options{Workers: 1, bounds: bounds{start: 3, files: 3, kept: kept}}))
		if !reflect.DeepEqual(want, contents(t, target)) {
			t.Error("content differs")
		}
		if n := m.readAll.Load(); n > most || kept == 1 && n <= 10 {
			t.Errorf("%d blocks were read where %d bytes are kept", n, kept)
		}
	}
}

func TestKeptBound(t *testing.T) {
	k := keptBlocks{max: 1000}
	if spare := k.put(blockKey{offset: 99}, make([]byte, 1001), 1); len(spare) != 1001 || k.bytes != 0 || len(k.blocks) != 0 {
		t.Errorf("a block above the bound: %d bytes back, %d kept", len(spare), k.bytes)
	}
	for i := range uint32(20) {
		spare := k.put(blockKey{offset: i}, make([]byte, 300), int(i))
		if (spare == nil) != (i < 3) || k.bytes > 1000 || k.bytes != 300*len(k.blocks) {
			t.Errorf("block %d: %d bytes in %d blocks, %d bytes back", i, k.bytes, len(k.blocks), len(spare))
		}
	}
	if _, _, ok := k.take(blockKey{offset: 16}); ok {
		t.Error("the oldest block is still there")
	}
	if data, used, ok := k.take(blockKey{offset: 18}); !ok || len(data) != 300 || used != 18 || k.bytes != 600 {
		t.Errorf("%v, %d bytes, %d used, %d left", ok, len(data), used, k.bytes)
	}
	if _, _, ok := k.take(blockKey{offset: 18}); ok {
		t.Error("a block was taken twice")
	}
}

// A kept block does not hold the buffer of a much larger one, and buffers are used again.
func TestKeptBuffers(t *testing.T) {
	k := keptBlocks{max: 1000}
	large := make([]byte, 1000)
	if spare := k.put(blockKey{offset: 1}, large[:10], 1); cap(spare) != 1000 || cap(k.blocks[0].plain) > maxSlack*10 {
		t.Errorf("10 bytes are kept in %d; %d are free", cap(k.blocks[0].plain), cap(spare))
	}
	if spare := k.put(blockKey{offset: 2}, large[:300], 1); spare != nil {
		t.Errorf("%d bytes are free, though the block is in them", cap(spare))
	}
	for i := range 2 * maxSpares {
		k.giveBack(make([]byte, 100+i))
	}
	for i := range maxSpares {
		if spare := k.put(blockKey{offset: uint32(10 + i)}, make([]byte, 1), 1); len(spare) != 100+2*maxSpares-1-i {
			t.Errorf("spare %d has %d bytes", i, len(spare))
		}
	}
	if spare := k.put(blockKey{offset: 20}, make([]byte, 1), 1); spare != nil {
		t.Errorf("more than %d buffers wait", maxSpares)
	}
}

// TestLargeFile restores a file of which the system is asked to store parts while
// others are written.
func TestLargeFile(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1<<20, 1<<20
	data := strings.Repeat(string(noise(1, 4<<20)), (storeMin+storeBytes)>>22) + "end"
	root := m.dir(t, mine("src", 0o755), m.file(mine("large", 0o600), []byte(data)))
	target := t.TempDir()
	clean(t, run(t, m, root, "/src", target, Options{bounds: bounds{storeAfter: storeBytes}}))
	if contents(t, target)["large"] != data {
		t.Error("content differs")
	}
}

func hashOf(data string) repo.Hash {
	m := newMemory()
	return m.add([]byte(data)).Hash
}

// running is a RunReader.
type running struct {
	hooked
	requests *atomic.Int64
}

func (r running) ReadBlocks(ctx context.Context, blocks []*repo.Block, buf []byte, next func([]byte, error) []byte) {
	r.requests.Add(1)
	for i, b := range blocks {
		if i > 0 && (b.Pack != blocks[i-1].Pack || b.Offset <= blocks[i-1].Offset) {
			panic("blocks of several packs, or not in order")
		}
		if ctx.Err() != nil {
			return
		}
		buf = next(r.ReadBlock(ctx, b, buf))
	}
}

// TestRuns reads several blocks with a request, with and without damage, and
// restores what a repository does that cannot.
func TestRuns(t *testing.T) {
	m := newMemory()
	m.chunkSize, m.blockSize = 1000, 3000
	var entries []*tree.Node
	for i := range 300 {
		entries = append(entries, m.file(mine(fmt.Sprintf("%03d", i), 0o600), noise(uint64(i), 2500)))
	}
	root := m.dir(t, mine("src", 0o700), entries...)
	for _, damaged := range []bool{false, true} {
		if damaged {
			m.bad[m.blockOf(entries[40].Content[0])] = repo.ErrCorrupt
			m.bad[m.blockOf(entries[41].Content[1])] = repo.ErrMissing
			m.bad[m.blockOf(entries[200].Content[1])] = errors.New("connection reset")
		}
		for _, b := range []bounds{{}, {start: 1, files: 20}, {chunks: 40, openFiles: 1}} {
			plain, inRuns := t.TempDir(), t.TempDir()
			want := run(t, m, root, "/src", plain, Options{bounds: b})
			m.readAll.Store(0)
			var requests atomic.Int64
			got := run(t, running{hooked{memory: m}, &requests}, root, "/src", inRuns, Options{Workers: 2, bounds: b})
			if got.Files != want.Files || got.LostCount != want.LostCount || (got.LostCount > 0) != damaged || got.FailedCount != 0 {
				t.Errorf("%+v instead of %+v", got, want)
			}
			if !reflect.DeepEqual(contents(t, plain), contents(t, inRuns)) {
				t.Error("content differs")
			}
			if n := requests.Load(); b == (bounds{}) && (n == 0 || n > m.readAll.Load()/2) {
				t.Errorf("%d requests for %d blocks", n, m.readAll.Load())
			}
		}
	}
}

// TestRunsCancel cancels before each block of runs.
func TestRunsCancel(t *testing.T) {
	m := newMemory()
	root, want := dirsOf(t, m, 10, 10)
	for after := int64(1); after <= 101; after += 10 {
		ctx, cancel := context.WithCancel(t.Context())
		var calls, requests atomic.Int64
		target := t.TempDir()
		_, err := Run(ctx, running{hooked{m, nil, func() {
			if calls.Add(1) == after {
				cancel()
			}
		}}, &requests}, &tree.Snapshot{}, root, "/src", target, Options{Workers: 1})
		cancel()
		if (err == nil) != (after > 100) || err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("after %d: %v", after, err)
		}
		got := contents(t, target)
		for name, data := range got {
			if data != want[name] {
				t.Errorf("after %d: %s is partial", after, name)
			}
		}
		if left := temps(t, target); len(left) > 0 || int64(len(got)) >= after {
			t.Errorf("after %d: %d files, left: %v", after, len(got), left)
		}
	}
}
