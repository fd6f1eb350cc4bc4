package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// clockSlack is how far the clock may be behind the newest snapshot for a prune.
const clockSlack = 10 * time.Minute

// markers is how many snapshots are gone through at a time.
const markers = 4

// Prune removes what no snapshot of d needs: repo.Prune, with what this host remembers.
// d need not be loaded, and has to be loaded again to be used after it. The error is a
// *Failure.
func (d *Destination) Prune(ctx context.Context, o repo.PruneOptions, known Known) (*repo.PruneReport, error) {
	state, err := known.pruned(d.Repo.ID())
	if err != nil {
		return nil, Fail(ExitRefused, err, "nothing was deleted; remove that file, and the grace period begins anew")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Sightings = state.Sightings
	o.Snapshots = func(ctx context.Context) (repo.Needed, error) { return d.needed, d.readable(ctx, o.Now()) }
	rep, err := d.Repo.Prune(ctx, o)
	if err == nil && !o.DryRun {
		state.Last, state.Next = o.Now(), rep.Until
	}
	if kerr := known.setPruned(d.Repo.ID(), state); err == nil && kerr != nil {
		err = fmt.Errorf("remember what was condemned: %w", kerr)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return rep, err
	}
	if errors.Is(err, repo.ErrRaced) {
		return rep, Fail(ExitPartial, err, "another prune is going on; nothing is lost: run it again later")
	}
	return rep, Fail(ExitPartial, err, "")
}

// readable lists the snapshots, and refuses what a prune must not go by.
func (d *Destination) readable(ctx context.Context, now time.Time) error {
	if err := d.LoadSnapshots(ctx); err != nil {
		return err
	}
	if len(d.Unreadable) > 0 {
		s := d.Unreadable[0]
		return Fail(ExitRefused, fmt.Errorf("snapshot %s cannot be read, so that nobody knows what it needs: %w", s.ID.Short(), s.Err),
			fmt.Sprintf("nothing was deleted; 'backup-handler repair' fetches it from another repository, 'backup-handler forget --force %s' gives it up", s.ID.Short()))
	}
	if n := len(d.Snapshots); n > 0 && d.Snapshots[n-1].Time.After(now.Add(clockSlack)) {
		return Fail(ExitRefused, fmt.Errorf("the newest snapshot is of %s: this machine's clock is behind, or another's was ahead", d.Snapshots[n-1].Time.Local().Format(time.DateTime)),
			"nothing was deleted; a prune goes by the clock: set it, or forget that snapshot")
	}
	return nil
}

// needed tells what the snapshots need.
func (d *Destination) needed(ctx context.Context, use func(repo.Hash) (bool, error)) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(markers)
	for _, s := range d.Snapshots {
		g.Go(func() error {
			err := tree.Mark(gctx, d.Repo, s.RootNode(), use)
			if isDamage(err) {
				return Fail(ExitRefused, fmt.Errorf("snapshot %s: what it needs cannot be found out: %w", s.ID.Short(), err),
					fmt.Sprintf("nothing was deleted; 'backup-handler repair' heals it from another repository, 'backup-handler forget %s' gives it up", s.ID.Short()))
			}
			return err
		})
	}
	return g.Wait()
}

// pruneState is what this host remembers of pruning a repository.
type pruneState struct {
	Sightings repo.Sightings `json:"sightings"`
	Last      time.Time      `json:"last_prune,omitzero"`
	// Next is when all that is condemned may be deleted.
	Next time.Time `json:"next,omitzero"`
}

func (s *pruneState) due(every time.Duration, now time.Time) bool {
	return now.Sub(s.Last) >= every || s.Last.After(now) || !s.Next.IsZero() && !s.Next.After(now)
}

// PruneDue says whether it is time to prune a repository, where it should be so often;
// 0: never. The first time is when something was forgotten.
func (k Known) PruneDue(id repo.ID, every time.Duration, forgotten bool, now time.Time) (bool, error) {
	if every <= 0 {
		return false, nil
	}
	s, err := k.pruned(id)
	if err != nil || s.Last.IsZero() {
		return err == nil && forgotten, err
	}
	return s.due(every, now), nil
}

func (k Known) pruned(id repo.ID) (*pruneState, error) {
	s := &pruneState{Sightings: make(repo.Sightings)}
	err := k.read("prune", id, s)
	if s.Sightings == nil {
		s.Sightings = make(repo.Sightings)
	}
	return s, err
}

func (k Known) setPruned(id repo.ID, s *pruneState) error { return k.write("prune", id, s) }

// verifiedFile names the snapshots that were there when every byte of a repository was
// last read and found right.
type verifiedFile struct {
	Time      time.Time `json:"time"`
	Snapshots []repo.ID `json:"snapshots"`
}

// Verified says of which snapshots of a repository this host knows that every byte was
// read and found right.
func (k Known) Verified(id repo.ID) (func(repo.ID) bool, error) {
	var f verifiedFile
	err := k.read("verified", id, &f)
	set := make(map[repo.ID]bool, len(f.Snapshots))
	for _, s := range f.Snapshots {
		set[s] = true
	}
	return func(id repo.ID) bool { return set[id] }, err
}

// SetVerified records that every byte that these snapshots need was read.
func (k Known) SetVerified(id repo.ID, at time.Time, snapshots []repo.ID) error {
	return k.write("verified", id, verifiedFile{at, snapshots})
}

// sampledFile is how far the rotation of samples of a repository has come.
type sampledFile struct {
	Day int64 `json:"day"` // since 1970, UTC: the last one whose share was read and found right
}

// Shares says how many days' shares of a repository have to be read today, where each of
// so many days has one: those since the last time, at most all.
func (k Known) Shares(id repo.ID, today int64, days int) (int, error) {
	var f sampledFile
	if err := k.read("sampled", id, &f); err != nil {
		return 1, err
	}
	if f.Day == 0 || f.Day > today { // for the first time, or a clock was wrong
		return 1, nil
	}
	return int(min(max(today-f.Day, 1), int64(days))), nil
}

// SetShares records that the shares up to today's were read and found right.
func (k Known) SetShares(id repo.ID, today int64) error {
	return k.write("sampled", id, sampledFile{today})
}

// read reads what is remembered of a repository; nothing is no error.
func (k Known) read(dir string, id repo.ID, v any) error {
	if k.Dir == "" {
		return nil
	}
	name := k.of(dir, id)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (k Known) write(dir string, id repo.ID, v any) error {
	if k.Dir == "" {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	name := k.of(dir, id)
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(name, append(b, '\n'), 0o600)
}

func (k Known) of(dir string, id repo.ID) string {
	return filepath.Join(k.Dir, dir, id.String()+".json")
}
