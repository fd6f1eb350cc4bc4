package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

type forgetFlags struct {
	last, hourly, daily, weekly, monthly, yearly int
	within                                       string
	tags                                         []string
	minKeep                                      int
	force, dryRun, prune                         bool
	pruning                                      pruneFlags
}

func (a *app) forgetCommand() *cobra.Command {
	var f forgetFlags
	c := &cobra.Command{
		Use:   "forget [SNAPSHOT…]",
		Short: "Remove snapshots that no rule keeps, or those named",
		Long: `Remove snapshots that no rule keeps, or those named, from each repository.

The rules are those of the flags or, where none is given, of [RETENTION] in the
configuration. They apply to the snapshots of each host and set of sources by
itself; what any of them keeps, stays. Whatever the rules say, these are kept: the
newest, the newest that is whole, the newest that 'verify --read-data' has found
right on this machine, those with the tag hold, suspicious ones and what is older
than these (until 'approve'), and those of the future. A negative number keeps all.
Archived logs of databases are kept as long as a dump needs them: of several
snapshots of a log, one is made that has all (docs/logs.md).

Named snapshots are removed unless they are held, suspicious or older than one that
is, or the newest that was verified (--force), and never the last one that is whole.

What only these snapshots needed stays until 'backup-handler prune', or --prune.

Exit codes: 0 done · 1 usage · 2 refused · 3 a repository failed · 130 interrupted`,
		Example: `  backup-handler forget --keep-daily 14 --keep-weekly 8 --keep-monthly 24 --dry-run
  backup-handler forget --host web1 --keep-last 10 --prune
  backup-handler forget 3f0c81aa`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.recorded(cmd.Context(), "forget", f.dryRun, nil, func(ctx context.Context, run *journal.Run) error {
				return a.forget(ctx, cmd, args, &f, run)
			})
		},
		ValidArgsFunction: a.completeSnapshots(1 << 30),
	}
	fl := c.Flags()
	a.filterFlags(c)
	a.pathFlag(c)
	fl.IntVar(&f.last, "keep-last", 0, "keep the newest N snapshots")
	fl.IntVar(&f.hourly, "keep-hourly", 0, "keep the newest of each of N hours that have any")
	fl.IntVar(&f.daily, "keep-daily", 0, "the same for days")
	fl.IntVar(&f.weekly, "keep-weekly", 0, "the same for weeks")
	fl.IntVar(&f.monthly, "keep-monthly", 0, "the same for months")
	fl.IntVar(&f.yearly, "keep-yearly", 0, "the same for years")
	fl.StringVar(&f.within, "keep-within", "", "keep all of this time before the newest, e.g. 1y6m14d12h")
	fl.StringSliceVar(&f.tags, "keep-tag", nil, "keep those with a tag (repeat)")
	fl.IntVar(&f.minKeep, "min-keep", 0, "keep the newest N whatever the rules say")
	fl.BoolVar(&f.force, "force", false, "remove named snapshots although they are held, suspicious, verified or damaged")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "print the decisions; remove nothing")
	fl.BoolVar(&f.prune, "prune", false, "then prune")
	f.pruning.register(fl)
	return c
}

// rules are the flags that are rules.
var keepFlags = []string{"keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly", "keep-within", "keep-tag"}

// policy is that of the flags, or the configuration's.
func (a *app) policy(fl *pflag.FlagSet, f *forgetFlags) (p retention.Policy, err error) {
	rc, err := a.cfg.Retention()
	if err != nil {
		return p, err
	}
	given := false
	for _, name := range keepFlags {
		given = given || fl.Changed(name)
	}
	if !given {
		p, err = job.Policy(rc)
	} else {
		p = retention.Policy{Last: f.last, Hourly: f.hourly, Daily: f.daily, Weekly: f.weekly, Monthly: f.monthly, Yearly: f.yearly, Tags: f.tags, MinKeep: rc.MinKeep}
		if p.Within, err = retention.ParseSpan(f.within); err != nil {
			err = fmt.Errorf("--keep-within %w", err)
		}
		for _, n := range []*int{&p.Last, &p.Hourly, &p.Daily, &p.Weekly, &p.Monthly, &p.Yearly} {
			*n = max(*n, retention.Forever)
		}
	}
	if fl.Changed("min-keep") {
		p.MinKeep = f.minKeep
	}
	return p, err
}

