package main

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

type drillFlags struct {
	sample       parsed[int]
	seed         parsed[uint64]
	full, random bool
	to           string
}

func (a *app) drillCommand() *cobra.Command {
	var wait *parsed[time.Duration]
	var f drillFlags
	c := &cobra.Command{
		Use:   "drill [SNAPSHOT]",
		Short: "Prove that a snapshot can be restored: restore it, check it, remove it",
		Long: `Prove that a snapshot can be restored: restore it into a scratch directory of its
own, check it there, and remove it again, in each repository. Without SNAPSHOT it is
this host's latest, with --random an older one.

A sample of files is restored ([DRILL] sample, --sample N), or everything (--full).
What is there is compared with the records of the snapshot, byte by byte, and with
the list of SHA-256s that the backup has made of its source by itself ([DRILL]
list_files). Then [DRILL] check_command may judge it. Restoring must not take longer
than [DRILL] max_duration. The scratch directory is made in the system's directory
for temporary files ([DRILL] dir, --to), if there is room, and removed in each case.

The command runs in the scratch directory, in which files have their full paths, and
knows $BACKUP_HANDLER_DRILL_DIR, _SNAPSHOT, _TIME, _HOST, _REPOSITORY, _FILES and
_BYTES; of the other variables only PATH, HOME and such, and no secret. It and all
that it starts is ended after check_timeout.

A signed report is kept in drills/ in the state directory; 'status' shows the last,
'drill report' checks its signature.

Exit codes: 0 passed · 1 usage or configuration · 2 not restored: a repository
cannot be opened, there is no room, or a file is lost · 3 not verified: something
differs, the command failed, or it took too long · 130 interrupted`,
		Example: `  backup-handler drill --backup-dirs /mnt/disk/backup
  backup-handler drill --random --sample 50
  backup-handler drill latest --full --to /var/tmp`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return a.recorded(cmd.Context(), "drill", false, wait, func(ctx context.Context, run *journal.Run) error {
				return a.drill(ctx, name, &f, run)
			})
		},
		ValidArgsFunction: a.completeSnapshots(1),
	}
	fl := c.Flags()
	wait = waitFlag(c)
	a.filterFlags(c)
	a.pathFlag(c)
	f.sample = parsed[int]{kind: "number", parse: parseCount}
	fl.Var(&f.sample, "sample", "restore this many files, chosen at random (default: the configuration's)")
	f.seed = parsed[uint64]{kind: "number", parse: parseSeed}
	fl.Var(&f.seed, "seed", "choose the same snapshot and files as the drill that has printed this number")
	fl.BoolVar(&f.full, "full", false, "restore the whole snapshot")
	fl.BoolVar(&f.random, "random", false, "drill an older snapshot, chosen at random")
	fl.StringVar(&f.to, "to", "", "directory in which the scratch directory is made")
	c.MarkFlagsMutuallyExclusive("sample", "full")
	c.AddCommand(a.drillReportCommand())
	return c
}

func parseCount(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, errors.New("must be a number from 1 on")
	}
	return n, nil
}

func parseSeed(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, errors.New("must be the number that a drill has printed")
	}
	return n, nil
}

// A drillResult is a drill of one repository, or why there was none.
type drillResult struct {
	Location string `json:"location"`
	*job.DrillReport
	Databases []dbCheck `json:"databases,omitempty"`

	Error string `json:"error,omitempty"`
	Code  int    `json:"exit_code"`
	File  string `json:"report_file,omitempty"`
	hint  string
}

