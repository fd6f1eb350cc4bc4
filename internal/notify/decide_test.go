package notify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// testRun is one of a backup that began when everything happens, minus an hour.
func testRun(id string, s journal.Status) *journal.Run {
	r := &journal.Run{ID: id, Command: "backup", Status: s, Start: at.Add(-time.Hour), End: at, Config: "/etc/backup-handler/config.ini", Host: "web1"}
	if !s.Good() {
		r.Error, r.Exit = "no space left on device", 3
	}
	if s == journal.Warning {
		r.Warnings = []string{"3 files could not be read"}
	}
	return r
}

// past is a history, given the newest first: one letter a run, an hour apart, the
// newest an hour before now. s success, w warning, f failure, r refused, c crashed,
// i interrupted; capitals are of verify.
func past(letters string) (h []journal.Run) {
	for i, l := range letters {
		s := map[string]journal.Status{"s": journal.Success, "w": journal.Warning, "f": journal.Failed, "r": journal.Refused,
			"c": journal.Crashed, "i": journal.Interrupted}[strings.ToLower(string(l))]
		r := testRun(fmt.Sprintf("before-%d", i), s)
		r.Start = at.Add(-time.Duration(i+2) * time.Hour)
		r.End = r.Start.Add(time.Minute)
		if l < 'a' {
			r.Command = "verify"
		}
		h = append(h, *r)
	}
	return h
}

