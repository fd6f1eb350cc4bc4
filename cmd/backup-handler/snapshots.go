package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

type snapshotsFlags struct {
	latest int
}

func (a *app) snapshotsCommand() *cobra.Command {
	var f snapshotsFlags
	c := &cobra.Command{
		Use:   "snapshots",
		Short: "List the snapshots of a repository",
		Long: `List the snapshots of a repository, oldest first.

The first of the repositories that can be opened is listed. "Added" is what the
snapshot brought that was new to the repository, before compression. A mark in
the column "!" is the number of entries that are not in the snapshot as they were
in the source; --json tells which. 'help approve' explains the tag suspicious.

Exit codes: 0 listed, also if there are none · 1 usage, or nothing can be read
130 interrupted`,
		Example: `  backup-handler snapshots --backup-dirs /mnt/disk/backup
  backup-handler snapshots --host web1 --path /home/ann --latest 3
  backup-handler snapshots --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.snapshots(cmd.Context(), &f) },
	}
	fl := c.Flags()
	a.filterFlags(c)
	a.pathFlag(c)
	fl.StringVar(&a.filter.Path, "source", "", "the same as --path")
	fl.MarkHidden("source")
	fl.IntVar(&f.latest, "latest", 0, "only the newest N of each host, kind and set of sources")
	return c
}

// snapshotJSON is everything about a snapshot.
type snapshotJSON struct {
	ID    repo.ID `json:"id"`
	Short string  `json:"short_id"`
	// Approved: it is suspicious, and somebody has approved of it on this machine.
	Approved bool `json:"approved,omitempty"`
	*tree.Snapshot
}

func (a *app) snapshots(ctx context.Context, f *snapshotsFlags) error {
	if f.latest < 0 {
		return usageError("", "--latest %d: want 1 or more", f.latest)
	}
	d, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer d.Close()
	list := newest(a.filter.Of(d.Snapshots), f.latest)
	out, known := make([]snapshotJSON, len(list)), a.known()
	for i, s := range list {
		out[i] = snapshotJSON{s.ID, s.ID.Short(), guard.Flagged(s) && known.Approved(s.ID), s}
	}
	err = a.print(out, func(w io.Writer) error {
		if len(list) == 0 {
			a.note("no snapshots in " + quote(d.Place))
			return nil
		}
		return snapshotTable(w, out)
	})
	if err == nil && len(d.Snapshots) == 0 && len(d.Unreadable) > 0 {
		err = outcome(job.ExitUsage)
	}
	return err
}

// newest keeps the last n of each group; 0 keeps all.
func newest(list []*tree.Snapshot, n int) []*tree.Snapshot {
	if n == 0 {
		return list
	}
	count := make(map[tree.Group]int)
	var out []*tree.Snapshot
	for _, s := range slices.Backward(list) {
		if g := s.Group(); count[g] < n {
			count[g]++
			out = append(out, s)
		}
	}
	slices.Reverse(out)
	return out
}

// kindColumn is where the kind is shown, if any snapshot is not of files.
const kindColumn = 3

func snapshotTable(w io.Writer, list []snapshotJSON) error {
	columns := []any{"ID", "TIME", "HOST", "MODE", "FILES", "SIZE", "ADDED", "!", "SOURCES", "TAGS"}
	kinds := slices.ContainsFunc(list, func(s snapshotJSON) bool { return s.Kind != tree.KindFiles })
	if kinds {
		columns = slices.Insert(columns, kindColumn, any("KIND"))
	}
	t := newTable(columns...)
	t.right("FILES", "SIZE", "ADDED", "!")
	for _, s := range list {
		problems := ""
		if s.Counts.Problems > 0 {
			problems = countText(s.Counts.Problems)
		}
		tags := quote(strings.Join(s.Tags, ", "))
		if s.Approved {
			tags += " (approved)"
		}
		cells := []any{
			s.ID.Short(), s.Time.Local().Format("2006-01-02 15:04"), quote(s.Host), string(s.Mode), countText(s.Counts.Files),
			bytesText(s.Counts.Bytes), bytesText(s.Counts.BytesAdded), problems, sourcesText(s.Snapshot), tags,
		}
		if kinds {
			cells = slices.Insert(cells, kindColumn, any(quote(s.Kind.String())))
		}
		t.row(cells...)
	}
	return t.write(w)
}

func sourcesText(s *tree.Snapshot) string { return pathsText(s.Sources) }

func pathsText(paths []tree.Path) string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = quote(string(p))
	}
	return strings.Join(names, ", ")
}

// A plainTable is columns without lines, which other programs can take apart too.
type plainTable struct {
	table.Writer
	configs []table.ColumnConfig
}

func newTable(header ...any) *plainTable {
	t := &plainTable{Writer: table.NewWriter()}
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(header)
	return t
}

// right aligns columns of numbers.
func (t *plainTable) right(names ...string) {
	for _, n := range names {
		t.configs = append(t.configs, table.ColumnConfig{Name: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
}

func (t *plainTable) row(cells ...any) { t.AppendRow(cells) }

func (t *plainTable) write(w io.Writer) error {
	t.SetColumnConfigs(t.configs)
	_, err := io.WriteString(w, t.Render()+"\n")
	return err
}

// completeSnapshots offers the IDs of snapshots to the shell, where no question has
// to be asked for them. n is how many arguments are snapshots.
func (a *app) completeSnapshots(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		const nothing = cobra.ShellCompDirectiveNoFileComp
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		cfg, _, err := a.findConfig()
		if err != nil {
			return nil, nothing
		}
		// Set, it is not loaded: a key on the keyboard opens no logs.
		a.cfg, a.stdin, a.stderr = cfg, nil, io.Discard
		d, err := a.open(cmd.Context(), false)
		if err != nil {
			return nil, nothing
		}
		defer d.Close()
		var out []string
		for _, s := range slices.Backward(d.Snapshots) {
			if id := s.ID.Short(); strings.HasPrefix(id, word) {
				out = append(out, id+"\t"+s.Time.Local().Format(time.DateTime)+" "+quote(s.Host))
			}
		}
		if strings.HasPrefix("latest", word) {
			out = append(out, "latest\tthe newest snapshot")
		}
		return out, nothing | cobra.ShellCompDirectiveKeepOrder
	}
}
