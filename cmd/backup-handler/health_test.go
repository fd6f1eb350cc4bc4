package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

var healthNow = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// ran is a run that ended so many hours ago, after 10 minutes.
func ran(hours float64, command string, status journal.Status, change ...func(*journal.Run)) journal.Run {
	end := healthNow.Add(-time.Duration(hours * float64(time.Hour)))
	r := journal.Run{ID: fmt.Sprint(command, hours), Command: command, Status: status, Start: end.Add(-10 * time.Minute), End: end, PID: 42}
	for _, c := range change {
		c(&r)
	}
	return r
}

func failing(text string) func(*journal.Run) {
	return func(r *journal.Run) { r.Error, r.Exit = text, job.ExitPartial }
}

// daily is a schedule of a backup each day, which may be 48 hours old.
func daily(change ...func(*scheduled)) *scheduled {
	f := &scheduled{
		ages:     map[schedule.Kind]config.Age{schedule.Backup: {Interval: 24 * time.Hour, Max: 48 * time.Hour}},
		upcoming: map[schedule.Kind]daemon.Upcoming{schedule.Backup: {Kind: schedule.Backup, Due: healthNow.Add(9 * time.Hour)}},
		daemon:   true,
	}
	for _, c := range change {
		c(f)
	}
	return f
}

func going(command string) journal.Run {
	return ran(0, command, journal.Running, func(r *journal.Run) { r.End = time.Time{}; r.Start = healthNow.Add(-5 * time.Minute) })
}

