package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

type findFlags struct {
	snapshots                []string
	path, newer, older, kind string
	larger, smaller          string
	long                     bool
}

func (a *app) findCommand() *cobra.Command {
	var f findFlags
	c := &cobra.Command{
		Use:   "find PATTERN…",
		Short: "Find files in all snapshots",
		Long: `Find files in all snapshots, oldest first.

A PATTERN without a slash is matched against names, one with a slash against
whole paths: * any characters (slashes too), ? one, [seq] one of them. Several
patterns: what any of them matches. Each line is SNAPSHOT:PATH, as restore and
cat take it. With --json each is an element of an array.

Exit codes: 0 searched, whether anything was found or not · 1 usage, no such
snapshot, or a directory is damaged · 130 interrupted`,
		Example: `  backup-handler find 'thesis*.tex'
  backup-handler find '*' --path /home/ann --newer 2026-02-01 --type file -l
  backup-handler find '/etc/*/id_*' --snapshot latest`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.find(cmd.Context(), args, &f) },
	}
	fl := c.Flags()
	a.filterFlags(c)
	fl.StringArrayVar(&f.snapshots, "snapshot", nil, "only this snapshot (repeat; default: all)")
	fl.StringVar(&f.path, "path", "/", "only below this directory")
	fl.StringVar(&f.newer, "newer", "", "changed at or after this time: 2026-02-28, 2026-02-28 03:00, RFC 3339")
	fl.StringVar(&f.older, "older", "", "changed before this time")
	fl.StringVar(&f.kind, "type", "", "file, dir, symlink, fifo, chardev or blockdev; or their letters f d l p c b")
	fl.StringVar(&f.larger, "larger-than", "", "files above this size, e.g. 500M")
	fl.StringVar(&f.smaller, "smaller-than", "", "files below this size")
	fl.BoolVarP(&f.long, "long", "l", false, "mode, owner, group, size in bytes, time of change")
	c.RegisterFlagCompletionFunc("snapshot", a.completeSnapshots(1<<30))
	return c
}

func (a *app) find(ctx context.Context, patterns []string, f *findFlags) error {
	q, err := newQuery(patterns, f)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	list := a.filter.Of(d.Snapshots)
	if len(f.snapshots) > 0 {
		list = nil
		for _, name := range f.snapshots {
			s, err := a.resolve(d, name)
			if err != nil {
				return err
			}
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	out := a.stream("")
	defer out.w.Flush() // what was found before an error
	damage := damageNote{a: a}
	from := path.Clean("/" + f.path)
	held := false // by any snapshot
	for _, s := range list {
		root, err := tree.Lookup(ctx, d.Repo, s.RootNode(), from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			held = true
			err = q.search(ctx, d, s, from, root, &damage, func(p string, n *tree.Node) error {
				e := newEntry(s, p, n)
				e.Snapshot = &s.ID
				return out.item(e, func(w io.Writer) {
					if f.long {
						fmt.Fprint(w, longLine(s, n)+" ")
					}
					fmt.Fprintf(w, "%s:%s\n", s.ID.Short(), nameText(p, n, f.long))
				})
			})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if err := damage.note(s)(from, root, err); err != nil {
				return err
			}
		}
	}
	if !held && len(list) > 0 && damage.n == 0 {
		return usageError("'backup-handler ls SNAPSHOT' shows what is in one", "%s is in none of the snapshots", quote(from))
	}
	if err := out.end(""); err != nil {
		return err
	}
	return damage.outcome()
}

// maxBarren bounds how many directories a query remembers, 32 bytes each.
const maxBarren = 1 << 20

// A query is what find looks for.
type query struct {
	names, paths     *exclude.Rules // nil: none
	kind             tree.Type      // 0: any
	newer, older     time.Time      // zero: any
	larger, smaller  int64          // -1: any
	onlyFiles        bool           // sizes are of files
	barren           map[[sha256.Size]byte]struct{}
	dependsOnTheRest bool // on the path, so that barren says nothing elsewhere
}

func newQuery(patterns []string, f *findFlags) (*query, error) {
	q := &query{larger: -1, smaller: -1, barren: make(map[[sha256.Size]byte]struct{})}
	var names, paths []string
	for _, p := range patterns {
		switch {
		case p == "":
			return nil, errors.New("an empty pattern finds nothing")
		case strings.Contains(p, "/"):
			paths = append(paths, strings.TrimPrefix(p, "/"))
		default:
			names = append(names, p)
		}
	}
	var err error
	if len(names) > 0 {
		if q.names, err = exclude.New(exclude.Options{Patterns: names}); err != nil {
			return nil, err
		}
	}
	if len(paths) > 0 {
		q.dependsOnTheRest = true
		if q.paths, err = exclude.New(exclude.Options{Patterns: paths}); err != nil {
			return nil, err
		}
	}
	if q.kind, err = parseKind(f.kind); err != nil {
		return nil, err
	}
	if q.newer, err = parseMoment("--newer", f.newer); err != nil {
		return nil, err
	}
	if q.older, err = parseMoment("--older", f.older); err != nil {
		return nil, err
	}
	size := func(flag, text string, into *int64) error {
		if text == "" {
			return nil
		}
		n, err := config.ParseSize(text)
		if err != nil {
			return fmt.Errorf("%s %w", flag, err)
		}
		*into, q.onlyFiles = n, true
		return nil
	}
	return q, errors.Join(size("--larger-than", f.larger, &q.larger), size("--smaller-than", f.smaller, &q.smaller))
}

func parseKind(s string) (tree.Type, error) {
	for t := tree.File; s != "" && t <= tree.BlockDevice; t++ {
		if s == t.String() || s == "fdlpcb"[t-tree.File:t-tree.File+1] {
			return t, nil
		}
	}
	if s == "" {
		return 0, nil
	}
	return 0, fmt.Errorf("--type %q: want file, dir, symlink, fifo, chardev or blockdev", s)
}

// parseMoment reads a time, local where it names no zone.
func parseMoment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "20060102_150405", time.RFC3339Nano} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: want a time such as 2026-02-28 or 2026-02-28 03:00", flag, s)
}