func TestStories(t *testing.T) {
	hours := func(n int) time.Time { return at.Add(-time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		now      journal.Status
		past     string
		levels   []Level
		inRow    int
		since    time.Time
		lastGood time.Time
	}{
		{journal.Success, "", []Level{Success}, 0, hours(1), time.Time{}},
		{journal.Success, "sf", []Level{Success}, 0, hours(1), hours(2)},
		{journal.Success, "fsf", []Level{Recovered, Success}, 1, hours(2), hours(3)},
		{journal.Success, "fircs", []Level{Recovered, Success}, 4, hours(5), hours(6)},
		{journal.Success, "f", []Level{Recovered, Success}, 1, hours(2), time.Time{}},
		{journal.Warning, "f", []Level{Recovered, Warning}, 1, hours(2), time.Time{}},
		{journal.Warning, "s", []Level{Warning}, 1, hours(1), hours(2)},
		{journal.Warning, "wws", []Level{Warning}, 3, hours(3), hours(2)},
		{journal.Failed, "", []Level{Failure}, 1, hours(1), time.Time{}},
		{journal.Failed, "s", []Level{Failure}, 1, hours(1), hours(2)},
		{journal.Refused, "ffws", []Level{Failure}, 3, hours(3), hours(4)},
		{journal.Interrupted, "s", []Level{Failure}, 1, hours(1), hours(2)},
		{journal.Crashed, "s", []Level{Failure}, 1, hours(1), hours(2)},
		// Runs of another command say nothing.
		{journal.Success, "FFs", []Level{Success}, 0, hours(1), hours(4)},
		{journal.Failed, "SfSs", []Level{Failure}, 2, hours(3), hours(5)},
	} {
		s := newStory(testRun("now", c.now), past(c.past))
		if !slices.Equal(s.levels, c.levels) || s.inRow != c.inRow || !s.since.Equal(c.since) || !s.lastGood.Equal(c.lastGood) {
			t.Errorf("%s after %q: %v, %d in a row since %v, last good %v; want %+v", c.now, c.past, s.levels, s.inRow, s.since, s.lastGood, c)
		}
	}
	// Dry runs, runs that are going on and the run itself do not count.
	h := past("sf")
	h[0].DryRun = true
	going := past("s")[0]
	going.ID, going.Status = "other", journal.Running
	self := *testRun("now", journal.Failed)
	if s := newStory(testRun("now", journal.Failed), slices.Concat([]journal.Run{self, going}, h)); s.inRow != 2 {
		t.Errorf("%d in a row, want 2", s.inRow)
	}
	other := past("f")
	other[0].Config = "/elsewhere.ini"
	if s := newStory(testRun("now", journal.Success), other); s.levels[0] != Success {
		t.Errorf("another configuration counts: %v", s.levels)
	}
}

func TestSameFailures(t *testing.T) {
	base := func() *journal.Run {
		r := testRun("1", journal.Failed)
		r.Error = "pack 63eaeb19 of 1,024 bytes: no space left on device"
		r.Destinations = []journal.DestinationRun{{Location: "/srv/disk1", Error: "no space"}, {Location: "/srv/disk2"}}
		return r
	}
	key := func(change func(*journal.Run)) string {
		r := base()
		change(r)
		return newStory(r, nil).key()
	}
	same := key(func(*journal.Run) {})
	for name, change := range map[string]func(*journal.Run){
		"another ID":         func(r *journal.Run) { r.ID = "2" },
		"other numbers":      func(r *journal.Run) { r.Error = "pack 00cafe42 of 7 bytes: no space left on device" },
		"other counts":       func(r *journal.Run) { r.Counts.Files = 7 },
		"a warning more":     func(r *journal.Run) { r.Warnings = []string{"x"} },
		"how long it takes":  func(r *journal.Run) { r.End = r.End.Add(time.Hour) },
		"another good place": func(r *journal.Run) { r.Destinations[1].Location = "/srv/disk3" },
	} {
		if key(change) != same {
			t.Errorf("%s: is another failure", name)
		}
	}
	for name, change := range map[string]func(*journal.Run){
		"another message":       func(r *journal.Run) { r.Error = "permission denied" },
		"another status":        func(r *journal.Run) { r.Status = journal.Refused },
		"another command":       func(r *journal.Run) { r.Command = "verify" },
		"another configuration": func(r *journal.Run) { r.Config = "x" },
		"another destination":   func(r *journal.Run) { r.Destinations[0].Location = "/srv/disk9" },
		"one more destination":  func(r *journal.Run) { r.Destinations[1].Error = "gone" },
		"a source":              func(r *journal.Run) { r.Sources = []journal.SourceRun{{Path: "/home", Error: "gone"}} },
	} {
		if key(change) == same {
			t.Errorf("%s: is the same failure", name)
		}
	}
}

func TestDecide(t *testing.T) {
	all := []Level{Failure, Warning, Recovered, Success}
	const hour = time.Hour
	for _, c := range []struct {
		name   string
		on     []Level
		now    journal.Status
		past   string
		repeat time.Duration
		digest Period
		told   time.Duration // how long ago the same was told; 0: never
		want   bool
	}{
		{"failure", all, journal.Failed, "s", 24 * hour, Never, 0, true},
		{"failure, not wanted", []Level{Warning, Success}, journal.Failed, "s", 24 * hour, Never, 0, false},
		{"none", []Level{None}, journal.Failed, "s", 24 * hour, Never, 0, false},
		{"the same an hour later", all, journal.Failed, "f", 24 * hour, Never, hour, false},
		{"the same a day later", all, journal.Failed, strings.Repeat("f", 30), 24 * hour, Never, 24 * hour, true},
		{"the same, and a good run between", all, journal.Failed, "sf", 24 * hour, Never, 3 * hour, true},
		{"the same, without repeats", all, journal.Failed, "f", 0, Never, hour, true},
		{"the same, clock put back", all, journal.Failed, "f", 24 * hour, Never, -hour, true},
		{"failure, history lost", all, journal.Failed, "", 24 * hour, Never, 2 * hour, true},
		{"interrupted", all, journal.Interrupted, "s", 24 * hour, Never, 0, true},
		{"warning", all, journal.Warning, "s", 24 * hour, Never, 0, true},
		{"warning again", all, journal.Warning, "w", 24 * hour, Never, hour, false},
		{"warning again, good between", all, journal.Warning, "sw", 24 * hour, Never, 3 * hour, true},
		{"recovered", []Level{Recovered}, journal.Success, "f", 24 * hour, Never, 0, true},
		{"recovered with warnings", []Level{Recovered}, journal.Warning, "f", 24 * hour, Never, 0, true},
		{"recovered with warnings, warnings only", []Level{Warning}, journal.Warning, "f", 24 * hour, Never, 0, true},
		{"recovered, successes only", []Level{Success}, journal.Success, "f", 24 * hour, Never, 0, true},
		{"recovered once", []Level{Recovered}, journal.Success, "sf", 24 * hour, Never, 0, false},
		{"success", all, journal.Success, "s", 24 * hour, Never, 0, true},
		{"success again", all, journal.Success, "s", 24 * hour, Never, hour, true},
		{"success, not wanted", []Level{Failure, Recovered}, journal.Success, "s", 24 * hour, Never, 0, false},
		{"success in a digest", all, journal.Success, "s", 24 * hour, Daily, 0, false},
		{"failure beside a digest", all, journal.Failed, "s", 24 * hour, Daily, 0, true},
		{"recovered beside a digest", all, journal.Success, "f", 24 * hour, Daily, 0, true},
	} {
		ch := &Channel{Name: "c", On: c.on, Repeat: c.repeat, Digest: c.digest}
		s := newStory(testRun("now", c.now), past(c.past))
		known := channelState{Told: map[string]told{}}
		if c.told != 0 {
			known.Told[s.key()] = told{Run: "before-0", Time: at.Add(-c.told)}
		}
		if got := decide(ch, s, known, at); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	// Whoever calls twice for a run tells it once.
	s := newStory(testRun("now", journal.Failed), past("s"))
	if decide(&Channel{On: all}, s, channelState{Told: map[string]told{s.key(): {Run: "now", Time: at}}}, at) {
		t.Error("a run is told twice")
	}
}

func TestDigestIsDue(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones on this machine: ", err)
	}
	day := func(month time.Month, d, h, m int) time.Time { return time.Date(2026, month, d, h, m, 0, 0, berlin) }
	run := func(at time.Time) []journal.Run {
		return []journal.Run{{ID: "x", Start: at, End: at, Status: journal.Success}}
	}
	for _, c := range []struct {
		name    string
		digest  Period
		last    time.Time
		now     time.Time
		history []journal.Run
		from    time.Time
		due     bool
	}{
		{"none", Never, time.Time{}, day(11, 26, 9, 0), nil, time.Time{}, false},
		{"yesterday's", Daily, day(11, 25, 8, 5), day(11, 26, 8, 0), nil, day(11, 25, 8, 5), true},
		{"a minute early", Daily, day(11, 25, 8, 5), day(11, 26, 7, 59), nil, day(11, 25, 8, 5), false},
		{"sent already", Daily, day(11, 26, 8, 0), day(11, 26, 23, 0), nil, day(11, 26, 8, 0), false},
		{"off for a week", Daily, day(11, 18, 8, 0), day(11, 26, 3, 0), nil, day(11, 18, 8, 0), true},
		{"clocks go back", Daily, day(10, 24, 8, 0), day(10, 25, 8, 0), nil, day(10, 24, 8, 0), true},
		{"clocks go back, a minute early", Daily, day(10, 24, 8, 0), day(10, 25, 7, 59), nil, day(10, 24, 8, 0), false},
		{"clocks go forward", Daily, day(3, 28, 8, 0), day(3, 29, 8, 0), nil, day(3, 28, 8, 0), true},
		{"weekly, Monday", Weekly, day(11, 16, 8, 0), day(11, 23, 8, 0), nil, day(11, 16, 8, 0), true},
		{"weekly, Sunday", Weekly, day(11, 16, 8, 0), day(11, 22, 23, 0), nil, day(11, 16, 8, 0), false},
		{"weekly, Monday was missed", Weekly, day(11, 16, 8, 0), day(11, 26, 8, 0), nil, day(11, 16, 8, 0), true},
		{"first", Daily, time.Time{}, day(11, 26, 9, 0), run(day(11, 26, 8, 30)), day(11, 26, 8, 0), false},
		{"state lost", Daily, time.Time{}, day(11, 26, 9, 0), run(day(11, 25, 9, 0)), day(11, 25, 8, 0), true},
		{"clock put back a little, before the time", Weekly, day(11, 23, 8, 5), day(11, 23, 7, 0), nil, day(11, 23, 8, 5), false},
		{"and then after it", Weekly, day(11, 23, 8, 5), day(11, 23, 9, 0), nil, day(11, 23, 8, 5), false},
		{"clock put back", Daily, day(12, 26, 8, 0), day(11, 26, 9, 0), nil, day(11, 26, 8, 0), false},
	} {
		from, due := digestDue(&Channel{Digest: c.digest, DigestHour: 8}, c.last, c.history, c.now)
		if !from.Equal(c.from) || due != c.due {
			t.Errorf("%s: from %v, due %v", c.name, from, due)
		}
	}
}
