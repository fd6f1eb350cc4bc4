package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

type restoreFlags struct {
	to, overwrite                              string
	include, exclude                           []string
	delete, dryRun, numeric, sync, stripSource bool
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	c := &cobra.Command{
		Use:   "restore SNAPSHOT[:PATH] --to DIR",
		Short: "Restore a snapshot, or a part of it, into a directory",
		Long: `Restore a snapshot, or a part of it, into a directory.

Without PATH the whole snapshot is restored below DIR, with its full paths
(DIR/home/ann/…). With PATH, a directory's contents go directly into DIR, a file
to its name in DIR. What is in DIR already is compared, and only what differs is
written; nothing is deleted without --delete. A file has its final name only when
all of its content is there and was verified.

If the repository is damaged, everything that is whole is restored; what is lost
is listed, with the other snapshots that still have it.

Exit codes: 0 all restored · 1 usage, or not everything could be restored
130 interrupted`,
		Example: `  backup-handler restore latest --to /tmp/r --backup-dirs /mnt/disk/backup
  backup-handler restore latest:/home/ann/thesis --to /home/ann/thesis
  backup-handler restore 20260228_030000:/etc --to /tmp/etc --include '*.conf' --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.restoreRun(cmd.Context(), args[0], &f) },

		ValidArgsFunction: a.completeSnapshots(1),
	}
	fl := c.Flags()
	a.filterFlags(c)
	a.pathFlag(c)
	fl.StringVar(&f.to, "to", "", "directory to restore into (created if needed)")
	fl.StringArrayVar(&f.include, "include", nil, "restore only what matches, in the language of .gitignore, relative to PATH (repeat)")
	fl.StringSliceVar(&f.exclude, "exclude", nil, "leave out names or relative paths that match: *, ?, [seq] (repeat, or commas)")
	fl.StringVar(&f.overwrite, "overwrite", "always", "existing entries: always (compare content), if-changed (by size and time), if-newer, never")
	fl.BoolVar(&f.delete, "delete", false, "delete what is in DIR but not in the snapshot")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "list what would be done; change nothing")
	fl.BoolVar(&f.numeric, "numeric-owner", false, "restore owners by number, not by name")
	fl.BoolVar(&f.sync, "sync", false, "return only when everything is on stable storage")
	fl.BoolVar(&f.stripSource, "strip-source", false, "put the contents of the snapshot's only source directly into DIR")
	fl.MarkHidden("strip-source") // how 2.5's --restore puts them
	return c
}

func (a *app) restoreRun(ctx context.Context, spec string, f *restoreFlags) error {
	return a.recorded(ctx, "restore", f.dryRun, nil, func(ctx context.Context, run *journal.Run) error { return a.restore(ctx, spec, f, run) })
}

func (a *app) restore(ctx context.Context, spec string, f *restoreFlags, run *journal.Run) error {
	if f.to == "" {
		return job.Fail(job.ExitUsage, errors.New("restore where to?"), "add --to DIR")
	}
	o := restore.Options{Delete: f.delete, DryRun: f.dryRun, NumericOwner: f.numeric, Sync: f.sync, Progress: new(restore.Progress)}
	var err error
	if o.Overwrite, err = parseOverwrite(f.overwrite); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, node, from, err := a.node(ctx, d, spec, f.stripSource)
	if err != nil {
		return err
	}
	if o.Select, err = selection(from, f.include, f.exclude); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	a.record("restore", slog.String("snapshot", snap.ID.String()), slog.String("path", from), slog.String("to", f.to), slog.Bool("dry_run", f.dryRun))
	o.Report = func(e restore.Event) { a.restoreEvent(e, f.dryRun) }
	start := time.Now()
	m := a.meter("restore", func() sample {
		p := o.Progress
		return sample{p.BytesDone.Load(), p.BytesTotal.Load(), p.FilesDone.Load(), p.FilesTotal.Load(), p.Current()}
	})
	res, err := restore.Run(ctx, d.Repo, snap, node, from, f.to, o)
	m.stop()
	run.Snapshot = snap.ID.String()
	run.Counts = journal.Counts{Files: res.Files, Bytes: res.BytesWritten, Problems: res.LostCount + res.FailedCount}
	destination(run, d.Location, "")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n := run.Counts.Problems; n > 0 {
		run.Error = things(int(n), "file") + " could not be restored"
	}
	return a.restoreDone(ctx, d, snap, from, f, &res, err, time.Since(start))
}

// elsewhere is another kind of which a snapshot holds the path; "": none.
func elsewhere(all []*tree.Snapshot, snap *tree.Snapshot, from string) string {
	for _, s := range all {
		if s.Kind != snap.Kind && s.Kind != tree.KindFiles && slices.ContainsFunc(s.Sources, func(p tree.Path) bool {
			return from == string(p) || strings.HasPrefix(from, string(p)+"/")
		}) {
			return s.Kind.String()
		}
	}
	return ""
}

// node finds what SNAPSHOT[:PATH] means.
func (a *app) node(ctx context.Context, d *job.Destination, spec string, stripSource bool) (*tree.Snapshot, *tree.Node, string, error) {
	snap, from, err := a.snapshot(d, spec)
	if err != nil {
		return nil, nil, "", err
	}
	if stripSource && from == "" {
		if len(snap.Sources) != 1 {
			return nil, nil, "", job.Fail(job.ExitUsage, fmt.Errorf("snapshot %s has %d sources", snap.ID.Short(), len(snap.Sources)), "use 'backup-handler restore SNAPSHOT:PATH --to DIR'")
		}
		from = string(snap.Sources[0])
	}
	from = path.Clean("/" + from)
	n, err := tree.Lookup(ctx, d.Repo, snap.RootNode(), from)
	if err != nil {
		hint := "'backup-handler ls " + snap.ID.Short() + "' shows what is in it"
		if kind := elsewhere(d.Snapshots, snap, from); kind != "" && errors.Is(err, fs.ErrNotExist) {
			hint = "snapshots of another kind hold it: add --kind " + kind
		}
		return nil, nil, "", job.Fail(job.ExitUsage, fmt.Errorf("snapshot %s: %w", snap.ID.Short(), err), hint)
	}
	return snap, n, from, nil
}

func parseOverwrite(s string) (restore.Overwrite, error) {
	switch s {
	case "always":
		return restore.Always, nil
	case "if-changed":
		return restore.IfChanged, nil
	case "if-newer":
		return restore.IfNewer, nil
	case "never":
		return restore.Never, nil
	}
	return 0, fmt.Errorf("--overwrite %q: want always, if-changed, if-newer or never", s)
}

// selection makes a restore's or comparison's Select of --include and --exclude,
// whose patterns are relative to the restored path.
func selection(from string, include, excluded []string) (func(string, bool) restore.Decision, error) {
	if len(include)+len(excluded) == 0 {
		return nil, nil
	}
	rules, err := exclude.New(exclude.Options{Patterns: excluded})
	if err != nil {
		return nil, fmt.Errorf("--exclude: %w", err)
	}
	var in *exclude.Includes
	if len(include) > 0 {
		if in, err = exclude.NewIncludes(include); err != nil {
			return nil, fmt.Errorf("--include: %w", err)
		}
	}
	prefix := strings.TrimSuffix(from, "/") + "/"
	return func(p string, isDir bool) restore.Decision {
		rel, ok := strings.CutPrefix(p, prefix)
		if !ok { // the restored path itself
			if in != nil && isDir {
				return restore.Descend
			}
			return restore.Include
		}
		if out, _ := rules.MatchName(rel, isDir); out {
			return restore.Exclude
		}
		switch {
		case in == nil || in.Match(rel, isDir):
			return restore.Include
		case isDir && in.Descend(rel):
			return restore.Descend
		}
		return restore.Exclude
	}, nil
}

func (a *app) restoreEvent(e restore.Event, dryRun bool) {
	switch e.Kind {
	case restore.Lost, restore.Failed:
		fmt.Fprintf(a.stderr, "%s: %s: %s\n", e.Kind, quote(e.Path), oneLine(e.Err.Error()))
		a.log.Error("restore", "path", e.Path, "state", e.Kind.String(), "error", e.Err.Error())
	case restore.Warning:
		a.warn("%s: %v", quote(e.Path), e.Err)
	case restore.Unchanged, restore.Kept:
		if a.verbose {
			fmt.Fprintf(a.stderr, "%-10s %s\n", e.Kind, quote(e.Path))
		}
	default:
		if a.verbose || dryRun && !a.quiet {
			fmt.Fprintf(a.stderr, "%-10s %s\n", e.Kind, quote(e.Path))
		}
	}
}

type lostFile struct {
	Path   tree.Path `json:"path"`
	Error  string    `json:"error"`
	AlsoIn []repo.ID `json:"also_in,omitempty"` // snapshots that still have it whole
}

type restoreReport struct {
	Snapshot repo.ID    `json:"snapshot"`
	Path     tree.Path  `json:"path"`
	To       string     `json:"to"`
	DryRun   bool       `json:"dry_run,omitempty"`
	Complete bool       `json:"complete"`
	Seconds  float64    `json:"seconds"`
	Files    int64      `json:"files"`
	Dirs     int64      `json:"dirs"`
	Symlinks int64      `json:"symlinks"`
	Others   int64      `json:"others"`
	Links    int64      `json:"hard_links"`
	Adjusted int64      `json:"adjusted"`
	Same     int64      `json:"unchanged"`
	Kept     int64      `json:"kept"`
	Deleted  int64      `json:"deleted"`
	Bytes    int64      `json:"bytes_written"`
	Lost     []lostFile `json:"lost,omitempty"`
	Failed   []lostFile `json:"failed,omitempty"`
	Warnings []lostFile `json:"warnings,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// maxAlsoIn bounds for how many lost files other snapshots are searched.
const maxAlsoIn = 200

func (a *app) restoreDone(ctx context.Context, d *job.Destination, snap *tree.Snapshot, from string, f *restoreFlags, res *restore.Result, ended error, took time.Duration) error {
	rep := restoreReport{
		Snapshot: snap.ID, Path: tree.Path(from), To: f.to, DryRun: f.dryRun, Complete: res.Complete() && ended == nil, Seconds: took.Seconds(),
		Files: res.Files, Dirs: res.Dirs, Symlinks: res.Symlinks, Others: res.Others, Links: res.Links, Adjusted: res.Adjusted,
		Same: res.Unchanged, Kept: res.Kept, Deleted: res.Deleted, Bytes: res.BytesWritten,
		Failed: asLost(res.Failed), Warnings: asLost(res.Warnings), Lost: asLost(res.Lost),
	}
	for i := range rep.Lost[:min(len(rep.Lost), maxAlsoIn)] {
		rep.Lost[i].AlsoIn = verify.StillHave(ctx, d.Repo, d.Snapshots, string(rep.Lost[i].Path), snap.ID)
	}
	if ended != nil {
		rep.Error = oneLine(ended.Error())
	}
	a.log.Info("restore done", "snapshot", snap.ID.String(), "to", f.to, "complete", rep.Complete, "files", rep.Files, "lost", res.LostCount, "failed", res.FailedCount)
	touched := res.Files + res.Dirs + res.Symlinks + res.Others + res.Links + res.Adjusted + res.Unchanged + res.Kept
	err := a.print(rep, func(w io.Writer) error {
		for _, l := range rep.Lost {
			if len(l.AlsoIn) > 0 {
				fmt.Fprintf(w, "lost %s is whole in snapshot %s\n", quote(string(l.Path)), shortIDs(l.AlsoIn))
			} else {
				fmt.Fprintf(w, "lost %s is in no other snapshot\n", quote(string(l.Path)))
			}
		}
		if a.quiet {
			return nil
		}
		verb := "restored"
		if f.dryRun {
			verb = "dry run: would restore"
		}
		fmt.Fprintf(w, "%s snapshot %s (%s) to %s\n", verb, snap.ID.Short(), snap.Time.Local().Format(time.DateTime), quote(f.to))
		fmt.Fprintf(w, "  written   %s files, %s in %s\n", countText(res.Files), bytesText(res.BytesWritten), durationText(took))
		fmt.Fprintf(w, "  others    %s directories, %s symlinks, %s hard links, %s devices and FIFOs\n", countText(res.Dirs), countText(res.Symlinks), countText(res.Links), countText(res.Others))
		fmt.Fprintf(w, "  existing  %s unchanged, %s adjusted, %s kept, %s deleted\n", countText(res.Unchanged), countText(res.Adjusted), countText(res.Kept), countText(res.Deleted))
		if res.WarningsCount > 0 {
			fmt.Fprintf(w, "  WARNINGS  %s about metadata, listed above\n", countText(res.WarningsCount))
		}
		if !rep.Complete {
			fmt.Fprintf(w, "  NOT COMPLETE: %s lost, %s failed\n", countText(res.LostCount), countText(res.FailedCount))
		}
		return nil
	})
	switch {
	case ended != nil:
		return job.Fail(job.ExitUsage, fmt.Errorf("restore: %w", ended), "the files that are there are whole; run the same command again to go on")
	case err != nil:
		return err
	case touched == 0 && !rep.Complete:
		return outcome(job.ExitUsage)
	case touched == 0:
		return job.Fail(job.ExitUsage, errors.New("nothing was restored: no entry is selected"), "check --include and --exclude; their patterns are relative to PATH")
	case !rep.Complete:
		return outcome(job.ExitUsage)
	}
	return nil
}

func asLost(ps []restore.Problem) []lostFile {
	var out []lostFile
	for _, p := range ps {
		out = append(out, lostFile{Path: tree.Path(p.Path), Error: oneLine(p.Err.Error())})
	}
	return out
}

func shortIDs(ids []repo.ID) string {
	var s []string
	for _, id := range ids {
		s = append(s, id.Short())
	}
	return strings.Join(s, ", ")
}
