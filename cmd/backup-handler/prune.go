package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

type pruneFlags struct {
	maxUnused, maxRepack parsed[config.Unused]
	grace                parsed[time.Duration]
	alone                bool
}

func (f *pruneFlags) register(fl *pflag.FlagSet) {
	f.maxUnused = parsed[config.Unused]{kind: "share or size", parse: config.ParseUnused}
	f.maxRepack = parsed[config.Unused]{kind: "size", parse: func(text string) (config.Unused, error) {
		u, err := config.ParseUnused(text)
		if u.Share != 0 {
			err = errors.New("must be a size such as 10G, or unlimited")
		}
		return u, err
	}}
	f.grace = parsed[time.Duration]{kind: "duration", parse: parseLimit}
	fl.Var(&f.maxUnused, "max-unused", "what may stay unused in packs that are needed in part: 5%, 10G or unlimited (default: the configuration's, else 5%)")
	fl.Var(&f.maxRepack, "max-repack", "move at most this much to get there, e.g. 10G (default unlimited)")
	fl.Var(&f.grace, "grace", "how long packs stay after they were condemned, at least 1h (default: the configuration's, else 24h)")
	fl.BoolVar(&f.alone, "alone", false, "delete at once: ONLY while no other process on any machine uses the repository")
}

func (a *app) pruneCommand() *cobra.Command {
	var wait *parsed[time.Duration]
	var f pruneFlags
	dryRun := false
	c := &cobra.Command{
		Use:   "prune",
		Short: "Give back the space of what no snapshot needs",
		Long: `Give back the space of what no snapshot needs, in each repository.

Nobody is locked out: backups and restores go on, from any machine. So it takes two
runs, a grace period apart: the first condemns packs (and stores anew what is still
needed of them), the second deletes them. Run it every day or week; a backup with
rules in [RETENTION] does by itself. Every block that takes the place of one that is
deleted is read first. What cannot be read, or cannot be understood, stays.

--alone deletes at once. It is for a repository that no other process uses, on any
machine: a backup that runs meanwhile may lose what it relies on.

Exit codes: 0 done · 1 usage · 2 refused: something that is needed cannot be
read · 3 a repository failed, or has damage · 130 interrupted (run it again)`,
		Example: `  backup-handler prune --dry-run
  backup-handler prune --backup-dirs /mnt/disk/backup --max-unused 10% --max-repack 20G`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.recorded(cmd.Context(), "prune", dryRun, wait, func(ctx context.Context, run *journal.Run) error {
				return a.pruneAll(ctx, &f, dryRun, run)
			})
		},
	}
	f.register(c.Flags())
	wait = waitFlag(c)
	c.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "say what would be done; change nothing")
	return c
}

