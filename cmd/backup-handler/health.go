package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

const (
	// growthDays is how many days a forecast looks back.
	growthDays = 30
	// soonFull is how many days before a destination is full there is a warning.
	soonFull = 14
	// lateTime is how late a run that is due may be before there is a warning: others go
	// first, and machines sleep.
	lateTime = time.Hour
)

// A health is what this machine remembers of its runs, and what the schedule says to it.
// Nothing but the state directory is looked at for it.
type health struct {
	OK       bool            `json:"ok"` // nothing is critical
	Critical []string        `json:"critical"`
	Warnings []string        `json:"warnings"`
	Commands []commandHealth `json:"commands"`
	Running  []runBrief      `json:"running"`
	// LastFailure is the newest run that did not do what it should.
	LastFailure *runBrief `json:"last_failure,omitempty"`
	// AdHoc is the newest backup of something else than what the configuration names.
	AdHoc *runBrief `json:"last_ad_hoc,omitempty"`
	// Places are the destinations as the last backup left them.
	Places []placeHealth `json:"recorded_destinations"`
	Daemon bool          `json:"daemon_runs"`
	any    bool          // there is a run or a schedule
}

// A commandHealth is how the runs of one kind stand.
type commandHealth struct {
	Command schedule.Kind `json:"command"`
	Last    *runBrief     `json:"last_run,omitempty"` // that is over
	Good    *runBrief     `json:"last_success,omitempty"`
	// AgeSeconds is since the end of Good; from WarnSeconds on it is late, beyond MaxSeconds
	// too old. nil: there is none, or nobody knows.
	AgeSeconds  *int64    `json:"age_seconds,omitempty"`
	WarnSeconds *int64    `json:"warn_age_seconds,omitempty"`
	MaxSeconds  *int64    `json:"max_age_seconds,omitempty"`
	Stale       bool      `json:"stale"`
	Due         time.Time `json:"next_due,omitzero"`
	Owed        bool      `json:"owed,omitempty"`
	Overdue     bool      `json:"overdue,omitempty"`
}

// A runBrief is a run in short.
type runBrief struct {
	ID       string         `json:"run_id"`
	Command  string         `json:"command"`
	Status   journal.Status `json:"status"`
	Start    time.Time      `json:"start"`
	End      time.Time      `json:"end,omitzero"`
	Seconds  float64        `json:"seconds"`
	PID      int            `json:"pid"`
	Error    string         `json:"error,omitempty"`
	Warnings int            `json:"warnings"`
	Stored   int64          `json:"bytes_stored"`
	warning  string
	of       []string // what an ad-hoc backup is of
}

func briefOf(r *journal.Run, now time.Time) *runBrief {
	took := r.Took(now)
	if r.Status == journal.Crashed {
		took = 0
	}
	b := &runBrief{ID: r.ID, Command: r.Series(), Status: r.Status, Start: r.Start, End: r.End, Seconds: took.Seconds(), PID: r.PID, Error: oneLine(r.Error), Warnings: len(r.Warnings), Stored: r.Counts.Stored}
	if len(r.Warnings) > 0 {
		b.warning = oneLine(r.Warnings[0])
	}
	return b
}

func (b *runBrief) ended() time.Time {
	if b.End.IsZero() {
		return b.Start
	}
	return b.End
}

// A placeHealth is a destination as the last backup that named it left it.
type placeHealth struct {
	Location string      `json:"location"`
	Error    string      `json:"error,omitempty"`
	Time     time.Time   `json:"time"`
	Growth   *job.Growth `json:"forecast"`
}

// healthOf reads the record of runs and the schedule. places are the destinations that it is
// about; maxAge, unless 0, is how old the last backup may be.
func healthOf(cfg *config.Config, places []string, maxAge time.Duration, now time.Time) (*health, error) {
	dir, err := cfg.StateDir()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "set [STATE] dir")
	}
	runs, err := journal.OpenRuns(dir).List()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	path, err := absoluteConfig(cfg)
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	f := scheduleFacts(cfg, path, now)
	if f.err != nil {
		return nil, job.Fail(job.ExitUsage, f.err, "'backup-handler config check' lists everything that is wrong")
	}
	if maxAge > 0 {
		if f.ages == nil {
			f.ages = make(map[schedule.Kind]config.Age)
		}
		f.ages[schedule.Backup] = config.Age{Interval: maxAge, Max: maxAge}
	}
	runs = slices.DeleteFunc(runs, func(r journal.Run) bool { return r.Config != path || r.DryRun || !concerns(&r, places) })
	return judge(runs, &f, now), nil
}

