package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Policy is what the section [RETENTION] says.
func Policy(c config.Retention) (retention.Policy, error) {
	within, err := retention.ParseSpan(c.Within)
	return retention.Policy{
		MaxAge: c.MaxAge, MaxCount: c.MaxCount, Last: c.Last, Hourly: c.Hourly, Daily: c.Daily, Weekly: c.Weekly,
		Monthly: c.Monthly, Yearly: c.Yearly, Within: within, Tags: c.Tags, MinKeep: c.MinKeep,
	}, err
}

// ForgetOptions say which snapshots are forgotten.
type ForgetOptions struct {
	// Names are snapshots to be forgotten; none: Policy decides about those that
	// Filter chooses.
	Names  []string
	Filter Filter
	// Groups, if there are any, are those that Policy decides about.
	Groups []tree.Group
	Policy retention.Policy
	// Force forgets named snapshots although they are held, suspicious, the newest
	// that was verified, or damaged.
	Force  bool
	DryRun bool
	Host   string // this one, for Filter.Resolve
	Known  Known
	Now    time.Time
	// Others are the other destinations of the configuration: dumps there may need what of
	// a log would be left out here.
	Others []string
	// By is who brings logs together, in the snapshot that has all of one.
	By tree.Snapshot
}

// A Forgetting is what was decided about the snapshots of one repository, and done.
type Forgetting struct {
	Groups []retention.Group
	// Damaged are named snapshots that do not open.
	Damaged []repo.ID
	// Forgotten are gone or, dry, would be.
	Forgotten []repo.ID
	Gathered  []Gathered
}

// Gathered is a log of which one snapshot was made that has all, or, dry, would be.
type Gathered struct {
	Snapshot repo.ID        // the new one; dry: none
	Log      *tree.Snapshot // the newest that there was
}

// Forget removes snapshots. What only they needed stays until a prune. The list of
// snapshots is read anew. The error is a *Failure.
//
// Policy does not decide about archived logs, of which it would keep one file in seven: they
// are brought together instead, and what no dump needs any more is left out (docs/logs.md).
func (d *Destination) Forget(ctx context.Context, o ForgetOptions) (*Forgetting, error) {
	if err := d.LoadSnapshots(ctx); err != nil {
		return nil, Fail(ExitPartial, err, "")
	}
	verified, err := o.Known.Verified(d.Repo.ID())
	if err != nil {
		return nil, Fail(ExitRefused, err, "nothing was forgotten; remove that file, and verify again")
	}
	facts := retention.Facts{Verified: verified, Approved: o.Known.Approved}
	f := new(Forgetting)
	var logs []tree.Group
	if len(o.Names) == 0 {
		chosen := o.Filter.Of(d.Snapshots)
		if len(o.Groups) > 0 {
			chosen = slices.DeleteFunc(chosen, func(s *tree.Snapshot) bool { return !slices.Contains(o.Groups, s.Group()) })
		}
		f.Groups = retention.Decide(o.Policy, slices.DeleteFunc(slices.Clone(chosen), func(s *tree.Snapshot) bool { return isLog(s.Kind) }), facts, o.Now)
		for _, s := range chosen {
			if isLog(s.Kind) && !slices.Contains(logs, s.Group()) {
				logs = append(logs, s.Group())
			}
		}
	} else if err := f.name(d, &o, facts); err != nil {
		return nil, err
	}
	going := slices.Clone(f.Damaged)
	for _, g := range f.Groups {
		for _, x := range slices.Backward(g.Decisions) { // oldest first
			if !x.Keep {
				going = append(going, x.Snapshot.ID)
			}
		}
	}
	if o.DryRun {
		f.Forgotten = going
		return f, d.lookAtLogs(ctx, f, logs, &o)
	}
	for _, id := range going {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		if err := d.Repo.Forget(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return f, Fail(ExitPartial, fmt.Errorf("forget snapshot %s: %w", id.Short(), err), "")
		}
		f.Forgotten = append(f.Forgotten, id)
	}
	d.Snapshots = slices.DeleteFunc(d.Snapshots, func(s *tree.Snapshot) bool { return slices.Contains(f.Forgotten, s.ID) })
	return f, d.gatherLogs(ctx, f, logs, &o)
}

