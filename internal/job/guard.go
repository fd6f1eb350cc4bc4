package job

import (
	"errors"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Guard is what the section [GUARD] says; nil: nothing is judged.
func Guard(c config.Guard) *guard.Limits {
	if !c.Enabled {
		return nil
	}
	return &guard.Limits{
		Scrambled: c.MaxScrambled / 100, Changed: c.MaxChanged / 100, Deleted: c.MaxDeleted / 100, Renamed: c.MaxRenamed / 100, MinFiles: c.MinFiles,
	}
}

// judge tags a snapshot that is about to be committed, if it is suspicious.
func judge(all []*tree.Snapshot, s *tree.Snapshot, l guard.Limits, known Known) {
	if s.Suspicions = guard.Judge(all, s, l, known.Approved); s.Suspicions != nil && !guard.Flagged(s) {
		s.Tags = append(slices.Clone(s.Tags), guard.Tag)
	}
}

// Suspicious says whether the run looked as if the source had been damaged.
func (r *BackupResult) Suspicious() bool { return r.Snapshot != nil && len(r.Snapshot.Suspicions) > 0 }

// approvedFile says that somebody has looked at a suspicious snapshot.
type approvedFile struct {
	Time time.Time `json:"time"`
	User string    `json:"user"`
}

// Approved says whether somebody has approved of a suspicious snapshot on this host.
// What cannot be read is no approval.
func (k Known) Approved(id repo.ID) bool {
	var f approvedFile
	return k.read("approved", id, &f) == nil && !f.Time.IsZero()
}

// Approve records that a suspicious snapshot is right, for every repository that has it:
// what came before it need not be held any longer.
func (k Known) Approve(id repo.ID, user string, at time.Time) error {
	if k.Dir == "" {
		return errors.New("there is no state directory in which an approval would last")
	}
	return k.write("approved", id, approvedFile{at, user})
}

// Unapproved are the suspicious snapshots that nobody has approved of, oldest first.
func (k Known) Unapproved(all []*tree.Snapshot) []*tree.Snapshot {
	return slices.DeleteFunc(slices.Clone(all), func(s *tree.Snapshot) bool { return !guard.Flagged(s) || k.Approved(s.ID) })
}