type forgetReport struct {
	Repository string         `json:"repository"`
	DryRun     bool           `json:"dry_run,omitempty"`
	Groups     []groupReport  `json:"groups"`
	Forgotten  []repo.ID      `json:"forgotten"`
	Gathered   []gatherReport `json:"gathered,omitempty"`
	Error      string         `json:"error,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Prune      *pruneReport   `json:"prune,omitempty"`
}

type groupReport struct {
	Host      string           `json:"host"`
	Kind      tree.Kind        `json:"kind,omitempty"`
	Sources   []tree.Path      `json:"sources"`
	Decisions []decisionReport `json:"snapshots"` // newest first
	Notes     []string         `json:"notes,omitempty"`
}

type decisionReport struct {
	ID      repo.ID   `json:"id"`
	Time    time.Time `json:"time"`
	Tags    []string  `json:"tags,omitempty"`
	Keep    bool      `json:"keep"`
	Reasons []string  `json:"reasons"`
}

// A gatherReport is about a log of which one snapshot has all now.
type gatherReport struct {
	ID   *repo.ID  `json:"id"` // of the new snapshot; null: dry run
	Host string    `json:"host"`
	Kind tree.Kind `json:"kind"`
	Name string    `json:"name"` // of the server, as in [DATABASE NAME]
}

func (a *app) forget(ctx context.Context, c *cobra.Command, names []string, f *forgetFlags, run *journal.Run) error {
	if err := a.load(); err != nil {
		return err
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	o := job.ForgetOptions{Names: names, Filter: a.filter, Force: f.force, DryRun: f.dryRun, Host: hostName(), Known: a.known(), Now: time.Now(), By: a.by()}
	if o.Policy, err = a.policy(c.Flags(), f); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	if len(names) == 0 && o.Policy.IsZero() {
		return usageError("name snapshots, use --keep-daily 14 and the like, or set [RETENTION] in the configuration", "no rule says what to keep: nothing was forgotten")
	}
	if f.force && len(names) == 0 {
		return usageError("name the snapshots", "--force without names would mean nothing")
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	var reports []forgetReport
	code := job.ExitOK
	var hints []string
	for _, l := range locations {
		o.Others = a.others([]string{l})
		rep, err := a.forgetIn(ctx, acc, l, o, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && len(locations) == 1 && len(rep.Forgotten) == 0 && rep.Prune == nil {
			return job.Fail(job.ExitPartial, err, openHint(err))
		}
		if err != nil {
			c, h := failureOf(err)
			code = max(code, c)
			rep.Error = oneLine(err.Error())
			if h != "" {
				hints = append(hints, h)
			}
		}
		reports = append(reports, *rep)
		run.Counts.Forgotten += int64(len(rep.Forgotten))
		destination(run, l, rep.Error)
	}
	err = a.print(reports, func(w io.Writer) error {
		for i := range reports {
			if err := a.forgetText(w, &reports[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || code == job.ExitOK {
		return err
	}
	return &job.Failure{Code: code, Err: job.ErrReported, Hint: strings.Join(hints, "; ")}
}

// failureOf is the code and the hint of an error about one of several repositories.
func failureOf(err error) (code int, hint string) {
	if f, ok := errors.AsType[*job.Failure](err); ok {
		return f.Code, f.Hint
	}
	return job.ExitPartial, openHint(err)
}

func (a *app) forgetIn(ctx context.Context, acc *job.Access, location string, o job.ForgetOptions, f *forgetFlags) (*forgetReport, error) {
	rep := &forgetReport{Repository: location, DryRun: o.DryRun, Groups: []groupReport{}, Forgotten: []repo.ID{}}
	d, err := acc.OpenDestination(ctx, location)
	if err != nil {
		return rep, err
	}
	defer d.Close()
	rep.Repository = d.Place
	res, err := d.Forget(ctx, o)
	a.forgotten(rep, res)
	if res != nil && len(d.Unreadable) > len(res.Damaged) {
		a.warn("%s: %s cannot be read, and stay: 'backup-handler verify' tells more", d.Place, things(len(d.Unreadable)-len(res.Damaged), "snapshot"))
	}
	if err != nil || !f.prune {
		return rep, err
	}
	rep.Prune, err = a.prune(ctx, d, &f.pruning, o.DryRun)
	return rep, err
}

// by is who makes a snapshot, in it.
func (a *app) by() tree.Snapshot {
	return tree.Snapshot{User: userName(), Program: "backup-handler " + version, RunID: a.runID}
}

// others are the destinations of the configuration beside some.
func (a *app) others(some []string) []string {
	all, err := a.configured()
	if err != nil {
		return []string{""} // one of which nothing is known
	}
	return slices.DeleteFunc(all, func(l string) bool { return slices.Contains(some, l) })
}

// forgotten fills a report, and records what is gone.
func (a *app) forgotten(rep *forgetReport, res *job.Forgetting) {
	if res == nil {
		return
	}
	rep.Forgotten = append(rep.Forgotten, res.Forgotten...)
	for _, g := range res.Gathered {
		r := gatherReport{Host: g.Log.Host, Kind: g.Log.Kind, Name: job.DatabaseName(g.Log)}
		if !rep.DryRun {
			r.ID = &g.Snapshot
			a.record("gather", slog.String("repository", rep.Repository), slog.String("snapshot", g.Snapshot.String()))
		}
		rep.Gathered = append(rep.Gathered, r)
	}
	for _, g := range res.Groups {
		gr := groupReport{Host: g.Host, Kind: g.Kind, Sources: g.Sources, Notes: g.Notes}
		for _, x := range g.Decisions {
			gr.Decisions = append(gr.Decisions, decisionReport{x.Snapshot.ID, x.Snapshot.Time, x.Snapshot.Tags, x.Keep, x.Reasons})
		}
		rep.Groups = append(rep.Groups, gr)
	}
	if !rep.DryRun {
		for _, id := range res.Forgotten {
			a.record("forget", slog.String("repository", rep.Repository), slog.String("snapshot", id.String()))
		}
	}
}

func (a *app) forgetText(w io.Writer, rep *forgetReport) error {
	if !a.quiet {
		for _, g := range rep.Groups {
			names := make([]string, len(g.Sources))
			for i, p := range g.Sources {
				names[i] = quote(string(p))
			}
			fmt.Fprintf(w, "%s  %s  %s\n", quote(rep.Repository), quote(g.Host), strings.Join(names, ", "))
			t := newTable("ID", "TIME", "", "WHY", "TAGS")
			for _, x := range g.Decisions {
				what := "keep"
				if !x.Keep {
					what = "FORGET"
				}
				t.row(x.ID.Short(), x.Time.Local().Format("2006-01-02 15:04"), what, strings.Join(x.Reasons, ", "), quote(strings.Join(x.Tags, ", ")))
			}
			if err := t.write(w); err != nil {
				return err
			}
			for _, n := range g.Notes {
				fmt.Fprintf(w, "note: %s\n", n)
			}
		}
		for _, g := range rep.Gathered {
			what := "would be brought together in a new snapshot"
			if g.ID != nil {
				what = "is in the new snapshot " + g.ID.Short() + ", all of it"
			}
			fmt.Fprintf(w, "%s  %s  the log of %s, which is in several snapshots, %s\n", quote(rep.Repository), quote(g.Host), quote(g.Name), what)
		}
		verb := "forgotten"
		if rep.DryRun {
			verb = "would be forgotten (dry run: nothing was removed)"
		}
		fmt.Fprintf(w, "%s  %s %s\n", quote(rep.Repository), things(len(rep.Forgotten), "snapshot"), verb)
	}
	if rep.Prune != nil {
		a.pruneText(w, rep.Prune)
	}
	if rep.Error != "" {
		fmt.Fprintf(w, "%s  FAILED: %s\n", quote(rep.Repository), rep.Error)
	}
	return nil
}

// retainedText tells in few words what a backup has forgotten.
func (a *app) retainedText(w io.Writer, rep *forgetReport) {
	if n := len(rep.Forgotten); n > 0 && !a.quiet {
		fmt.Fprintf(w, "  %s  %s forgotten\n", quote(rep.Repository), things(n, "old snapshot"))
	}
	for _, g := range rep.Groups {
		for _, n := range g.Notes {
			fmt.Fprintf(w, "  %s  note: %s\n", quote(rep.Repository), n)
		}
	}
	if p := rep.Prune; p != nil && p.PruneReport != nil && rep.Error == "" && (!a.quiet || p.damaged()) {
		fmt.Fprintf(w, "  %s  pruned: %s deleted, %s condemned\n", quote(rep.Repository), bytesText(p.DeletedBytes), bytesText(p.CondemnedBytes))
		if p.damaged() {
			fmt.Fprintf(w, "  %s  DAMAGED: 'backup-handler prune' tells what it has found\n", quote(rep.Repository))
		}
	}
	if rep.Error != "" {
		fmt.Fprintf(w, "  %s  retention FAILED: %s\n", quote(rep.Repository), rep.Error)
		if rep.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", rep.Hint)
		}
	}
}

// A keeping is how a backup applies the configuration's rules.
type keeping struct {
	policy retention.Policy
	config.Retention
}

// keeping reads the rules, of which count, if it is not 0, is the number that are kept.
// It is done before a backup: one that has succeeded must not end with their errors.
func (a *app) keeping(count int) (k keeping, err error) {
	if k.Retention, err = a.cfg.Retention(); err != nil {
		return k, err
	}
	if count > 0 {
		k.MaxCount = count
	}
	k.policy, err = job.Policy(k.Retention)
	return k, err
}

// retain applies the rules to the groups that a backup has added to, and prunes where it is time
// for that. The error is that of the context.
func (a *app) retain(ctx context.Context, acc *job.Access, made []*tree.Snapshot, places []string, k keeping) ([]forgetReport, error) {
	if k.policy.IsZero() {
		return nil, nil
	}
	var reports []forgetReport
	for _, place := range places {
		rep := a.retainIn(ctx, acc, made, place, k)
		if ctx.Err() != nil {
			return reports, ctx.Err()
		}
		reports = append(reports, *rep)
	}
	return reports, nil
}

func (a *app) retainIn(ctx context.Context, acc *job.Access, made []*tree.Snapshot, place string, k keeping) *forgetReport {
	rep := &forgetReport{Repository: place, Groups: []groupReport{}, Forgotten: []repo.ID{}}
	fail := func(err error) *forgetReport {
		rep.Error = oneLine(err.Error())
		_, rep.Hint = failureOf(err)
		return rep
	}
	d, err := acc.OpenDestination(ctx, place)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	if d.Repo.WriteOnly() {
		rep.Groups = append(rep.Groups, groupReport{Notes: []string{"the key is a write-only one: old snapshots are left to a host that can list them"}})
		return rep
	}
	groups := make([]tree.Group, len(made))
	for i, s := range made {
		groups[i] = s.Group()
	}
	res, err := d.Forget(ctx, job.ForgetOptions{
		Groups: groups, Policy: k.policy, Host: hostName(), Known: a.known(), Now: time.Now(), Others: a.others([]string{place}), By: a.by(),
	})
	a.forgotten(rep, res)
	if err != nil {
		return fail(err)
	}
	due, err := a.known().PruneDue(d.Repo.ID(), k.PruneEvery, len(rep.Forgotten) > 0, time.Now())
	if err != nil {
		return fail(err)
	}
	if due {
		if rep.Prune, err = a.prune(ctx, d, new(pruneFlags), false); err != nil {
			return fail(err)
		}
	}
	return rep
}