func (a *app) drill(ctx context.Context, name string, f *drillFlags, run *journal.Run) error {
	if name != "" && f.random {
		return usageError("leave out one of them", "--random chooses the snapshot, and %q is one", name)
	}
	a.proving = true
	if err := a.load(); err != nil {
		return err
	}
	o, err := a.drillOptions(f)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	left, err := o.Reports.Sweep()
	for _, dir := range left {
		a.note("removed " + quote(dir) + ", which a drill that was killed has left")
	}
	if err != nil {
		a.warn("what a drill that was killed has left stays: %v", err)
	}
	var results []drillResult
	code := job.ExitOK
	var hints []string
	for _, l := range locations {
		r := a.drillOne(ctx, acc, l, name, f, *o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r.DrillReport == nil && len(r.Databases) == 0 && len(locations) == 1 {
			return &job.Failure{Code: r.Code, Err: errors.New(r.Error), Hint: r.hint}
		}
		problem := r.Error
		if d := r.DrillReport; d != nil {
			run.Snapshot = d.Snapshot.String()
			run.Counts.Files += d.Files
			run.Counts.Bytes += d.Bytes
			run.Counts.Problems += int64(d.LostCount) + int64(d.DifferenceCount)
			if len(d.Reasons) > 0 {
				problem = d.Reasons[0]
			}
		}
		destination(run, l, problem)
		code = max(code, r.Code)
		if r.hint != "" && !slices.Contains(hints, r.hint) {
			hints = append(hints, r.hint)
		}
		results = append(results, r)
	}
	err = a.print(results, func(w io.Writer) error {
		for i := range results {
			if r := &results[i]; r.Code != job.ExitOK || !a.quiet {
				drillText(w, r)
			}
		}
		return nil
	})
	if err != nil || code == job.ExitOK {
		return err
	}
	return &job.Failure{Code: code, Err: job.ErrReported, Hint: strings.Join(hints, "; ")}
}

// drilledDumps are the newest dumps of this host's databases, where the drill is not of
// something that was asked for. only says that there are no files to drill.
func (a *app) drilledDumps(d *job.Destination, name string, random bool) (dumps []*tree.Snapshot, only bool, err error) {
	c, err := a.cfg.Drill()
	if err != nil || !c.Databases || name != "" && name != "latest" || random || a.filter.Kind != "" {
		return nil, false, err
	}
	host := a.filter.Host
	if len(job.Hosts(d.Snapshots)) > 1 && host == "" {
		host = hostName()
	}
	only = true
	for _, s := range a.filter.Of(d.Snapshots) {
		switch {
		case host != "" && s.Host != host:
		case s.Kind == tree.KindMySQL || s.Kind == tree.KindPostgreSQL:
			dumps = append(dumps, s)
		case s.Kind == tree.KindFiles || s.Kind == tree.KindStream:
			only = false
		}
	}
	return newest(dumps, 1), only, nil
}

// drillDumps checks dumps, and adds what it found to the result.
func (a *app) drillDumps(ctx context.Context, d *job.Destination, dumps []*tree.Snapshot, only bool, parent string, res *drillResult) {
	for _, s := range dumps {
		c := a.dbVerifyOne(ctx, d, s, "", parent)
		if ctx.Err() != nil {
			return
		}
		if c.noProgram {
			a.note("the dump " + s.ID.Short() + " of " + c.Name + " is not checked: " + c.Error)
			continue
		}
		a.record("drill", slog.String("repository", d.Place), slog.String("snapshot", c.Snapshot), slog.Bool("passed", c.ok()))
		res.Databases = append(res.Databases, c)
		if !c.ok() {
			code := job.ExitNotVerified
			if c.Error != "" {
				code = job.ExitNotRestored
			}
			res.Code = max(res.Code, code)
			if res.Error == "" {
				res.Error = c.fault()
			}
			if res.hint == "" {
				res.hint = c.hint
			}
		}
	}
	if only && len(res.Databases) == 0 && res.Error == "" { // a drill of nothing has not passed
		res.Code, res.Error, res.hint = job.ExitNotRestored, "there are only dumps of databases, and none can be checked here", "install the server's program"
	}
}

func (a *app) drillOptions(f *drillFlags) (*job.DrillOptions, error) {
	c, err := a.cfg.Drill()
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Trusted(); c.CheckCommand != "" && err != nil {
		return nil, job.Fail(job.ExitUsage, fmt.Errorf("check_command is not run: %w", err), job.TrustHint)
	}
	var seed [8]byte
	crand.Read(seed[:])
	o := &job.DrillOptions{
		Sample: f.sample.or(c.Sample), Seed: f.seed.or(binary.LittleEndian.Uint64(seed[:])), Parent: f.to, MaxDuration: c.MaxDuration,
		Command: c.CheckCommand, CommandTimeout: c.CheckTimeout, Redact: a.redactor(), Lists: a.lists(),
		Host: hostName(), Program: "backup-handler " + version, Now: time.Now,
		Untidy: func(yes bool) {
			if yes {
				a.untidy.Add(1)
			} else {
				a.untidy.Add(-1)
			}
		},
	}
	if o.Reports, err = a.reports(); err != nil { // load has said so
		o.Reports = job.Reports{}
	}
	if f.full {
		o.Sample = 0
	}
	if o.Parent == "" {
		if o.Parent = c.Dir; o.Parent == "" {
			o.Parent = os.TempDir()
		}
	}
	for _, name := range drillVariables {
		if value, ok := a.env(name); ok {
			o.Env = append(o.Env, name+"="+value)
		}
	}
	return o, nil
}

// drillVariables are those of the environment that a check command gets: what programs
// need to run, and nothing that may be a secret.
var drillVariables = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "TMPDIR",
	"SystemRoot", "ComSpec", "PATHEXT", "TEMP", "TMP"}

