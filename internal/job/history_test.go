package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

// historyEnv is the number of operations of TestHistory, for a long run by hand.
const historyEnv = "BACKUP_HANDLER_HISTORY"

// Three hosts back up to two destinations, forget, prune, copy and repair, all at the
// same time; requests fail, answers are lost, processes die, packs are damaged. In the
// end every snapshot that was kept gives back the files that were backed up.
func TestHistory(t *testing.T) {
	operations := 600
	if text := os.Getenv(historyEnv); text != "" {
		var err error
		if operations, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	h := newHistory(t, 1)
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(operations))
	for _, host := range h.hosts {
		wg.Go(func() {
			for left.Add(-1) >= 0 && !t.Failed() {
				host.step()
			}
		})
	}
	wg.Wait()
	h.finish()
}

type history struct {
	t      *testing.T
	stores [2]*storage.Memory
	hosts  []*historyHost
	// together is read-locked by operations. Time passes, and damage is done, between
	// them: a writer has less than a grace period for its commit.
	together sync.RWMutex
	hours    int

	mu     sync.Mutex
	counts map[string]int
}

// A historyHost is one machine. What it expects is what it has made and not forgotten:
// only it touches its own snapshots.
type historyHost struct {
	h       *history
	name    string
	src     string
	known   Known
	random  *rand.Rand
	expects [2]map[repo.ID]bool
	content map[repo.ID]map[string]string
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, counts: map[string]int{}}
	for i := range h.stores {
		h.stores[i] = storage.NewMemory()
		o := repo.InitOptions{Lockers: []seal.Locker{seal.None{}}, Wrap: seal.WrapOptions{Created: time.Now()}}
		if i > 0 {
			first := openStore(t, h.stores[0])
			o.Sibling = first.Repo
		}
		if err := repo.Init(t.Context(), h.stores[i], o); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		dir := t.TempDir()
		host := &historyHost{
			h: h, name: fmt.Sprint("host", i), src: filepath.Join(dir, "src"), known: Known{Dir: filepath.Join(dir, "state")},
			random: rand.New(rand.NewPCG(seed, uint64(i))), content: map[repo.ID]map[string]string{},
		}
		host.expects = [2]map[repo.ID]bool{{}, {}}
		write(t, filepath.Join(host.src, "always"), host.name)
		h.hosts = append(h.hosts, host)
	}
	return h
}

func (h *history) now() time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.hours) * time.Hour)
}

func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what]++
}

// open opens a store, over a backend that may fail.
func (h *history) open(ctx context.Context, b storage.Backend, n int) (*Destination, error) {
	o := repo.Options{Credentials: []seal.Credential{seal.None{}}}
	if n == 0 { // the first one has repair data
		o.Parity = 10
	}
	r, err := repo.Open(ctx, kept{b}, o)
	if err != nil {
		return nil, err
	}
	d := &Destination{Location: fmt.Sprint("store", n), Place: fmt.Sprint("store", n), Repo: r}
	if err := d.Load(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return d, nil
}

// step is one operation of a host.
func (x *historyHost) step() {
	h := x.h
	switch n := x.random.IntN(100); {
	case n < 12:
		h.together.Lock()
		h.hours += x.random.IntN(30)
		h.together.Unlock()
		h.count("time passes")
		return
	case n < 15:
		h.together.Lock()
		defer h.together.Unlock()
		x.damage()
		return
	}
	h.together.RLock()
	defer h.together.RUnlock()
	n := x.random.IntN(2)
	ctx := h.t.Context()
	// One in four operations meets a fault, at some write.
	var b storage.Backend = h.stores[n]
	faulty := x.random.IntN(4) == 0
	if faulty {
		outcome := []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut, storagetest.LoseCut}[x.random.IntN(4)]
		b = storagetest.At(b, x.random.IntN(12), outcome)
	}
	d, err := h.open(ctx, b, n)
	if err != nil {
		h.t.Errorf("%s: open: %v", x.name, err)
		return
	}
	defer d.Close()
	what := ""
	switch k := x.random.IntN(10); {
	case k < 5:
		what, err = "backup", x.backup(ctx, d, n)
	case k < 7:
		what, err = "forget", x.forget(ctx, d, n)
	case k < 9:
		what, err = "prune", x.prune(ctx, d)
	default:
		what, err = "copy", x.copy(ctx, d, n)
	}
	switch {
	case err == nil:
		h.count(what)
	case errors.Is(err, storagetest.ErrFault) || errors.Is(err, storagetest.ErrCut):
		h.count(what + ", failed")
	case errors.Is(err, repo.ErrRaced):
		h.count(what + ", raced")
	default:
		h.t.Errorf("%s: %s: %v", x.name, what, err)
	}
}

