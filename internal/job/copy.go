package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// copySnapshot copies one snapshot, under the same ID. Nothing is committed unless
// all that it needs is there.
func copySnapshot(ctx context.Context, src, dst *Destination, snap *tree.Snapshot, o repo.WriterOptions) error {
	body, err := src.Repo.SnapshotBody(ctx, snap.ID)
	if err != nil {
		return fmt.Errorf("read snapshot %s: %w", snap.ID.Short(), err)
	}
	o.Readers = max(o.Readers, repo.CopyBatches)
	w, err := dst.Repo.NewWriter(ctx, o)
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Copy(ctx, src.Repo, tree.Hashes(ctx, src.Repo, snap.RootNode())); err != nil {
		return fmt.Errorf("copy snapshot %s: %w", snap.ID.Short(), err)
	}
	if err := w.Commit(snap.ID, body); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("copy snapshot %s: %w", snap.ID.Short(), err)
	}
	dst.Copied = append(dst.Copied, snap.ID)
	return nil
}

// missing lists the snapshots of others that dst has missed while it was away, oldest
// first: those of the same host and sources that are newer than its newest. Older
// ones that it does not have were forgotten there on purpose.
func missing(dst *Destination, others []*Destination, same func(*tree.Snapshot) bool) []missed {
	have := make(map[repo.ID]bool)
	var newest *tree.Snapshot
	for _, s := range dst.Snapshots {
		have[s.ID] = true
		if same(s) {
			newest = s
		}
	}
	var out []missed
	for _, src := range others {
		if src == dst || src.Repo == nil || src.Err != nil {
			continue
		}
		for _, s := range src.Snapshots {
			if !have[s.ID] && same(s) && (newest == nil || s.Time.After(newest.Time)) {
				have[s.ID] = true
				out = append(out, missed{src, s})
			}
		}
	}
	return out
}

type missed struct {
	src  *Destination
	snap *tree.Snapshot
}
