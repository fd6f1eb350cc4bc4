package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

type verifyFlags struct {
	readData, heal, ignoreOwner, ignoreExtra, numeric bool
	sample, against                                   string
	include, exclude                                  []string
}

func (a *app) verifyCommand() *cobra.Command {
	var wait *parsed[time.Duration]
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [SNAPSHOT[:PATH] --against DIR]",
		Short: "Prove that repositories are whole, or that a directory equals a snapshot",
		Long: `Prove that repositories are whole, or that a directory equals a snapshot.

Without arguments, every repository is checked: each object is there with the
right size, each snapshot opens, each directory record is read, and everything
that each file needs is there. --read-data also reads, decrypts and hashes every
byte; --sample 5% a random share of them. With [VERIFY] read_data_days = 30, and
called every day, verify reads a thirtieth, another one each day; days that were
missed are made up for.

--heal reads every byte, and repairs what is damaged from the repair data of the
repository ([REPOSITORY] parity) and from the files of this host, as 'repair' does
without --from; what has no repair data yet gets it.

With a snapshot and --against, each file of DIR is read and compared with the
snapshot: content, owners, modes, times, attributes, missing and extra entries.

Nothing checked is a failure.

Exit codes: 0 everything is whole, or equal · 1 damage, differences, nothing to
check, or usage · 130 interrupted`,
		Example: `  backup-handler verify --backup-dirs /mnt/disk/backup
  backup-handler verify --read-data
  backup-handler verify --heal
  backup-handler verify latest:/etc --against /etc`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.proving = true
			if f.against != "" || len(args) > 0 {
				return a.verifyAgainst(cmd.Context(), args, &f)
			}
			return a.recorded(cmd.Context(), "verify", false, wait, func(ctx context.Context, run *journal.Run) error {
				return a.verifyRepositories(ctx, &f, run)
			})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
	fl := c.Flags()
	wait = waitFlag(c)
	a.filterFlags(c)
	a.pathFlag(c)
	fl.BoolVar(&f.readData, "read-data", false, "read and check every byte")
	fl.BoolVar(&f.heal, "heal", false, "read and check every byte, and repair what is damaged")
	fl.StringVar(&f.sample, "sample", "", "read and check a random share of the data, e.g. 5%")
	fl.StringVar(&f.against, "against", "", "directory to compare with")
	fl.StringArrayVar(&f.include, "include", nil, "compare only what matches (as restore)")
	fl.StringSliceVar(&f.exclude, "exclude", nil, "leave out what matches (as restore)")
	fl.BoolVar(&f.ignoreOwner, "ignore-owner", false, "do not compare owners")
	fl.BoolVar(&f.ignoreExtra, "ignore-extra", false, "accept entries that are not in the snapshot")
	fl.BoolVar(&f.numeric, "numeric-owner", false, "compare owners by number, not by name")
	c.MarkFlagsMutuallyExclusive("read-data", "sample")
	c.MarkFlagsMutuallyExclusive("read-data", "against")
	c.MarkFlagsMutuallyExclusive("sample", "against")
	c.MarkFlagsMutuallyExclusive("heal", "sample")
	c.MarkFlagsMutuallyExclusive("heal", "against")
	return c
}

// parseShare parses "5%" or "0.05".
func parseShare(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	text, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(text, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > 0 && v <= 1) {
		return 0, fmt.Errorf("--sample %q: want a share such as 5%%", s)
	}
	return v, nil
}

type verifyReport struct {
	Repository string         `json:"repository"`
	OK         bool           `json:"ok"`
	Seconds    float64        `json:"seconds"`
	Error      string         `json:"error,omitempty"`
	Report     *verify.Report `json:"report,omitempty"`
	Repair     *repairReport  `json:"repair,omitempty"` // with --heal
}