// change changes the source a little.
func (x *historyHost) change() {
	for range 1 + x.random.IntN(3) {
		name := filepath.Join(x.src, fmt.Sprint("dir", x.random.IntN(3)), fmt.Sprint("file", x.random.IntN(6)))
		if x.random.IntN(4) == 0 {
			os.Remove(name)
			continue
		}
		// Of a few texts, so that hosts and times have much in common.
		write(x.h.t, name, strings.Repeat(fmt.Sprint("text ", x.random.IntN(12), " "), 1+x.random.IntN(3000)))
	}
}

func (x *historyHost) backup(ctx context.Context, d *Destination, n int) error {
	x.change()
	files := map[string]string{}
	for path, text := range content(x.h.t, x.src) {
		files[strings.TrimPrefix(path, x.src)] = text
	}
	now := x.h.now().Add(time.Duration(x.random.IntN(3600)) * time.Second) // unordered within the hour
	o := BackupOptions{
		Sources: []string{x.src}, Mode: tree.Incremental, Readers: 2, Sealers: 1, Host: x.name, Progress: new(backup.Progress),
		Note: func(string) {}, Now: func() time.Time { return now },
	}
	snap, err := backupTo(ctx, d, &o, func(string, ...any) {})
	if err != nil {
		return err
	}
	x.expects[n][snap.ID] = true
	x.content[snap.ID] = files
	return nil
}

func (x *historyHost) forget(ctx context.Context, d *Destination, n int) error {
	f, err := d.Forget(ctx, ForgetOptions{
		Filter: Filter{Host: x.name}, Policy: retention.Policy{Last: 2, Daily: 2}, Known: x.known, Now: x.h.now().Add(time.Hour),
	})
	if f == nil {
		return err
	}
	for _, g := range f.Groups {
		for _, s := range g.Decisions {
			if !s.Keep { // also where the answer was lost
				delete(x.expects[n], s.Snapshot.ID)
			}
		}
	}
	return err
}

func (x *historyHost) prune(ctx context.Context, d *Destination) error {
	now := x.h.now().Add(time.Hour)
	_, err := d.Prune(ctx, repo.PruneOptions{
		Grace: repo.DefaultGrace, MaxUnused: 0.05, MaxRepack: -1, Host: x.name, Workers: 2, Now: func() time.Time { return now },
	}, x.known)
	return err
}

// copy brings what this host has in the other destination here.
func (x *historyHost) copy(ctx context.Context, d *Destination, n int) error {
	src, err := x.h.open(ctx, x.h.stores[1-n], 1-n)
	if err != nil {
		return err
	}
	defer src.Close()
	t := &CopyTarget{Destination: d}
	t.plan((&Filter{Host: x.name}).Of(src.Snapshots))
	t.copy(ctx, src, &CopyOptions{Note: func(string) {}})
	for _, id := range d.Copied {
		x.expects[n][id] = true
	}
	for _, f := range t.Failed {
		err = errors.Join(err, f.Err)
	}
	return errors.Join(err, t.Err)
}

