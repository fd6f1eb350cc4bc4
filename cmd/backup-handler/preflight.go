package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/preflight"
)

func (a *app) preflightCommand() *cobra.Command {
	var f backupFlags
	var mount bool
	c := &cobra.Command{
		Use:   "preflight",
		Short: "Check whether a backup can be made",
		Long: `Check whether a backup can be made, as each backup does before it begins: who can
change the configuration, the clock, the age of the last good backup, the sources
(there, mounted, readable, not empty), and the destinations (the right disk,
mounted, writable, room for a usual run; on other machines reachable and let in;
the repository that was there before, and a key that opens it).

A line for each check: ok, skipped (why it could not be made), warning, or refused
(a backup leaves that destination alone or, for anything else, is not made). Nothing
is changed but for a probe file in local destinations, which is removed again. What
/etc/fstab has and is not mounted is mounted by a backup ([PREFLIGHT] auto_mount),
and here with --mount.

Exit codes: 0 nothing is refused · 1 usage or configuration · 2 something is
refused · 130 interrupted`,
		Example: `  backup-handler preflight
  backup-handler preflight --source-dir /home --backup-dirs /mnt/disk/backup --mount
  backup-handler preflight --json --config /etc/backup-handler/config.ini`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.preflight(cmd.Context(), &f, mount) },
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.sources, "source-dir", nil, "directory or file that would be backed up (repeat)")
	fl.StringSliceVar(&f.modes, "operation-modes", nil, "use only these of the configured destinations: local, ssh, s3")
	fl.StringSliceVar(&f.servers, "ssh-servers", nil, "SSH servers, as host or user@host:port, instead of those of the configuration")
	fl.StringVar(&f.host, "host", "", "name of the host in the snapshots (default: this machine's)")
	fl.BoolVar(&f.encrypt, "encrypt", false, "refuse unencrypted repositories")
	fl.BoolVar(&f.allowEmpty, "allow-empty", false, "accept a source without any entry")
	fl.BoolVar(&mount, "mount", false, "mount what a backup would mount")
	return c
}

// A preflightReport is the JSON of preflight.
type preflightReport struct {
	State  preflight.State    `json:"state"` // the worst: ok, warning or refused
	Checks []preflight.Result `json:"checks"`
	// Refused says that a backup would not be made at all; else one is made to the
	// destinations that are not refused.
	Refused  bool `json:"backup_refused"`
	ExitCode int  `json:"exit_code"`
}

func (a *app) preflight(ctx context.Context, f *backupFlags, mount bool) error {
	if err := a.load(); err != nil {
		return err
	}
	b, err := a.backupOptions(f)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	o, err := a.preflightOptions(b)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	o.Mount = mount
	acc, err := a.access(f.encrypt, nil)
	if err != nil {
		return err
	}
	defer acc.Close()
	found := job.Preflight(ctx, acc, *o)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, refusal := job.Refusal(found, o.Destinations)
	rep := preflightReport{State: found.State(), Checks: found.Results, Refused: refusal != nil}
	if rep.State == preflight.Refused {
		rep.ExitCode = job.ExitRefused
	}
	for _, r := range found.With(preflight.Refused) {
		a.log.Error("preflight", "check", string(r.Check), "subject", oneLine(r.Subject), "text", oneLine(r.Text))
	}
	if err := a.print(rep, func(w io.Writer) error { preflightText(w, &rep, a.quiet); return nil }); err != nil {
		return err
	}
	return outcome(rep.ExitCode)
}

// preflightText prints a line for each check and one for each hint; quiet leaves out
// those that are well.
func preflightText(w io.Writer, rep *preflightReport, quiet bool) {
	for _, r := range rep.Checks {
		bad := r.State == preflight.Refused || r.State == preflight.Warning
		if quiet && !bad {
			continue
		}
		state := string(r.State)
		if bad {
			state = strings.ToUpper(state)
		}
		text := oneLine(r.Text)
		if r.Subject != "" {
			text = quote(r.Subject) + "  " + text
		}
		fmt.Fprintf(w, "%-8s %-12s%s\n", state, r.Check, text)
		if r.Hint != "" {
			fmt.Fprintf(w, "         hint: %s\n", oneLine(r.Hint))
		}
	}
	switch {
	case rep.Refused:
		fmt.Fprintln(w, "A backup cannot be made.")
	case rep.State == preflight.Refused:
		fmt.Fprintln(w, "A backup can be made, but not to every destination.")
	case !quiet:
		fmt.Fprintln(w, "A backup can be made.")
	}
}

// preflightOptions are those of the checks before a backup.
func (a *app) preflightOptions(b *job.BackupOptions) (*job.PreflightOptions, error) {
	settings, err := a.cfg.Preflight()
	if err != nil {
		return nil, err
	}
	o := &job.PreflightOptions{
		Config: a.cfg, Settings: settings, Sources: b.Sources, NoFiles: len(b.Sources) == 0 && len(b.Streams) > 0, Destinations: b.Destinations, Host: b.Host, AllowEmpty: b.AllowEmpty, SQLite: b.SQLite.Paths,
		Known: b.Known, Now: b.Now, Built: built(),
	}
	hooks, err := a.cfg.Hooks()
	if err != nil {
		return nil, err
	}
	o.Hooked = func(source string) bool {
		return hooks.PreBackup != "" || slices.ContainsFunc(hooks.Sources, func(s config.SourceHooks) bool { return s.Path == source && s.PreBackup != "" })
	}
	if dir, err := a.cfg.StateDir(); err == nil {
		o.StateDir, o.Runs = dir, journal.OpenRuns(dir)
	}
	return o, nil
}

// released is when this version was begun: no clock that is right says less.
var released = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// built is the time of the program's source, where the build knows it, else released.
func built() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && t.After(released) {
				return t
			}
		}
	}
	return released
}