// concerns says whether a run is about any of some destinations. One that names none may be.
func concerns(r *journal.Run, places []string) bool {
	if len(r.Destinations) == 0 || len(places) == 0 {
		return true
	}
	same := func(place string) string {
		if !strings.Contains(place, "://") {
			if abs, err := filepath.Abs(place); err == nil {
				return abs
			}
		}
		return location.Redact(place)
	}
	return slices.ContainsFunc(r.Destinations, func(d journal.DestinationRun) bool {
		return slices.ContainsFunc(places, func(p string) bool { return same(p) == same(d.Location) })
	})
}

// judge says how some runs stand, the newest first.
func judge(runs []journal.Run, f *scheduled, now time.Time) *health {
	h := &health{Critical: []string{}, Warnings: []string{}, Commands: []commandHealth{}, Running: []runBrief{}, Places: []placeHealth{}, Daemon: f.daemon, any: len(runs) > 0 || len(f.upcoming) > 0}
	going := make(map[string]bool)
	for i := range runs {
		r := &runs[i]
		switch {
		case !r.Status.Over():
			h.Running = append(h.Running, *briefOf(r, now))
			going[r.Series()] = true
		case !r.Status.Good() && h.LastFailure == nil:
			h.LastFailure = briefOf(r, now)
		}
		if r.AdHoc && r.Status.Over() && h.AdHoc == nil {
			h.AdHoc = briefOf(r, now)
			for _, s := range r.Sources {
				h.AdHoc.of = append(h.AdHoc.of, s.Path)
			}
		}
	}
	for _, kind := range schedule.Kinds() {
		c := commandHealth{Command: kind}
		for i := range runs {
			r := &runs[i]
			if r.Series() != string(kind) || !r.Status.Over() {
				continue
			}
			if c.Last == nil {
				c.Last = briefOf(r, now)
			}
			if r.Status.Good() {
				c.Good = briefOf(r, now)
				break
			}
		}
		u, due := f.upcoming[kind]
		if due {
			c.Due, c.Owed = u.Due, u.Owed
			c.Overdue = !u.Due.IsZero() && now.Sub(u.Due) > lateTime && !going[string(kind)]
		}
		if age, ok := f.ages[kind]; ok {
			c.MaxSeconds, c.WarnSeconds = in(age.Max), in((age.Interval+age.Max)/2)
		}
		if c.Good != nil {
			age := max(now.Sub(c.Good.ended()), 0)
			c.AgeSeconds = in(age)
			c.Stale = c.MaxSeconds != nil && age.Seconds() > float64(*c.MaxSeconds)
		}
		if c.Last == nil && !due && f.ages[kind].Max == 0 {
			continue
		}
		h.Commands = append(h.Commands, c)
		h.judge(&c, going[string(kind)], len(h.Running) > 0)
	}
	h.places(runs, now)
	h.OK = len(h.Critical) == 0
	return h
}

func in(d time.Duration) *int64 {
	s := int64(d / time.Second)
	return &s
}