func (q *query) matches(p string, n *tree.Node) bool {
	if q.kind != 0 && n.Type != q.kind || q.onlyFiles && n.Type != tree.File {
		return false
	}
	if q.larger >= 0 && n.Size <= q.larger || q.smaller >= 0 && n.Size >= q.smaller {
		return false
	}
	if t := n.MTime.Time(); !q.newer.IsZero() && t.Before(q.newer) || !q.older.IsZero() && !t.Before(q.older) {
		return false
	}
	isDir := n.Type == tree.Dir
	if q.names != nil {
		if ok, _ := q.names.MatchName(path.Base(p), isDir); ok {
			return true
		}
	}
	if q.paths != nil {
		if ok, _ := q.paths.MatchName(strings.TrimPrefix(p, "/"), isDir); ok {
			return true
		}
	}
	return false
}

// search goes through one snapshot. Directories in which an earlier search has found
// nothing are not read again: most snapshots share nearly all of theirs.
func (q *query) search(ctx context.Context, d *job.Destination, s *tree.Snapshot, from string, root *tree.Node, damage *damageNote, found func(string, *tree.Node) error) error {
	type open struct{ hits, damaged int64 } // before the directory was entered
	var stack []open
	var hits int64
	return tree.Walk(ctx, d.Repo, from, root, tree.Visitor{
		Node: func(p string, n *tree.Node) error {
			if p != "/" && q.matches(p, n) {
				hits++
				if err := found(p, n); err != nil {
					return err
				}
			}
			if n.Type != tree.Dir {
				return nil
			}
			if _, ok := q.barren[contentKey(n)]; ok {
				return fs.SkipDir
			}
			stack = append(stack, open{hits, damage.n})
			return nil
		},
		DirDone: func(_ string, n *tree.Node) error {
			was := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if was.hits == hits && was.damaged == damage.n && !q.dependsOnTheRest && len(q.barren) < maxBarren {
				q.barren[contentKey(n)] = struct{}{}
			}
			return nil
		},
		Damaged: damage.note(s),
	})
}

// contentKey identifies what is in a directory.
func contentKey(n *tree.Node) (key [sha256.Size]byte) {
	h := sha256.New()
	for i := range n.Content {
		h.Write(n.Content[i].Hash[:])
	}
	h.Sum(key[:0])
	return key
}
