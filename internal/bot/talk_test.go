package bot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

const (
	ann, bob, eve = 42, 43, 666
	group         = -1007
)

// A desk is a talk and a clock.
type desk struct {
	*testing.T
	*talk
	now time.Time
}

func newDesk(t *testing.T) *desk {
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	k := newTalk([]int64{ann, bob, group}, now, rand.Reader)
	k.name = "The_bot"
	return &desk{t, k, now}
}

func (d *desk) write(chat, user int64, text string) answer {
	kind := "private"
	if chat < 0 {
		kind = "supergroup"
	}
	return d.hear(notify.Letter{Chat: chat, User: user, Kind: kind, Time: d.now, Text: text}, d.now)
}

// code asks for a run, and returns the code.
func (d *desk) code(chat, user int64, command string) string {
	d.Helper()
	a := d.write(chat, user, command)
	if a.event != eventAsked || len(a.lines) != 2 {
		d.Fatalf("%s: %+v", command, a)
	}
	code, ok := strings.CutPrefix(a.lines[1], "/confirm ")
	if !ok || !isCode(code) {
		d.Fatalf("%q", a.lines)
	}
	return code
}

// other is a code that is not this one.
func other(code string) string {
	if code[0] == '0' {
		return "1" + code[1:]
	}
	return "0" + code[1:]
}

func (d *desk) refused(a answer, why string) {
	d.Helper()
	if a.start != "" || a.event != eventRefused || a.why != why || len(a.lines) != 1 {
		d.Errorf("want it refused for %q: %+v", why, a)
	}
}

func (d *desk) nothing(a answer) {
	d.Helper()
	if a.start != "" || a.show != "" || a.lines != nil || a.event != "" {
		d.Errorf("want nothing: %+v", a)
	}
}

// TestCodes: a code starts a run once, for who asked, where they asked, in time.
func TestCodes(t *testing.T) {
	d := newDesk(t)
	for _, form := range []string{"/confirm %s", "%s", "/confirm@the_BOT %s", " %s "} {
		code := d.code(ann, ann, "/backup")
		if a := d.write(ann, ann, fmt.Sprintf(form, code)); a.start != "backup" || a.command != "backup" {
			t.Errorf("%q: %+v", form, a)
		}
		if a := d.write(ann, ann, "/confirm "+code); a.start != "" || len(a.lines) != 1 || a.event != "" {
			t.Errorf("a code once more: %+v", a)
		}
	}
	d.now = d.now.Add(time.Hour)
	code := d.code(group, ann, "/verify")
	if a := d.write(group, bob, "/confirm "+code); a.start != "" {
		t.Errorf("of another user: %+v", a)
	}
	d.nothing(d.write(group, bob, code))
	if a := d.write(ann, ann, "/confirm "+code); a.start != "" {
		t.Errorf("in another chat: %+v", a)
	}
	if a := d.write(group, ann, code); a.start != "verify" {
		t.Errorf("%+v", a)
	}

	code = d.code(ann, ann, "/backup")
	d.now = d.now.Add(codeLife)
	late := d.code(group, ann, "/backup") // a moment before it is too late for the first
	if a := d.write(ann, ann, code); a.start != "backup" {
		t.Errorf("in time: %+v", a)
	}
	d.now = d.now.Add(codeLife + time.Second)
	d.refused(d.write(group, ann, late), "code expired")
	if a := d.write(group, ann, "/confirm "+late); a.start != "" || a.event != "" {
		t.Errorf("too late, twice: %+v", a)
	}

	// The second request takes the place of the first.
	first := d.code(ann, ann, "/backup")
	second := d.code(ann, ann, "/verify")
	if first != second {
		d.refused(d.write(ann, ann, first), "wrong code")
	}
	if a := d.write(ann, ann, second); a.start != "verify" {
		t.Errorf("%+v", a)
	}
	code = d.code(bob, bob, "/backup")
	d.refused(d.write(bob, bob, "/cancel"), "cancelled")
	if a := d.write(bob, bob, code); a.start != "" {
		t.Errorf("cancelled: %+v", a)
	}
}

func TestWrongCodes(t *testing.T) {
	d := newDesk(t)
	code := d.code(ann, ann, "/backup")
	d.refused(d.write(ann, ann, other(code)), "wrong code")
	d.refused(d.write(ann, ann, "/confirm"), "wrong code")
	if a := d.write(ann, ann, code); a.start != "backup" {
		t.Errorf("the third is right: %+v", a)
	}
	code = d.code(ann, ann, "/backup")
	d.refused(d.write(ann, ann, other(code)), "wrong code")
	d.refused(d.write(ann, ann, "/confirm "+code+"0"), "wrong code")
	d.refused(d.write(ann, ann, other(code)), "wrong code, the last try")
	if a := d.write(ann, ann, code); a.start != "" {
		t.Errorf("a fourth try: %+v", a)
	}
}