// judge adds what is wrong with the runs of one kind. A backup that is missing is critical,
// and so is a proof that has failed; that nobody has looked for a while is a warning.
func (h *health) judge(c *commandHealth, going, busy bool) {
	critical := func(format string, args ...any) { h.Critical = append(h.Critical, fmt.Sprintf(format, args...)) }
	warn := func(format string, args ...any) { h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...)) }
	late := warn
	if c.Command == schedule.Backup {
		late = critical
	}
	if l := c.Last; l != nil && !l.Status.Good() {
		text := fmt.Sprintf("the last %s %s", c.Command, statusWords(l))
		switch {
		case l.Status == journal.Interrupted, going, c.Command == schedule.Prune, c.Command == schedule.Forget:
			warn("%s", text)
		default:
			critical("%s", text)
		}
	} else if l != nil && l.Status == journal.Warning {
		warn("the last %s has a warning: %s", c.Command, l.warning)
	}
	every := func() string { return spanText(time.Duration(*c.MaxSeconds) * time.Second) }
	switch {
	case c.Stale:
		late("the last good %s is %s old, of at most %s", c.Command, spanText(time.Duration(*c.AgeSeconds)*time.Second), every())
	case c.Good != nil && c.WarnSeconds != nil && *c.AgeSeconds > *c.WarnSeconds && !going && *c.WarnSeconds < *c.MaxSeconds:
		warn("the last good %s is %s old, of at most %s", c.Command, spanText(time.Duration(*c.AgeSeconds)*time.Second), every())
	case c.Good == nil && c.Command == schedule.Backup && !going:
		critical("there is no good backup in the record")
	}
	if c.Overdue && !busy {
		text := fmt.Sprintf("%s was due at %s", c.Command, c.Due.Local().Format("2006-01-02 15:04"))
		if !h.Daemon {
			text += ", and no daemon runs"
		}
		warn("%s", text)
	}
}

// statusWords says how a run that was not good ended, and why.
func statusWords(b *runBrief) string {
	words := map[journal.Status]string{
		journal.Failed: "has failed", journal.Refused: "was refused", journal.Interrupted: "was interrupted", journal.Crashed: "has crashed",
	}[b.Status]
	if b.Error != "" && b.Status != journal.Interrupted && b.Status != journal.Crashed {
		words += ": " + b.Error
	}
	return words
}

// places tells of the destinations of the last backup, and forecasts when they are full.
func (h *health) places(runs []journal.Run, now time.Time) {
	var last *journal.Run
	var added []job.Added
	free := make(map[string]*int64)
	for i := range runs {
		r := &runs[i]
		if r.Command != "backup" || !r.Status.Over() || r.Status == journal.Crashed {
			continue
		}
		if last == nil && !r.AdHoc && len(r.Destinations) > 0 {
			last = r
		}
		for _, d := range r.Destinations {
			if free[d.Location] == nil {
				free[d.Location] = d.FreeBytes
			}
		}
		if r.Snapshot != "" {
			a := job.Added{Time: r.Start, Bytes: r.Counts.Stored}
			if r.Counts.New >= r.Counts.Files { // a first one is no growth
				a.Bytes = 0
			}
			added = append(added, a)
		}
	}
	if last == nil {
		return
	}
	for _, d := range last.Destinations {
		p := placeHealth{Location: d.Location, Error: oneLine(d.Error), Time: last.End, Growth: job.GrowthOf(added, growthDays, free[d.Location])}
		h.Places = append(h.Places, p)
		if full := p.Growth.FullIn; full != nil && *full < soonFull {
			h.Warnings = append(h.Warnings, fmt.Sprintf("%s is full in %s, if it goes on like this", quote(d.Location), dayText(*full)))
		}
	}
}

func dayText(days float64) string {
	if n := int(days); n != 1 {
		return fmt.Sprintf("%s days", countText(int64(n)))
	}
	return "1 day"
}

// spanText is a duration in its two largest units.
func spanText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	d = d.Round(time.Minute)
	days, hours, minutes := d/(24*time.Hour), d%(24*time.Hour)/time.Hour, d%time.Hour/time.Minute
	switch {
	case days > 0 && hours > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case days > 0:
		return fmt.Sprintf("%d d", days)
	case hours > 0 && minutes > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case hours > 0:
		return fmt.Sprintf("%d h", hours)
	}
	return fmt.Sprintf("%d min", minutes)
}

// field writes a line of a report, over several if it is long.
func field(w io.Writer, name, text string) {
	const indent = 14
	for i, line := range wrap(text, textWidth-indent) {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(w, "  %-*s%s\n", indent-2, name, line)
	}
}

