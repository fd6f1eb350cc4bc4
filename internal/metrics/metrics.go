// Package metrics tells Prometheus what the record of runs knows. It reads the record and
// nothing else: neither configuration nor repositories, so that what it says is complete
// after a restart, and costs the same whatever a repository holds.
//
// Invariants:
//
//   - every number is computed from [State], which is what is true at that moment; nothing
//     is counted in memory;
//   - what was recorded is bounded, so that what is summed up over it can fall: it is a
//     gauge, never a counter;
//   - every series has the label config (unless there is no configuration), so that the
//     text files of several configurations on one machine do not collide; none is named
//     job or instance, which Prometheus sets;
//   - nothing that is secret: places without passwords, kinds of runs, numbers.
//
// metrics.go: which metrics there are. text.go: the exposition format. file.go: the file for
// node_exporter. http.go: /metrics.
package metrics

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A State is what metrics are computed from.
type State struct {
	// Runs are those recorded on this machine, the newest first.
	Runs []journal.Run
	// Config is the configuration whose runs count; "" for those without one.
	Config string
	// Due says when which command is due next, MaxAge how old its last good run may be, by
	// the schedule.
	Due    map[string]time.Time
	MaxAge map[string]time.Duration

	Version, GoVersion string

	// Live is for /metrics: what is only true at this moment, which runs are going on for
	// example, is told, too.
	Live bool
}

// A metric is one name with its help, all gauges.
type metric struct {
	name, help string
	series     []series
	live       bool // only where it is looked at in this moment
}

type series struct {
	labels []label
	value  float64
}

type label struct{ name, value string }

func (m *metric) add(value float64, labels ...label) {
	m.series = append(m.series, series{labels, value})
}

const prefix = "backup_handler_"

// The metrics, in the order in which they are told.
const (
	buildInfo = iota
	lastRunTime
	lastRunSeconds
	lastRunExit
	lastRunStatus
	lastRunWarnings
	lastRunFiles
	lastRunNew
	lastRunChanged
	lastRunBytes
	lastRunRead
	lastRunStored
	lastRunProblems
	lastRunForgotten
	lastSuccessTime
	lastSuccessSeconds
	maxAge
	nextDue
	recordedRuns
	sourceUp
	sourceProblems
	destinationUp
	destinationSuccess
	destinationFree
	runsInProgress
	count
)

func table() []metric {
	t := make([]metric, count)
	for i, x := range [count][2]string{
		buildInfo:          {"build_info", "1, with the versions of the program and of Go."},
		lastRunTime:        {"last_run_timestamp_seconds", "When the last run ended; one that crashed, when it started."},
		lastRunSeconds:     {"last_run_duration_seconds", "How long the last run took; 0 for one that crashed."},
		lastRunExit:        {"last_run_exit_code", "Exit code of the last run; -1 for one that crashed."},
		lastRunStatus:      {"last_run_status", "1 for the status of the last run, 0 for the others."},
		lastRunWarnings:    {"last_run_warnings", "Warnings of the last run."},
		lastRunFiles:       {"last_run_files", "Files that the last run stored, checked or restored."},
		lastRunNew:         {"last_run_new_files", "Files that were new to the last run."},
		lastRunChanged:     {"last_run_changed_files", "Files that had changed for the last run."},
		lastRunBytes:       {"last_run_size_bytes", "Size of the files of the last run."},
		lastRunRead:        {"last_run_read_bytes", "What the last run read of its sources."},
		lastRunStored:      {"last_run_stored_bytes", "What the repository grew by in the last run."},
		lastRunProblems:    {"last_run_problems", "Entries that the last run could not store, check or restore."},
		lastRunForgotten:   {"last_run_forgotten_snapshots", "Snapshots that the last run removed by the rules."},
		lastSuccessTime:    {"last_success_timestamp_seconds", "When the last run that did all it should ended; absent if there is none."},
		lastSuccessSeconds: {"last_success_duration_seconds", "How long the last run that did all it should took."},
		maxAge:             {"max_age_seconds", "How old the last good run may be, by the schedule and staleness_factor."},
		nextDue:            {"next_due_timestamp_seconds", "When the schedule has the next run; in the past, it is overdue."},
		recordedRuns:       {"recorded_runs", "Runs in the record, which is bounded: old ones go."},
		sourceUp:           {"source_up", "1 if the last backup that ended stored all of the source, else 0."},
		sourceProblems:     {"source_problems", "Entries of the source that the last backup that ended could not store."},
		destinationUp:      {"destination_up", "1 if the last run with this destination did there what it should, else 0."},
		destinationSuccess: {"destination_last_success_timestamp_seconds", "When the last run ended that did what it should at the destination."},
		destinationFree:    {"destination_free_bytes", "Room that was left at the destination after the last backup; absent where the store does not tell."},
		runsInProgress:     {"runs_in_progress", "Runs that are going on."},
	} {
		t[i].name, t[i].help = prefix+x[0], x[1]
	}
	t[runsInProgress].live = true
	return t
}