// TestCodesDiffer: they come from the source of random numbers, and fill the six digits.
func TestCodesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		seen[newDesk(t).code(ann, ann, "/backup")] = true
	}
	if len(seen) < 45 {
		t.Errorf("%d codes", len(seen))
	}
	d := newDesk(t)
	d.rand = broken{}
	d.refused(d.write(ann, ann, "/backup"), "no random numbers")
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestRequestsAreFew(t *testing.T) {
	d := newDesk(t)
	for range maxRequests {
		d.code(group, ann, "/backup")
		d.now = d.now.Add(time.Second)
	}
	d.refused(d.write(group, bob, "/verify"), "too many requests")
	d.code(ann, ann, "/verify") // another chat
	d.now = d.now.Add(time.Hour - time.Duration(maxRequests)*time.Second)
	d.code(group, bob, "/verify")
	d.refused(d.write(group, bob, "/verify"), "too many requests")
}

func TestAnswersAreFew(t *testing.T) {
	d := newDesk(t)
	for i := range maxAnswers {
		if a := d.write(ann, ann, "/help"); len(a.lines) == 0 {
			t.Fatalf("%d: %+v", i, a)
		}
	}
	if a := d.write(ann, ann, "/backup"); a.lines != nil || a.event != "" || !strings.Contains(a.note, "chat 42 writes too much") {
		t.Errorf("%+v", a)
	}
	if a := d.write(ann, ann, "/status"); a.show != "" || a.note != "" {
		t.Errorf("%+v", a)
	}
	if a := d.write(bob, bob, "/status"); a.show != "status" {
		t.Errorf("another chat: %+v", a)
	}
	d.now = d.now.Add(time.Minute)
	if a := d.write(ann, ann, "/status"); a.show != "status" {
		t.Errorf("a minute later: %+v", a)
	}
}

// TestStrangers: no answer, a line in the log each hour, and nothing kept without bound.
func TestStrangers(t *testing.T) {
	d := newDesk(t)
	for i, text := range []string{"/backup", "/status", "/start", "000000", "hello", "/confirm 000000"} {
		a := d.write(eve, eve, text)
		d.nothing(a)
		if (a.note != "") != (i == 0) || strings.Contains(a.note, text) {
			t.Errorf("%d: note %q", i, a.note)
		}
	}
	d.now = d.now.Add(quietTime)
	if a := d.write(eve, ann, "/backup"); a.note == "" || a.event != "" {
		t.Errorf("an hour later: %+v", a)
	}
	// A user who may write does so elsewhere.
	d.nothing(d.write(-5, ann, "/backup"))
	notes := 0
	for i := range 1000 {
		if a := d.write(int64(10_000+i), eve, "/backup"); a.note != "" {
			notes++
		}
	}
	if notes > maxStrangers+len(d.chats) || len(d.noted) > maxStrangers+len(d.chats)+1 || len(d.requests) != 0 || len(d.answered) != 0 {
		t.Errorf("%d notes, %d chats noted, %d requests, %d answered", notes, len(d.noted), len(d.requests), len(d.answered))
	}
}

