package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) catCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "cat SNAPSHOT:PATH",
		Aliases: []string{"dump"},
		Short:   "Write a file of a snapshot to standard output",
		Long: `Write a file of a snapshot to standard output.

Every byte is verified before it is written. Where the file is damaged, the
output ends, and the exit code is 1.

Exit codes: 0 written · 1 usage, no such snapshot or file, or it is damaged
130 interrupted`,
		Example: `  backup-handler cat latest:/etc/fstab
  backup-handler dump 20260228_030000:/var/backups/db.sql | mysql shop`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.cat(cmd.Context(), args[0]) },
	}
	a.filterFlags(c)
	a.pathFlag(c)
	return c
}

func (a *app) cat(ctx context.Context, spec string) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, n, from, err := a.node(ctx, d, spec, false)
	if err != nil {
		return err
	}
	place := snap.ID.Short() + ":" + quote(from)
	switch n.Type {
	case tree.File:
	case tree.Dir:
		return usageError("'backup-handler ls "+place+"' lists it, 'backup-handler restore "+place+" --to DIR' restores it", "%s is a directory", place)
	case tree.Symlink:
		return usageError("", "%s is a symbolic link to %s", place, quote(n.Target))
	default:
		return usageError("", "%s is no file but a %s", place, n.Type)
	}
	if err := restore.Cat(ctx, d.Repo, n, a.stdout); err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", place, err), "the output is not complete; 'backup-handler verify' tells what is lost and which snapshots still have it")
	}
	return nil
}