// minSecret is the least length of a secret that is taken out of other programs' output:
// a shorter one would leave nothing to read.
const minSecret = 4

// redactor takes every secret that this program knows out of a text.
func (a *app) redactor() func(string) string { return a.redactorOf(a.cfg) }

func (a *app) redactorOf(cfg *config.Config) func(string) string {
	secrets := cfg.Secrets()
	if p, _ := a.env(job.PassphraseEnv); p != "" {
		secrets = append(secrets, config.NewSecretString(p))
	}
	return func(text string) string {
		for _, s := range secrets {
			if len(s.Reveal()) >= minSecret {
				text = strings.ReplaceAll(text, s.Reveal(), "***")
			}
		}
		return text
	}
}

// drillOne drills one repository.
func (a *app) drillOne(ctx context.Context, acc *job.Access, location, name string, f *drillFlags, o job.DrillOptions) (res drillResult) {
	res.Location = location
	fail := func(code int, err error, hint string) drillResult {
		if failure, ok := errors.AsType[*job.Failure](err); ok {
			code, hint = failure.Code, failure.Hint
		}
		res.Code, res.Error, res.hint = code, oneLine(err.Error()), hint
		a.record("drill", slog.String("repository", location), slog.Bool("passed", false), slog.String("error", res.Error))
		return res
	}
	d, err := acc.OpenDestination(ctx, location)
	if err != nil {
		return fail(job.ExitNotRestored, err, openHint(err))
	}
	defer d.Close()
	if err := d.Load(ctx); err != nil {
		return fail(job.ExitNotRestored, fmt.Errorf("%s: %w", quote(d.Place), err), openHint(err))
	}
	if len(d.Snapshots) == 0 {
		return fail(job.ExitNotRestored, fmt.Errorf("%s holds no snapshot that can be read", quote(d.Place)), "'backup-handler verify' tells what is there")
	}
	if dumps, only, err := a.drilledDumps(d, name, f.random); err != nil {
		return fail(job.ExitUsage, err, "")
	} else if len(dumps) > 0 {
		defer func() { a.drillDumps(ctx, d, dumps, only, o.Parent, &res) }()
		if only {
			return res
		}
	}
	if o.Snapshot, err = a.drilled(d, name, f.random, o.Seed); err != nil {
		return fail(job.ExitUsage, err, "")
	}
	o.Named = name != "" && name != "latest"
	var stage atomic.Value
	stage.Store("restore")
	o.Stage = func(s string) { stage.Store(s) }
	o.Progress = new(restore.Progress)
	m := a.meter("drill", func() sample {
		p := o.Progress
		return sample{p.BytesDone.Load(), p.BytesTotal.Load(), p.FilesDone.Load(), p.FilesTotal.Load(), stage.Load().(string) + " " + p.Current()}
	})
	rep, err := job.Drill(ctx, d, o)
	m.stop()
	if rep != nil && rep.ScratchLeft != "" {
		a.warn("%s stays: remove it yourself", quote(rep.ScratchLeft))
	}
	if err != nil {
		if ctx.Err() != nil {
			a.record("drill", slog.String("repository", d.Place), slog.String("snapshot", o.Snapshot.ID.String()), slog.Bool("passed", false), slog.String("error", "interrupted"))
			return res
		}
		return fail(job.ExitNotRestored, err, "")
	}
	res.DrillReport, res.Code = rep, rep.ExitCode
	if rep.LostCount > 0 {
		res.hint = "'backup-handler verify --read-data' names everything that is damaged, 'repair' heals it from another repository"
	}
	a.keepReport(d, &res)
	return res
}

