package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// CopyOptions describe a copy that was asked for.
type CopyOptions struct {
	// Names are the snapshots; none: all.
	Names  []string
	Filter Filter
	Host   string // this one, for Filter.Resolve
	DryRun bool
	Write  repo.WriterOptions
	// Apart keeps new repositories from sharing the source's master secret.
	Apart    bool
	Known    Known
	Progress *CopyProgress // may be nil
	Note     func(string)  // as in BackupOptions
	Warn     func(string)
}

// A CopyTarget is what became of a copy in one repository.
type CopyTarget struct {
	*Destination
	// Missing are the chosen snapshots that it did not have; Copied, of the
	// Destination, those that it has now.
	Missing []*tree.Snapshot
	There   int // how many it did have
	// Failed says why others could not be copied.
	Failed []FailedSnapshot
}

// A FailedSnapshot is a snapshot with which something went wrong.
type FailedSnapshot struct {
	ID  repo.ID
	Err error
}

// failed says whether anything is not in the target that should be.
func (t *CopyTarget) failed() bool { return t.Err != nil || len(t.Failed) > 0 }

// CopyResult is what a copy did.
type CopyResult struct {
	Chosen  []*tree.Snapshot // oldest first
	Targets []*CopyTarget
	Notes   []string
}

// Failed says whether a target or a snapshot failed.
func (r *CopyResult) Failed() bool { return slices.ContainsFunc(r.Targets, (*CopyTarget).failed) }

// CopyProgress tells how far a copy is. Its methods may be called at any time.
type CopyProgress struct {
	Snapshots, TotalSnapshots atomic.Int64 // in all targets

	mu      sync.Mutex
	writers []*repo.Writer
}

// Bytes is what was copied so far, uncompressed.
func (p *CopyProgress) Bytes() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.writers {
		n += w.Stats.BytesAdded.Load()
	}
	return n
}

func (p *CopyProgress) watch(w *repo.Writer) {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.writers = append(p.writers, w)
	}
}

// Copy copies snapshots of src, which is loaded, to other repositories, each by
// itself; one that does not exist is created with the keys of a. Unlike catching up
// in a backup, it copies whatever was asked for, however old. The error is a
// *Failure when nothing could be done; else look at the result.
func Copy(ctx context.Context, a *Access, src *Destination, targets []string, o CopyOptions) (*CopyResult, error) {
	res := new(CopyResult)
	note, warn := tellers(o.Note, o.Warn, &res.Notes)
	var err error
	if res.Chosen, err = o.choose(src.Snapshots, note); err != nil {
		return res, err
	}
	sibling := src.Repo
	if o.Apart {
		sibling = nil
	}
	var ready []*CopyTarget
	for _, d := range openAll(ctx, a, targets, nil, sibling, o.Known, o.DryRun, note, warn) {
		t := &CopyTarget{Destination: d}
		res.Targets = append(res.Targets, t)
		defer func() {
			if err := d.Close(); err != nil && d.Err == nil {
				d.Err = err
			}
		}()
		if d.Repo != nil && d.Repo.ID() == src.Repo.ID() {
			d.Err = fmt.Errorf("%s is the repository that is copied from", d.Place)
		}
		if d.Err == nil && d.Repo != nil && d.Repo.WriteOnly() {
			d.Err = fmt.Errorf("%s: %w", d.Place, repo.ErrWriteOnly) // nor does it know what is missing there
		}
		if d.Err == nil {
			ready = append(ready, t)
		}
	}
	if err := ctx.Err(); err != nil {
		return res, err
	}
	if len(ready) == 0 {
		var errs []error
		for _, t := range res.Targets {
			errs = append(errs, t.Err)
		}
		return res, Fail(ExitRefused, errors.Join(errs...), hint(errs[0]))
	}
	total := 0
	for _, t := range ready {
		t.plan(res.Chosen)
		total += len(t.Missing)
	}
	if o.DryRun {
		return res, nil
	}
	if o.Progress != nil {
		o.Progress.TotalSnapshots.Store(int64(total))
	}
	var wg sync.WaitGroup
	for _, t := range ready {
		wg.Go(func() { t.copy(ctx, src, &o) })
	}
	wg.Wait()
	return res, ctx.Err()
}

