package notify

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

func fullRun() *journal.Run {
	free := int64(120) << 30
	return &journal.Run{
		ID: "20261126T020004Z-abcdef", Command: "backup", Status: journal.Failed, Exit: 3, Start: at.Add(-12*time.Minute - 4*time.Second), End: at,
		Config: "/etc/backup-handler/config.ini", Mode: "incremental", Snapshot: "63eaeb19aabbccdd",
		Error: "/srv/backup: no space left on device", Hint: "free space there, or remove old snapshots: backup-handler forget --prune",
		Sources:      []journal.SourceRun{{Path: "/home"}, {Path: "/etc", Problems: 3}},
		Destinations: []journal.DestinationRun{{Location: "sftp://nas/backup", FreeBytes: &free}, {Location: "/srv/backup", Error: "no space left on device"}},
		Stages:       []journal.Stage{{Name: "backup", Seconds: 700}, {Name: "verify", Error: "nothing to verify"}},
		Counts:       journal.Counts{Files: 19915, New: 12, Changed: 3, Bytes: 2469606195, Read: 5 << 20, Stored: 1234567, Problems: 3, Forgotten: 2},
		Warnings:     []string{"3 files could not be read"},
	}
}

// TestText is the message of a failure as a person gets it.
func TestText(t *testing.T) {
	n := newNotifier(t, Options{Host: "web1"})
	m := n.runText(newStory(fullRun(), []journal.Run{past("f")[0], past("ff")[1], past("ffs")[2]}))
	const want = `backup on web1 has failed: /srv/backup: no space left on device

The backup on web1 has failed, the 3rd time in a row, since 2026-11-26 00:00:04 +01:00.
/srv/backup: no space left on device

What to do: free space there, or remove old snapshots: backup-handler forget --prune

Warnings:
- 3 files could not be read

Began 2026-11-26 02:48:00 +01:00, took 12 min 4 s
Last good one before: 2026-11-25 23:00:04 +01:00
Files: 19,915 (12 new, 3 changed), 2.3 GiB
Read 5.0 MiB, stored 1.2 MiB
Could not be done: 3 of the files and directories
Old snapshots removed: 2
Snapshot 63eaeb19, incremental

Destinations:
- /srv/backup: no space left on device
- sftp://nas/backup: ok, 120 GiB free

Sources:
- /home: ok
- /etc: 3 could not be stored

Stages that failed:
- verify: nothing to verify

Run 20261126T020004Z-abcdef, backup-handler 3.0.0
Configuration /etc/backup-handler/config.ini
More: backup-handler runs show 20261126T020004Z-abcdef`
	run := fullRun()
	run.Config = past("f")[0].Config
	if got := n.runText(newStory(run, past("ffs"))).whole(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if m.subject != "backup on web1 has failed: /srv/backup: no space left on device" {
		t.Errorf("subject %q", m.subject)
	}
}

func TestSubjects(t *testing.T) {
	n := newNotifier(t, Options{Host: "web1"})
	for _, c := range []struct {
		status  journal.Status
		past    string
		subject string
		story   string
	}{
		{journal.Success, "s", "backup on web1: done", "The backup on web1 has done everything."},
		{journal.Success, "fs", "backup on web1 works again", "The backup on web1 works again, after 1 failure since 2026-11-26 01:00:04 +01:00."},
		{journal.Warning, "f", "backup on web1 works again, with 1 warning", "The backup on web1 works again, after 1 failure since 2026-11-26 01:00:04 +01:00."},
		{journal.Warning, "s", "backup on web1: done, with 1 warning", "The backup on web1 has done everything, and there is something to look at."},
		{journal.Refused, "s", "backup on web1 was refused: no space left on device", "The backup on web1 was refused."},
		{journal.Interrupted, "s", "backup on web1 was interrupted: no space left on device", "The backup on web1 was interrupted."},
		{journal.Crashed, "fs", "backup on web1 ended without a word: no space left on device", "The backup on web1 ended without a word, the 2nd time in a row, since 2026-11-26 01:00:04 +01:00."},
	} {
		m := n.runText(newStory(testRun("1", c.status), past(c.past)))
		if m.subject != c.subject || m.blocks[0].lines[0] != c.story {
			t.Errorf("%s after %q: %q, %q", c.status, c.past, m.subject, m.blocks[0].lines[0])
		}
	}
}

// Hostile names and a run of thousands of errors make no hostile and no endless text.
func TestTextIsCleanAndBounded(t *testing.T) {
	evil := "a\r\nSubject: b\x00\x1b]0;x\a \u202e\u2066\u2028\ufeff\xff" + strings.Repeat("x", 5000)
	r := testRun(evil, journal.Failed)
	r.Command, r.Error, r.Hint, r.Config, r.Snapshot, r.Mode = evil, evil, evil, evil, evil, evil
	for range 1000 {
		r.Warnings = append(r.Warnings, evil)
		r.Sources = append(r.Sources, journal.SourceRun{Path: evil, Error: evil})
		r.Destinations = append(r.Destinations, journal.DestinationRun{Location: evil, Error: evil})
		r.Stages = append(r.Stages, journal.Stage{Name: evil, Error: evil})
	}
	n := newNotifier(t, Options{Host: evil, Program: evil})
	for _, m := range []*message{n.runText(newStory(r, nil)), n.startedText(r), n.testText(evil), n.channelText(evil, errors.New(evil)),
		n.digestText(withRun(r, nil), at.AddDate(0, 0, -1), at)} {
		text := m.text()
		if !utf8.ValidString(text) || len(text) > 64<<10 || len([]rune(m.subject)) > maxSubject || strings.ContainsAny(m.subject, "\r\n") {
			t.Errorf("%s: %d bytes, subject %q", m.event, len(text), m.subject)
		}
		for _, c := range m.subject + strings.ReplaceAll(text, "\n", "") {
			if !unicode.IsPrint(c) && c != '\uFFFD' {
				t.Fatalf("%s: %U", m.event, c)
			}
		}
	}
}

// Where one of ten thousand failed, it is not the one that is cut.
func TestFailuresAreListedFirst(t *testing.T) {
	r := testRun("1", journal.Failed)
	for range 100 {
		r.Destinations = append(r.Destinations, journal.DestinationRun{Location: "/good"})
	}
	r.Destinations = append(r.Destinations, journal.DestinationRun{Location: "/bad", Error: "gone"}, journal.DestinationRun{Location: "/later", Pending: true})
	text := newNotifier(t, Options{}).runText(newStory(r, nil)).text()
	if !strings.Contains(text, "Destinations:\n- /bad: gone\n- /later: not finished\n- /good: ok") || !strings.Contains(text, "- and 92 more") {
		t.Errorf("%s", text)
	}
}

func TestSecretsOfTheConfigurationAreRedacted(t *testing.T) {
	n := newNotifier(t, Options{Host: "h", Redact: func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }})
	r := testRun("1", journal.Failed)
	r.Error, r.Hint, r.Warnings = "login with hunter2 failed", "not hunter2", []string{"hunter2"}
	r.Destinations = []journal.DestinationRun{{Location: "/x", Error: "hunter2"}}
	m := n.runText(newStory(r, nil))
	if strings.Contains(m.whole(), "hunter2") || !strings.Contains(m.subject, "login with *** failed") {
		t.Error(m.whole())
	}
}

func TestSmallTexts(t *testing.T) {
	for got, want := range map[string]string{
		ordinal(1): "1st", ordinal(2): "2nd", ordinal(3): "3rd", ordinal(4): "4th", ordinal(11): "11th", ordinal(12): "12th", ordinal(13): "13th", ordinal(21): "21st", ordinal(112): "112th",
		tookText(0): "0.0 s", tookText(59 * time.Second): "59 s", tookText(3599 * time.Second): "59 min 59 s", tookText(25*time.Hour + time.Minute): "25 h 1 min",
		bytesText(0): "0 B", bytesText(1023): "1023 B", bytesText(1024): "1.0 KiB", bytesText(150 << 20): "150 MiB", bytesText(1 << 62): "4.0 EiB",
		countText(-1234): "-1,234", countText(999): "999", countText(1000): "1,000",
		clip("äöü", 3): "äöü", clip("äöüß", 3): "äö…", clipBytes("äöü", 6): "äöü", clipBytes("äöüß", 6): "ä…",
		clipUTF16("a𝄞b", 4): "a𝄞b", clipUTF16("a𝄞bc", 4): "a𝄞…", clipUTF16("a𝄞𝄞", 4): "a𝄞…",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
