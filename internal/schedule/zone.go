package schedule

import "time"

// wall is what the clock shows at t, as if it were in UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// instant is the first instant at which the clock of a zone shows w, or goes past it
// without showing it.
func instant(w time.Time, zone *time.Location) time.Time {
	year, month, day := w.Date()
	near := time.Date(year, month, day, w.Hour(), w.Minute(), w.Second(), w.Nanosecond(), zone)
	// Date has chosen one of the offsets on both sides of a change.
	start, end := near.ZoneBounds()
	sides := []time.Time{near}
	if !start.IsZero() {
		sides = append(sides, start.Add(-1))
	}
	if !end.IsZero() {
		sides = append(sides, end)
	}
	var first time.Time
	for _, side := range sides {
		_, offset := side.Zone()
		at := w.Add(-time.Duration(offset) * time.Second).In(zone)
		if wall(at).Equal(w) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first
	}
	// Skipped: the clock goes on at the change before which it shows less than w.
	if !start.IsZero() && wall(start).After(w) {
		return start
	}
	return end
}
