package schedule

import (
	"fmt"
	"strings"
	"time"
)

// starBit is how cron marks a field that was written as *.
const starBit = 1 << 63

// Calendar writes the schedule as lines of the section [Timer] of a systemd timer:
// OnCalendar where a calendar can say it, else, for intervals, the time since the start
// of the last run. zone is an IANA name; "" for the machine's.
//
// Around changes of the clock, systemd's own rules hold.
func (s Schedule) Calendar(zone string) []string {
	var lines []string
	for _, e := range s.entries {
		switch {
		case e.every > 0:
			lines = append(lines, intervalLines(e.every)...)
		default:
			for _, c := range e.calendar() {
				lines = append(lines, "OnCalendar="+strings.TrimSpace(c+" "+zone))
			}
		}
	}
	return lines
}

// intervalLines writes multiples of an interval since midnight UTC, as nextMultiple has
// them, where they are the same each day.
func intervalLines(d time.Duration) []string {
	whole := func(unit, of time.Duration) bool { return d%unit == 0 && of%d == 0 }
	step := func(unit time.Duration) string {
		if d == unit {
			return "*"
		}
		return fmt.Sprintf("00/%d", d/unit)
	}
	switch {
	case d == 24*time.Hour:
		return []string{"OnCalendar=*-*-* 00:00:00 UTC"}
	case whole(time.Hour, 24*time.Hour):
		return []string{"OnCalendar=*-*-* " + step(time.Hour) + ":00:00 UTC"}
	case whole(time.Minute, time.Hour):
		return []string{"OnCalendar=*-*-* *:" + step(time.Minute) + ":00 UTC"}
	case whole(time.Second, time.Minute):
		return []string{"OnCalendar=*-*-* *:*:" + step(time.Second) + " UTC"}
	}
	seconds := int64(d / time.Second)
	return []string{fmt.Sprintf("OnActiveSec=%ds", seconds), fmt.Sprintf("OnUnitActiveSec=%ds", seconds)}
}

// calendar writes a cron expression; two where either the day of the month or that of
// the week has to fit, as in systemd both have to.
func (e entry) calendar() []string {
	c := e.cron
	clock := fmt.Sprintf("%s:%s:00", field(c.Hour, 0, 23, "%02d"), field(c.Minute, 0, 59, "%02d"))
	date := func(dom uint64) string {
		return fmt.Sprintf("*-%s-%s", field(c.Month, 1, 12, "%02d"), field(dom, 1, 31, "%02d"))
	}
	week := weekdays(c.Dow)
	switch {
	case week == "":
		return []string{date(c.Dom) + " " + clock}
	case c.Dom&starBit == 0 && c.Dow&starBit == 0:
		return []string{week + " " + date(1<<32-2) + " " + clock, date(c.Dom) + " " + clock}
	}
	return []string{week + " " + date(c.Dom) + " " + clock}
}

// field lists the bits of a field, runs of them as ranges; all are *.
func field(bits uint64, low, high int, format string) string {
	var parts []string
	for i := low; i <= high; i++ {
		if bits&(1<<i) == 0 {
			continue
		}
		end := i
		for end < high && bits&(1<<(end+1)) != 0 {
			end++
		}
		switch {
		case i == low && end == high:
			return "*"
		case end > i+1:
			parts = append(parts, fmt.Sprintf(format+".."+format, i, end))
		default:
			end = i
			parts = append(parts, fmt.Sprintf(format, i))
		}
		i = end
	}
	return strings.Join(parts, ",")
}

// weekdays lists the days of a week; "" for all.
func weekdays(bits uint64) string {
	var days []string
	for i, name := range []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"} {
		if bits&(1<<i) != 0 || i == 0 && bits&(1<<7) != 0 {
			days = append(days, name)
		}
	}
	if len(days) == 7 {
		return ""
	}
	return strings.Join(days, ",")
}