func TestHealth(t *testing.T) {
	good := ran(3, "backup", journal.Success, func(r *journal.Run) { r.Snapshot = "x"; r.Counts = journal.Counts{Files: 9, New: 1, Stored: 5000} })
	verified := func(f *scheduled) {
		f.ages[schedule.Verify] = config.Age{Interval: 24 * time.Hour, Max: 48 * time.Hour}
	}
	for _, x := range []struct {
		name string
		runs []journal.Run
		f    *scheduled
		line string // beginning
		code int
	}{
		{"good", []journal.Run{good}, daily(), "BACKUP OK - last backup 3 hours ago; next in 9 hours | age=10800s;129600;172800;0 duration=600s;;;0 stored=5000B;;;0", 0},
		{"nothing", nil, &scheduled{}, "BACKUP CRITICAL - there is no backup in the record", 2},
		{"never", nil, daily(), "BACKUP CRITICAL - there is no good backup in the record; next in 9 hours", 2},
		{"never, and at it", []journal.Run{going("backup")}, daily(), "BACKUP OK - next in 9 hours; backup is running", 0},
		{"no schedule", []journal.Run{good}, &scheduled{}, "BACKUP OK - last backup 3 hours ago | age=10800s;;;0", 0},
		{"late", []journal.Run{ran(37, "backup", journal.Success)}, daily(), "BACKUP WARNING - the last good backup is 1 d 13 h old, of at most 2 d", 1},
		{"late, and at it", []journal.Run{going("backup"), ran(37, "backup", journal.Success)}, daily(), "BACKUP OK - ", 0},
		{"at the limit", []journal.Run{ran(48, "backup", journal.Success)}, daily(), "BACKUP WARNING - ", 1},
		{"stale", []journal.Run{ran(49, "backup", journal.Success)}, daily(), "BACKUP CRITICAL - the last good backup is 2 d 1 h old, of at most 2 d", 2},
		{"stale, and at it", []journal.Run{going("backup"), ran(49, "backup", journal.Success)}, daily(), "BACKUP CRITICAL - ", 2},
		{"failed", []journal.Run{ran(1, "backup", journal.Failed, failing("nas: no | route\nto host")), good}, daily(), "BACKUP CRITICAL - the last backup has failed: nas: no / route; to host; last backup 3 hours ago", 2},
		{"failed, and tried again", []journal.Run{going("backup"), ran(1, "backup", journal.Failed, failing("x")), good}, daily(), "BACKUP WARNING - the last backup has failed: x", 1},
		{"refused", []journal.Run{ran(1, "backup", journal.Refused, failing("not mounted")), good}, daily(), "BACKUP CRITICAL - the last backup was refused: not mounted", 2},
		{"interrupted", []journal.Run{ran(1, "backup", journal.Interrupted), good}, daily(), "BACKUP WARNING - the last backup was interrupted", 1},
		{"crashed", []journal.Run{ran(1, "backup", journal.Crashed), good}, daily(), "BACKUP CRITICAL - the last backup has crashed", 2},
		{"warning", []journal.Run{ran(1, "backup", journal.Warning, func(r *journal.Run) { r.Warnings = []string{"two", "more"} })}, daily(), "BACKUP WARNING - the last backup has a warning: two", 1},
		{"verification failed", []journal.Run{ran(1, "verify", journal.Failed, failing("3 packs")), good}, daily(), "BACKUP CRITICAL - the last verify has failed: 3 packs", 2},
		{"prune failed", []journal.Run{ran(1, "prune", journal.Failed, failing("x")), good}, daily(), "BACKUP WARNING - the last prune has failed", 1},
		{"verification stale", []journal.Run{good, ran(50, "verify", journal.Success)}, daily(verified), "BACKUP WARNING - the last good verify is 2 d 2 h old", 1},
		{"verification good", []journal.Run{good, ran(20, "verify", journal.Success)}, daily(verified), "BACKUP OK - last backup 3 hours ago; next in 9 hours | age=10800s;129600;172800;0 duration=600s;;;0 stored=5000B;;;0 verify_age=72000s;172800;;0", 0},
		{"overdue", []journal.Run{good}, daily(func(f *scheduled) {
			f.daemon, f.upcoming[schedule.Backup] = false, daemon.Upcoming{Due: healthNow.Add(-2 * time.Hour)}
		}), "BACKUP WARNING - backup was due at ", 1},
		{"due, behind another", []journal.Run{going("verify"), good}, daily(func(f *scheduled) { f.upcoming[schedule.Backup] = daemon.Upcoming{Due: healthNow.Add(-2 * time.Hour)} }), "BACKUP OK - ", 0},
		{"clock set back", []journal.Run{ran(-5, "backup", journal.Success)}, daily(), "BACKUP OK - last backup 0 seconds ago", 0},
		{"other commands do not count", []journal.Run{ran(1, "restore", journal.Failed, failing("x")), good}, daily(), "BACKUP OK - ", 0},
	} {
		h := judge(x.runs, x.f, healthNow)
		line, code := checkLine(h, nil, healthNow)
		if !strings.HasPrefix(line, x.line) || code != x.code || strings.Count(line, "|") > 1 || strings.Contains(line, "\n") {
			t.Errorf("%s: exit code %d: %s", x.name, code, line)
		}
		if h.OK != (len(h.Critical) == 0) {
			t.Errorf("%s: %+v", x.name, h)
		}
		var b bytes.Buffer
		h.text(&b, "web", true, healthNow)
		for l := range strings.Lines(b.String()) {
			if utf8.RuneCountInString(strings.TrimSuffix(l, "\n")) > textWidth {
				t.Errorf("%s: a line of more than %d columns: %s", x.name, textWidth, l)
			}
		}
	}
	line, code := checkLine(judge([]journal.Run{good}, daily(), healthNow), []string{"/mnt/a: cannot be opened"}, healthNow)
	if code != checkCritical || !strings.HasPrefix(line, "BACKUP CRITICAL - /mnt/a: cannot be opened; last backup") {
		t.Errorf("%d %s", code, line)
	}
	if line := unknown(&job.Failure{Code: 1, Err: errors.New("a | b\nc"), Hint: "do d"}); line != "BACKUP UNKNOWN - a / b; c (do d)" {
		t.Error(line)
	}
}

