package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

type repairFlags struct {
	from   string
	keys   otherKeys
	dryRun bool
}

func (a *app) repairCommand() *cobra.Command {
	var f repairFlags
	c := &cobra.Command{
		Use:   "repair --from LOCATION [--backup-dirs DAMAGED]",
		Short: "Heal a damaged repository from another one that has the same data",
		Long: `Heal a damaged repository from another one that has the same data.

The damaged repository is --backup-dirs, or the only one of the configuration that
is not --from. Every byte of it is read. What its snapshots need and cannot be read
is stored again; a snapshot that does not open is exchanged for that of the same ID
in --from, the one case in which an object is replaced. Then every byte is read
again. --from is only read. What is still lost is listed by name.

Damaged packs are condemned: backups no longer rely on them, and 'backup-handler
prune' stores what is good of them elsewhere and deletes them. Until then 'verify'
says "DAMAGED, but every snapshot is whole".

--dry-run reads the damaged repository, and tells what would be stored, exchanged,
and lost all the same as far as the index of --from knows.

Exit codes: 0 every snapshot is whole, or (--dry-run) would be · 1 something is
still lost, or usage · 3 something could not be stored · 130 interrupted`,
		Example: `  backup-handler repair --from /mnt/nas/backup --backup-dirs /mnt/disk/backup --dry-run
  backup-handler repair --from sftp://nas/backup --from-key-file nas.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.repair(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.from, "from", "", "repository that is whole")
	f.keys.register(c, "from", "--from, where another key than the damaged one's opens it")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be done; write nothing")
	return c
}

type repairReport struct {
	Repository string `json:"repository"`
	From       string `json:"from"`
	DryRun     bool   `json:"dry_run,omitempty"`
	// Whole: every snapshot can be restored, now or, dry, afterwards.
	Whole     bool                 `json:"whole"`
	Healed    int64                `json:"healed_files"`
	Chunks    int64                `json:"chunks_stored"`
	Bytes     int64                `json:"bytes_stored"` // of these chunks, uncompressed
	Exchanged []repo.ID            `json:"exchanged_snapshots"`
	Failed    []failedSnapshotJSON `json:"failed_snapshots,omitempty"`
	Lost      []verify.LostFile    `json:"lost,omitempty"`
	LostCount int64                `json:"lost_count"`
	Before    *verify.Report       `json:"before"`
	After     *verify.Report       `json:"after,omitempty"`
	Seconds   float64              `json:"seconds"`
}

func (a *app) repair(ctx context.Context, f *repairFlags) error {
	if f.from == "" {
		return usageError("add --from LOCATION, another repository that has the same data", "repair from what?")
	}
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
	if err := checkLocations([]string{f.from}); err != nil {
		return err
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	fromAcc, err := a.otherAccess(&f.keys, false, nil)
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
	if o.Write, err = a.writerOptions(); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	d, err := acc.OpenDestination(ctx, locations[0])
	if err != nil {
		return job.Fail(job.ExitUsage, err, openHint(err))
	}
	defer d.Close()
	from, err := fromAcc.OpenDestination(ctx, f.from)
	if err != nil {
		return job.Fail(job.ExitUsage, err, openHint(err))
	}
	defer from.Close()
	if err := from.Load(ctx); err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(f.from), err), "")
	}
	start := time.Now()
	m := a.meter("repair", func() sample { return sample{bytes: done.Load(), totalBytes: total.Load()} })
	res, err := job.Repair(ctx, d, from, o)
	m.stop()
	if !f.dryRun {
		ok := err == nil && res.Whole()
		a.record("repair", slog.String("repository", d.Place), slog.String("from", from.Place), slog.Bool("ok", ok))
	}
	if err != nil {
		return err
	}
	rep := repairReport{
		Repository: d.Place, From: from.Place, DryRun: f.dryRun, Whole: res.Whole(), Healed: res.Healed(), Chunks: res.Chunks, Bytes: res.Bytes,
		Exchanged: append([]repo.ID{}, res.Exchanged...), Lost: res.Lost, LostCount: res.LostCount, Before: res.Before, After: res.After,
		Seconds: time.Since(start).Seconds(),
	}
	for _, x := range res.Failed {
		rep.Failed = append(rep.Failed, failedSnapshotJSON{x.ID, oneLine(x.Err.Error())})
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

func repairText(w io.Writer, rep *repairReport) {
	b := rep.Before
	switch {
	case b.OK():
		fmt.Fprintf(w, "%s  ok: there is nothing to repair\n", quote(rep.Repository))
		return
	case b.Snapshots == 0 && len(b.BadSnapshots) == 0:
		fmt.Fprintf(w, "%s  NOTHING TO REPAIR: it has no snapshot\n", quote(rep.Repository))
		return
	}
	fmt.Fprintf(w, "%s  %s files were lost, %s snapshots did not open\n", quote(rep.Repository), countText(b.LostCount), countText(int64(len(b.BadSnapshots))))
	stored, exchanged := "stored", "exchanged"
	if rep.DryRun {
		stored, exchanged = "would store", "would exchange"
	}
	fmt.Fprintf(w, "  %-15s %s chunks again, %s, from %s\n", stored, countText(rep.Chunks), bytesText(rep.Bytes), quote(rep.From))
	for _, id := range rep.Exchanged {
		fmt.Fprintf(w, "  %-15s snapshot %s\n", exchanged, id.Short())
	}
	fmt.Fprintf(w, "  %-15s %s files\n", map[bool]string{false: "healed", true: "would heal"}[rep.DryRun], countText(rep.Healed))
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
	return &job.Failure{Code: code, Err: errReported, Hint: hint}
}
