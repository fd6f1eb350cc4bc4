package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

type repairFlags struct {
	from     string
	keys     otherKeys
	noSource bool
	dryRun   bool
}

func (a *app) repairCommand() *cobra.Command {
	var wait *parsed[time.Duration]
	var f repairFlags
	c := &cobra.Command{
		Use:   "repair [--from LOCATION] [--backup-dirs DAMAGED]",
		Short: "Heal a damaged repository, from whatever still has the data",
		Long: `Heal a damaged repository, from whatever still has the data.

The damaged repository is --backup-dirs, or the only one of the configuration that
is not --from. Every byte of it is read. What its snapshots need and cannot be read
is stored again, taken from

  its repair data, if it has some ([REPOSITORY] parity);
  --from, another repository that has the same data, which is only read;
  the files of this host that its snapshots were made of, as far as their bytes are
  still the same (not with --no-source).

Config, key slots and snapshots that are damaged or gone get the bytes back that
they had, from their repair data; a snapshot that does not open otherwise is
exchanged for that of the same ID in --from. Then every byte is read again. What is
still lost is listed by name.

Damaged packs are condemned: backups no longer rely on them, and 'backup-handler
prune' stores what is good of them elsewhere and deletes them. Until then 'verify'
says "DAMAGED, but every snapshot is whole".

--dry-run reads the damaged repository, and tells what would be stored, exchanged,
and lost all the same, as far as the index of --from knows.

Exit codes: 0 every snapshot is whole, or (--dry-run) would be · 1 something is
still lost, or usage · 3 something could not be stored · 130 interrupted`,
		Example: `  backup-handler repair --backup-dirs /mnt/disk/backup --dry-run
  backup-handler repair --from /mnt/nas/backup --backup-dirs /mnt/disk/backup
  backup-handler repair --from sftp://nas/backup --from-key-file nas.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.recorded(cmd.Context(), "repair", f.dryRun, wait, func(ctx context.Context, run *journal.Run) error {
				return a.repair(ctx, &f, run)
			})
		},
	}
	fl := c.Flags()
	wait = waitFlag(c)
	fl.StringVar(&f.from, "from", "", "repository that is whole")
	f.keys.register(c, "from", "--from, where another key than the damaged one's opens it")
	fl.BoolVar(&f.noSource, "no-source", false, "do not look for what is lost in the files of this host")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be done; write nothing")
	return c
}

type repairReport struct {
	Repository string `json:"repository"`
	From       string `json:"from,omitempty"`
	DryRun     bool   `json:"dry_run,omitempty"`
	// Whole: every snapshot can be restored, now or, dry, afterwards.
	Whole  bool  `json:"whole"`
	Healed int64 `json:"healed_files"`
	Chunks int64 `json:"chunks_stored"`
	Bytes  int64 `json:"bytes_stored"` // of these chunks, uncompressed
	// BySource: chunks stored, by where they came from.
	BySource  map[string]int64     `json:"by_source,omitempty"`
	Objects   []repo.DamagedObject `json:"healed_objects,omitempty"`
	Protected int                  `json:"protected_objects,omitempty"`
	Exchanged []repo.ID            `json:"exchanged_snapshots"`
	Failed    []failedSnapshotJSON `json:"failed_snapshots,omitempty"`
	Lost      []verify.LostFile    `json:"lost,omitempty"`
	LostCount int64                `json:"lost_count"`
	Before    *verify.Report       `json:"before"`
	After     *verify.Report       `json:"after,omitempty"`
	Seconds   float64              `json:"seconds"`
}

func (a *app) repair(ctx context.Context, f *repairFlags, run *journal.Run) error {
	a.proving = true
	if err := a.load(); err != nil {
		return err
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	locations = slices.DeleteFunc(slices.Clone(locations), func(l string) bool { return l == f.from })
	if len(locations) != 1 {
		return usageError("name it with --backup-dirs", "one repository is repaired at a time, not %d", len(locations))
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	var done, total atomic.Int64
	o := job.RepairOptions{DryRun: f.dryRun, Workers: max(2, runtime.GOMAXPROCS(0)), Progress: func(stage string, d, t int64) {
		if stage == verify.StageData {
			done.Store(d)
			total.Store(t)
		}
	}}
	if !f.noSource {
		o.Host, _ = os.Hostname() // without a name there is no snapshot of it
	}
	if o.Write, err = a.writerOptions(); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	d, err := acc.OpenDestination(ctx, locations[0])
	if err != nil {
		return job.Fail(job.ExitUsage, err, openHint(err))
	}
	defer d.Close()
	var from *job.Destination
	if f.from != "" {
		if from, err = a.openFrom(ctx, f); err != nil {
			return err
		}
		defer from.Close()
	}
	start := time.Now()
	m := a.meter("repair", func() sample { return sample{bytes: done.Load(), totalBytes: total.Load()} })
	res, err := job.Repair(ctx, d, from, o)
	m.stop()
	if !f.dryRun {
		ok := err == nil && res.Whole()
		a.record("repair", slog.String("repository", d.Place), slog.String("from", f.from), slog.Bool("ok", ok))
	}
	if err != nil {
		return err
	}
	rep := newRepairReport(d, from, res, f.dryRun, time.Since(start))
	run.Counts.Problems = rep.LostCount
	destination(run, d.Location, "")
	if !rep.Whole {
		run.Error = "the repository is not whole: " + things(int(rep.LostCount), "file") + " lost"
	}
	err = a.print(rep, func(w io.Writer) error {
		if !a.quiet || !rep.Whole {
			repairText(w, &rep)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return repairOutcome(&rep)
}

// openFrom opens the repository of --from, with keys of its own.
func (a *app) openFrom(ctx context.Context, f *repairFlags) (*job.Destination, error) {
	if err := checkLocations([]string{f.from}); err != nil {
		return nil, err
	}
	acc, err := a.otherAccess(&f.keys, false, nil)
	if err != nil {
		return nil, err
	}
	from, err := acc.OpenDestination(ctx, f.from)
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, openHint(err))
	}
	if err := from.Load(ctx); err != nil {
		from.Close()
		return nil, job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(f.from), err), "")
	}
	return from, nil
}

func newRepairReport(d, from *job.Destination, res *job.RepairResult, dryRun bool, took time.Duration) repairReport {
	rep := repairReport{
		Repository: d.Place, DryRun: dryRun, Whole: res.Whole(), Healed: res.Healed(), Chunks: res.Chunks, Bytes: res.Bytes,
		BySource: res.BySource, Objects: res.Objects, Protected: res.Protected,
		Exchanged: append([]repo.ID{}, res.Exchanged...), Lost: res.Lost, LostCount: res.LostCount, Before: res.Before, After: res.After,
		Seconds: took.Seconds(),
	}
	if from != nil {
		rep.From = from.Place
	}
	for _, x := range res.Failed {
		rep.Failed = append(rep.Failed, failedSnapshotJSON{x.ID, oneLine(x.Err.Error())})
	}
	return rep
}

func repairText(w io.Writer, rep *repairReport) {
	b := rep.Before
	switch {
	case b.OK():
		fmt.Fprintf(w, "%s  ok: there is nothing to repair\n", quote(rep.Repository))
		protectedText(w, rep)
		return
	case b.Snapshots == 0 && len(b.BadSnapshots) == 0:
		fmt.Fprintf(w, "%s  NOTHING TO REPAIR: it has no snapshot\n", quote(rep.Repository))
		return
	}
	fmt.Fprintf(w, "%s  %s files were lost, %s snapshots did not open\n", quote(rep.Repository), countText(b.LostCount), countText(int64(len(b.BadSnapshots))))
	stored, exchanged, healed := "stored", "exchanged", "healed"
	if rep.DryRun {
		stored, exchanged, healed = "would store", "would exchange", "would heal"
	}
	fmt.Fprintf(w, "  %-15s %s chunks again, %s\n", stored, countText(rep.Chunks), bytesText(rep.Bytes))
	for _, name := range slices.Sorted(maps.Keys(rep.BySource)) {
		fmt.Fprintf(w, "  %-15s %s chunks of these from %s\n", "", countText(rep.BySource[name]), quote(name))
	}
	for _, x := range rep.Objects {
		fmt.Fprintf(w, "  %-15s %s, from its repair data\n", healed, x.Name)
	}
	for _, id := range rep.Exchanged {
		fmt.Fprintf(w, "  %-15s snapshot %s\n", exchanged, id.Short())
	}
	fmt.Fprintf(w, "  %-15s %s files\n", healed, countText(rep.Healed))
	protectedText(w, rep)
	for _, x := range rep.Failed {
		fmt.Fprintf(w, "  STILL DAMAGED   snapshot %s: %s\n", x.ID.Short(), x.Error)
	}
	for _, l := range rep.Lost {
		fmt.Fprintf(w, "  STILL LOST      %s:%s (%s)\n", l.Snapshot.Short(), quote(string(l.Path)), oneLine(l.Reason))
	}
	if n := rep.LostCount - int64(len(rep.Lost)); n > 0 {
		fmt.Fprintf(w, "  and %s more lost files\n", countText(n))
	}
	switch {
	case rep.Whole && rep.DryRun:
		fmt.Fprintln(w, "dry run: nothing was written; every snapshot would be whole")
	case rep.Whole:
		fmt.Fprintln(w, "every snapshot is whole")
	case rep.DryRun:
		fmt.Fprintln(w, "dry run: nothing was written; NOT EVERYTHING would be whole")
	default:
		fmt.Fprintln(w, "NOT EVERYTHING is whole")
	}
}

func protectedText(w io.Writer, rep *repairReport) {
	if rep.Protected > 0 {
		fmt.Fprintf(w, "  %-15s repair data of %s objects that had none\n", "made", countText(int64(rep.Protected)))
	}
}

// repairOutcome is the exit code, and what to do next.
func repairOutcome(rep *repairReport) error {
	code, hint := job.ExitOK, ""
	last := rep.After
	if last == nil {
		last = rep.Before
	}
	switch {
	case !rep.Whole && rep.Before.Snapshots == 0 && len(rep.Before.BadSnapshots) == 0:
		code, hint = job.ExitUsage, "'backup-handler copy' brings snapshots from another repository"
	case !rep.Whole:
		code, hint = job.ExitUsage, "restore gives back everything that is whole; another repository, or a backup while the sources have it, may have the rest"
	case !rep.DryRun && !last.OK():
		hint = "damaged objects, and the names of missing ones, stay until a prune: 'verify' says \"DAMAGED, but every snapshot is whole\""
	}
	if code == job.ExitOK && hint == "" {
		return nil
	}
	return &job.Failure{Code: code, Err: job.ErrReported, Hint: hint}
}