// gatherLogs brings logs together. One of them keeps the others from nothing.
func (d *Destination) gatherLogs(ctx context.Context, f *Forgetting, logs []tree.Group, o *ForgetOptions) error {
	look := &Outlook{Known: o.Known, Open: []*Destination{d}, Away: o.Others}
	if err := look.remember(); err != nil {
		return Fail(ExitPartial, fmt.Errorf("remember what dumps need: %w", err), "")
	}
	var failed []error
	for _, group := range logs {
		before := d.chain(group)
		if len(before) < 3 {
			continue
		}
		made, err := d.gatherLog(ctx, group, look, o)
		if made != nil {
			f.Gathered = append(f.Gathered, Gathered{made.ID, before[0]})
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed = append(failed, fmt.Errorf("the log of %s: %w", DatabaseName(before[0]), err))
			continue
		}
		after := d.chain(group)
		for _, s := range before {
			if !slices.ContainsFunc(after, func(o *tree.Snapshot) bool { return o.ID == s.ID }) {
				f.Forgotten = append(f.Forgotten, s.ID)
			}
		}
	}
	return failedLogs(failed)
}

func failedLogs(failed []error) error {
	if len(failed) == 0 {
		return nil
	}
	return Fail(ExitPartial, errors.Join(failed...), hint(failed[0]))
}

// lookAtLogs says what gatherLogs would do, once what f forgets is gone.
func (d *Destination) lookAtLogs(ctx context.Context, f *Forgetting, logs []tree.Group, o *ForgetOptions) error {
	logs = slices.DeleteFunc(logs, func(g tree.Group) bool { return len(d.chain(g)) < 3 })
	if len(logs) == 0 {
		return nil
	}
	if err := d.Load(ctx); err != nil {
		return Fail(ExitPartial, err, "")
	}
	d.Snapshots = slices.DeleteFunc(d.Snapshots, func(s *tree.Snapshot) bool { return slices.Contains(f.Forgotten, s.ID) })
	look := &Outlook{Known: o.Known, Open: []*Destination{d}, Away: o.Others}
	var failed []error
	for _, group := range logs {
		plan, err := planGathering(ctx, d, group, look)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("the log of %s: %w", DatabaseName(d.chain(group)[0]), err))
			continue
		}
		if plan == nil {
			continue
		}
		going := plan.superseded
		if plan.together != nil {
			f.Gathered = append(f.Gathered, Gathered{Log: plan.last})
			// The newest stays beside the new one.
			going = append(going, slices.DeleteFunc(plan.together, func(s *tree.Snapshot) bool { return s == plan.last })...)
		}
		for _, s := range going {
			f.Forgotten = append(f.Forgotten, s.ID)
		}
	}
	return failedLogs(failed)
}

func (d *Destination) gatherLog(ctx context.Context, group tree.Group, look *Outlook, o *ForgetOptions) (*tree.Snapshot, error) {
	for attempt := 1; ; attempt++ {
		if err := d.Load(ctx); err != nil {
			return nil, err
		}
		made, err := GatherLog(ctx, d, group, look, o.By, repo.WriterOptions{})
		if !errors.Is(err, repo.ErrRaced) || attempt == 2 {
			return made, err
		}
	}
}

// name decides about named snapshots.
func (f *Forgetting) name(d *Destination, o *ForgetOptions, facts retention.Facts) error {
	wanted := make(map[repo.ID]bool)
	for _, name := range o.Names {
		if id, ok := damaged(d, name); ok {
			if !o.Force {
				return Fail(ExitRefused, fmt.Errorf("snapshot %s does not open: nobody knows what is in it", id.Short()),
					"'backup-handler repair' fetches it from another repository; --force forgets it")
			}
			f.Damaged = append(f.Damaged, id)
			continue
		}
		s, _, err := o.Filter.Resolve(d.Snapshots, name, o.Host)
		if err != nil {
			return err
		}
		wanted[s.ID] = true
	}
	f.Groups = retention.Remove(d.Snapshots, func(s *tree.Snapshot) bool { return wanted[s.ID] }, facts, o.Force)
	return nil
}

func damaged(d *Destination, name string) (id repo.ID, ok bool) {
	if !isPrefix(name) {
		return id, false
	}
	for _, s := range d.Unreadable {
		if strings.HasPrefix(s.ID.String(), name) {
			if ok {
				return id, false // ambiguous: Resolve finds none
			}
			id, ok = s.ID, true
		}
	}
	return id, ok
}
