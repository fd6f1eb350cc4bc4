// Package schedule says when something is due: times of day, cron expressions and
// intervals, in a time zone. It is pure: it knows neither the clock nor what is run.
//
// The rules around changes of the clock, for all but intervals, which count real time:
//
//   - a time that the clock skips is due where the clock goes on: 02:30 at 03:00;
//   - a time that comes twice is due at the first;
//   - an expression whose field of hours is *, or everything, follows the clock: an hour
//     that is left out is left out, one that comes twice is due twice.
//
// schedule.go: entries, and when they are due. zone.go: from times of day to instants.
// plan.go: the schedules of all kinds of jobs. calendar.go: the same for systemd.
package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones where the system has none

	"github.com/netresearch/go-cron"
)

const (
	// MinInterval and MaxInterval bound "every …".
	MinInterval = time.Second
	MaxInterval = 366 * 24 * time.Hour
	// maxEntries bounds one schedule.
	maxEntries = 100
	// searchYears is how far ahead a date is looked for: 29 February may be eight years away.
	searchYears = 9
)

// A Schedule is a set of entries, of which each says when something is due. The zero
// value is never due. A Schedule does not change and may be used concurrently.
type Schedule struct {
	text    string
	zone    *time.Location
	entries []entry
}

// An entry is one of: a time of day or cron expression, or an interval.
type entry struct {
	every time.Duration // 0: cron is set
	cron  *cron.SpecSchedule
	// follows says that the entry is due in each hour of the clock.
	follows bool
}

// Parse reads entries, separated by semicolons or newlines. An entry is a list of times
// "03:00, 15:30", an interval "every 6h", or a cron expression "30 2 * * 1-5" or
// "@daily". Errors name the entry by its number and never quote it.
func Parse(text string, zone *time.Location) (Schedule, error) {
	s := Schedule{text: strings.TrimSpace(text), zone: zone}
	n := 0
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		n++
		entries, err := parseEntry(part)
		if err != nil {
			return Schedule{}, fmt.Errorf("entry %d: %w", n, err)
		}
		if s.entries = append(s.entries, entries...); len(s.entries) > maxEntries {
			return Schedule{}, fmt.Errorf("has more than %d entries", maxEntries)
		}
	}
	if n == 0 {
		return Schedule{}, errors.New("has no entry")
	}
	return s, nil
}

func parseEntry(text string) ([]entry, error) {
	word, rest, _ := strings.Cut(text, " ")
	switch {
	case strings.EqualFold(word, "every"):
		d, err := parseInterval(strings.TrimSpace(rest))
		return []entry{{every: d}}, err
	case strings.HasPrefix(text, "@"):
		e, err := parseMacro(strings.ToLower(text))
		return []entry{e}, err
	case strings.Contains(text, ":"):
		return parseTimes(text)
	}
	e, err := parseCron(text)
	return []entry{e}, err
}

// parseTimes reads "03:00, 15:30".
func parseTimes(text string) ([]entry, error) {
	var all []entry
	for item := range strings.SplitSeq(text, ",") {
		t, err := time.Parse("15:04", strings.TrimSpace(item))
		if err != nil {
			return nil, errors.New("must be times such as 03:00, an interval such as every 6h, or a cron expression of five fields")
		}
		e, err := parseCron(fmt.Sprintf("%d %d * * *", t.Minute(), t.Hour()))
		if err != nil {
			panic("schedule: a time is no cron expression: " + err.Error())
		}
		all = append(all, e)
	}
	return all, nil
}

// parseInterval reads 90s, 15m, 6h, 7d, 2w or 1h30m.
func parseInterval(text string) (time.Duration, error) {
	wrong := errors.New("must be an interval such as every 15m, every 6h or every 7d, from 1s to 366d")
	if text == "" {
		return 0, wrong
	}
	d, err := time.ParseDuration(text)
	if day := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[text[len(text)-1]]; day > 0 {
		var n int
		n, err = strconv.Atoi(text[:len(text)-1])
		d = time.Duration(min(max(n, 0), int(MaxInterval/day)+1)) * day
	}
	if err != nil || d < MinInterval || d > MaxInterval || d%time.Second != 0 {
		return 0, wrong
	}
	return d, nil
}

func parseMacro(text string) (entry, error) {
	fields, ok := map[string]string{
		"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
		"@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
	}[text]
	if !ok {
		return entry{}, errors.New("must be one of @hourly, @daily, @weekly, @monthly and @yearly; an interval is written every 6h")
	}
	return parseCron(fields)
}