// drilled is the snapshot to drill: the one named, this host's latest, or with random one
// before that.
func (a *app) drilled(d *job.Destination, name string, random bool, seed uint64) (*tree.Snapshot, error) {
	if name == "" {
		name = "latest"
	}
	latest, err := a.resolve(d, name)
	if err != nil || !random {
		return latest, err
	}
	older := slices.DeleteFunc(a.filter.Of(d.Snapshots), func(s *tree.Snapshot) bool {
		return s.ID == latest.ID || s.Host != latest.Host || s.Kind != latest.Kind
	})
	if len(older) == 0 {
		return latest, nil // there is no other
	}
	return older[rand.New(rand.NewPCG(seed, 0)).IntN(len(older))], nil
}

// reports are those of drills.
func (a *app) reports() (job.Reports, error) {
	dir, err := a.cfg.StateDir()
	if err != nil {
		return job.Reports{}, err
	}
	return job.Reports{Dir: filepath.Join(dir, "drills")}, nil
}

// keepReport stores the report. One that cannot be stored is a warning: the drill has
// told what it has found.
func (a *app) keepReport(d *job.Destination, res *drillResult) {
	fields := []slog.Attr{
		slog.String("repository", d.Place), slog.String("snapshot", res.Snapshot.String()), slog.Bool("passed", res.Passed),
		slog.Int("exit_code", res.DrillReport.ExitCode), slog.Int64("files", res.Files), slog.Int("compared_with_list", res.Compared),
	}
	reports, err := a.reports()
	if err == nil {
		var sum [32]byte
		if res.File, sum, err = reports.Write(res.DrillReport, d.Repo.ReportMAC); err == nil {
			fields = append(fields, slog.String("report", res.File), slog.String("report_sha256", fmt.Sprintf("%x", sum)))
		}
	}
	if err != nil {
		a.warn("the report of the drill cannot be kept: %v", err)
	}
	if len(res.Reasons) > 0 {
		fields = append(fields, slog.String("reason", oneLine(res.Reasons[0])))
	}
	a.record("drill", fields...)
}

func drillText(w io.Writer, r *drillResult) {
	rep := r.DrillReport
	defer func() {
		for i := range r.Databases {
			fmt.Fprint(w, "  database  ")
			r.Databases[i].text(w)
		}
	}()
	switch {
	case rep == nil && r.Error == "": // only databases
		fmt.Fprintln(w, quote(r.Location))
		return
	case rep == nil:
		fmt.Fprintf(w, "%s  NOT RESTORED: %s\n", quote(r.Location), r.Error)
		return
	}
	state := map[int]string{job.ExitOK: "passed", job.ExitNotRestored: "NOT RESTORED", job.ExitNotVerified: "NOT VERIFIED"}[r.Code]
	fmt.Fprintf(w, "%s  %s\n", quote(r.Location), state)
	for _, x := range rep.Reasons {
		fmt.Fprintf(w, "  FAILED    %s\n", oneLine(x))
	}
	fmt.Fprintf(w, "  snapshot  %s of %s, %s\n", rep.Snapshot.Short(), rep.SnapshotTime.Local().Format("2006-01-02 15:04"), quote(rep.SnapshotHost))
	what := "everything"
	if rep.Sample > 0 {
		what = fmt.Sprintf("a sample of %s, seed %d", countText(int64(rep.Sample)), rep.Seed)
	}
	took := durationText(time.Duration(rep.RestoreSeconds * float64(time.Second)))
	if rep.MaxSeconds > 0 {
		took += ", of at most " + durationText(time.Duration(rep.MaxSeconds*float64(time.Second)))
	}
	fmt.Fprintf(w, "  restored  %s files (%s), %s in %s\n", countText(rep.Files), what, bytesText(rep.Bytes), took)
	fmt.Fprintf(w, "  verified  %s files, %s, with the snapshot's records\n", countText(rep.Verified), bytesText(rep.VerifiedBytes))
	if rep.Listed > 0 {
		fmt.Fprintf(w, "            %s of %s with the list that the backup made of its source\n", countText(int64(rep.Compared)), countText(int64(rep.Listed)))
	} else {
		fmt.Fprintln(w, "            none with a list of the backup: this machine has none of the snapshot")
	}
	if c := rep.Command; c != nil {
		fmt.Fprintf(w, "  command   exit code %d after %s\n", c.ExitCode, durationText(time.Duration(c.Seconds*float64(time.Second))))
		if rep.ExitCode != job.ExitOK {
			for line := range strings.Lines(c.Output) {
				fmt.Fprintf(w, "            | %s\n", oneLine(line))
			}
		}
	}
	for _, list := range []struct {
		word  string
		all   []job.DrillProblem
		count int64
	}{{"lost", rep.Lost, rep.LostCount}, {"differs", rep.Differences, rep.DifferenceCount}} {
		for _, p := range list.all {
			fmt.Fprintf(w, "  %-9s %s: %s\n", list.word, quote(string(p.Path)), oneLine(p.Problem))
		}
		if n := list.count - int64(len(list.all)); n > 0 {
			fmt.Fprintf(w, "  %-9s and %s more\n", list.word, countText(n))
		}
	}
	if r.File != "" {
		fmt.Fprintf(w, "  report    %s\n", quote(r.File))
	}
}