// wrap breaks a text into lines of so many characters, between words where it can.
func wrap(text string, width int) []string {
	const mostLines = 4
	var lines []string
	line := []rune{}
	for _, word := range strings.Fields(text) {
		r := []rune(word)
		if len(line) > 0 && len(line)+1+len(r) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		line = append(line, r...)
		for len(line) > width {
			lines, line = append(lines, string(line[:width])), slices.Clone(line[width:])
		}
	}
	if len(line) > 0 {
		lines = append(lines, string(line))
	}
	if len(lines) > mostLines {
		lines = lines[:mostLines]
		lines[mostLines-1] = cutLine(lines[mostLines-1]+strings.Repeat(" ", width), width)
		lines[mostLines-1] = strings.TrimRight(strings.TrimSuffix(lines[mostLines-1], "…"), " ") + "…"
	}
	return lines
}

// text shows the health of this machine's runs.
func (h *health) text(w io.Writer, host string, local bool, now time.Time) {
	state := "ok"
	if !h.OK {
		state = "SOMETHING IS WRONG"
	}
	fmt.Fprintf(w, "runs on %s  %s\n", quote(host), state)
	for _, x := range h.Critical {
		field(w, "WRONG", x)
	}
	for _, x := range h.Warnings {
		field(w, "WARNING", x)
	}
	for i := range h.Commands {
		field(w, string(h.Commands[i].Command), h.Commands[i].text(now))
	}
	if r := h.AdHoc; r != nil {
		text := "good"
		if !r.Status.Good() {
			text = statusWords(r)
		}
		field(w, "ad hoc", fmt.Sprintf("%s %s ago: %s; it does not count as a backup of the configuration", text, ageText(now.Sub(r.ended())), quote(shortList(r.of))))
	}
	for _, r := range h.Running {
		field(w, "running", fmt.Sprintf("%s since %s (%s), process %d", r.Command, r.Start.Local().Format("2006-01-02 15:04"), spanText(now.Sub(r.Start)), r.PID))
	}
	if f := h.LastFailure; f != nil {
		field(w, "last failed", fmt.Sprintf("%s, %s ago (%s): %s", f.Command, ageText(now.Sub(f.ended())), f.Start.Local().Format("2006-01-02 15:04"), statusWords(f)))
	}
	if !local {
		return
	}
	for i := range h.Places {
		p := &h.Places[i]
		text := quote(p.Location) + ": "
		if p.Error != "" {
			text += "FAILED: " + p.Error
		} else {
			text += fmt.Sprintf("ok %s ago", ageText(now.Sub(p.Time)))
		}
		if p.Growth.Free != nil {
			text += "; " + spaceText(p.Growth, now)
		}
		field(w, "to", text)
	}
}

// spaceText is how much room is left, and how long it lasts; "" if nothing is known.
func spaceText(g *job.Growth, now time.Time) string {
	var parts []string
	if g.Free != nil {
		parts = append(parts, bytesText(*g.Free)+" free")
	}
	switch {
	case g.Rate == nil:
	case *g.Rate <= 0:
		parts = append(parts, "no growth")
	default:
		parts = append(parts, bytesText(*g.Rate)+" a day")
	}
	if g.FullIn != nil {
		if *g.FullIn > 3650 {
			parts = append(parts, "enough for ten years")
		} else {
			parts = append(parts, fmt.Sprintf("full in %s (%s)", dayText(*g.FullIn), now.Add(time.Duration(*g.FullIn*24*float64(time.Hour))).Local().Format("2006-01-02")))
		}
	}
	return strings.Join(parts, ", ")
}

