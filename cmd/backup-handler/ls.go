package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) lsCommand() *cobra.Command {
	var long, recursive bool
	c := &cobra.Command{
		Use:   "ls SNAPSHOT[:PATH]",
		Short: "List a directory of a snapshot",
		Long: `List a directory of a snapshot, or (-R) all below it, with full paths.

Directories end with a slash. What is not printable in a name is escaped: \n, \t,
\\, \x for a byte, \u for a character. With --json each entry is an element of an
array, and a name that is not UTF-8 is U+0000 and its base64.

Exit codes: 0 listed · 1 usage, no such snapshot or path, or a directory is
damaged · 130 interrupted`,
		Example: `  backup-handler ls latest
  backup-handler ls latest:/home/ann -l
  backup-handler ls 20260228_030000:/etc -R --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ls(cmd.Context(), args[0], long, recursive)
		},
	}
	a.filterFlags(c)
	a.pathFlag(c)
	c.Flags().BoolVarP(&long, "long", "l", false, "mode, owner, group, size in bytes, time of change")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "all below it")
	return c
}

func (a *app) ls(ctx context.Context, spec string, long, recursive bool) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	snap, root, from, err := a.node(ctx, d, spec, false)
	if err != nil {
		return err
	}
	out := a.stream("")
	defer out.w.Flush() // what was found before an error
	damage := damageNote{a: a}
	err = tree.Walk(ctx, d.Repo, from, root, tree.Visitor{
		Node: func(p string, n *tree.Node) error {
			if p == from && n.Type == tree.Dir {
				return nil
			}
			name := p
			if !recursive {
				name = path.Base(p)
			}
			err := out.item(newEntry(snap, p, n), func(w io.Writer) {
				if long {
					fmt.Fprint(w, longLine(snap, n)+" ")
				}
				fmt.Fprintln(w, nameText(name, n, long))
			})
			if err == nil && n.Type == tree.Dir && !recursive {
				err = fs.SkipDir
			}
			return err
		},
		Damaged: damage.note(snap),
	})
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	if err := out.end(""); err != nil {
		return err
	}
	return damage.outcome()
}