// damage spoils something in one destination when the other has everything, and has it
// repaired. It is alone.
func (x *historyHost) damage() {
	h := x.h
	ctx := h.t.Context()
	n := x.random.IntN(2)
	d, err := h.open(ctx, h.stores[n], n)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer d.Close()
	other, err := h.open(ctx, h.stores[1-n], 1-n)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer other.Close()
	t := &CopyTarget{Destination: other}
	t.plan(d.Snapshots)
	t.copy(ctx, d, &CopyOptions{Note: func(string) {}})
	if t.failed() {
		h.t.Errorf("copy before damage: %v, %v", t.Err, t.Failed)
		return
	}
	for _, host := range h.hosts {
		for _, s := range t.Missing {
			if s.Host == host.name {
				host.expects[1-n][s.ID] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(storagetest.Objects(h.t, h.stores[n])))
	names = slices.DeleteFunc(names, func(s string) bool { return !strings.HasPrefix(s, "packs/") })
	if len(names) == 0 || len(d.Snapshots) == 0 {
		return
	}
	name := names[x.random.IntN(len(names))]
	if x.random.IntN(3) > 0 {
		data := storagetest.Objects(h.t, h.stores[n])[name]
		data = slices.Clone(data)
		data[8+x.random.IntN(len(data)-8)] ^= 1
		if err := h.stores[n].Delete(ctx, name); err != nil {
			h.t.Error(err)
			return
		}
		storagetest.Put(h.t, h.stores[n], name, data)
	} else if err := h.stores[n].Delete(ctx, name); err != nil {
		h.t.Error(err)
		return
	}
	damaged, err := h.open(ctx, h.stores[n], n)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer damaged.Close()
	if n == 0 { // where a fault has left a pack without repair data, the other one has to help
		if res, err := Repair(ctx, damaged, nil, RepairOptions{Workers: 2}); err != nil {
			h.t.Errorf("repair without the other: %v", err)
			return
		} else if res.Whole() {
			h.count("damage and heal")
			return
		}
	}
	res, err := Repair(ctx, damaged, other, RepairOptions{Workers: 2})
	if err != nil || !res.Whole() {
		h.t.Errorf("repair: %+v, %v", res, err)
		return
	}
	h.count("damage and repair")
}

// finish looks at what is left.
func (h *history) finish() {
	if h.t.Failed() {
		return
	}
	ctx := h.t.Context()
	// Whoever prunes last finishes what others have begun, and finds damage that is left.
	for round := 0; round < 3 || round < 8 && h.condemned() > 0; round++ {
		h.hours += 25
		for n := range h.stores {
			d, err := h.open(ctx, h.stores[n], n)
			if err != nil {
				h.t.Fatal(err)
			}
			if err := h.hosts[0].prune(ctx, d); err != nil {
				h.t.Fatal(err)
			}
			d.Close()
		}
	}
	for n := range h.stores {
		d, err := h.open(ctx, h.stores[n], n)
		if err != nil {
			h.t.Fatal(err)
		}
		defer d.Close()
		have := map[repo.ID]*tree.Snapshot{}
		for _, s := range d.Snapshots {
			have[s.ID] = s
		}
		for _, host := range h.hosts {
			for id := range host.expects[n] {
				s := have[id]
				if s == nil {
					h.t.Errorf("store %d: snapshot %s of %s is gone", n, id.Short(), host.name)
					continue
				}
				host.wantContent(d, s)
			}
		}
		rep, err := verify.Run(ctx, d.Repo, verify.Options{ReadData: true, Workers: 2})
		// Damage that touches nothing stays: that of a table that the index has, too.
		if err != nil || !rep.Whole() {
			h.t.Errorf("store %d: %+v, %v", n, rep, err)
		}
	}
	if n := h.condemned(); n > 0 {
		h.t.Errorf("%d condemned lists are left", n)
	}
	for _, what := range slices.Sorted(maps.Keys(h.counts)) {
		h.t.Logf("%5d %s", h.counts[what], what)
	}
}

// condemned is how many condemned lists there are.
func (h *history) condemned() (n int) {
	for _, store := range h.stores {
		for name := range storagetest.Objects(h.t, store) {
			if strings.HasPrefix(name, "condemned/") {
				n++
			}
		}
	}
	return n
}

// wantContent restores a snapshot and compares its files.
func (x *historyHost) wantContent(d *Destination, s *tree.Snapshot) {
	t := x.h.t
	to := t.TempDir()
	node, err := tree.Lookup(t.Context(), d.Repo, s.RootNode(), filepath.ToSlash(x.src))
	if err != nil {
		t.Errorf("snapshot %s: %v", s.ID.Short(), err)
		return
	}
	if _, err := restore.Run(t.Context(), d.Repo, s, node, filepath.ToSlash(x.src), to, restore.Options{Workers: 2}); err != nil {
		t.Errorf("snapshot %s: %v", s.ID.Short(), err)
		return
	}
	got := map[string]string{}
	for path, text := range content(t, to) {
		got[strings.TrimPrefix(path, to)] = text
	}
	if !maps.Equal(got, x.content[s.ID]) {
		t.Errorf("snapshot %s of %s gives back other files", s.ID.Short(), x.name)
	}
}