func (c *commandHealth) text(now time.Time) string {
	var parts []string
	switch {
	case c.Good == nil && c.Last == nil:
		parts = append(parts, "never yet")
	case c.Good == nil:
		parts = append(parts, "never good; last "+string(c.Last.Status)+" "+ageText(now.Sub(c.Last.ended()))+" ago")
	default:
		text := fmt.Sprintf("good %s ago", ageText(now.Sub(c.Good.ended())))
		if c.MaxSeconds != nil {
			text += fmt.Sprintf(" (at most %s)", spanText(time.Duration(*c.MaxSeconds)*time.Second))
		}
		parts = append(parts, text)
		if c.Last.ID != c.Good.ID {
			parts = append(parts, fmt.Sprintf("last %s %s ago", c.Last.Status, ageText(now.Sub(c.Last.ended()))))
		}
	}
	switch {
	case c.Owed:
		parts = append(parts, "one is owed")
	case c.Due.IsZero():
	case c.Due.Before(now):
		parts = append(parts, "due "+c.Due.Local().Format("2006-01-02 15:04"))
	default:
		form := "2006-01-02"
		if c.Due.Sub(now) < 6*24*time.Hour {
			form = "Mon 15:04"
		}
		parts = append(parts, fmt.Sprintf("next in %s (%s)", ageText(c.Due.Sub(now)), c.Due.Local().Format(form)))
	}
	return strings.Join(parts, "; ")
}

// The exit codes of monitoring plugins.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
	checkUnknown  = 3
)

// maxCheckLine bounds the line: some agents cut at 1 KiB.
const maxCheckLine = 700

// checkLine is the line of a monitoring plugin, and its exit code.
func checkLine(h *health, more []string, now time.Time) (string, int) {
	code, word := checkOK, "OK"
	critical := slices.Concat(h.Critical, more)
	backups := -1
	for i := range h.Commands {
		if h.Commands[i].Command == schedule.Backup {
			backups = i
		}
	}
	if backups < 0 {
		critical = append(critical, "there is no backup in the record")
	}
	switch {
	case len(critical) > 0:
		code, word = checkCritical, "CRITICAL"
	case len(h.Warnings) > 0:
		code, word = checkWarning, "WARNING"
	}
	said := slices.Concat(critical, h.Warnings)
	var perf []string
	if backups >= 0 {
		c := &h.Commands[backups]
		if c.Good != nil {
			said = append(said, fmt.Sprintf("last backup %s ago", ageText(now.Sub(c.Good.ended()))))
			limits := ";;;0"
			if c.MaxSeconds != nil {
				limits = fmt.Sprintf(";%d;%d;0", *c.WarnSeconds, *c.MaxSeconds)
			}
			perf = append(perf, fmt.Sprintf("age=%ds%s", *c.AgeSeconds, limits), fmt.Sprintf("duration=%.0fs;;;0", c.Good.Seconds), fmt.Sprintf("stored=%dB;;;0", c.Good.Stored))
		}
		if !c.Due.IsZero() && c.Due.After(now) {
			said = append(said, "next in "+ageText(c.Due.Sub(now)))
		}
	}
	for _, r := range h.Running {
		said = append(said, r.Command+" is running")
	}
	for i := range h.Commands {
		if c := &h.Commands[i]; i != backups && c.AgeSeconds != nil {
			limits := ";;;0"
			if c.MaxSeconds != nil {
				limits = fmt.Sprintf(";%d;;0", *c.MaxSeconds)
			}
			perf = append(perf, fmt.Sprintf("%s_age=%ds%s", c.Command, *c.AgeSeconds, limits))
		}
	}
	for _, p := range h.Places {
		if p.Growth.Free != nil {
			perf = append(perf, fmt.Sprintf("'free %s'=%dB;;;0", strings.NewReplacer("'", "_", "=", "_", "|", "_").Replace(quote(p.Location)), *p.Growth.Free))
		}
	}
	line := "BACKUP " + word + " - " + cutLine(strings.ReplaceAll(oneLine(strings.Join(said, "; ")), "|", "/"), maxCheckLine)
	if len(perf) > 0 {
		line += " | " + strings.Join(perf, " ")
	}
	return line, code
}

// unknown is the line where nothing can be said.
func unknown(err error) string {
	hint := ""
	if f, ok := errors.AsType[*job.Failure](err); ok && f.Hint != "" {
		hint = " (" + f.Hint + ")"
	}
	return "BACKUP UNKNOWN - " + cutLine(strings.ReplaceAll(oneLine(err.Error()+hint), "|", "/"), maxCheckLine)
}
