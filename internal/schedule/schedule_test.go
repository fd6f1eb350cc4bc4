package schedule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func parse(t *testing.T, text string, z *time.Location) Schedule {
	t.Helper()
	s, err := Parse(text, z)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

func TestNext(t *testing.T) {
	const form = "2006-01-02 15:04:05 MST"
	for _, c := range []struct{ text, zone, from, want string }{
		{"03:00, 15:30", "UTC", "2026-01-01 00:00:00", "2026-01-01 03:00:00 UTC, 2026-01-01 15:30:00 UTC, 2026-01-02 03:00:00 UTC"},
		{"3:00\n 15:30;", "UTC", "2026-01-01 03:00:00", "2026-01-01 15:30:00 UTC, 2026-01-02 03:00:00 UTC"},
		{"00:00", "UTC", "2026-12-31 23:59:59", "2027-01-01 00:00:00 UTC"},
		{"every 6h", "Europe/Berlin", "2026-01-01 00:00:00", "2026-01-01 01:00:00 CET, 2026-01-01 07:00:00 CET"},
		{"EVERY 2s", "UTC", "2026-01-01 00:00:00", "2026-01-01 00:00:02 UTC"},
		{"every 7d", "UTC", "1969-12-31 00:00:00", "1970-01-01 00:00:00 UTC, 1970-01-08 00:00:00 UTC"},
		{"every 1h30m", "UTC", "1970-01-01 00:00:00", "1970-01-01 01:30:00 UTC"},
		{"30 4 * * sun", "UTC", "2026-11-26 00:00:00", "2026-11-29 04:30:00 UTC, 2026-12-06 04:30:00 UTC"},
		{"0 3 * * 7", "UTC", "2026-11-26 00:00:00", "2026-11-29 03:00:00 UTC"},
		{"0 0 13 * 5", "UTC", "2026-11-01 00:00:00", "2026-11-06 00:00:00 UTC, 2026-11-13 00:00:00 UTC, 2026-11-20 00:00:00 UTC"},
		{"0 0 29 2 *", "UTC", "2097-01-01 00:00:00", "2104-02-29 00:00:00 UTC"},
		{"@weekly", "UTC", "2026-11-26 00:00:00", "2026-11-29 00:00:00 UTC"},
		{"@monthly; 5 0 1 * *", "UTC", "2026-11-26 00:00:00", "2026-12-01 00:00:00 UTC, 2026-12-01 00:05:00 UTC"},
		// The hour that is left out, and the one that comes twice.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 03:00:00 CEST, 2026-03-30 02:30:00 CEST"},
		{"02:00, 02:30, 03:00", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 03:00:00 CEST, 2026-03-30 02:00:00 CEST"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00:00", "2026-10-25 02:30:00 CEST, 2026-10-26 02:30:00 CET"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25 01:00:00", "2026-10-25 01:30:00 CEST, 2026-10-25 02:30:00 CEST, 2026-10-25 02:30:00 CET, 2026-10-25 03:30:00 CET"},
		{"0 * * * *", "Europe/Berlin", "2026-03-29 01:00:00", "2026-03-29 03:00:00 CEST, 2026-03-29 04:00:00 CEST"},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00:00", "2026-10-04 02:30:00 +11, 2026-10-05 02:15:00 +11"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00:00", "2026-04-05 01:45:00 +11, 2026-04-06 01:45:00 +1030"},
		{"00:00, 00:30", "Asia/Beirut", "2026-03-28 12:00:00", "2026-03-29 01:00:00 EEST, 2026-03-30 00:00:00 EEST"},
		{"0 12 30 12 *", "Pacific/Apia", "2011-12-01 00:00:00", "2011-12-31 00:00:00 +14, 2012-12-30 12:00:00 +14"},
	} {
		z := zone(t, c.zone)
		s := parse(t, c.text, z)
		at, err := time.ParseInLocation(time.DateTime, c.from, z)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for range strings.Count(c.want, ",") + 1 {
			at = s.Next(at)
			got = append(got, at.Format(form))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%q in %s from %s:\n got %s\nwant %s", c.text, c.zone, c.from, strings.Join(got, ", "), c.want)
		}
	}
}

// TestAgainstEveryMinute compares with what a clock that is looked at each minute of
// a year shows.
func TestAgainstEveryMinute(t *testing.T) {
	every := func(int) bool { return true }
	one := func(list ...int) func(int) bool { return func(n int) bool { return slices.Contains(list, n) } }
	for _, name := range []string{"Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Beirut", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "UTC"} {
		for _, c := range []struct {
			text         string
			minute, hour func(int) bool
			day          func(time.Time) bool
		}{
			{"30 2 * * *", one(30), one(2), nil},
			{"00:00, 00:45", one(0, 45), one(0), nil},
			{"*/20 1-3 * * *", one(0, 20, 40), one(1, 2, 3), nil},
			{"15 * * * *", one(15), every, nil},
			{"59 23 * * 6,0", one(59), one(23), func(t time.Time) bool { return t.Weekday() == time.Saturday || t.Weekday() == time.Sunday }},
			{"0 2 1-7 * 0", one(0), one(2), func(t time.Time) bool { return t.Day() <= 7 || t.Weekday() == time.Sunday }},
		} {
			z := zone(t, name)
			s := parse(t, c.text, z)
			matches := func(w time.Time) bool {
				return c.minute(w.Minute()) && c.hour(w.Hour()) && (c.day == nil || c.day(w))
			}
			start := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
			end := start.AddDate(1, 0, 0)
			seen := wall(start.In(z)) // the latest that the clock has shown
			next := s.Next(start)
			runs := 0
			for at := start.Add(time.Minute); at.Before(end); at = at.Add(time.Minute) {
				shown := wall(at.In(z))
				due := false
				if c.hour(25) { // each hour of the clock
					due = matches(shown)
				} else {
					for ; seen.Before(shown); seen = seen.Add(time.Minute) {
						due = due || matches(seen.Add(time.Minute))
					}
				}
				if due != next.Equal(at) {
					t.Fatalf("%q in %s: at %v due is %v, and next %v", c.text, name, at.In(z), due, next)
				}
				if due {
					runs++
					if last := s.Last(at.Add(17 * time.Second)); !last.Equal(at) {
						t.Fatalf("%q in %s: last at %v is %v", c.text, name, at.In(z), last)
					}
					next = s.Next(at)
				}
			}
			if runs < 50 {
				t.Errorf("%q in %s: %d runs", c.text, name, runs)
			}
		}
	}
}

func TestLast(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"03:00": "2026-11-26 03:00:00", "12:00": "2026-11-26 12:00:00", "12:01": "2026-11-25 12:01:00",
		"every 2s": "2026-11-26 12:00:00", "0 0 29 2 *": "2024-02-29 00:00:00", "@yearly": "2026-01-01 00:00:00",
	} {
		if got := parse(t, text, time.UTC).Last(now).Format(time.DateTime); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if s := (Schedule{}); !s.Last(now).IsZero() || !s.Next(now).IsZero() || !s.IsZero() {
		t.Error("the zero schedule is due")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "no entry",
		" ;\n;":               "no entry",
		"25:00":               "entry 1: must be times",
		"03:00, noon":         "entry 1: must be times",
		"03:00; 24:00":        "entry 2: must be times",
		"every":               "interval",
		"every 0s":            "interval",
		"every 500ms":         "interval",
		"every -1h":           "interval",
		"every 367d":          "interval",
		"every 99999999999w":  "interval",
		"every day":           "interval",
		"every d":             "interval",
		"every 1.0000001s":    "interval",
		"31 2 *":              "five fields",
		"0 3 * * * *":         "five fields",
		"0 0 31 2 *":          "never comes",
		"0 0 30 2 *":          "never comes",
		"0 0 31 4,6,9,11 *":   "never comes",
		"61 * * * *":          "minute of the cron",
		"0 24 * * *":          "hour of the cron",
		"0 0 0 * *":           "day of the month of the cron",
		"0 0 1 13 *":          "month of the cron",
		"0 0 * * 8":           "day of the week of the cron",
		"0 0 * * hunter2":     "day of the week of the cron",
		"*/0 * * * *":         "minute of the cron",
		"H 3 * * *":           "minute of the cron",
		"TZ=UTC 0 3 * *":      "five fields",
		"CRON_TZ=UTC 0 3 * *": "five fields",
		"@every 5m":           "@daily",
		"@reboot":             "@daily",
		"nightly":             "five fields",
		strings.Repeat("every 1h;", maxEntries+1): "more than",
	} {
		_, err := Parse(text, time.UTC)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	for _, name := range []string{"Mars/Olympus", "Local", "../../etc/passwd", "europe/nowhere"} {
		if _, err := Zone(name); err == nil {
			t.Errorf("%s is a zone", name)
		}
	}
}

// FuzzParse: what is accepted is due some time, and never before what was asked for.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"03:00", "every 6h", "30 2 * * 1-5", "@daily; 0 0 29 2 *", "0 0 31 2 *", "*/7 3-1 * jan-MAR ?"} {
		f.Add(s)
	}
	berlin, err := Zone("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text, berlin)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 28, 12, 0, 0, 1, time.UTC)
		n := s.Next(now)
		if !n.After(now) {
			t.Fatalf("%q: next of %v is %v", text, now, n)
		}
		if l := s.Last(n); !l.Equal(n) {
			t.Fatalf("%q: last of %v is %v", text, n, l)
		}
	})
}

func TestDelay(t *testing.T) {
	p := Plan{Jitter: time.Hour}
	seen := map[time.Duration]bool{}
	for i := range 100 {
		d := p.Delay(fmt.Sprint("host", i))
		if d < 0 || d >= time.Hour || d != p.Delay(fmt.Sprint("host", i)) {
			t.Fatalf("delay %v", d)
		}
		seen[d.Truncate(10*time.Minute)] = true
	}
	if len(seen) != 6 {
		t.Errorf("100 hosts are in %d of 6 parts of the hour", len(seen))
	}
	if d := (Plan{}).Delay("a"); d != 0 {
		t.Errorf("delay %v without jitter", d)
	}
}

func TestJoin(t *testing.T) {
	a, b := parse(t, "03:00", time.UTC), parse(t, "every 12h", time.UTC)
	at := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	if n := a.Join(b).Next(at); n.Hour() != 3 {
		t.Errorf("next %v", n)
	}
	if s := (Schedule{}).Join(b).String() + "|" + a.Join(Schedule{}).String() + "|" + a.Join(b).String(); s != "every 12h|03:00|03:00; every 12h" {
		t.Error(s)
	}
}
