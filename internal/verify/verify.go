// Package verify proves that the snapshots of a repository are whole, or says
// exactly what is lost, and which other snapshots still have it.
//
// It reads repositories through package repo, and knows nothing of configuration,
// of the sources, or of a user interface. It changes nothing. The package promises:
//
//   - Nothing checked is no success: see Report.OK.
//   - What is reported as lost was asked for in the way in which a restore asks.
//   - A check that could not be made is an error, or a fault in the report, never
//     silence.
//
// Without reading data, the snapshots, every page of every directory and every list
// of chunks are read, and every chunk of every file is looked up: its pack is there
// with the right size, and the index has its place in it. Bit rot in file content
// is only found by reading it (Options.ReadData, Options.Sample).
//
// The repository is seen as it was when Run began. Writers do not disturb it; a
// prune whose grace period ends meanwhile may take packs that were needed no longer,
// and make Run report them: then it is run again.
//
// Memory: some 40 bytes for each page of each directory that is whole (one or more
// a directory, about 250 files each in large ones), 24 for each pack, and the
// report, which is bounded. Of a distant repository, metadata that was read stays on this
// machine until the end, so that each of its packs is read once (repo.Prove).
//
// verify.go: options, report, order of a run. walk.go: the trees. sample.go: which
// packs are read. have.go: which snapshots still have something.
package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Bounds of a report.
const (
	// MaxLost bounds Report.Lost; LostCount goes on.
	MaxLost = 10_000
	// MaxFaults bounds Report.Faults; FaultCount goes on.
	MaxFaults = 10_000
	// MaxUnknown bounds the names in Report.Index.Unknown.
	MaxUnknown = 1000
	// MaxAlsoIn bounds LostFile.AlsoIn.
	MaxAlsoIn = 3

	// maxLookups bounds how many paths are looked up in other snapshots, for all
	// of Report.Lost: some seconds, where directories are large.
	maxLookups = 5000
	// maxReadErrors is how many records in a row cannot be read, for other
	// reasons than damage, before the repository counts as gone. (As in package
	// restore.)
	maxReadErrors = 16
)

// The stages of a run, for Options.Progress, in this order.
const (
	StageIndex = "index"     // done, total: 0, 0
	StageData  = "data"      // bytes of packs
	StageTrees = "snapshots" // snapshots
)

// Options of Run. The zero value checks the structure and reads no file content.
type Options struct {
	// ReadData reads every pack: each block, each chunk, each table.
	ReadData bool
	// Sample is the share of the packs that is read where ReadData is not set,
	// at least one pack: 0 for none, at most 1.
	Sample float64
	// Seed chooses the sample. Successive seeds read successive shares: with a
	// Sample of 0.1, any ten successive seeds together read every pack. (The
	// number of the day makes a check of the day; a random number, a random one.)
	Seed uint64
	// Seeds is how many samples are read, that of Seed and those of the seeds before
	// it: what a check of the day makes up for after days without one. 0 is one.
	Seeds int
	// Workers is how many packs are read at a time; at least 1.
	Workers int
	// Progress, if set, is told how far a stage is, from several goroutines.
	Progress func(stage string, done, total int64)
}

// A Report is what Run found.
type Report struct {
	// What was checked. What several snapshots share counts once; damaged
	// directories, and what is below them, once for each snapshot.
	Snapshots int64 `json:"snapshots"`
	Dirs      int64 `json:"dirs"`
	Files     int64 `json:"files"`
	Chunks    int64 `json:"chunks"` // looked up, or read: pages and lists, too

	PacksRead int64 `json:"packs_read"`
	BytesRead int64 `json:"bytes_read"` // of these packs

	// Index is what loading the index found. Missing and resized packs are damage
	// also where no snapshot needs them any more.
	Index repo.IndexReport `json:"index"`

	// Mendable are a config, key slots and snapshots that are damaged or gone, and that
	// repair data gives back: each is among the faults.
	Mendable []repo.DamagedObject `json:"mendable,omitempty"`

	// BadSnapshots cannot be read at all.
	BadSnapshots []BadSnapshot `json:"bad_snapshots,omitempty"`
	// Lost names what cannot be restored whole: at most MaxLost of LostCount.
	Lost      []LostFile `json:"lost,omitempty"`
	LostCount int64      `json:"lost_count"`
	// Faults are all other findings, one line each: at most MaxFaults of
	// FaultCount. Blocks that cannot be read are among them, whether a snapshot
	// needs them or not.
	Faults     []string `json:"faults,omitempty"`
	FaultCount int64    `json:"fault_count"`
}

// A BadSnapshot is a snapshot that cannot be read.
type BadSnapshot struct {
	ID     repo.ID `json:"id"`
	Reason string  `json:"reason"`
}

