package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

type copyFlags struct {
	from       string
	to         []string
	keys       otherKeys
	encrypt    bool
	recipients []string
	dryRun     bool
}

func (a *app) copyCommand() *cobra.Command {
	var f copyFlags
	c := &cobra.Command{
		Use:   "copy [SNAPSHOT…] --to LOCATION",
		Short: "Copy snapshots to other repositories",
		Long: `Copy snapshots, all or those named and chosen, to other repositories.

They keep their IDs; what is there already is skipped. The source is --from, or the
first repository of --backup-dirs and the configuration that can be opened. A
repository that does not exist is created: as a sibling of the source, so that
data moves as it is, or, with --to-key-file or --to-passphrase-file, with a secret
of its own, so that its key opens nothing else. Each target succeeds or fails
alone. Nothing is deleted anywhere.

Exit codes: 0 all of it is in every target · 1 usage · 2 the source, or no target,
can be opened · 3 a target or a snapshot failed · 130 interrupted`,
		Example: `  backup-handler copy --from /mnt/disk/backup --to /mnt/nas/backup
  backup-handler copy latest --host web1 --to sftp://nas/backup --to /mnt/usb/backup
  backup-handler copy --tag monthly --to /mnt/vault --to-key-file vault.key --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.recorded(cmd.Context(), "copy", f.dryRun, nil, func(ctx context.Context, run *journal.Run) error {
				return a.copy(ctx, args, &f, run)
			})
		},
		ValidArgsFunction: a.completeSnapshots(1 << 30),
	}
	fl := c.Flags()
	fl.StringVar(&f.from, "from", "", "repository to copy from")
	fl.StringSliceVar(&f.to, "to", nil, "repositories to copy to (repeat, or separate with commas)")
	a.filterFlags(c)
	a.pathFlag(c)
	f.keys.register(c, "to", "the targets, where another key than the source's opens them")
	fl.BoolVar(&f.encrypt, "encrypt", false, "create encrypted repositories, and refuse unencrypted ones")
	fl.StringArrayVar(&f.recipients, "recipient", nil, "public key, or file with one, that opens new repositories (repeat)")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be copied; write nothing")
	return c
}

// otherKeys are flags for the keys of other repositories than those of the command.
type otherKeys struct{ keyFile, passFile string }

func (k *otherKeys) register(c *cobra.Command, prefix, what string) {
	c.Flags().StringVar(&k.keyFile, prefix+"-key-file", "", "key file of "+what)
	c.Flags().StringVar(&k.passFile, prefix+"-passphrase-file", "", "file with the passphrase of "+what)
}

func (k *otherKeys) given() bool { return k.keyFile != "" || k.passFile != "" }

// otherAccess is that of the flags, or that of the command where none is given.
func (a *app) otherAccess(k *otherKeys, encrypt bool, recipients []string) (*job.Access, error) {
	if !k.given() {
		return a.access(encrypt, recipients)
	}
	return a.newAccess(job.AccessOptions{Encrypt: encrypt, KeyFile: k.keyFile, PassphraseFile: k.passFile, Recipients: recipients, OnlyGiven: true})
}

type copyReport struct {
	From      string             `json:"from"`
	DryRun    bool               `json:"dry_run,omitempty"`
	Snapshots int                `json:"snapshots"` // chosen
	Targets   []copyTargetReport `json:"targets"`
	Notes     []string           `json:"notes,omitempty"`
	ExitCode  int                `json:"exit_code"`
}

type copyTargetReport struct {
	Location string               `json:"location"`
	Place    string               `json:"repository"`
	Created  bool                 `json:"created,omitempty"`
	Missing  []repo.ID            `json:"missing"` // before
	Copied   []repo.ID            `json:"copied"`
	Failed   []failedSnapshotJSON `json:"failed,omitempty"`
	Error    string               `json:"error,omitempty"`
}

type failedSnapshotJSON struct {
	ID    repo.ID `json:"id"`
	Error string  `json:"error"`
}

func (a *app) copy(ctx context.Context, names []string, f *copyFlags, run *journal.Run) error {
	if len(f.to) == 0 {
		return usageError("add --to LOCATION", "copy where to?")
	}
	if err := a.load(); err != nil {
		return err
	}
	if f.from != "" {
		a.backupDirs = []string{f.from}
	}
	if _, err := a.locations(); err != nil {
		return err
	}
	if err := checkLocations(f.to); err != nil {
		return err
	}
	acc, err := a.otherAccess(&f.keys, f.encrypt, f.recipients)
	if err != nil {
		return err
	}
	o := job.CopyOptions{
		Names: names, Filter: a.filter, Host: hostName(), DryRun: f.dryRun, Apart: f.keys.given(),
		Known: a.known(), Progress: new(job.CopyProgress), Note: a.note, Warn: func(line string) { a.warn("%s", line) },
	}
	if o.Write, err = a.writerOptions(); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	src, err := a.open(ctx, true)
	if err != nil {
		if failure, ok := errors.AsType[*job.Failure](err); ok {
			return &job.Failure{Code: job.ExitRefused, Err: failure.Err, Hint: failure.Hint}
		}
		return err
	}
	defer src.Close()
	m := a.meter("copy", func() sample {
		p := o.Progress
		return sample{bytes: p.Bytes(), current: fmt.Sprintf("snapshot %d of %d", p.Snapshots.Load()+1, p.TotalSnapshots.Load())}
	})
	res, err := job.Copy(ctx, acc, src, f.to, o)
	m.stop()
	if err != nil {
		return err
	}
	return a.copyDone(res, src, &o, run)
}

// writerOptions are those of the configuration.
func (a *app) writerOptions() (repo.WriterOptions, error) {
	rc, err := a.cfg.Repository()
	if err != nil {
		return repo.WriterOptions{}, err
	}
	enc, err := a.cfg.Encryption()
	return repo.WriterOptions{Compression: repo.Compression(rc.Compression), Sealers: max(enc.Workers, runtime.GOMAXPROCS(0))}, err
}

// copyDone tells what was copied.
func (a *app) copyDone(res *job.CopyResult, src *job.Destination, o *job.CopyOptions, run *journal.Run) error {
	rep := copyReport{From: src.Place, DryRun: o.DryRun, Snapshots: len(res.Chosen), Notes: res.Notes}
	// What cannot be read in the source was asked for where everything was.
	lost := 0
	if len(o.Names) == 0 && o.Filter == (job.Filter{}) {
		lost = len(src.Unreadable)
	}
	if res.Failed() || lost > 0 {
		rep.ExitCode = job.ExitPartial
	}
	for _, t := range res.Targets {
		tr := copyTargetReport{Location: t.Location, Place: t.Place, Created: t.Created, Missing: []repo.ID{}, Copied: append([]repo.ID{}, t.Copied...)}
		for _, s := range t.Missing {
			tr.Missing = append(tr.Missing, s.ID)
		}
		for _, x := range t.Failed {
			tr.Failed = append(tr.Failed, failedSnapshotJSON{x.ID, oneLine(x.Err.Error())})
		}
		if t.Err != nil {
			tr.Error = oneLine(t.Err.Error())
		}
		rep.Targets = append(rep.Targets, tr)
		problem := tr.Error
		if n := len(tr.Failed); n > 0 && problem == "" {
			problem = things(n, "snapshot") + " could not be copied, the first: " + tr.Failed[0].Error
		}
		destination(run, t.Location, problem)
		if !o.DryRun {
			a.record("copy", slog.String("from", src.Place), slog.String("to", t.Place), slog.Int("copied", len(t.Copied)), slog.Bool("ok", t.Err == nil && len(t.Failed) == 0))
		}
	}
	err := a.print(rep, func(w io.Writer) error {
		for i, t := range rep.Targets {
			if a.quiet && t.Error == "" && len(t.Failed) == 0 {
				continue
			}
			copyTargetText(w, &t, res.Targets[i], o.DryRun)
		}
		if rep.Snapshots == 0 && !a.quiet {
			fmt.Fprintf(w, "no snapshot of %s is chosen: nothing was copied\n", quote(rep.From))
		}
		if lost > 0 {
			fmt.Fprintf(w, "NOT COPIED: %d snapshots of %s that cannot be read\n", lost, quote(rep.From))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return outcome(rep.ExitCode)
}

func copyTargetText(w io.Writer, t *copyTargetReport, target *job.CopyTarget, dryRun bool) {
	state := fmt.Sprintf("%d copied, %d there already", len(t.Copied), target.There)
	if dryRun {
		state = fmt.Sprintf("would copy %d, %d there already", len(t.Missing), target.There)
		if target.Repo == nil {
			state += ", to a new repository"
		}
	}
	switch {
	case t.Error != "":
		state = fmt.Sprintf("FAILED: %s (%d copied)", t.Error, len(t.Copied))
	case len(t.Failed) > 0:
		state = fmt.Sprintf("FAILED for %d snapshots (%s)", len(t.Failed), state)
	}
	fmt.Fprintf(w, "%s  %s\n", quote(t.Location), state)
	if dryRun {
		for _, s := range target.Missing {
			fmt.Fprintf(w, "  %s  %s  %s\n", s.ID.Short(), s.Time.Local().Format("2006-01-02 15:04"), quote(s.Host))
		}
	}
	for _, x := range t.Failed {
		fmt.Fprintf(w, "  %s  %s\n", x.ID.Short(), x.Error)
	}
}
