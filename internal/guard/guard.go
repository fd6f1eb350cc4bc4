// Package guard judges whether a run looks as if somebody had encrypted, replaced or
// deleted the source. It is a pure function of the numbers of this run and of those
// before it; it reads no file, changes nothing, and knows no names of malware.
//
// It is an alarm, not a defence: who knows its limits stays below them.
//
// guard.go: the verdict. content.go: what encrypted content looks like.
package guard

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Tag marks snapshots whose run looked suspicious.
const Tag = "suspicious"

// Flagged says whether a snapshot is suspicious.
func Flagged(s *tree.Snapshot) bool { return slices.Contains(s.Tags, Tag) }

// Limits say what is suspicious: shares of the files that the snapshot before had, from
// 0 to 1. A share of 0 asks for nothing.
type Limits struct {
	// Scrambled files were readable and are noise now. This is the sum of the last
	// Window: who encrypts slowly is found, too.
	Scrambled float64
	Changed   float64 // hold other content
	Deleted   float64 // gone, under no other name
	Renamed   float64 // their name became longer, as report.doc.locked
	// MinFiles is how many scrambled files it takes at least.
	MinFiles int64
}

const (
	// Window is how far back scrambled files are summed up.
	Window = 14 * 24 * time.Hour
	// manyFiles is how many files it takes at least where what happened to them is
	// not suspicious by itself: somebody changes all ten files of a directory.
	manyFiles = 100
	// replacedTimes is how many times as many files may go while noise comes under
	// other names, as may be scrambled: caches of browsers do that every day.
	replacedTimes = 3
	// usualTimes is how many times as much as is usual here is suspicious.
	usualTimes = 3
	// enoughRuns is how many runs it takes to say what is usual.
	enoughRuns = 5
)

// amount is one of the numbers of a run.
type amount func(*tree.Drift) int64

func scrambled(d *tree.Drift) int64 { return d.Scrambled }
func replaced(d *tree.Drift) int64  { return d.Replaced }
func changed(d *tree.Drift) int64   { return d.Rewritten }
func deleted(d *tree.Drift) int64   { return d.Deleted }
func extended(d *tree.Drift) int64  { return d.Extended }

// Judge says in plain words what is suspicious about a run, of which s is to become the
// snapshot; nil: nothing, or there is nothing to compare with. all are the snapshots
// before it, of any host and sources; approved says of which somebody has said that they
// are right.
//
// What is usual for these sources is allowed threefold: the 90th percentile of the runs
// before, as long as these are not suspicious themselves. For scrambled files, runs within
// the Window do not count there, or a slow attack would make itself usual.
func Judge(all []*tree.Snapshot, s *tree.Snapshot, l Limits, approved func(repo.ID) bool) []string {
	if s.Drift == nil || s.Drift.Files == 0 {
		return nil
	}
	h := newHistory(all, s, approved)
	files := s.Drift.Files
	var reasons []string
	of := func(n int64) string {
		return fmt.Sprintf("%d of %d files (%.0f %%)", n, files, 100*float64(n)/float64(files))
	}

	if n, since := h.lost(s); l.Scrambled > 0 && n > bound(l.Scrambled, files, l.MinFiles) {
		text := of(n) + " were readable and are noise now: encrypted?"
		if since != s {
			text = fmt.Sprintf("since %s, %s", since.Time.UTC().Format(time.DateOnly), text)
		}
		reasons = append(reasons, text)
	}
	for _, x := range []struct {
		of    amount
		share float64
		what  string
	}{
		{replaced, replacedTimes * l.Scrambled, "are gone, and as many new files are noise without a known header: encrypted under other names?"},
		{extended, l.Renamed, "got a longer name, as report.doc.locked"},
		{changed, l.Changed, "hold other content"},
		{deleted, l.Deleted, "are gone"},
	} {
		n := h.news(s, x.of)
		usual := h.usual(x.of, 0)
		if x.share <= 0 || n <= max(bound(x.share, files, manyFiles), usualTimes*usual) {
			continue
		}
		text := of(n) + " " + x.what
		if len(h.runs) >= enoughRuns {
			text += fmt.Sprintf(" (usual here: up to %d)", usual)
		}
		reasons = append(reasons, text)
	}
	return reasons
}

// bound is a share of the files, at least so many.
func bound(share float64, files, least int64) int64 {
	return max(least, int64(math.Ceil(min(share, 1)*float64(files)))) - 1
}

// A history is what came before a run.
type history struct {
	byID map[repo.ID]*tree.Snapshot
	runs []*tree.Snapshot // whose numbers are comparable, and not in doubt
	now  time.Time
	ok   func(repo.ID) bool
	// before is the newest suspicious run with the same parent, if there is one:
	// differential runs find the same changes again and again.
	before *tree.Snapshot
}

func newHistory(all []*tree.Snapshot, s *tree.Snapshot, approved func(repo.ID) bool) *history {
	h := &history{byID: make(map[repo.ID]*tree.Snapshot, len(all)), now: s.Time, ok: approved}
	for _, o := range all {
		h.byID[o.ID] = o
		if o.Drift == nil || o.Group() != s.Group() || !o.Time.Before(s.Time) {
			continue
		}
		if Flagged(o) && o.Parent != nil && s.Parent != nil && *o.Parent == *s.Parent && (h.before == nil || o.Time.After(h.before.Time)) {
			h.before = o
		}
		// A differential run compares with what may be weeks ago, others with the
		// last run.
		if (o.Mode == tree.Differential) == (s.Mode == tree.Differential) && (!Flagged(o) || approved(o.ID)) {
			h.runs = append(h.runs, o)
		}
	}
	return h
}

// usual is the 90th percentile of a number, in runs that are older than a time or were
// approved; 0 where there are too few.
func (h *history) usual(of amount, older time.Duration) int64 {
	var all []int64
	for _, r := range h.runs {
		if h.now.Sub(r.Time) > older || Flagged(r) {
			all = append(all, of(r.Drift))
		}
	}
	if len(all) < enoughRuns {
		return 0
	}
	slices.Sort(all)
	return all[(len(all)-1)*9/10]
}

// news is a number of a run without what a suspicious one has told already.
func (h *history) news(s *tree.Snapshot, of amount) int64 {
	n := of(s.Drift)
	if h.before != nil && s.Parent != nil && h.before.Parent != nil && *h.before.Parent == *s.Parent {
		n -= of(h.before.Drift)
	}
	return max(n, 0)
}

// lost is how many files were scrambled, beyond what is usual, since the last suspicious
// run, within the Window; since is the first run in which any were.
func (h *history) lost(s *tree.Snapshot) (n int64, since *tree.Snapshot) {
	usual := usualTimes * h.usual(scrambled, Window)
	n, since = max(0, h.news(s, scrambled)-usual), s
	for at := s; at.Parent != nil; {
		if at = h.byID[*at.Parent]; at == nil || at.Drift == nil || Flagged(at) || h.now.Sub(at.Time) > Window {
			break
		}
		if more := at.Drift.Scrambled - usual; more > 0 {
			n, since = n+more, at
		}
	}
	return n, since
}
