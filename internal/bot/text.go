package bot

import (
	"fmt"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// Bounds of a text, which Telegram cuts at 4,096 characters.
const (
	maxPlaces = 8  // sources, and destinations
	maxName   = 60 // characters of one
	maxReason = 120
	timeForm  = "2006-01-02 15:04"
)

func helpText() []string {
	return []string{
		"/status: how old the last good backup is, and what is next",
		fmt.Sprintf("/runs N: the last N runs (%d)", defaultRuns),
		"/backup: start a backup, after a code",
		"/verify: start a verification, after a code",
		"/confirm CODE: start what was asked for",
		"/cancel: take it back",
	}
}

// statusText says how backups stand.
func statusText(f Facts, host string, now time.Time) []string {
	var backups []journal.Run
	var running []string
	for _, r := range f.Runs {
		switch {
		case r.DryRun:
		case r.Status == journal.Running:
			running = append(running, fmt.Sprintf("%s runs, since %s", r.Series(), r.Start.In(now.Location()).Format(timeForm)))
		case r.Series() == "backup":
			backups = append(backups, r)
		}
	}
	lines := []string{host + ", " + now.Format(timeForm)}
	good := "no good backup is known"
	for _, r := range backups {
		if r.Status.Good() {
			good = "last good backup: " + ago(r.Start, now)
			break
		}
	}
	lines = append(lines, good)
	if len(backups) > 0 && !backups[0].Status.Good() {
		lines = append(lines, fmt.Sprintf("THE LAST ONE, %s: %s%s", ago(backups[0].Start, now), backups[0].Status, reason(backups[0].Error)))
	}
	lines = append(lines, placesText("source", sources(backups), now)...)
	lines = append(lines, placesText("destination", destinations(backups), now)...)
	lines = append(lines, running...)
	for _, n := range f.Next {
		switch {
		case n.Owed || !n.Due.IsZero() && n.Due.Before(now):
			lines = append(lines, fmt.Sprintf("next %s: now", n.Kind))
		case !n.Due.IsZero():
			lines = append(lines, fmt.Sprintf("next %s: %s", n.Kind, n.Due.In(now.Location()).Format(timeForm)))
		}
	}
	if len(f.Next) == 0 {
		lines = append(lines, "nothing is scheduled")
	}
	return lines
}

// A place is a source or destination of the newest backup.
type place struct {
	name, problem string    // of the newest
	good          time.Time // start of the last backup in which all of it was stored; zero: none is known
}

// sources are those of the newest backup that names some. One is good in a run that is,
// or that made a snapshot in which nothing of it is missing.
func sources(backups []journal.Run) []*place {
	var all []*place
	for _, r := range backups {
		if len(all) == 0 {
			for _, s := range r.Sources {
				all = append(all, &place{name: s.Path, problem: s.Error})
			}
		}
		for _, s := range r.Sources {
			if stored(&r) && s.Error == "" && (r.Status.Good() || s.Problems == 0) {
				goodAt(all, s.Path, r.Start)
			}
		}
	}
	return all
}

// destinations are likewise; one is good in a run that has a snapshot, and no error there.
func destinations(backups []journal.Run) []*place {
	var all []*place
	for _, r := range backups {
		if len(all) == 0 {
			for _, d := range r.Destinations {
				all = append(all, &place{name: d.Location, problem: d.Error})
			}
		}
		for _, d := range r.Destinations {
			if stored(&r) && d.Error == "" {
				goodAt(all, d.Location, r.Start)
			}
		}
	}
	return all
}

// stored says that a run ended by itself, with a snapshot.
func stored(r *journal.Run) bool {
	return r.Status.Good() || r.Status == journal.Failed && r.Snapshot != ""
}

func goodAt(all []*place, name string, at time.Time) {
	for _, p := range all {
		if p.name == name && p.good.Before(at) {
			p.good = at
		}
	}
}

func placesText(kind string, all []*place, now time.Time) (lines []string) {
	for i, p := range all {
		if i == maxPlaces {
			return append(lines, fmt.Sprintf("… and %d more", len(all)-maxPlaces))
		}
		age := "never, as far as is known"
		if !p.good.IsZero() {
			age = ago(p.good, now)
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s%s", kind, clip(p.name, maxName), age, reason(p.problem)))
	}
	return lines
}

// runsText lists the last runs, the newest first.
func runsText(f Facts, count int, now time.Time) []string {
	var lines []string
	for _, r := range f.Runs[:min(count, len(f.Runs))] {
		line := fmt.Sprintf("%s %s: %s", r.Start.In(now.Location()).Format(timeForm), r.Series(), r.Status)
		if !r.End.IsZero() {
			line += ", " + r.Took(now).Round(time.Second).String()
		}
		lines = append(lines, line+reason(r.Error))
	}
	if lines == nil {
		return []string{"no runs"}
	}
	return lines
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return " (" + clip(text, maxReason) + ")"
}

func clip(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// ago is an age in its largest unit, and the time.
func ago(at, now time.Time) string {
	unit := func(n int64, name string) string {
		if n != 1 {
			name += "s"
		}
		return fmt.Sprintf("%d %s ago (%s)", n, name, at.In(now.Location()).Format(timeForm))
	}
	switch d := now.Sub(at); {
	case d < time.Minute:
		return unit(max(0, int64(d/time.Second)), "second")
	case d < 2*time.Hour:
		return unit(int64(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return unit(int64(d/time.Hour), "hour")
	default:
		return unit(int64(d/(24*time.Hour)), "day")
	}
}

// Ended is how a run ended, by its exit code.
func Ended(code int, took time.Duration) string {
	how := map[int]string{0: "is done", 1: "ended with exit code 1: usage, configuration or damage", 2: "was refused, exit code 2", 3: "has failed in part, exit code 3", 130: "was interrupted", -1: "ended without a word"}[code]
	if how == "" {
		how = fmt.Sprintf("ended with exit code %d", code)
	}
	return strings.TrimSpace(fmt.Sprintf("%s, after %s", how, took.Round(time.Second)))
}