type pruneReport struct {
	Repository string `json:"repository"`
	DryRun     bool   `json:"dry_run,omitempty"`
	*repo.PruneReport
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

func (a *app) pruneAll(ctx context.Context, f *pruneFlags, dryRun bool, run *journal.Run) error {
	if err := a.load(); err != nil {
		return err
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	var reports []pruneReport
	code := job.ExitOK
	var hints []string
	for _, l := range locations {
		rep, err := a.pruneIn(ctx, acc, l, f, dryRun)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && len(locations) == 1 && (rep.PruneReport == nil || rep.Packs == 0) {
			return job.Fail(job.ExitPartial, err, openHint(err))
		}
		if err != nil {
			c, h := failureOf(err)
			code = max(code, c)
			rep.Error = oneLine(err.Error())
			if h != "" {
				hints = append(hints, h)
			}
		} else if rep.damaged() {
			code = job.ExitPartial
			hints = append(hints, "'backup-handler verify --read-data' names what is damaged, 'repair' heals it from another repository")
		}
		reports = append(reports, *rep)
		problem := rep.Error
		if problem == "" && rep.damaged() {
			problem = "something that is needed is damaged"
		}
		destination(run, l, problem)
	}
	err = a.print(reports, func(w io.Writer) error {
		for i := range reports {
			a.pruneText(w, &reports[i])
		}
		return nil
	})
	if err != nil || code == job.ExitOK {
		return err
	}
	return &job.Failure{Code: code, Err: job.ErrReported, Hint: strings.Join(hints, "; ")}
}

// damaged says whether something that is needed could not be read.
func (r *pruneReport) damaged() bool {
	return r.PruneReport != nil && len(r.Kept)+len(r.Faults)+len(r.DamagedLists) > 0 || r.PruneReport != nil && r.Lost > 0
}

func (a *app) pruneIn(ctx context.Context, acc *job.Access, location string, f *pruneFlags, dryRun bool) (*pruneReport, error) {
	d, err := acc.OpenDestination(ctx, location)
	if err != nil {
		return &pruneReport{Repository: location}, err
	}
	defer d.Close()
	return a.prune(ctx, d, f, dryRun)
}

func (a *app) prune(ctx context.Context, d *job.Destination, f *pruneFlags, dryRun bool) (*pruneReport, error) {
	out := &pruneReport{Repository: d.Place, DryRun: dryRun}
	rc, err := a.cfg.Retention()
	if err != nil {
		return out, job.Fail(job.ExitUsage, err, "")
	}
	unused := f.maxUnused.or(rc.MaxUnused)
	o := repo.PruneOptions{
		Grace: f.grace.or(rc.Grace), Alone: f.alone, MaxUnused: unused.Share, MaxUnusedBytes: unused.Bytes,
		MaxRepack: f.maxRepack.or(config.Unused{Bytes: math.MaxInt64}).Bytes,
		DryRun:    dryRun, Host: hostName(), Workers: max(2, runtime.GOMAXPROCS(0)),
	}
	if o.Grace < repo.MinGrace {
		return out, job.Fail(job.ExitUsage, fmt.Errorf("a grace period of %s is less than %s", o.Grace, repo.MinGrace), "")
	}
	if o.Write, err = a.writerOptions(); err != nil {
		return out, job.Fail(job.ExitUsage, err, "")
	}
	var done, total atomic.Int64
	var stage atomic.Value
	stage.Store("look for what is needed")
	o.Progress = func(what string, d, t int64) {
		stage.Store(what)
		done.Store(d)
		total.Store(t)
	}
	var writer atomic.Pointer[repo.Writer]
	o.Watch = func(w *repo.Writer) { writer.Store(w); stage.Store("move") }
	m := a.meter("prune", func() sample {
		s := sample{bytes: done.Load(), totalBytes: total.Load(), current: stage.Load().(string)}
		if w := writer.Load(); w != nil && s.current == "move" {
			s.bytes, s.totalBytes = w.Stats.BytesStored.Load(), 0
		}
		return s
	})
	start := time.Now()
	out.PruneReport, err = d.Prune(ctx, o, a.known())
	m.stop()
	out.Seconds = time.Since(start).Seconds()
	if r := out.PruneReport; r != nil && !dryRun && r.Condemned+r.Deleted > 0 {
		a.record("prune", slog.String("repository", d.Place), slog.Int("condemned", r.Condemned), slog.Int("deleted", r.Deleted), slog.Int64("deleted_bytes", r.DeletedBytes), slog.Bool("alone", f.alone), slog.Bool("ok", err == nil))
	}
	return out, err
}

func (a *app) pruneText(w io.Writer, rep *pruneReport) {
	if rep.Error != "" {
		fmt.Fprintf(w, "%s  FAILED: %s\n", quote(rep.Repository), rep.Error)
	}
	r := rep.PruneReport
	if r == nil || rep.Error != "" && r.Packs == 0 {
		return
	}
	line := func(format string, args ...any) { fmt.Fprintf(w, "  "+format+"\n", args...) }
	if !a.quiet {
		state := "pruned in " + durationText(time.Duration(rep.Seconds*float64(time.Second)))
		if rep.DryRun {
			state = "would be pruned (dry run: nothing was changed)"
		}
		fmt.Fprintf(w, "%s  %s\n", quote(rep.Repository), state)
		line("before     %s packs, %s; snapshots need %s, unused in packs that stay %s", countText(int64(r.Packs)), bytesText(r.Bytes), bytesText(r.Needed), bytesText(r.Unused))
		line("deleted    %s packs, %s", countText(int64(r.Deleted)), bytesText(r.DeletedBytes))
		line("condemned  %s packs, %s; %s of them still needed, and stored anew", countText(int64(r.Condemned)), bytesText(r.CondemnedBytes), bytesText(r.Moved))
		if r.Waiting > 0 {
			line("waiting    %s packs, %s, condemned before", countText(int64(r.Waiting)), bytesText(r.WaitingBytes))
		}
		if !r.Until.IsZero() {
			line("           a prune after %s deletes them", r.Until.Local().Format("2006-01-02 15:04"))
		}
		if r.Announced > 0 {
			line("in use     %s packs, %s, of runs that have not ended", countText(int64(r.Announced)), bytesText(r.AnnouncedBytes))
		}
	}
	if r.Lost > 0 {
		line("LOST       %s chunks that snapshots need are nowhere", countText(r.Lost))
	}
	for _, f := range r.Faults {
		line("fault: %s", oneLine(f))
	}
	for _, id := range r.Kept {
		line("kept: condemned pack %s: something that is needed of it cannot be read", id)
	}
	for _, id := range r.DamagedLists {
		line("damaged condemned list %s: it is not acted on", id)
	}
}