func TestWhatIsNotHeard(t *testing.T) {
	d := newDesk(t)
	for _, l := range []notify.Letter{
		{Chat: ann, User: ann, Kind: "private", Time: d.now.Add(-time.Second), Text: "/backup"},
		{Chat: ann, User: ann, Kind: "channel", Time: d.now, Text: "/backup"},
		{Chat: ann, Kind: "private", Time: d.now, Text: "/backup"},
		{},
		{Chat: group, User: ann, Kind: "group", Time: d.now, Text: "/backup@another_bot"},
		{Chat: group, User: ann, Kind: "group", Time: d.now, Text: "/weather"},
		{Chat: group, User: ann, Kind: "group", Time: d.now, Text: "123456"},
		{Chat: ann, User: ann, Kind: "private", Time: d.now, Text: " "},
		{Chat: ann, User: ann, Kind: "private", Time: d.now, Text: "how is the /backup?"},
	} {
		d.nothing(d.hear(l, d.now))
	}
	d.now = d.now.Add(time.Hour)
	d.nothing(d.hear(notify.Letter{Chat: ann, User: ann, Kind: "private", Time: d.now.Add(-maxAge - time.Second), Text: "/backup"}, d.now))
	if a := d.hear(notify.Letter{Chat: ann, User: ann, Kind: "private", Time: d.now.Add(-maxAge), Text: "/backup"}, d.now); a.event != eventAsked {
		t.Errorf("just in time: %+v", a)
	}
	if a := d.write(ann, ann, "/weather"); len(a.lines) != 1 {
		t.Errorf("%+v", a)
	}
	for text, want := range map[string]int{"/runs": defaultRuns, "/runs 20": 20, "/RUNS 1": 1} {
		if a := d.write(ann, ann, text); a.show != "runs" || a.count != want {
			t.Errorf("%s: %+v", text, a)
		}
	}
	for _, text := range []string{"/runs 0", "/runs 21", "/runs -1", "/runs all", "/runs 1 2"} {
		if a := d.write(ann, ann, text); a.show != "" || len(a.lines) != 1 {
			t.Errorf("%s: %+v", text, a)
		}
	}
}

func TestTexts(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.FixedZone("", 3600))
	at := func(hours int) time.Time { return now.Add(time.Duration(-hours) * time.Hour) }
	src := func(problem string) []journal.SourceRun {
		return []journal.SourceRun{{Path: "/home"}, {Path: "/srv", Error: problem}}
	}
	f := Facts{Runs: []journal.Run{
		{Command: "verify", Status: journal.Running, Start: at(0)},
		{Command: "backup", Status: journal.Failed, Start: at(9), End: at(8), Snapshot: "ab", Error: "nas: gone", Sources: src("denied"),
			Destinations: []journal.DestinationRun{{Location: "/disk"}, {Location: "sftp://nas/b", Error: "gone"}}},
		{Command: "backup", Status: journal.Refused, Start: at(20), Sources: src(""), Destinations: []journal.DestinationRun{{Location: "/disk"}, {Location: "sftp://nas/b"}}},
		{Command: "backup", Status: journal.Crashed, Start: at(21), Snapshot: "cd", Sources: src(""), Destinations: []journal.DestinationRun{{Location: "sftp://nas/b"}}},
		{Command: "backup", Status: journal.Warning, Start: at(72), Sources: src(""), Destinations: []journal.DestinationRun{{Location: "/disk"}, {Location: "sftp://nas/b"}}},
	}, Next: []Next{{Kind: "backup", Due: at(-15)}, {Kind: "verify", Due: at(1)}, {Kind: "drill"}}}
	got := strings.Join(statusText(f, "host", now), "\n")
	want := `host, 2026-11-26 12:00
last good backup: 3 days ago (2026-11-23 12:00)
THE LAST ONE, 9 hours ago (2026-11-26 03:00): failure (nas: gone)
source /home: 9 hours ago (2026-11-26 03:00)
source /srv: 3 days ago (2026-11-23 12:00) (denied)
destination /disk: 9 hours ago (2026-11-26 03:00)
destination sftp://nas/b: 3 days ago (2026-11-23 12:00) (gone)
verify runs, since 2026-11-26 12:00
next backup: 2026-11-27 03:00
next verify: now`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := statusText(Facts{}, "host", now); !slices.Contains(got, "no good backup is known") || !slices.Contains(got, "nothing is scheduled") {
		t.Errorf("%q", got)
	}
	if got := runsText(f, 2, now); len(got) != 2 || got[1] != "2026-11-26 03:00 backup: failure, 1h0m0s (nas: gone)" {
		t.Errorf("%q", got)
	}
	if got := runsText(Facts{}, 5, now); !slices.Equal(got, []string{"no runs"}) {
		t.Errorf("%q", got)
	}
	// Never more than Telegram takes.
	long := strings.Repeat("ü", 10_000)
	var r journal.Run
	r.Command, r.Status, r.Error = "backup", journal.Failed, long
	for range 100 {
		r.Sources = append(r.Sources, journal.SourceRun{Path: long, Error: long})
		r.Destinations = append(r.Destinations, journal.DestinationRun{Location: long, Error: long})
	}
	f = Facts{Runs: slices.Repeat([]journal.Run{r}, 100)}
	for _, lines := range [][]string{statusText(f, "host", now), runsText(f, maxRuns, now)} {
		if n := len([]rune(strings.Join(lines, "\n"))); n > 4096 {
			t.Errorf("%d characters", n)
		}
	}
}