// A disk that has room for five days.
func TestHealthSpace(t *testing.T) {
	var runs []journal.Run
	for day := range 10 {
		free := int64(50+10*day) << 30
		runs = append(runs, ran(float64(24*day)+1, "backup", journal.Success, func(r *journal.Run) {
			r.Snapshot, r.Counts = "x", journal.Counts{Files: 100, New: 5, Stored: 10 << 30}
			r.Destinations = []journal.DestinationRun{{Location: "/mnt/it's=a", FreeBytes: &free}, {Location: "nas", Error: "gone"}}
		}))
	}
	h := judge(runs, daily(), healthNow)
	if len(h.Places) != 2 || h.Places[0].Growth.FullIn == nil || *h.Places[0].Growth.FullIn != 5 || *h.Places[0].Growth.Rate != 10<<30 {
		t.Fatalf("%+v", h.Places)
	}
	line, code := checkLine(h, nil, healthNow)
	if code != checkWarning || !strings.Contains(line, "/mnt/it's=a is full in 5 days, if it goes on like this") || !strings.HasSuffix(line, fmt.Sprintf(" 'free /mnt/it_s_a'=%dB;;;0", int64(50)<<30)) {
		t.Error(line)
	}
	var b bytes.Buffer
	h.text(&b, "web", true, healthNow)
	for _, want := range []string{
		"runs on web  ok\n", "\n  WARNING     /mnt/it's=a is full in 5 days", "\n  to          /mnt/it's=a: ok 60 minutes ago; 50.0 GiB free, 10.0 GiB a day,\n              full in 5 days (" + healthNow.Add(5*24*time.Hour).Local().Format("2006-01-02") + ")\n",
		"\n  to          nas: FAILED: gone\n", "\n  backup      good 60 minutes ago (at most 2 d); next in 9 hours (" + healthNow.Add(9*time.Hour).Local().Format("Mon 15:04") + ")\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func at(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

func TestHealthText(t *testing.T) {
	h := judge([]journal.Run{
		going("verify"), ran(1, "backup", journal.Failed, failing(strings.Repeat("a long reason ", 60))), ran(30, "drill", journal.Crashed), ran(26, "backup", journal.Success),
	}, daily(), healthNow)
	var b bytes.Buffer
	h.text(&b, "web", false, healthNow)
	got := b.String()
	for _, want := range []string{
		"runs on web  SOMETHING IS WRONG\n  WRONG       the last backup has failed: a long reason a long", "…\n", "\n  WRONG       the last drill has crashed\n",
		"\n  backup      good 26 hours ago (at most 2 d); last failure 60 minutes ago; next\n              in 9 hours (",
		"\n  drill       never good; last crashed 30 hours ago\n", "\n  running     verify since " + at(healthNow.Add(-5*time.Minute)) + " (5 min), process 42\n", "\n  last failed backup, 60 minutes ago (" + at(healthNow.Add(-70*time.Minute)) + "): has failed: a long",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestConcerns(t *testing.T) {
	r := journal.Run{Destinations: []journal.DestinationRun{{Location: "/mnt/a/"}, {Location: "sftp://nas/b"}}}
	for place, want := range map[string]bool{"/mnt/a": true, "/mnt/b": false, "sftp://nas/b": true, "sftp://nas/c": false} {
		if concerns(&r, []string{place}) != want {
			t.Errorf("%s: %v", place, !want)
		}
	}
	if !concerns(&r, nil) || !concerns(&journal.Run{}, []string{"/mnt/b"}) {
		t.Error("what names no destination may be about all")
	}
}

func TestWrap(t *testing.T) {
	for _, x := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"a b", []string{"a b"}},
		{"1234567890", []string{"1234567890"}},
		{"12345 7890 x", []string{"12345 7890", "x"}},
		{"12345678901", []string{"1234567890", "1"}},
		{"a 12345678901 b", []string{"a", "1234567890", "1 b"}},
		{strings.Repeat("äöü ", 20), []string{"äöü äöü", "äöü äöü", "äöü äöü", "äöü äöü…"}},
		{strings.Repeat("x", 50), []string{"xxxxxxxxxx", "xxxxxxxxxx", "xxxxxxxxxx", "xxxxxxxxx…"}},
	} {
		if got := wrap(x.text, 10); !slices.Equal(got, x.want) {
			t.Errorf("%q: %q", x.text, got)
		}
	}
}

// Colours say only how something is; without them the text is the same.
func TestColoured(t *testing.T) {
	text := "runs on web  ok\n  WRONG       x\n  WARNING     y\n  backup      good\nto  ok  SOMETHING IS WRONG\n/mnt/is  ok\n"
	got := coloured(text)
	want := "runs on web  \x1b[32mok\x1b[0m\n  \x1b[31mWRONG\x1b[0m       x\n  \x1b[33mWARNING\x1b[0m     y\n  backup      good\nto  ok  \x1b[31mSOMETHING IS WRONG\x1b[0m\n/mnt/is  \x1b[32mok\x1b[0m\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}
