package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) diffCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "diff SNAPSHOT SNAPSHOT [PATH]",
		Short: "Show what changed between two snapshots",
		Long: `Show what changed from the first snapshot to the second, or below PATH.

  +  added      -  removed     M  content changed
  m  only metadata changed     T  another type, such as a file for a directory

--verbose tells what of an entry changed. Directories that are the same in both
are not read. With --json: one object with the array "changes", an element a line,
and then a "summary".

Exit codes: 0 compared, different or not · 1 usage, no such snapshot or path, or a
directory is damaged · 130 interrupted`,
		Example: `  backup-handler diff 20260201_000000 latest
  backup-handler diff 3f0c9a21 latest /home/ann --verbose`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: a.completeSnapshots(2),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.diff(cmd.Context(), args) },
	}
	a.filterFlags(c)
	a.pathFlag(c)
	return c
}

// A diffSummary counts changes. The bytes are sizes of files.
type diffSummary struct {
	Added        int64 `json:"added"`
	Removed      int64 `json:"removed"`
	Modified     int64 `json:"modified"`
	Metadata     int64 `json:"metadata"`
	TypeChanged  int64 `json:"type_changed"`
	AddedBytes   int64 `json:"added_bytes"`
	RemovedBytes int64 `json:"removed_bytes"`
}

type changeJSON struct {
	Path   tree.Path       `json:"path"`
	Change tree.ChangeKind `json:"change"`
	What   []string        `json:"what,omitempty"`
	Before *entry          `json:"before,omitempty"`
	After  *entry          `json:"after,omitempty"`
}

func (a *app) diff(ctx context.Context, args []string) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	from := "/"
	if len(args) == 3 {
		from = path.Clean("/" + args[2])
	}
	var snaps [2]*tree.Snapshot
	var sides [2]tree.Tree
	missing := 0
	for i, spec := range args[:2] {
		s, p, err := a.snapshot(d, spec)
		if err != nil {
			return err
		}
		if p != "" {
			return usageError("give the path once, at the end: 'backup-handler diff SNAPSHOT SNAPSHOT PATH'", "%s: a path belongs to both snapshots", quote(spec))
		}
		n, err := tree.Lookup(ctx, d.Repo, s.RootNode(), from)
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			n, err = nil, nil
		}
		if err != nil {
			return job.Fail(job.ExitUsage, fmt.Errorf("snapshot %s: %w", s.ID.Short(), err), "")
		}
		snaps[i], sides[i] = s, tree.Tree{Loader: d.Repo, Root: n}
	}
	if missing == 2 {
		return usageError("'backup-handler ls SNAPSHOT' shows what is in one", "%s is in neither of the snapshots", quote(from))
	}
	head, err := compactJSON(struct {
		Before repo.ID   `json:"before"`
		After  repo.ID   `json:"after"`
		Path   tree.Path `json:"path"`
	}{snaps[0].ID, snaps[1].ID, tree.Path(from)})
	if err != nil {
		return err
	}
	out := a.stream(strings.TrimSuffix(string(head), "}") + `,"changes":`)
	defer out.w.Flush()
	var sum diffSummary
	change := func(c tree.Change) error {
		sum.add(c)
		j := changeJSON{Path: tree.Path(c.Path), Change: c.Kind, What: c.What, Before: asEntry(snaps[0], c.Path, c.Old), After: asEntry(snaps[1], c.Path, c.New)}
		return out.item(j, func(w io.Writer) { fmt.Fprintln(w, changeLine(c, a.verbose)) })
	}
	switch {
	case sides[0].Root == nil:
		err = all(ctx, sides[1], from, tree.Added, change)
	case sides[1].Root == nil:
		err = all(ctx, sides[0], from, tree.Removed, change)
	default:
		err = tree.Diff(ctx, from, sides[0], sides[1], change)
	}
	if err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("compare %s with %s: %w", snaps[0].ID.Short(), snaps[1].ID.Short(), err), "'backup-handler verify' tells what is damaged")
	}
	tail, err := compactJSON(sum)
	if err != nil {
		return err
	}
	if !a.json && !a.quiet {
		fmt.Fprintf(out.w, "%s added (%s), %s removed (%s), %s modified, %s with other metadata, %s of another type\n",
			countText(sum.Added), bytesText(sum.AddedBytes), countText(sum.Removed), bytesText(sum.RemovedBytes),
			countText(sum.Modified), countText(sum.Metadata), countText(sum.TypeChanged))
	}
	return out.end(`,"summary":` + string(tail) + "}")
}

// all reports a path that only one snapshot has, and what is below it.
func all(ctx context.Context, t tree.Tree, from string, kind tree.ChangeKind, fn func(tree.Change) error) error {
	return tree.Walk(ctx, t.Loader, from, t.Root, tree.Visitor{Node: func(p string, n *tree.Node) error {
		c := tree.Change{Path: p, Kind: kind}
		if kind == tree.Added {
			c.New = n
		} else {
			c.Old = n
		}
		return fn(c)
	}})
}

func asEntry(s *tree.Snapshot, p string, n *tree.Node) *entry {
	if n == nil {
		return nil
	}
	e := newEntry(s, p, n)
	return &e
}

func (s *diffSummary) add(c tree.Change) {
	switch c.Kind {
	case tree.Added:
		s.Added++
		s.AddedBytes += c.New.Size
	case tree.Removed:
		s.Removed++
		s.RemovedBytes += c.Old.Size
	case tree.Modified:
		s.Modified++
	case tree.Metadata:
		s.Metadata++
	case tree.TypeChanged:
		s.TypeChanged++
	}
}

func changeLine(c tree.Change, verbose bool) string {
	mark, n := "?", c.New
	switch c.Kind {
	case tree.Added:
		mark = "+"
	case tree.Removed:
		mark, n = "-", c.Old
	case tree.Modified:
		mark = "M"
	case tree.Metadata:
		mark = "m"
	case tree.TypeChanged:
		mark = "T"
	}
	line := mark + "  " + nameText(c.Path, n, false)
	switch {
	case verbose && c.Kind == tree.TypeChanged:
		line += "  (" + c.Old.Type.String() + " became " + c.New.Type.String() + ")"
	case verbose && len(c.What) > 0:
		line += "  (" + strings.Join(c.What, ", ") + ")"
	}
	return line
}
