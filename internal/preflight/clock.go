package preflight

import (
	"fmt"
	"time"
)

const (
	// maxAhead is how far the newest snapshot may be ahead of the clock without a word:
	// clocks of hosts that nobody sets drift by minutes.
	maxAhead = 10 * time.Minute
	// maxWrong is how far it may be ahead for a backup to be made. With a clock that is
	// a day behind, rules that keep the newest of each day forget the wrong ones.
	maxWrong = 24 * time.Hour
	// buildSlack is how far it may be before the time of the build: that was another
	// machine's clock.
	buildSlack = 24 * time.Hour
)

// ClockOf checks that it is not a day before the program was built, and not before the time
// of the newest snapshot or run that is known, which may be zero.
func ClockOf(now, built, newest time.Time) Result {
	r := Result{Check: CheckClock, State: OK, Text: now.UTC().Format(time.DateTime) + " UTC"}
	const set = "set this machine's clock, best by NTP"
	ahead := newest.Sub(now)
	switch {
	case now.Before(built.Add(-buildSlack)):
		r.State, r.Hint = Refused, set
		r.Text = fmt.Sprintf("it says %s UTC, which is before this program was built (%s)", now.UTC().Format(time.DateTime), built.UTC().Format(time.DateOnly))
	case newest.IsZero() || ahead <= maxAhead:
	case ahead <= maxWrong:
		r.State, r.Text, r.Hint = Warning, fmt.Sprintf("the last backup is %v ahead of it", ahead.Round(time.Minute)), set
	default:
		r.State, r.Text = Refused, fmt.Sprintf("it says %s UTC, and the last backup was at %s UTC", now.UTC().Format(time.DateTime), newest.UTC().Format(time.DateTime))
		r.Hint = set + "; if it was ahead when that backup was made, forget its snapshot by name"
	}
	return r
}

// StaleAfter judges the age of the last good backup, which is zero where there is
// none, by the time between two of them.
func StaleAfter(now, last time.Time, interval time.Duration, factor float64) Result {
	r := Result{Check: CheckStale, State: OK}
	age := now.Sub(last)
	switch {
	case last.IsZero():
		r.State, r.Text = Skipped, "there is no good backup yet"
	case interval <= 0:
		r.State, r.Text = Skipped, fmt.Sprintf("the last good backup is %s old; without [SCHEDULE] nobody knows whether that is too old", span(age))
	case float64(age) > factor*float64(interval):
		r.State, r.Text = Warning, fmt.Sprintf("the last good backup is %s old, and there should be one every %s", span(age), span(interval))
		r.Hint = "is the schedule running? 'backup-handler status' tells what failed"
	default:
		r.Text = fmt.Sprintf("the last good backup is %s old", span(age))
	}
	return r
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Minute)
	days, hours, minutes := d/(24*time.Hour), d%(24*time.Hour)/time.Hour, d%time.Hour/time.Minute
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	}
	return fmt.Sprintf("%d min", minutes)
}