func (a *app) verifyRepositories(ctx context.Context, f *verifyFlags, run *journal.Run) error {
	share, err := parseShare(f.sample)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	a.proving = true
	if err := a.load(); err != nil {
		return err
	}
	o := verify.Options{ReadData: f.readData || f.heal, Sample: share, Workers: max(2, runtime.GOMAXPROCS(0))}
	days, err := a.cfg.ReadDataDays()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	if o.ReadData || share > 0 {
		days = 0
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	var reports []verifyReport
	ok := true
	var hints []string
	for _, l := range locations {
		rep := a.verifyOne(ctx, acc, l, o, days, f.heal, &hints)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ok = ok && rep.OK
		reports = append(reports, rep)
		destination(run, l, rep.fault())
		a.record("verify", slog.String("repository", l), slog.Bool("ok", rep.OK))
	}
	err = a.print(reports, func(w io.Writer) error {
		for i := range reports {
			a.verifyText(w, &reports[i])
		}
		return nil
	})
	if err != nil || ok {
		return err
	}
	return &job.Failure{Code: job.ExitUsage, Err: job.ErrReported, Hint: strings.Join(hints, "; ")}
}

// fault is what is wrong, in one line; "" if nothing is.
func (r *verifyReport) fault() string {
	switch {
	case r.OK:
		return ""
	case r.Error != "":
		return r.Error
	case r.Report != nil && len(r.Report.Faults) > 0:
		return oneLine(fmt.Sprintf("%s, the first: %v", things(len(r.Report.Faults), "fault"), r.Report.Faults[0]))
	}
	return "it is not as it should be"
}

// verifyOne verifies a repository; with days, the share of the data that is due today;
// with heal, it repairs what is damaged.
func (a *app) verifyOne(ctx context.Context, acc *job.Access, location string, o verify.Options, days int, heal bool, hints *[]string) verifyReport {
	start := time.Now()
	today := start.Unix() / 86400
	rep := verifyReport{Repository: location}
	fail := func(err error) verifyReport {
		rep.Error = oneLine(err.Error())
		if h := openHint(err); h != "" {
			*hints = append(*hints, h)
		}
		return rep
	}
	d, err := acc.OpenDestination(ctx, location)
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	if err := d.LoadSnapshots(ctx); err != nil { // before what they need is read
		return fail(err)
	}
	// Only reading data is measured in bytes.
	var done, total atomic.Int64
	m := a.meter("verify", func() sample { return sample{bytes: done.Load(), totalBytes: total.Load()} })
	o.Seed = uint64(today)
	if days > 0 {
		o.Sample = 1 / float64(days)
		if o.Seeds, err = a.known().Shares(d.Repo.ID(), today, days); err != nil {
			a.warn("%v", err)
		}
	}
	o.Progress = func(stage string, d, t int64) {
		if stage == verify.StageData {
			done.Store(d)
			total.Store(t)
		}
	}
	if heal {
		err = a.heal(ctx, d, &o, &rep)
	} else {
		rep.Report, err = verify.Run(ctx, d.Repo, o)
	}
	m.stop()
	if err != nil {
		return fail(err)
	}
	rep.OK = rep.Report.OK() || rep.Repair != nil && rep.Repair.Whole
	rep.Seconds = time.Since(start).Seconds()
	if rep.OK {
		a.rememberVerified(d, &o, days, start)
	}
	switch r := rep.Report; {
	case rep.OK || r.Snapshots == 0:
	case r.Whole():
		*hints = append(*hints, "'backup-handler verify --heal' repairs what is damaged, and a prune, after its grace period, deletes what was replaced")
	case len(r.Index.MissingPacks)+len(r.Index.ResizedPacks)+len(r.Index.DamagedPacks) > 0:
		*hints = append(*hints, "a backup stores again what missing packs held and the sources still have; restore gives back everything that is whole")
	default:
		*hints = append(*hints, "restore gives back everything that is whole; 'backup-handler verify --heal' stores again what repair data or the files of this host still have, 'repair --from' what another repository has")
	}
	return rep
}

// heal verifies a repository, and repairs what is damaged without another one.
func (a *app) heal(ctx context.Context, d *job.Destination, o *verify.Options, rep *verifyReport) error {
	ro := job.RepairOptions{Workers: o.Workers, Progress: o.Progress}
	ro.Host, _ = os.Hostname() // without a name there is no snapshot of it
	var err error
	if ro.Write, err = a.writerOptions(); err != nil {
		return err
	}
	start := time.Now()
	res, err := job.Repair(ctx, d, nil, ro)
	a.record("repair", slog.String("repository", d.Place), slog.Bool("ok", err == nil && res.Whole()))
	if err != nil {
		return err
	}
	repair := newRepairReport(d, nil, res, false, time.Since(start))
	rep.Report, rep.Repair = res.Before, &repair
	if res.After != nil {
		rep.Report = res.After
	}
	return nil
}

// rememberVerified notes what has been proven: retention keeps it, and the rotation of
// samples goes on behind it.
func (a *app) rememberVerified(d *job.Destination, o *verify.Options, days int, start time.Time) {
	var err error
	if o.ReadData {
		ids := make([]repo.ID, len(d.Snapshots))
		for i, s := range d.Snapshots {
			ids[i] = s.ID
		}
		err = a.known().SetVerified(d.Repo.ID(), start, ids)
	}
	if days > 0 || o.ReadData {
		err = errors.Join(err, a.known().SetShares(d.Repo.ID(), start.Unix()/86400))
	}
	if err != nil {
		a.warn("cannot remember that %s was verified: %v", d.Location, err)
	}
}

func (a *app) verifyText(w io.Writer, rep *verifyReport) {
	if rep.Error != "" {
		fmt.Fprintf(w, "%s  CANNOT BE CHECKED: %s\n", quote(rep.Repository), rep.Error)
		return
	}
	r := rep.Report
	state := "ok"
	if !rep.OK {
		state = "DAMAGED"
		switch {
		case r.Snapshots == 0 && len(r.BadSnapshots) == 0:
			state = "NOTHING TO CHECK: it has no snapshot"
		case r.Whole():
			state = "DAMAGED, but every snapshot is whole"
		}
	}
	if rep.OK && a.quiet {
		return
	}
	if rep.Repair != nil && !rep.Repair.Before.OK() {
		repairText(w, rep.Repair)
		return
	}
	fmt.Fprintf(w, "%s  %s\n", quote(rep.Repository), state)
	if rep.Repair != nil {
		protectedText(w, rep.Repair)
	}
	fmt.Fprintf(w, "  checked   %s snapshots, %s directories, %s files, %s chunks in %s\n",
		countText(r.Snapshots), countText(r.Dirs), countText(r.Files), countText(r.Chunks), durationText(time.Duration(rep.Seconds*float64(time.Second))))
	if r.PacksRead > 0 {
		fmt.Fprintf(w, "  read      %s packs, %s\n", countText(r.PacksRead), bytesText(r.BytesRead))
	}
	line := func(what string, ids []repo.ID) {
		for _, id := range ids {
			fmt.Fprintf(w, "  %s %s\n", what, id)
		}
	}
	line("missing pack", r.Index.MissingPacks)
	line("truncated or grown pack", r.Index.ResizedPacks)
	line("damaged pack", r.Index.DamagedPacks)
	line("damaged index", r.Index.DamagedIndex)
	line("damaged condemned list", r.Index.CondemnedList)
	for _, u := range r.Index.Unknown {
		fmt.Fprintf(w, "  unknown object %s\n", quote(u))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(w, "  fault: %s\n", oneLine(f))
	}
	for _, b := range r.BadSnapshots {
		fmt.Fprintf(w, "  damaged snapshot %s: %s\n", b.ID.Short(), oneLine(b.Error()))
	}
	for _, l := range r.Lost {
		also := "in no other snapshot"
		if len(l.AlsoIn) > 0 {
			also = "whole in " + shortIDs(l.AlsoIn)
		}
		fmt.Fprintf(w, "  lost %s:%s (%s; %s)\n", l.Snapshot.Short(), quote(string(l.Path)), l.Reason, also)
	}
	if n := r.LostCount - int64(len(r.Lost)); n > 0 {
		fmt.Fprintf(w, "  and %s more lost files\n", countText(n))
	}
}

type againstReport struct {
	Snapshot    repo.ID            `json:"snapshot"`
	Path        tree.Path          `json:"path"`
	Against     string             `json:"against"`
	OK          bool               `json:"ok"`
	Files       int64              `json:"files"`
	Dirs        int64              `json:"dirs"`
	Others      int64              `json:"others"`
	Bytes       int64              `json:"bytes_read"`
	Differences []differenceReport `json:"differences,omitempty"`
	Count       int64              `json:"difference_count"`
}

type differenceReport struct {
	Path tree.Path `json:"path"`
	Kind string    `json:"kind"`
	Text string    `json:"text,omitempty"`
}

func (a *app) verifyAgainst(ctx context.Context, args []string, f *verifyFlags) error {
	if f.against == "" || len(args) == 0 {
		return job.Fail(job.ExitUsage, errors.New("a comparison needs a snapshot and --against DIR"), "e.g. 'backup-handler verify latest:/etc --against /etc'")
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, node, from, err := a.node(ctx, d, args[0], false)
	if err != nil {
		return err
	}
	o := restore.VerifyOptions{IgnoreOwner: f.ignoreOwner, IgnoreExtra: f.ignoreExtra, NumericOwner: f.numeric, Progress: new(restore.Progress)}
	if o.Select, err = selection(from, f.include, f.exclude); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	m := a.meter("compare", func() sample {
		p := o.Progress
		return sample{p.BytesDone.Load(), p.BytesTotal.Load(), p.FilesDone.Load(), p.FilesTotal.Load(), p.Current()}
	})
	res, err := restore.Verify(ctx, d.Repo, snap, node, from, f.against, o)
	m.stop()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	nothing := res.Files+res.Dirs+res.Others == 0
	rep := againstReport{
		Snapshot: snap.ID, Path: tree.Path(from), Against: f.against, OK: res.DifferenceCount == 0 && !nothing,
		Files: res.Files, Dirs: res.Dirs, Others: res.Others, Bytes: res.Bytes, Count: res.DifferenceCount,
	}
	for _, x := range res.Differences {
		rep.Differences = append(rep.Differences, differenceReport{tree.Path(x.Path), x.Kind.String(), x.Text})
	}
	a.record("verify", slog.String("snapshot", snap.ID.String()), slog.String("against", f.against), slog.Bool("ok", rep.OK))
	err = a.print(rep, func(w io.Writer) error {
		for _, x := range rep.Differences {
			fmt.Fprintf(w, "%-10s %s  %s\n", x.Kind, quote(string(x.Path)), oneLine(x.Text))
		}
		switch {
		case nothing:
			fmt.Fprintln(w, "NOTHING was compared")
		case !rep.OK:
			fmt.Fprintf(w, "%s differs from snapshot %s in %s places\n", quote(f.against), snap.ID.Short(), countText(rep.Count))
		case !a.quiet:
			fmt.Fprintf(w, "%s equals snapshot %s: %s files (%s), %s directories, %s others\n",
				quote(f.against), snap.ID.Short(), countText(res.Files), bytesText(res.Bytes), countText(res.Dirs), countText(res.Others))
		}
		return nil
	})
	if err != nil || rep.OK {
		return err
	}
	return outcome(job.ExitUsage)
}