// parser knows the five fields of crontab(5), and its rule that a day fits if either the
// day of the month or that of the week does where both are given.
func parser() cron.Parser {
	return cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom).WithMaxSearchYears(searchYears)
}

const everyHour = 1<<24 - 1

func parseCron(text string) (entry, error) {
	fields := strings.Fields(text)
	if len(fields) != 5 || strings.Contains(fields[0], "=") {
		return entry{}, errors.New("must be times such as 03:00, an interval such as every 6h, or a cron expression of five fields: minute, hour, day of the month, month, day of the week")
	}
	for i, name := range []string{"minute", "hour", "day of the month", "month", "day of the week"} {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = fields[i]
		if _, err := parser().Parse(strings.Join(alone, " ")); err != nil {
			return entry{}, fmt.Errorf("the %s of the cron expression is wrong", name)
		}
	}
	parsed, err := parser().Parse(strings.Join(fields, " "))
	if err != nil {
		return entry{}, errors.New("the cron expression is wrong")
	}
	e := entry{cron: parsed.(*cron.SpecSchedule)}
	e.cron.Location = time.UTC
	e.follows = e.cron.Hour&everyHour == everyHour
	// A year before one with 29 February, so that the search meets each date there is.
	if e.cron.Next(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return entry{}, errors.New("the date of the cron expression never comes")
	}
	return e, nil
}

// IsZero says whether nothing is ever due.
func (s Schedule) IsZero() bool { return len(s.entries) == 0 }

// String is what was parsed.
func (s Schedule) String() string { return s.text }

// Zone is the name of the time zone, "Local" for the machine's.
func (s Schedule) Zone() string {
	if s.zone == nil {
		return ""
	}
	return s.zone.String()
}

// Join is due whenever one of both is. Both have the same zone.
func (s Schedule) Join(other Schedule) Schedule {
	switch {
	case s.IsZero():
		return other
	case other.IsZero():
		return s
	}
	return Schedule{text: s.text + "; " + other.text, zone: s.zone, entries: slices.Concat(s.entries, other.entries)}
}

// Next is the first time after t at which something is due, without jitter; the zero
// time if there is none within the next years.
func (s Schedule) Next(t time.Time) time.Time {
	t = t.Round(0) // the clock on the wall, which may be set
	var first time.Time
	for _, e := range s.entries {
		if n := e.next(t, s.zone); !n.IsZero() && (first.IsZero() || n.Before(first)) {
			first = n
		}
	}
	return first
}

// maxWindow is how far back Last looks.
const maxWindow = searchYears * 366 * 24 * time.Hour

// Last is the last time up to and with t at which something was due; the zero time if
// there was none in years.
func (s Schedule) Last(t time.Time) time.Time {
	for window := time.Minute; window < 2*maxWindow; window *= 2 {
		n := s.Next(t.Add(-window))
		if n.IsZero() || n.After(t) {
			continue
		}
		for {
			later := s.Next(n)
			if later.IsZero() || later.After(t) {
				return n
			}
			n = later
		}
	}
	return time.Time{}
}

func (e entry) next(t time.Time, zone *time.Location) time.Time {
	switch {
	case e.every > 0:
		return nextMultiple(t, e.every).In(zone)
	case e.follows:
		return e.nextFollowing(t.In(zone))
	}
	return e.nextOnce(t.In(zone))
}

// nextMultiple is the first whole multiple of d since 1970 after t. d is whole seconds.
func nextMultiple(t time.Time, d time.Duration) time.Time {
	every := int64(d / time.Second)
	n := t.Unix()
	rest := n % every
	if rest < 0 {
		rest += every
	}
	return time.Unix(n-rest+every, 0)
}

// nextOnce looks for a time of day after that of t, and takes the first instant at which
// the clock shows it, or goes past it. Times of day that follow each other have instants
// that do, too, so that the search finds the first.
func (e entry) nextOnce(t time.Time) time.Time {
	for w := wall(t); ; {
		if w = e.cron.Next(w); w.IsZero() {
			return w
		}
		if at := instant(w, t.Location()); at.After(t) {
			return at
		}
	}
}

// nextFollowing goes through the stretches in which the clock runs evenly.
func (e entry) nextFollowing(t time.Time) time.Time {
	for limit := t.AddDate(searchYears, 0, 0); ; {
		w := wall(t)
		n := e.cron.Next(w)
		if n.IsZero() || t.After(limit) {
			return time.Time{}
		}
		at := t.Add(n.Sub(w))
		_, end := t.ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		// Just before what the clock shows at the beginning of the next stretch.
		t = end
		w = wall(t).Add(-time.Nanosecond)
		if n = e.cron.Next(w); n.Equal(wall(t)) {
			return t
		}
	}
}
