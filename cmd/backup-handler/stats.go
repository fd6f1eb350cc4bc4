package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) statsCommand() *cobra.Command {
	var f statsFlags
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show where the space of a repository goes, and when it is full",
		Long: `Show where the space of a repository goes, how fast it grows, and when it is full.

"Logical" is the size of the files, as if every snapshot were a copy. The ratio is
logical to stored, over all snapshots. Deduplication and compression by themselves
are as the runs have recorded them: those of snapshots that are gone do not count.

The rest are stored bytes, after deduplication and compression; of a block that
several files share, each counts by its size before compression.

  unique   what nothing else needs. Of a snapshot: what forgetting it alone would
           free, after a prune. Of a host and its sources: what forgetting all
           their snapshots would free. Two snapshots that share something with
           each other only do not have it as unique.
  total    all that the snapshots of a host and its sources need.
  new      what a snapshot needs, and no older one.
  shared   what snapshots of several hosts or sets of sources need.
  other    what no snapshot needs any more, until a prune, and padding.

Growth is what the snapshots of each of the last --days days have added that is
still needed, without first snapshots of sources: what rules will forget later is in
it. The rate is the median of the slopes between any two of these days, so that one
import of photos does not change it, from 7 days on. The forecast is what is free
divided by that rate; where a store does not tell what is free, there is none.

That reads the directories of all snapshots, each page at most three times (once
more where several hosts or sources share), and takes 4 bytes of memory for each
chunk: 50 snapshots of 20,000 files on a local disk take less than a second. --quick
leaves it out. Without --verbose only the largest snapshots are listed.

Exit codes: 0 shown · 1 usage, no repository can be opened, or directories of
snapshots are damaged · 130 interrupted`,
		Example: `  backup-handler stats --backup-dirs /mnt/disk/backup
  backup-handler stats --verbose --days 90
  backup-handler stats --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.stats(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.BoolVar(&f.quick, "quick", false, "only what can be told without reading directories")
	fl.IntVar(&f.days, "days", 30, "how many days growth is about, up to 1000")
	return c
}

type statsFlags struct {
	quick bool
	days  int
}

type statsReport struct {
	Repository string            `json:"repository"`
	ID         repo.ID           `json:"id"`
	Encrypted  bool              `json:"encrypted"`
	Keys       map[seal.Kind]int `json:"keys"`

	Packs        int   `json:"packs"`
	IndexObjects int   `json:"index_objects"`
	StoredBytes  int64 `json:"stored_bytes"` // of packs

	Snapshots    int   `json:"snapshots"`
	Unreadable   int   `json:"unreadable_snapshots"`
	LatestBytes  int64 `json:"latest_bytes"`  // logical, of the newest snapshot of each host and set of sources
	LogicalBytes int64 `json:"logical_bytes"` // of all snapshots
	// What the runs of these snapshots recorded.
	DataAdded     int64   `json:"data_added"`
	BytesAdded    int64   `json:"bytes_added"`
	BytesRecorded int64   `json:"bytes_stored"`
	Ratio         float64 `json:"ratio"` // LogicalBytes to StoredBytes; 0: nothing is stored

	PerSnapshot []snapshotStats `json:"per_snapshot"`

	Space  *job.Space  `json:"space,omitempty"` // absent: --quick, or it cannot be told
	Growth *job.Growth `json:"growth,omitempty"`
}

type snapshotStats struct {
	ID      repo.ID     `json:"id"`
	Time    time.Time   `json:"time"`
	Host    string      `json:"host"`
	Kind    tree.Kind   `json:"kind,omitempty"`
	Sources []tree.Path `json:"sources"`
	Counts  tree.Counts `json:"counts"`
}

func (a *app) stats(ctx context.Context, f *statsFlags) error {
	if f.days < 1 || f.days > 1000 {
		return usageError("", "--days %d: want 1 to 1000", f.days)
	}
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	rep, err := newStats(ctx, d)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	var fault error
	if !f.quick {
		rep.Space, fault = d.Space(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if rep.Space != nil {
		free, _ := d.FreeBytes(ctx)
		rep.Growth = rep.Space.Growth(f.days, free)
		if n := rep.Space.Lost; n > 0 {
			a.warn("%s that snapshots need are in no pack, and are not counted: 'backup-handler verify' tells more", things(int(n), "chunk"))
		}
	}
	if err := a.print(rep, func(w io.Writer) error { return a.statsText(w, rep) }); err != nil {
		return err
	}
	return job.Fail(job.ExitUsage, fault, "'backup-handler verify' tells what is damaged; --quick leaves out what needs it")
}

func newStats(ctx context.Context, d *job.Destination) (*statsReport, error) {
	rep := &statsReport{
		Repository: d.Place, ID: d.Repo.ID(),
		Packs: d.Index.Packs, IndexObjects: d.Index.IndexObjects, StoredBytes: d.Index.Bytes,
		Snapshots: len(d.Snapshots), Unreadable: len(d.Unreadable), PerSnapshot: []snapshotStats{},
	}
	var err error
	if rep.Keys, err = keyKinds(ctx, d.Repo); err != nil {
		return nil, err
	}
	rep.Encrypted = rep.Keys[seal.KindNone] == 0
	for _, s := range d.Snapshots {
		rep.LogicalBytes += s.Counts.Bytes
		rep.DataAdded += s.Counts.DataAdded
		rep.BytesAdded += s.Counts.BytesAdded
		rep.BytesRecorded += s.Counts.BytesStored
		rep.PerSnapshot = append(rep.PerSnapshot, snapshotStats{s.ID, s.Time, s.Host, s.Kind, s.Sources, s.Counts})
	}
	for _, s := range newest(d.Snapshots, 1) {
		rep.LatestBytes += s.Counts.Bytes
	}
	if rep.StoredBytes > 0 {
		rep.Ratio = float64(rep.LogicalBytes) / float64(rep.StoredBytes)
	}
	return rep, nil
}

// keyKinds counts the key slots.
func keyKinds(ctx context.Context, r *repo.Repository) (map[seal.Kind]int, error) {
	keys, err := r.Keys(ctx)
	kinds := make(map[seal.Kind]int)
	for _, k := range keys {
		kinds[k.Kind]++
	}
	return kinds, err
}

func (a *app) statsText(w io.Writer, r *statsReport) error {
	fmt.Fprintf(w, "%s\n", quote(r.Repository))
	fmt.Fprintf(w, "  repository     %s, %s\n", r.ID, encryptedText(r.Encrypted))
	fmt.Fprintf(w, "  keys           %s\n", keysText(r.Keys))
	fmt.Fprintf(w, "  stored         %s in %s packs, %s index objects\n", bytesText(r.StoredBytes), countText(int64(r.Packs)), countText(int64(r.IndexObjects)))
	fmt.Fprintf(w, "  snapshots      %s", countText(int64(r.Snapshots)))
	if r.Unreadable > 0 {
		fmt.Fprintf(w, ", and %s that cannot be read", countText(int64(r.Unreadable)))
	}
	fmt.Fprintf(w, "\n  logical        %s latest, %s in all snapshots\n", bytesText(r.LatestBytes), bytesText(r.LogicalBytes))
	fmt.Fprintf(w, "  ratio          %s (deduplication %s, compression %s)\n",
		ratioText(r.LogicalBytes, r.StoredBytes), ratioText(r.LogicalBytes, r.DataAdded), ratioText(r.BytesAdded, r.BytesRecorded))
	if r.Space != nil {
		if err := a.spaceText(w, r); err != nil {
			return err
		}
	}
	if !a.verbose || len(r.PerSnapshot) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable("ID", "TIME", "HOST", "FILES", "LOGICAL", "READ", "ADDED", "STORED")
	t.right("FILES", "LOGICAL", "READ", "ADDED", "STORED")
	for _, s := range r.PerSnapshot {
		c := s.Counts
		t.row(s.ID.Short(), s.Time.Local().Format("2006-01-02 15:04"), quote(s.Host), countText(c.Files), bytesText(c.Bytes), bytesText(c.BytesRead), bytesText(c.BytesAdded), bytesText(c.BytesStored))
	}
	return t.write(w)
}

const (
	// listed is how many snapshots are shown without --verbose.
	listed = 10
	// barWidth is that of the longest bar.
	barWidth = 20
)

// spaceText shows whose the space is, and how fast it goes.
func (a *app) spaceText(w io.Writer, r *statsReport) error {
	c := chart{utf8: a.utf8()}
	fmt.Fprintln(w)
	t := newTable("HOST", "SOURCES", "SNAPSHOTS", "UNIQUE", "TOTAL", "")
	t.right("SNAPSHOTS", "UNIQUE", "TOTAL")
	largest := max(r.Space.Shared, r.Space.Other)
	for _, g := range r.Space.Groups {
		largest = max(largest, g.Total)
	}
	type row struct {
		job.SnapshotSpace
		host string
	}
	var rows []row
	for _, g := range r.Space.Groups {
		t.row(quote(g.Host), pathsText(g.Sources), countText(int64(len(g.Snapshots))), bytesText(g.Unique), bytesText(g.Total), c.bar(g.Total, largest))
		for _, s := range g.Snapshots {
			rows = append(rows, row{s, g.Host})
		}
	}
	if len(r.Space.Groups) > 1 {
		t.row("(shared)", "", "", "", bytesText(r.Space.Shared), c.bar(r.Space.Shared, largest))
	}
	t.row("(other)", "", "", "", bytesText(r.Space.Other), c.bar(r.Space.Other, largest))
	if err := t.write(w); err != nil {
		return err
	}
	if len(rows) > 0 {
		slices.SortStableFunc(rows, func(x, y row) int { return cmp.Or(cmp.Compare(y.Unique, x.Unique), y.Time.Compare(x.Time)) })
		all, largest := len(rows), rows[0].Unique
		if !a.verbose && all > listed {
			rows = rows[:listed]
		}
		fmt.Fprintln(w)
		t := newTable("SNAPSHOT", "TIME", "HOST", "UNIQUE", "NEW", "")
		t.right("UNIQUE", "NEW")
		for _, s := range rows {
			t.row(s.ID.Short(), s.Time.Local().Format("2006-01-02 15:04"), quote(s.host), bytesText(s.Unique), bytesText(s.Added), c.bar(s.Unique, largest))
		}
		if err := t.write(w); err != nil {
			return err
		}
		if n := all - len(rows); n > 0 {
			fmt.Fprintf(w, "and %s with less (--verbose)\n", countText(int64(n)))
		}
		fmt.Fprintln(w)
	}
	growthText(w, r.Growth, &c, time.Now())
	return nil
}

// growthText tells how fast a repository grows and when its disk is full.
func growthText(w io.Writer, g *job.Growth, c *chart, now time.Time) {
	if g.Days > 1 {
		fmt.Fprintf(w, "  growth         %s  the last %d days\n", c.line(g.PerDay), g.Days)
	}
	free := "not known"
	if g.Free != nil {
		free = bytesText(*g.Free)
	}
	switch {
	case g.Rate == nil:
		fmt.Fprintf(w, "  forecast       not enough history (it takes 7 days); %s free\n", free)
	case *g.Rate <= 0:
		fmt.Fprintf(w, "  forecast       it does not grow; %s free\n", free)
	case g.FullIn == nil:
		fmt.Fprintf(w, "  forecast       %s a day; how much is free is not known\n", bytesText(*g.Rate))
	case *g.FullIn > 3650:
		fmt.Fprintf(w, "  forecast       %s a day, %s free: enough for more than ten years\n", bytesText(*g.Rate), free)
	default:
		full := now.Add(time.Duration(*g.FullIn * 24 * float64(time.Hour)))
		fmt.Fprintf(w, "  forecast       %s a day, %s free: full in %d days, about %s, if that goes on\n", bytesText(*g.Rate), free, int(*g.FullIn), full.Local().Format("2006-01-02"))
	}
}

// A chart draws with characters: blocks, or what every terminal has.
type chart struct{ utf8 bool }

// bar is as long as n is of largest.
func (c *chart) bar(n, largest int64) string {
	if n <= 0 || largest <= 0 {
		return ""
	}
	if !c.utf8 {
		return strings.Repeat("#", max(1, int(float64(n)/float64(largest)*barWidth+0.5)))
	}
	eighths := max(1, int(float64(n)/float64(largest)*8*barWidth+0.5))
	bar := strings.Repeat("█", eighths/8)
	if r := eighths % 8; r > 0 {
		bar += string([]rune("▏▎▍▌▋▊▉")[r-1])
	}
	return bar
}

// maxLine is how many columns a line has at most.
const maxLine = 60

// line is a column for each amount, or for the sum of some neighbours.
func (c *chart) line(amounts []int64) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	if !c.utf8 {
		levels = []rune("_.:-=+*#")
	}
	per := (len(amounts) + maxLine - 1) / maxLine
	var sums []int64
	for i := len(amounts); i > 0; i -= per {
		n := int64(0)
		for _, a := range amounts[max(i-per, 0):i] {
			n += a
		}
		sums = append(sums, n)
	}
	slices.Reverse(sums)
	largest := slices.Max(append(sums, 1))
	var b strings.Builder
	for _, n := range sums {
		b.WriteRune(levels[int(float64(max(n, 0))/float64(largest)*float64(len(levels)-1)+0.5)])
	}
	return b.String()
}

// utf8 says whether the terminal is one of UTF-8, as the environment tells.
func (a *app) utf8() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v, _ := a.env(name); v != "" {
			v = strings.ToUpper(strings.ReplaceAll(v, "-", ""))
			return strings.Contains(v, "UTF8")
		}
	}
	return false
}

func encryptedText(encrypted bool) string {
	if encrypted {
		return "encrypted"
	}
	return "NOT ENCRYPTED"
}

// keysText is such as "2 passphrases, 1 recipient".
func keysText(keys map[seal.Kind]int) string {
	var parts []string
	for _, k := range []struct {
		kind      seal.Kind
		one, many string
	}{
		{seal.KindPassphrase, "passphrase", "passphrases"}, {seal.KindKeyFile, "key file", "key files"},
		{seal.KindRecipient, "recipient", "recipients"}, {seal.KindNone, "opens without a key", "open without a key"},
	} {
		switch n := keys[k.kind]; {
		case n == 1 && k.kind == seal.KindNone:
			parts = append(parts, k.one)
		case n == 1:
			parts = append(parts, "1 "+k.one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, k.many))
		}
	}
	return strings.Join(parts, ", ")
}
