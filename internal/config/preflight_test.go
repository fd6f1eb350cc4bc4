package config

import (
	"testing"
	"time"
)

func TestPreflight(t *testing.T) {
	read := func(text string) Preflight {
		t.Helper()
		c, _ := mustRead(t, text, envOf())
		p, err := c.Preflight()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p, want := read(""), (Preflight{Enabled: true, AutoMount: true, StalenessFactor: 2}); p != want {
		t.Errorf("nothing is set: %+v", p)
	}
	got := read(`[PREFLIGHT]
enabled = no
expected_mount = /mnt/disk
expected_label = BACKUP
expected_uuid = 0123-ABCD
expected_fs_type = xfs
expected_owner = backup
auto_mount = no
min_free = 10G
staleness_factor = 0.5
`)
	if want := (Preflight{
		ExpectedMount: "/mnt/disk", ExpectedLabel: "BACKUP", ExpectedUUID: "0123-ABCD", ExpectedFSType: "xfs", ExpectedOwner: "backup",
		MinFree: 10 << 30, StalenessFactor: 1,
	}); got != want {
		t.Errorf("all is set: %+v", got)
	}
}

// Only what the file says of a schedule counts: 2.5's default of a minute made every
// backup too old.
func TestPreflightInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"":                                     0,
		"interval_minutes = 60":                time.Hour,
		"interval_minutes =":                   0,
		"times = 03:00":                        24 * time.Hour,
		"times = 03:00, 15:00":                 12 * time.Hour,
		"times = 22:00, 03:00":                 19 * time.Hour,
		"times = 01:00, 02:00":                 23 * time.Hour,
		"times = 00:00, 08:00, 9:00":           15 * time.Hour,
		"times = 03:00\ninterval_minutes = 60": 24 * time.Hour,
	} {
		c, _ := mustRead(t, "[SCHEDULE]\n"+text+"\n", envOf())
		p, err := c.Preflight()
		if err != nil || p.Interval != want {
			t.Errorf("%q: %v, %v, want %v", text, p.Interval, err, want)
		}
	}
}

func TestHasHooks(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "[HOOKS]\npre_backup =\n": false, "[HOOKS]\npre_backup = None\n": false,
		"[HOOKS]\npre_backup = true\n": true, "[HOOKS]\npost_backup = ${UNSET}\n": true, "[DRILL]\ncheck_command = true\n": false, "[STREAM x]\ncommand = true\n": true,
	} {
		if c, _ := mustRead(t, text, envOf()); c.HasHooks() != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}