// choose returns the snapshots that were asked for, oldest first.
func (o *CopyOptions) choose(all []*tree.Snapshot, note teller) ([]*tree.Snapshot, error) {
	if len(o.Names) == 0 {
		return o.Filter.Of(all), nil
	}
	wanted := make(map[repo.ID]bool)
	for _, name := range o.Names {
		s, line, err := o.Filter.Resolve(all, name, o.Host)
		if err != nil {
			return nil, err
		}
		if line != "" {
			note("%s", line)
		}
		wanted[s.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(s *tree.Snapshot) bool { return !wanted[s.ID] }), nil
}

// errDamagedThere says that a snapshot cannot be stored beside its own remains.
var errDamagedThere = errors.New("its object is there, but damaged: 'backup-handler repair' exchanges it")

// plan finds what the target lacks.
func (t *CopyTarget) plan(chosen []*tree.Snapshot) {
	have := make(map[repo.ID]bool)
	for _, s := range t.Snapshots {
		have[s.ID] = true
	}
	damaged := make(map[repo.ID]bool)
	for _, s := range t.Unreadable {
		damaged[s.ID] = true
	}
	for _, s := range chosen {
		switch {
		case damaged[s.ID]:
			t.Failed = append(t.Failed, FailedSnapshot{s.ID, errDamagedThere})
		case have[s.ID]:
			t.There++
		default:
			t.Missing = append(t.Missing, s)
		}
	}
}

// copy copies what is missing. One snapshot that is damaged where it comes from keeps
// the others from nothing.
func (t *CopyTarget) copy(ctx context.Context, src *Destination, o *CopyOptions) {
	for _, snap := range t.Missing {
		err := copySnapshot(ctx, src, t.Destination, snap, o.Write, o.Progress)
		if errors.Is(err, repo.ErrRaced) {
			if err = t.Load(ctx); err == nil {
				err = copySnapshot(ctx, src, t.Destination, snap, o.Write, o.Progress)
			}
		}
		switch {
		case err == nil:
		case isDamage(err):
			t.Failed = append(t.Failed, FailedSnapshot{snap.ID, err})
		default:
			t.Err = err
			return
		}
		if o.Progress != nil {
			o.Progress.Snapshots.Add(1)
		}
	}
}

// copySnapshot copies one snapshot, under the same ID. Nothing is committed unless
// all that it needs is there. p may be nil.
func copySnapshot(ctx context.Context, src, dst *Destination, snap *tree.Snapshot, o repo.WriterOptions, p *CopyProgress) error {
	body, err := src.Repo.SnapshotBody(ctx, snap.ID)
	if err != nil {
		return fmt.Errorf("read snapshot %s: %w", snap.ID.Short(), err)
	}
	o.Readers = max(o.Readers, repo.CopyBatches)
	w, err := dst.Repo.NewWriter(ctx, o)
	if err != nil {
		return err
	}
	defer w.Abort()
	p.watch(w)
	if err := w.Copy(ctx, src.Repo, tree.Hashes(ctx, src.Repo, snap.RootNode())); err != nil {
		return fmt.Errorf("copy snapshot %s: %w", snap.ID.Short(), err)
	}
	if err := w.Commit(snap.ID, body); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("copy snapshot %s: %w", snap.ID.Short(), err)
	}
	dst.Copied = append(dst.Copied, snap.ID)
	return nil
}

// missing lists the snapshots of others that dst has missed while it was away, oldest
// first: those of the group that are newer than its newest. Older
// ones that it does not have were forgotten there on purpose.
func missing(dst *Destination, others []*Destination, group tree.Group) []missed {
	have := make(map[repo.ID]bool)
	var newest *tree.Snapshot
	for _, s := range dst.Snapshots {
		have[s.ID] = true
		if s.Group() == group {
			newest = s
		}
	}
	var out []missed
	for _, src := range others {
		if src == dst || src.Repo == nil || src.Err != nil {
			continue
		}
		for _, s := range src.Snapshots {
			if !have[s.ID] && s.Group() == group && (newest == nil || s.Time.After(newest.Time)) {
				have[s.ID] = true
				out = append(out, missed{src, s})
			}
		}
	}
	return out
}

type missed struct {
	src  *Destination
	snap *tree.Snapshot
}
