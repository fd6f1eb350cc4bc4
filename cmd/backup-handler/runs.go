package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

type runsFlags struct {
	commands []string
	failed   bool
	last     int
}

func (a *app) runsCommand() *cobra.Command {
	var f runsFlags
	c := &cobra.Command{
		Use:   "runs",
		Short: "Show the runs on this machine",
		Long: `Show the runs of this program on this machine, the newest last: backups, verifications,
drills and whatever else changes or proves something (Logs/runs.jsonl in the state
directory). Looking at things, such as 'ls' or 'status', is no run, nor is a dry run.

STATUS is running, success, warning (all was done, and there is something to look
at), failure, refused (nothing was done: a pre-flight check, a hook, another run),
interrupted, or crashed (it ended without a word).

Exit codes: 0 · 1 usage, or there is no state directory`,
		Example: `  backup-handler runs
  backup-handler runs --failed --last 5
  backup-handler runs --command backup --json
  backup-handler runs show latest`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.runs(&f) },
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.commands, "command", nil, "only runs of this command (repeat, or commas)")
	fl.BoolVar(&f.failed, "failed", false, "only those that did not do what they should")
	fl.IntVar(&f.last, "last", 20, "how many; 0: all that are kept")
	c.AddCommand(&cobra.Command{
		Use:   "show RUN",
		Short: "Show one run",
		Long: `Show all that is recorded of one run: "latest", or the first or last characters of
its ID. Its lines in the application log carry the same ID.

Exit codes: 0 · 1 usage, or there is no such run`,
		Example: `  backup-handler runs show latest
  backup-handler runs show 20261126T020000Z-1f2e3d --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.runsShow(args[0]) },
	})
	return c
}

// listRuns returns the runs, the newest first, without opening logs.
func (a *app) listRuns() ([]journal.Run, error) {
	cfg, _, err := a.findConfig()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	dir, err := cfg.StateDir()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "set [STATE] dir")
	}
	runs, err := journal.OpenRuns(dir).List()
	return runs, job.Fail(job.ExitUsage, err, "")
}

func (a *app) runs(f *runsFlags) error {
	if f.last < 0 {
		return usageError("", "--last %d: want 0 or more", f.last)
	}
	all, err := a.listRuns()
	if err != nil {
		return err
	}
	list := slices.DeleteFunc(all, func(r journal.Run) bool {
		return f.failed && (r.Status.Good() || !r.Status.Over()) || len(f.commands) > 0 && !slices.Contains(f.commands, r.Command)
	})
	if f.last > 0 && len(list) > f.last {
		list = list[:f.last]
	}
	slices.Reverse(list)
	if list == nil {
		list = []journal.Run{}
	}
	return a.print(list, func(w io.Writer) error {
		if len(list) == 0 {
			a.note("no runs")
			return nil
		}
		t := newTable("RUN", "START", "COMMAND", "TOOK", "STATUS", "WHAT")
		t.right("TOOK")
		for i := range list {
			r := &list[i]
			took := tookText(r.Took(time.Now()))
			if r.Status == journal.Crashed { // nobody knows when
				took = "-"
			}
			t.row(r.ID, r.Start.Local().Format("2006-01-02 15:04"), r.Series(), took, string(r.Status), whatText(r))
		}
		return t.write(w)
	})
}

func tookText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// whatText is a run in a few words.
func whatText(r *journal.Run) string {
	const most = 60
	what := r.Error
	switch {
	case what != "":
	case r.Snapshot != "" && r.Command == "backup":
		what = fmt.Sprintf("%s, %s, %s stored", r.Snapshot[:min(8, len(r.Snapshot))], things(int(r.Counts.Files), "file"), bytesText(r.Counts.Stored))
	case len(r.Warnings) > 0:
		what = r.Warnings[0]
	}
	if runes := []rune(what); len(runes) > most {
		what = string(runes[:most-1]) + "…"
	}
	return escape(what, false)
}

func (a *app) runsShow(id string) error {
	all, err := a.listRuns()
	if err != nil {
		return err
	}
	r, err := journal.FindRun(all, id)
	if err != nil {
		hint := "'backup-handler runs' lists them"
		if errors.Is(err, journal.ErrAmbiguousRun) {
			hint = "give more of its ID"
		}
		return job.Fail(job.ExitUsage, err, hint)
	}
	return a.print(r, func(w io.Writer) error {
		line := func(name, format string, args ...any) {
			fmt.Fprintf(w, "%-12s %s\n", name, escape(fmt.Sprintf(format, args...), false))
		}
		line("run", "%s", r.ID)
		line("command", "%s", strings.TrimSpace(r.Series()+" "+r.Mode))
		if r.Status.Over() && r.Status != journal.Crashed {
			line("status", "%s, exit code %d", r.Status, r.Exit)
		} else {
			line("status", "%s", r.Status)
		}
		if r.Error != "" {
			line("error", "%s", r.Error)
		}
		if r.Hint != "" {
			line("hint", "%s", r.Hint)
		}
		line("started", "%s by %s on %s (%s, process %d, version %s)", r.Start.Local().Format(time.RFC3339), r.User, r.Host, r.Trigger, r.PID, r.Version)
		if !r.End.IsZero() {
			line("ended", "%s, after %s", r.End.Local().Format(time.RFC3339), tookText(r.Took(r.End)))
		}
		if r.Config != "" {
			line("config", "%s", r.Config)
		}
		if r.Snapshot != "" {
			line("snapshot", "%s", r.Snapshot)
		}
		if c := r.Counts; c != (journal.Counts{}) {
			line("files", "%s (%s new, %s changed), %s", countText(c.Files), countText(c.New), countText(c.Changed), bytesText(c.Bytes))
			line("stored", "%s of %s read", bytesText(c.Stored), bytesText(c.Read))
		}
		for _, s := range r.Sources {
			line("source", "%s%s", s.Path, cmp.Or(orError(s.Error), ifPending(s.Pending, r.Status, "not stored")))
		}
		for _, d := range r.Destinations {
			line("destination", "%s%s", d.Location, cmp.Or(orError(d.Error), ifPending(d.Pending, r.Status, "not finished")))
		}
		for _, s := range r.Stages {
			line("stage", "%-12s %s%s", s.Name, tookText(time.Duration(s.Seconds*float64(time.Second))), orError(s.Error))
		}
		for _, text := range r.Warnings {
			line("warning", "%s", text)
		}
		for _, t := range r.Told {
			line("told", "%s%s", t.Channel, orError(t.Error))
		}
		if r.Cut > 0 {
			line("", "%s not kept", things(r.Cut, "line"))
		}
		return nil
	})
}

// ifPending is what stands behind something that a run which is over has not come to.
func ifPending(pending bool, status journal.Status, text string) string {
	if !pending || !status.Over() {
		return ""
	}
	return "  " + text
}

// orError is what stands behind something that may have failed.
func orError(text string) string {
	if text == "" {
		return ""
	}
	return "  FAILED: " + text
}
