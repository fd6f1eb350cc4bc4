package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func (a *app) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show the numbers of a repository",
		Long: `Show the numbers of a repository: what it holds, and what it takes.

"Logical" is the size of the files, as if every snapshot were a copy. The ratio is
logical to stored, over all snapshots. Deduplication and compression by themselves
are as the runs have recorded them: those of snapshots that are gone do not count.
--verbose adds a row for each snapshot.

Exit codes: 0 shown · 1 usage, or no repository can be opened · 130 interrupted`,
		Example: `  backup-handler stats --backup-dirs /mnt/disk/backup
  backup-handler stats --verbose
  backup-handler stats --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.stats(cmd.Context()) },
	}
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
}

type snapshotStats struct {
	ID      repo.ID     `json:"id"`
	Time    time.Time   `json:"time"`
	Host    string      `json:"host"`
	Sources []tree.Path `json:"sources"`
	Counts  tree.Counts `json:"counts"`
}

func (a *app) stats(ctx context.Context) error {
	d, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	rep, err := newStats(ctx, d)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	return a.print(rep, func(w io.Writer) error { return a.statsText(w, rep) })
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
		rep.PerSnapshot = append(rep.PerSnapshot, snapshotStats{s.ID, s.Time, s.Host, s.Sources, s.Counts})
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