// Names returns the names of all metrics.
func Names() []string {
	var names []string
	for _, m := range table() {
		names = append(names, m.name)
	}
	return names
}

// statuses are those that a run may end with.
var statuses = [...]journal.Status{journal.Success, journal.Warning, journal.Failed, journal.Refused, journal.Interrupted, journal.Crashed}

// Write writes the state in Prometheus' text format.
func (s *State) Write(w io.Writer) error {
	t := table()
	t[buildInfo].add(1, label{"version", s.Version}, label{"goversion", s.GoVersion})
	for _, command := range s.commands() {
		s.command(t, command)
	}
	s.places(t)
	if s.Config != "" {
		for i := range t {
			for j := range t[i].series {
				x := &t[i].series[j]
				x.labels = append([]label{{"config", s.Config}}, x.labels...)
			}
		}
	}
	return writeText(w, slices.DeleteFunc(t, func(m metric) bool { return m.live && !s.Live }))
}

// mine says whether a run counts.
func (s *State) mine(r *journal.Run) bool { return r.Config == s.Config && !r.DryRun && !r.AdHoc }

// commands are those that there is something to tell of, sorted.
func (s *State) commands() []string {
	var all []string
	for i := range s.Runs {
		if r := &s.Runs[i]; s.mine(r) {
			all = append(all, r.Command)
		}
	}
	for c := range s.Due {
		all = append(all, c)
	}
	for c := range s.MaxAge {
		all = append(all, c)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *State) command(t []metric, command string) {
	on := label{"command", command}
	if age, ok := s.MaxAge[command]; ok {
		t[maxAge].add(age.Seconds(), on)
	}
	if due, ok := s.Due[command]; ok && !due.IsZero() {
		t[nextDue].add(seconds(due), on)
	}
	var last, good *journal.Run
	kept := make(map[journal.Status]int)
	running := 0
	for i := range s.Runs {
		r := &s.Runs[i]
		if !s.mine(r) || r.Command != command {
			continue
		}
		if !r.Status.Over() {
			running++
			continue
		}
		kept[r.Status]++
		if last == nil {
			last = r
		}
		if good == nil && r.Status.Good() {
			good = r
		}
	}
	t[runsInProgress].add(float64(running), on)
	if last == nil {
		return
	}
	for _, status := range statuses {
		t[recordedRuns].add(float64(kept[status]), on, label{"status", string(status)})
		t[lastRunStatus].add(truth(last.Status == status), on, label{"status", string(status)})
	}
	exit := last.Exit
	if last.Status == journal.Crashed {
		exit = -1
	}
	t[lastRunTime].add(seconds(ended(last)), on)
	t[lastRunSeconds].add(last.Took(last.Start).Seconds(), on)
	t[lastRunExit].add(float64(exit), on)
	t[lastRunWarnings].add(float64(len(last.Warnings)), on)
	c := &last.Counts
	for _, x := range []struct {
		metric int
		n      int64
	}{
		{lastRunFiles, c.Files}, {lastRunNew, c.New}, {lastRunChanged, c.Changed}, {lastRunBytes, c.Bytes}, {lastRunRead, c.Read},
		{lastRunStored, c.Stored}, {lastRunProblems, c.Problems}, {lastRunForgotten, c.Forgotten},
	} {
		t[x.metric].add(float64(x.n), on)
	}
	if good != nil {
		t[lastSuccessTime].add(seconds(ended(good)), on)
		t[lastSuccessSeconds].add(good.Took(good.Start).Seconds(), on)
	}
}

// places tells of sources and destinations: of those that the last run of each command
// names. What is not in the configuration any more is not told of for ever.
func (s *State) places(t []metric) {
	newest := make(map[string]*journal.Run) // of each command, with destinations
	var stored *journal.Run                 // the last backup with sources
	for i := range s.Runs {
		r := &s.Runs[i]
		if !s.mine(r) || !r.Status.Over() || r.Status == journal.Crashed {
			continue // a crashed run does not know what became of its places
		}
		if newest[r.Command] == nil && len(r.Destinations) > 0 {
			newest[r.Command] = r
		}
		if stored == nil && r.Command == "backup" && len(r.Sources) > 0 {
			stored = r
		}
	}
	if stored != nil {
		for _, src := range distinct(stored.Sources, func(x journal.SourceRun) string { return x.Path }) {
			on := label{"source", src.Path}
			t[sourceUp].add(truth(src.Error == "" && src.Problems == 0 && stored.Snapshot != ""), on)
			t[sourceProblems].add(float64(src.Problems), on)
		}
	}
	for _, command := range s.commands() {
		last := newest[command]
		if last == nil {
			continue
		}
		for _, d := range distinct(last.Destinations, location) {
			on := []label{{"command", command}, {"destination", d.Location}}
			t[destinationUp].add(truth(reached(last, &d)), on...)
			for i := range s.Runs {
				r := &s.Runs[i]
				if !s.mine(r) || r.Command != command {
					continue
				}
				if x := at(r, d.Location); x != nil && reached(r, x) {
					t[destinationSuccess].add(seconds(ended(r)), on...)
					break
				}
			}
		}
	}
	if last := newest["backup"]; last != nil {
		for _, d := range distinct(last.Destinations, location) {
			for i := range s.Runs {
				if r := &s.Runs[i]; s.mine(r) && r.Command == "backup" {
					if x := at(r, d.Location); x != nil && x.FreeBytes != nil {
						t[destinationFree].add(float64(*x.FreeBytes), label{"destination", d.Location})
						break
					}
				}
			}
		}
	}
}

func location(d journal.DestinationRun) string { return d.Location }

// reached says whether a run did at a destination what it should. A run that failed as a
// whole may name places that it never came to: only one with a result of its own for them
// counts.
func reached(r *journal.Run, d *journal.DestinationRun) bool {
	if d.Error != "" || !r.Status.Over() {
		return false
	}
	return r.Status.Good() || r.Status == journal.Failed && (r.Command != "backup" || r.Snapshot != "")
}

func at(r *journal.Run, place string) *journal.DestinationRun {
	i := slices.IndexFunc(r.Destinations, func(d journal.DestinationRun) bool { return d.Location == place })
	if i < 0 {
		return nil
	}
	return &r.Destinations[i]
}

// distinct leaves out what has been named: a series must not be there twice.
func distinct[T any](list []T, name func(T) string) []T {
	var some []T
	seen := make(map[string]bool)
	for _, x := range list {
		if n := strings.ToValidUTF8(name(x), "\uFFFD"); !seen[n] {
			seen[n] = true
			some = append(some, x)
		}
	}
	return some
}

// ended is when a run ended, as far as anybody knows.
func ended(r *journal.Run) time.Time {
	if r.End.IsZero() {
		return r.Start
	}
	return r.End
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
