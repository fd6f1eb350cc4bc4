package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

func TestDaemonSchedule(t *testing.T) {
	c, warnings := mustRead(t, `[SCHEDULE]
times = 03:00, 15:30
backup = every 12h
    0 9 * * 1-5
drill = 30 4 * * sun
timezone = Europe/Berlin
jitter = 10m
on_stop = finish
`, envOf())
	if len(warnings) > 0 {
		t.Error(warnings)
	}
	p := must[schedule.Plan](t)(c.Schedule())
	wantEqual(t, "jobs", len(p.Jobs), 2)
	wantEqual(t, "zone", p.Zone.String(), "Europe/Berlin")
	wantEqual(t, "jitter", p.Jitter, 10*time.Minute)
	wantEqual(t, "catch up", p.CatchUp, true)
	wantEqual(t, "finish", p.Finish, true)
	wantEqual(t, "stop timeout", p.StopTimeout, 3*time.Minute)
	at := time.Date(2026, 11, 26, 0, 30, 0, 0, time.UTC) // Thursday, 01:30 in Berlin
	var got []string
	for range 5 {
		at = p.Jobs[schedule.Backup].Next(at)
		got = append(got, at.Format("15:04"))
	}
	wantEqual(t, "times", strings.Join(got, " "), "03:00 09:00 13:00 15:30 01:00")

	p = must[schedule.Plan](t)(Defaults(envOf()).Schedule())
	if len(p.Jobs) != 0 || p.Zone != time.Local || p.Finish || !p.CatchUp {
		t.Errorf("%+v", p)
	}
}

func TestScheduleErrorsNameTheKey(t *testing.T) {
	for _, line := range []string{"backup = 31 2 *", "prune = 0 0 31 2 *", "timezone = Mars/Olympus", "times = 24:00", "drill = every 0s", "on_stop = panic"} {
		key, value, _ := strings.Cut(line, " = ")
		_, _, err := read("f.ini", strings.NewReader("[SCHEDULE]\n"+line+"\n"), envOf())
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Key != key || e.Line != 2 || strings.Contains(err.Error(), value) {
			t.Errorf("%s: error %v", line, err)
		}
	}
	// From a variable, an error comes when it is read.
	c, _ := mustRead(t, "[SCHEDULE]\nbackup = ${WHEN}\n", envOf("WHEN", "sometimes"))
	if _, err := c.Schedule(); err == nil || len(c.Check()) == 0 {
		t.Errorf("error %v, check %v", err, c.Check())
	}
}