func (a *app) drillReportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "report [FILE]",
		Short: "Show a report of a drill, and check its signature",
		Long: `Show a report of a drill, and check its signature; without FILE that of the last
drill of each repository. The signature is made with a key of the repository: who
made it could open the repository, and nobody has changed the report since. The
audit log has the file's SHA-256. Where a repository opens without a key, everybody
can make one.

Exit codes: 0 the signature is right · 1 it is not, there is no report, or usage
130 interrupted`,
		Example: `  backup-handler drill report
  backup-handler drill report /var/lib/backup-handler/drills/20261126T043000.000Z-63eaeb19-5e1f0a77-001.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.drillReport(cmd.Context(), args) },
	}
}

type reportCheck struct {
	File      string          `json:"file"`
	Signature string          `json:"signature"` // right or wrong
	Report    job.DrillReport `json:"report"`
}

func (a *app) drillReport(ctx context.Context, args []string) error {
	all, _, err := a.openEach(ctx)
	if err != nil {
		return err
	}
	defer closeEach(all)
	reports, err := a.reports()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	var checks []reportCheck
	ok := true
	for _, d := range all {
		name, err := reports.Last(d.Repo.ID())
		if len(args) > 0 {
			name, err = args[0], nil
		}
		var s *job.SignedReport
		if err == nil && name != "" {
			s, err = job.ReadReport(name)
		}
		if err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		if s == nil || len(args) > 0 && s.Report.RepositoryID != d.Repo.ID() {
			continue
		}
		c := reportCheck{File: name, Signature: "right", Report: s.Report}
		if err := s.Check(d.Repo.ReportMAC); err != nil {
			c.Signature, ok = "wrong", false
		}
		checks = append(checks, c)
	}
	if len(checks) == 0 {
		return usageError("'backup-handler drill' makes one, for the repositories of --backup-dirs", "there is no report about these repositories")
	}
	err = a.print(checks, func(w io.Writer) error {
		for _, c := range checks {
			if c.Signature == "right" {
				drillText(w, &drillResult{Location: c.Report.Repository, DrillReport: &c.Report, Code: c.Report.ExitCode, File: c.File})
				fmt.Fprintf(w, "  signed    %s, %s\n", c.Report.Time.Local().Format(time.DateTime), quote(c.Report.Host))
			} else {
				fmt.Fprintf(w, "%s  THE SIGNATURE IS WRONG\n", quote(c.File))
			}
		}
		return nil
	})
	if err != nil || ok {
		return err
	}
	return &job.Failure{Code: job.ExitUsage, Err: job.ErrReported, Hint: "somebody has changed the report, or made it without a key; 'backup-handler audit verify', and audit.log, tell more"}
}
