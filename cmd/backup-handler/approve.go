package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) approveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "approve SNAPSHOT…",
		Short: "Say that suspicious snapshots are right",
		Long: `Say that suspicious snapshots are right, so that retention goes on.

A run that looks as if the source had been encrypted or deleted ([GUARD] says what
does) tags its snapshot suspicious. From then on that snapshot, and all older ones
of its host and sources, are kept whatever the rules say. Look first: 'snapshots
--json' has the reasons, 'diff' with the snapshot before it shows what has changed.

Approval is remembered on this machine, for every repository that has the snapshot;
a machine that forgets the same snapshots needs its own.

Exit codes: 0 approved · 1 usage, no such snapshot, or it is not suspicious
130 interrupted`,
		Example: `  backup-handler diff latest 3f0c81aa
  backup-handler approve 3f0c81aa`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSnapshots(1 << 30),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.approve(cmd.Context(), args) },
	}
	a.filterFlags(c)
	a.pathFlag(c)
	return c
}

type approvalJSON struct {
	ID      repo.ID  `json:"id"`
	Reasons []string `json:"suspicions"`
}

func (a *app) approve(ctx context.Context, names []string) error {
	d, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.Close()
	var list []*tree.Snapshot
	for _, name := range names {
		s, err := a.resolve(d, name)
		if err != nil {
			return err
		}
		if !guard.Flagged(s) {
			return usageError("'backup-handler snapshots --tag "+guard.Tag+"' lists those that are", "snapshot %s is not suspicious", s.ID.Short())
		}
		list = append(list, s)
	}
	out := make([]approvalJSON, len(list))
	for i, s := range list {
		if err := a.known().Approve(s.ID, userName(), time.Now()); err != nil {
			return job.Fail(job.ExitUsage, fmt.Errorf("approve snapshot %s: %w", s.ID.Short(), err), "")
		}
		a.record("approve", slog.String("repository", d.Place), slog.String("snapshot", s.ID.String()))
		out[i] = approvalJSON{s.ID, s.Suspicions}
	}
	return a.print(out, func(w io.Writer) error {
		for _, s := range list {
			fmt.Fprintf(w, "snapshot %s is approved (%s)\n", s.ID.Short(), suspicionsText(s))
		}
		return nil
	})
}

// suspicionsText is why a snapshot is suspicious. Another host may have written it.
func suspicionsText(s *tree.Snapshot) string {
	if len(s.Suspicions) == 0 {
		return "tagged by hand"
	}
	return quote(strings.Join(s.Suspicions, "; "))
}