func (b BadSnapshot) Error() string { return b.Reason }

// A LostFile is a file that cannot be restored whole, or a directory of which a part
// of the list of entries is lost.
type LostFile struct {
	Snapshot repo.ID   `json:"snapshot"`
	Path     tree.Path `json:"path"`
	Reason   string    `json:"reason"`
	// AlsoIn are other snapshots that have a whole file or directory at this path,
	// perhaps an older or newer version: newest first, at most MaxAlsoIn. (For a
	// directory: its list of entries is whole.) After a great loss only the first
	// paths of the report are looked for.
	AlsoIn []repo.ID `json:"also_in,omitempty"`
}

// Whole says whether everything in every snapshot can be restored, as far as it was
// checked.
func (r *Report) Whole() bool {
	return r.Snapshots > 0 && len(r.BadSnapshots) == 0 && r.LostCount == 0
}

// OK says whether something was checked and nothing is wrong.
func (r *Report) OK() bool { return r.Whole() && r.FaultCount == 0 && r.Index.OK() }

func (r *Report) fault(format string, args ...any) {
	if r.FaultCount++; len(r.Faults) < MaxFaults {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// Run checks a repository, whose index it loads anew. Damage is in the report; the
// error says that the check could not be done.
func Run(ctx context.Context, r *repo.Repository, o Options) (*Report, error) {
	if o.Sample < 0 || o.Sample > 1 || o.Sample != o.Sample {
		return nil, fmt.Errorf("sample of %v: want 0 to 1", o.Sample)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	rep := new(Report)
	v := &verifier{
		ctx: ctx, r: r, rep: rep,
		whole:  make(map[repo.ID]struct{}),
		failed: make(map[repo.ID]error),
	}
	defer r.Prove()()
	o.Progress(StageIndex, 0, 0)
	// Snapshots come first: what one of them needs was in the index before it.
	raw, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if rep.Index, err = r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	packs, err := v.list()
	if err != nil {
		return nil, err
	}
	if o.ReadData || o.Sample > 0 {
		if err := v.read(packs, o); err != nil {
			return nil, err
		}
	}
	for i, s := range raw {
		raw[i].Body = nil // room for the trees
		if s.Err == nil {
			var snap *tree.Snapshot
			if snap, s.Err = tree.DecodeSnapshot(s.ID, s.Body); s.Err == nil {
				snap.Problems = nil // likewise
				v.snaps = append(v.snaps, snap)
				continue
			}
		}
		rep.BadSnapshots = append(rep.BadSnapshots, BadSnapshot{s.ID, s.Err.Error()})
	}
	newestFirst(v.snaps)
	for i, s := range v.snaps {
		o.Progress(StageTrees, int64(i), int64(len(v.snaps)))
		v.snap = s
		v.dir("/", s.Root)
		if err := v.stopped(); err != nil {
			return nil, err
		}
		rep.Snapshots++
	}
	if len(raw) == 0 {
		rep.fault("there is no snapshot: nothing was verified")
	}
	if err := v.dropForgotten(); err != nil {
		return nil, err
	}
	v.alsoIn()
	if err := v.stopped(); err != nil {
		return nil, err
	}
	if err := v.mendable(o.ReadData); err != nil {
		return nil, err
	}
	o.Progress(StageTrees, int64(len(v.snaps)), int64(len(v.snaps)))
	return rep, nil
}

// mendable reports what is damaged and was given back by repair data.
func (v *verifier) mendable(dataRead bool) error {
	var damaged []repo.DamagedObject
	if v.protected {
		var err error
		damaged, err = v.r.DamagedObjects(v.ctx)
		if err := v.stopped(); err != nil {
			return err
		}
		if err != nil {
			v.rep.fault("%v", err)
		}
	}
	v.rep.Mendable = damaged
	for _, id := range v.badSlots {
		if !slices.ContainsFunc(damaged, func(d repo.DamagedObject) bool { return d.Name == "keys/"+id.String() }) {
			v.rep.fault("key slot %s is damaged: its key does not open the repository any more", id.Short())
		}
	}
	for _, d := range damaged {
		what := "damaged"
		if d.Missing {
			what = "gone"
		}
		v.rep.fault("%s is %s: its repair data gives it back", d.Name, what)
	}
	if dataRead {
		return nil // the blocks are among the faults
	}
	for _, name := range v.r.Mended() {
		if strings.HasPrefix(name, "packs/") {
			v.rep.fault("%s is damaged: its repair data gives back what was read of it", name)
		}
	}
	return nil
}

// newestFirst sorts snapshots by time, those of the same time by ID.
func newestFirst(snaps []*tree.Snapshot) {
	slices.SortFunc(snaps, func(a, b *tree.Snapshot) int {
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
}

// list returns the packs, and finds objects of unknown names and key slots that do
// not decode: they would be missed when their key is needed.
func (v *verifier) list() ([]pack, error) {
	var packs []pack
	slots := make(map[repo.ID]bool)
	err := v.r.Backend().List(v.ctx, "", func(info storage.Info) error {
		dir, rest, nested := strings.Cut(info.Name, "/")
		id, err := repo.ParseID(rest[strings.LastIndex(rest, "/")+1:])
		switch {
		case dir == "packs" && err == nil:
			packs = append(packs, pack{id, info.Size})
		case dir == "keys" && err == nil:
			slots[id] = true
		case dir == "packs", dir == "index": // LoadIndex lists unknown names there
		case (dir == "snapshots" || dir == "condemned" || dir == "runs") && err == nil:
		case dir == "parity" && protects(info.Name):
			v.protected = true
		case dir == "sessions" && err == nil:
		case !nested && (dir == "config" || dir == "readme.txt"):
		case len(v.rep.Index.Unknown) < MaxUnknown:
			v.rep.Index.Unknown = append(v.rep.Index.Unknown, info.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the repository: %w", err)
	}
	keys, err := v.r.Keys(v.ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		delete(slots, k.ID)
	}
	v.badSlots = slices.SortedFunc(maps.Keys(slots), func(a, b repo.ID) int { return slices.Compare(a[:], b[:]) })
	return packs, nil
}

// protects says whether a name is that of repair data.
func protects(name string) bool {
	_, ok := repo.ProtectedName(name)
	return ok
}

// read checks the data of packs.
func (v *verifier) read(packs []pack, o Options) error {
	chosen := packs
	if !o.ReadData {
		chosen = nil
		for i := range max(o.Seeds, 1) {
			chosen = append(chosen, choose(packs, o.Sample, o.Seed-uint64(i))...)
		}
	}
	total := int64(0)
	set := make(map[repo.ID]struct{}, len(chosen))
	for _, p := range chosen {
		if _, ok := set[p.id]; !ok {
			set[p.id] = struct{}{}
			total += p.size
		}
	}
	var done atomic.Int64
	o.Progress(StageData, 0, total)
	found, err := v.r.CheckData(v.ctx, repo.CheckOptions{
		Select:   func(id repo.ID) bool { _, ok := set[id]; return ok },
		Workers:  o.Workers,
		Progress: func(n int64) { o.Progress(StageData, min(done.Add(n), total), total) },
	})
	if err != nil {
		return err
	}
	o.Progress(StageData, total, total)
	v.damaged = found.Damaged
	v.rep.PacksRead, v.rep.BytesRead = int64(found.Packs), found.Bytes
	slices.Sort(found.Faults)
	for _, f := range found.Faults {
		v.rep.fault("%s", f)
	}
	if len(chosen) > 0 && found.Packs == 0 {
		v.rep.fault("none of the %d packs to be read could be", len(chosen))
	}
	return nil
}

// dropForgotten takes snapshots out of the report that were forgotten since Run
// began: what they needed may have been pruned.
func (v *verifier) dropForgotten() error {
	if len(v.rep.BadSnapshots) == 0 && v.rep.LostCount == 0 {
		return nil
	}
	there := make(map[repo.ID]bool)
	err := v.r.Backend().List(v.ctx, "snapshots", func(info storage.Info) error {
		if id, err := repo.ParseID(strings.TrimPrefix(info.Name, "snapshots/")); err == nil {
			there[id] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	v.rep.BadSnapshots = slices.DeleteFunc(v.rep.BadSnapshots, func(b BadSnapshot) bool { return !there[b.ID] })
	v.rep.Lost = slices.DeleteFunc(v.rep.Lost, func(l LostFile) bool { return !there[l.Snapshot] })
	for id, n := range v.lostIn {
		if !there[id] {
			v.rep.LostCount -= n
		}
	}
	v.snaps = slices.DeleteFunc(v.snaps, func(s *tree.Snapshot) bool { return !there[s.ID] })
	return nil
}

// alsoIn looks for what is lost in other snapshots.
func (v *verifier) alsoIn() {
	f := finder{ctx: v.ctx, loader: v, chunk: v.chunk, left: maxLookups}
	known := make(map[tree.Path][]repo.ID)
	for i := range v.rep.Lost {
		l := &v.rep.Lost[i]
		have, ok := known[l.Path]
		if !ok {
			// No snapshot is excepted: where it is lost, it is not found.
			have = f.have(v.snaps, string(l.Path), repo.ID{})
			known[l.Path] = have
		}
		l.AlsoIn = have
	}
}

// isDamage tells an error that says what the repository holds from one that says
// that it could not be asked.
func isDamage(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrMissing) || errors.Is(err, tree.ErrCorrupt)
}
