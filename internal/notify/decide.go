package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A story is a run, and what the runs before it make of it.
type story struct {
	run      *journal.Run
	levels   []Level   // that it is told under; the first names it
	since    time.Time // start of the first run of this row of failures or warnings, or of the row that it has ended
	inRow    int       // how many they are, this one included if it is one of them
	lastGood time.Time // start of the last good run before; zero: none is known
}

// newStory compares a run with those before it, the newest first. If the run is among
// them, those in front of it came later.
func newStory(run *journal.Run, history []journal.Run) *story {
	if i := slices.IndexFunc(history, func(r journal.Run) bool { return r.ID == run.ID }); i >= 0 {
		history = history[i+1:]
	}
	var before []journal.Run
	for _, r := range history {
		if r.Series() == run.Series() && r.Config == run.Config && r.Status.Over() && !r.DryRun && r.ID != run.ID {
			before = append(before, r)
		}
	}
	s := &story{run: run, since: run.Start}
	if i := slices.IndexFunc(before, func(r journal.Run) bool { return r.Status.Good() }); i >= 0 {
		s.lastGood = before[i].Start
	}
	bad := func(r journal.Run) bool { return !r.Status.Good() }
	switch {
	case !run.Status.Good():
		s.levels = []Level{Failure}
		s.row(before, bad, 1)
	case len(before) > 0 && bad(before[0]):
		s.levels = []Level{Recovered, Success}
		if run.Status == journal.Warning {
			s.levels[1] = Warning
		}
		s.row(before, bad, 0)
	case run.Status == journal.Warning:
		s.levels = []Level{Warning}
		s.row(before, func(r journal.Run) bool { return r.Status == journal.Warning }, 1)
	default:
		s.levels = []Level{Success}
	}
	return s
}

// row counts the runs before that are alike.
func (s *story) row(before []journal.Run, alike func(journal.Run) bool, this int) {
	s.inRow = this
	for _, r := range before {
		if !alike(r) {
			return
		}
		s.inRow++
		s.since = r.Start
	}
}

// key names what is told: equal for runs of which the second says nothing new.
func (s *story) key() string {
	h := sha256.New()
	add := func(parts ...string) {
		for _, p := range parts {
			h.Write([]byte(p))
			h.Write([]byte{0})
		}
	}
	r := s.run
	add(r.Series(), r.Config, string(s.levels[0]), string(r.Status), vague(r.Error))
	for _, src := range r.Sources {
		if src.Error != "" {
			add(src.Path, vague(src.Error))
		}
	}
	for _, d := range r.Destinations {
		if d.Error != "" {
			add(d.Location, vague(d.Error))
		}
	}
	if s.levels[0] == Warning {
		for _, w := range r.Warnings {
			add(vague(w))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// vague is a message without its numbers and IDs: words with a digit.
func vague(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		if strings.ContainsAny(w, "0123456789") {
			words[i] = "#"
		}
	}
	return strings.Join(words, " ")
}

// decide says whether a channel hears of a run now.
func decide(c *Channel, s *story, known channelState, now time.Time) bool {
	for _, l := range s.levels {
		if !c.wants(l) {
			continue
		}
		t := known.Told[s.key()]
		switch {
		case t.Run == s.run.ID && t.Run != "": // whoever calls twice
		case l == Success && c.Digest != Never && s.levels[0] == Success: // told by the digest
		case (l == Failure || l == Warning) && s.levels[0] == l && quiet(c, t, s.since, now):
		default:
			return true
		}
	}
	return false
}

// quiet says that what was told in this row of runs, since then, is not told again
// yet. A clock that was put back makes it loud.
func quiet(c *Channel, t told, since, now time.Time) bool {
	age := now.Sub(t.Time)
	return !t.Time.IsZero() && !t.Time.Before(since) && age >= 0 && age < c.Repeat
}

// maxBack is how far the clock may be set back such that no digest comes twice: as far as
// no run of the schedule does.
const maxBack = 24 * time.Hour

// digestDue says whether a digest is due, and from when on its runs count. last is
// when the last one was; zero: none is known. A channel that has had none begins
// with the period that is going on, unless there are runs from before.
func digestDue(c *Channel, last time.Time, history []journal.Run, now time.Time) (from time.Time, due bool) {
	if c.Digest == Never {
		return last, false
	}
	at := boundary(c, now)
	switch ahead := last.Sub(now); { // the clock was put back, or was wrong before
	case last.IsZero() || ahead <= 0:
	case ahead <= maxBack: // what was sent is not sent again
		return last, false
	default:
		return at, false
	}
	if !last.IsZero() {
		return last, last.Before(at)
	}
	days := 1
	if c.Digest == Weekly {
		days = 7
	}
	from = at.AddDate(0, 0, -days)
	if slices.ContainsFunc(history, func(r journal.Run) bool { return r.Start.Before(at) && r.Start.After(from) }) {
		return from, true
	}
	return at, false
}

// boundary is the last moment, now or before, at which a digest became due.
func boundary(c *Channel, now time.Time) time.Time {
	at := time.Date(now.Year(), now.Month(), now.Day(), c.DigestHour, c.DigestMinute, 0, 0, now.Location())
	if at.After(now) {
		at = time.Date(now.Year(), now.Month(), now.Day()-1, c.DigestHour, c.DigestMinute, 0, 0, now.Location())
	}
	for c.Digest == Weekly && at.Weekday() != time.Monday {
		at = at.AddDate(0, 0, -1)
	}
	return at
}

// withRun is the history with a run: in its place, or else it is the newest.
func withRun(run *journal.Run, history []journal.Run) []journal.Run {
	if i := slices.IndexFunc(history, func(r journal.Run) bool { return r.ID == run.ID }); i >= 0 {
		all := slices.Clone(history)
		all[i] = *run
		return all
	}
	return append([]journal.Run{*run}, history...)
}
