package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A desk is a notifier, its clock, and a server that its webhooks call: /NAME.
type desk struct {
	t       *testing.T
	n       *Notifier
	srv     *server
	now     time.Time
	history []journal.Run
	mu      sync.Mutex
	down    map[string]bool // paths that answer 400
	runs    int
}

func newDesk(t *testing.T, channels ...Channel) *desk {
	d := &desk{t: t, now: at, down: map[string]bool{}}
	d.srv = serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.down[r.URL.Path] {
			w.WriteHeader(400)
		}
	})
	for i := range channels {
		if channels[i].Sender == nil {
			channels[i].Sender = &Webhook{URL: d.srv.URL + "/" + channels[i].Name, Full: true, AllowPrivate: true}
		}
	}
	d.n = newNotifier(t, Options{Channels: channels, StateDir: filepath.Join(t.TempDir(), "state"), Host: "web1", Now: func() time.Time { return d.now }})
	return d
}

func (d *desk) fail(path string, yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down["/"+path] = yes
}

// run ends a run, an hour after the last, and returns what was told: "channel event",
// sorted.
func (d *desk) run(s journal.Status) []string {
	d.t.Helper()
	d.now = d.now.Add(time.Hour)
	d.runs++
	r := testRun(fmt.Sprintf("run-%d", d.runs), s)
	r.Start, r.End = d.now.Add(-time.Minute), d.now
	told := d.ended(r)
	d.history = append([]journal.Run{*r}, d.history...)
	return told
}

func (d *desk) ended(r *journal.Run) []string {
	d.t.Helper()
	before := len(d.srv.got())
	for _, x := range d.n.Ended(d.t.Context(), r, d.history) {
		if x.Error != "" && !d.down["/"+x.Channel] {
			d.t.Errorf("%s: %s", x.Channel, x.Error)
		}
	}
	return d.events(before)
}

func (d *desk) events(before int) []string {
	var events []string
	for _, c := range d.srv.got()[before:] {
		events = append(events, strings.TrimPrefix(c.path, "/")+" "+c.header.Get("X-Backup-Handler-Event"))
	}
	slices.Sort(events)
	return events
}

func (d *desk) want(what string, got []string, want ...string) {
	d.t.Helper()
	if !slices.Equal(got, want) {
		d.t.Errorf("%s: told %q, want %q", what, got, want)
	}
}

func TestWhoIsToldWhat(t *testing.T) {
	d := newDesk(t,
		Channel{Name: "all", On: []Level{Failure, Warning, Recovered, Success}, Repeat: 24 * time.Hour},
		Channel{Name: "quiet", On: []Level{Failure, Recovered}, Repeat: 3 * time.Hour},
		Channel{Name: "off", On: []Level{None}},
		Channel{Name: "begin", On: []Level{Started}},
	)
	d.want("success", d.run(journal.Success), "all success")
	d.want("failure", d.run(journal.Failed), "all failure", "quiet failure")
	d.want("again", d.run(journal.Failed))
	d.want("again", d.run(journal.Failed))
	d.want("again, after 3 hours", d.run(journal.Failed), "quiet failure")
	d.want("another failure", d.run(journal.Refused), "all failure", "quiet failure")
	d.want("works again", d.run(journal.Success), "all recovered", "quiet recovered")
	d.want("success", d.run(journal.Success), "all success")
	d.want("warning", d.run(journal.Warning), "all warning")
	d.want("warning again", d.run(journal.Warning))
	d.want("failure", d.run(journal.Failed), "all failure", "quiet failure")

	before := len(d.srv.got())
	d.n.Started(t.Context(), &journal.Run{ID: "x", Command: "backup", Status: journal.Running, Start: d.now})
	d.want("start", d.events(before), "begin started")

	dry := testRun("dry", journal.Failed)
	dry.DryRun = true
	d.want("dry run", d.ended(dry))
	d.want("a run that goes on", d.ended(&journal.Run{ID: "y", Status: journal.Running}))
	if told := d.n.Started(t.Context(), dry); told != nil {
		t.Errorf("a dry run begins: %v", told)
	}

	// The payload has the story.
	for _, c := range d.srv.got() {
		if c.path == "/all" && c.header.Get("X-Backup-Handler-Event") == "recovered" {
			doc := document(t, c.body)
			if doc["in_row"] != 5.0 || !strings.Contains(doc["text"].(string), "after 5 failures since 2026-11-26 04:59:04 +01:00") || doc["last_good"] != "2026-11-26T03:59:04+01:00" {
				t.Errorf("recovered: %s", c.body)
			}
		}
	}
}

// A day of hourly failures: 24 runs, and what each repeat lets through.
func TestRepeats(t *testing.T) {
	for repeat, want := range map[time.Duration]int{0: 24, time.Hour: 24, 90 * time.Minute: 12, 6 * time.Hour: 4, 24 * time.Hour: 1} {
		d := newDesk(t, Channel{Name: "a", On: []Level{Failure}, Repeat: repeat})
		n := 0
		for range 24 {
			n += len(d.run(journal.Failed))
		}
		if n != want {
			t.Errorf("each %v: told %d times, want %d", repeat, n, want)
		}
	}
}

// What could not be sent counts as not told, and the others say so: once.
func TestChannelThatFails(t *testing.T) {
	d := newDesk(t,
		Channel{Name: "a", On: []Level{Failure, Success}, Repeat: 24 * time.Hour},
		Channel{Name: "b", On: []Level{Failure, Success}, Repeat: 24 * time.Hour},
		Channel{Name: "c", On: []Level{Success}},
	)
	d.fail("a", true)
	d.want("a is down", d.run(journal.Failed), "a failure", "b channel", "b failure")
	d.want("a is still down", d.run(journal.Failed), "a failure")
	for _, c := range d.srv.got() {
		if c.header.Get("X-Backup-Handler-Event") == "channel" {
			if doc := document(t, c.body); !strings.Contains(doc["subject"].(string), "a on web1 could not be told: HTTP 400") {
				t.Errorf("report: %v", doc)
			}
		}
	}
	d.fail("a", false)
	d.want("a works", d.run(journal.Failed), "a failure")
	d.want("nothing new", d.run(journal.Failed))
	d.fail("a", true)
	d.want("a is down anew", d.run(journal.Success), "a recovered", "b channel", "b recovered", "c recovered")
	// All are down: nothing is left to tell it by, and nothing else fails.
	d.fail("b", true)
	d.fail("c", true)
	told := d.n.Ended(t.Context(), testRun("last", journal.Success), d.history)
	for _, x := range told {
		if x.Error != "HTTP 400 Bad Request" {
			t.Errorf("%+v", x)
		}
	}
	if len(told) != 3 {
		t.Errorf("told %v", told)
	}
}

// A channel whose settings cannot be read, and one with a bug, do not keep the others.
func TestBrokenChannels(t *testing.T) {
	d := newDesk(t,
		Channel{Name: "unset", On: []Level{Failure}, Err: fmt.Errorf("[SMTP] password: the environment variable X is not set")},
		Channel{Name: "wrong", On: []Level{Failure}, Sender: &Webhook{URL: "nonsense"}},
		Channel{Name: "bug", On: []Level{Failure}, Sender: panics{}},
		Channel{Name: "good", On: []Level{Failure}},
	)
	told := map[string]string{}
	for _, x := range d.n.Ended(t.Context(), testRun("1", journal.Failed), nil) {
		told[x.Channel] = x.Error
	}
	if told["good"] != "" || !strings.Contains(told["unset"], "variable X") || !strings.Contains(told["wrong"], "http") || !strings.Contains(told["bug"], "a bug in the channel: oh") || len(told) != 4 {
		t.Errorf("told %v", told)
	}
	d.want("the good one", d.events(0), "good channel", "good channel", "good channel", "good failure")
}

type panics struct{}

func (panics) kind() string                               { return "panics" }
func (panics) target() string                             { return "" }
func (panics) check() error                               { return nil }
func (panics) secrets() []string                          { return nil }
func (panics) send(context.Context, *env, *message) error { panic("oh\nno") }

// stuck does not look at its context.
type stuck struct {
	panics
	until chan struct{}
}

func (s stuck) send(context.Context, *env, *message) error { <-s.until; return nil }

// All channels together take no longer than they may, even one that does not
// listen: 45 s for messages, 15 s for reports, a second of grace each.
func TestTimeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stuck{until: make(chan struct{})}
		n := newNotifier(t, Options{Limit: time.Minute, Now: time.Now, Channels: []Channel{
			{Name: "a", On: []Level{Failure}, Sender: s}, {Name: "b", On: []Level{Failure}, Sender: s}, {Name: "c", On: []Level{Failure}, Sender: waits30{}},
		}})
		begin := time.Now()
		told := n.Ended(t.Context(), testRun("1", journal.Failed), nil)
		if took := time.Since(begin); took > 62*time.Second {
			t.Errorf("it took %v", took)
		}
		errs := map[string]string{}
		for _, x := range told {
			errs[x.Channel] += x.Error
		}
		// c gets the first message after 30 s, and has no time for the reports.
		if errs["a"] != "no answer in time" || errs["b"] != "no answer in time" || !strings.HasPrefix(errs["c"], "report of another channel: no answer in time") {
			t.Errorf("told %v", told)
		}
		close(s.until)
		begin = time.Now()
		n.o.Channels[2].On = []Level{Started}
		n.Started(t.Context(), &journal.Run{ID: "x", Command: "backup"})
		if took := time.Since(begin); took > 11*time.Second {
			t.Errorf("the start took %v", took)
		}
	})
}

type waits30 struct{ panics }

func (waits30) send(ctx context.Context, _ *env, _ *message) error { return sleep(ctx, 30*time.Second) }

// The time that tries and waits take together ends with the context.
func TestRetriesEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &env{now: time.Now, sleep: sleep}
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		begin, tries := time.Now(), 0
		err := retry(ctx, e, func() error {
			tries++
			return &passing{err: fmt.Errorf("try %d", tries)}
		})
		// After 1 and 4 seconds and a fifth at most; 15 more do not fit.
		if took := time.Since(begin); tries != 3 || err == nil || err.Error() != "try 3" || took < 5*time.Second || took > 6*time.Second {
			t.Errorf("%d tries in %v: %v", tries, took, err)
		}
	})
}

func TestDigests(t *testing.T) {
	d := newDesk(t, Channel{Name: "a", On: []Level{Failure, Recovered, Success}, Repeat: 24 * time.Hour, Digest: Daily, DigestHour: 8})
	var told []string
	for range 72 { // from 04:00 on, three days
		s := journal.Success
		if d.runs == 30 {
			s = journal.Failed
		}
		for _, e := range d.run(s) {
			told = append(told, d.now.Format("02 15:04 ")+e)
		}
	}
	want := []string{"26 08:00 a digest", "27 08:00 a digest", "27 10:00 a failure", "27 11:00 a recovered", "28 08:00 a digest"}
	for i := range told {
		told[i] = strings.Replace(told[i], ":04 ", " ", 1)
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	var docs []map[string]any
	for _, c := range d.srv.got() {
		if c.header.Get("X-Backup-Handler-Event") == "digest" {
			docs = append(docs, document(t, c.body))
		}
	}
	last := docs[len(docs)-1]
	if last["subject"] != "web1: 24 runs, 1 failed" || len(last["runs"].([]any)) != 24 {
		t.Errorf("digest: %v, %d runs", last["subject"], len(last["runs"].([]any)))
	}
	text := last["text"].(string)
	for _, want := range []string{"23 good, 0 with warnings, 1 failed", "last good one: 2026-11-28 07:59:04 +01:00", "last failure: 2026-11-27 09:59:04 +01:00, no space left"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}

	// Without a run, a program that goes on sends it, and says that nothing ran.
	before := len(d.srv.got())
	if d.n.DigestDue() {
		t.Error("a digest is due right after one")
	}
	d.now = d.now.Add(48 * time.Hour)
	if !d.n.DigestDue() {
		t.Error("no digest is due after two days")
	}
	d.n.Digest(t.Context(), d.history)
	if d.n.DigestDue() {
		t.Error("a digest is due right after one without a run")
	}
	d.want("without a run", d.events(before), "a digest")
	d.n.Digest(t.Context(), d.history)
	d.want("only once", d.events(before), "a digest")
	d.now = d.now.Add(24 * time.Hour)
	d.n.Digest(t.Context(), d.history)
	if doc := document(t, d.srv.got()[len(d.srv.got())-1].body); doc["subject"] != "web1: nothing has run" {
		t.Errorf("digest %v", doc["subject"])
	}

	// A digest that could not be sent comes with the next run.
	d.fail("a", true)
	d.now = d.now.Add(24 * time.Hour)
	d.want("down", d.run(journal.Success), "a digest")
	d.fail("a", false)
	d.want("up", d.run(journal.Success), "a digest")
	d.want("told", d.run(journal.Success))
}

// TestFirstDigest: a channel that is new begins with the period that is going on, which
// is noted once; a clock that was put back begins anew.
func TestFirstDigest(t *testing.T) {
	d := newDesk(t, Channel{Name: "a", On: []Level{Failure}, Digest: Daily, DigestHour: 8}, Channel{Name: "b", On: []Level{Failure}})
	if !d.n.DigestDue() {
		t.Error("nobody would note when it begins")
	}
	d.n.Digest(t.Context(), nil)
	if d.want("the first", d.events(0)); d.n.DigestDue() {
		t.Error("still to be noted")
	}
	d.now = d.now.Add(24 * time.Hour)
	d.n.Digest(t.Context(), nil)
	d.want("a day later", d.events(0), "a digest")
	d.now = d.now.Add(-72 * time.Hour)
	if !d.n.DigestDue() {
		t.Error("the clock was put back, and nobody notes it")
	}
	d.n.Digest(t.Context(), nil)
	if d.want("put back", d.events(0), "a digest"); d.n.DigestDue() {
		t.Error("due for days")
	}
}

// TestCrashedLater: a run that crashed is told when others came after it, with its own
// history, and a digest has all of them.
func TestCrashedLater(t *testing.T) {
	d := newDesk(t, Channel{Name: "a", On: []Level{Failure, Recovered}, Digest: Daily, DigestHour: 8})
	d.n.Digest(t.Context(), nil) // begins
	d.run(journal.Success)
	crashed := testRun("x", journal.Crashed)
	crashed.Start = d.now.Add(time.Minute)
	d.history = append([]journal.Run{*crashed}, d.history...)
	d.run(journal.Failed)
	before := len(d.srv.got())
	d.now = d.now.Add(24 * time.Hour)
	d.want("crashed", d.ended(crashed), "a digest", "a failure")
	for _, c := range d.srv.got()[before:] {
		switch doc := document(t, c.body); c.header.Get("X-Backup-Handler-Event") {
		case "failure":
			if doc["in_row"] != 1.0 {
				t.Errorf("in a row: %v", doc["in_row"])
			}
		case "digest":
			if doc["subject"] != "web1: 3 runs, 2 failed" {
				t.Errorf("digest %v", doc["subject"])
			}
		}
	}
	d.want("once more", d.ended(crashed))
}

// The state outlives the program, and whatever becomes of it, a failure is told.
func TestState(t *testing.T) {
	d := newDesk(t, Channel{Name: "a", On: []Level{Failure}, Repeat: 24 * time.Hour})
	d.want("failure", d.run(journal.Failed), "a failure")
	file := d.n.state.path()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("mode %v", info.Mode())
	}
	// Another process.
	again := newNotifier(t, d.n.o)
	d.n = again
	d.want("same failure, another process", d.run(journal.Failed))
	for what, text := range map[string]string{"empty": "", "not JSON": "{", "another version": `{"version":2,"channels":{}}`, "no channels": `{"version":1}`, "null": "null"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d.want(what, d.run(journal.Failed), "a failure")
		d.want("after "+what, d.run(journal.Failed))
	}
	if err := os.Truncate(file, maxStateBytes+1); err != nil {
		t.Fatal(err)
	}
	d.want("too large", d.run(journal.Failed), "a failure")

	// A directory that cannot be written is said, and nothing else.
	d.n = newNotifier(t, Options{Channels: d.n.o.Channels, Host: "web1", StateDir: filepath.Join(file, "below a file")})
	told := d.n.Ended(t.Context(), testRun("z", journal.Failed), nil)
	if len(told) != 2 || told[0].Error != "" || told[1].Channel != "state" || !strings.Contains(told[1].Error, "remember what was told") {
		t.Errorf("told %v", told)
	}
}

// Several processes do not lose what the others remember.
func TestStateIsShared(t *testing.T) {
	f := stateFile{dir: t.TempDir()}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if err := f.change(at, func(s *state) { s.tell(fmt.Sprintf("c%d", i), fmt.Sprint(j), told{Time: at}) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	st := f.read()
	for i := range 8 {
		if n := len(st.channel(fmt.Sprintf("c%d", i)).Told); n != 5 {
			t.Errorf("channel %d remembers %d of 5", i, n)
		}
	}
	// Who cannot have the lock changes nothing, and says so.
	lock, err := durable.TryLock(filepath.Join(f.dir, "notify.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	synctest.Test(t, func(t *testing.T) {
		if err := f.change(at, func(s *state) { s.Channels = nil }); err == nil {
			t.Error("the lock is held, and the state was changed")
		}
	})
}

func TestStateIsBounded(t *testing.T) {
	s := &state{Channels: map[string]channelState{}}
	for i := range maxTold + 50 {
		s.tell("a", fmt.Sprint(i), told{Time: at.Add(time.Duration(i) * time.Second)})
	}
	s.tell("a", "old", told{Time: at.Add(-forgetTold - time.Hour)})
	s.tell("b", "old", told{Time: at.Add(-forgetTold - time.Hour)})
	s.trim(at.Add(time.Hour))
	if n := len(s.Channels["a"].Told); n != maxTold {
		t.Errorf("%d are remembered", n)
	}
	if _, ok := s.Channels["a"].Told["49"]; ok {
		t.Error("an old one is remembered")
	}
	if _, ok := s.Channels["a"].Told[fmt.Sprint(maxTold+49)]; !ok {
		t.Error("the newest one is forgotten")
	}
	if _, ok := s.Channels["b"]; ok {
		t.Error("an empty channel stays")
	}
}

func TestTestAndList(t *testing.T) {
	d := newDesk(t, Channel{Name: "a", On: []Level{None}}, Channel{Name: "b", On: []Level{Failure}, Digest: Weekly, Repeat: time.Hour})
	told, err := d.n.Test(t.Context(), "")
	if err != nil || len(told) != 2 {
		t.Errorf("told %v, %v", told, err)
	}
	d.want("all", d.events(0), "a test", "b test")
	if _, err := d.n.Test(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	d.want("one", d.events(2), "b test")
	if _, err := d.n.Test(t.Context(), "no\nsuch"); err == nil || err.Error() != "no such: no such channel" {
		t.Errorf("error %v", err)
	}
	list, err := json.Marshal(d.n.List())
	want := fmt.Sprintf(`[{"name":"a","kind":"webhook","target":"%s","on":["none"],"repeat":"0s"},{"name":"b","kind":"webhook","target":"%[1]s","on":["failure"],"repeat":"1h0m0s","digest":"weekly"}]`, d.srv.URL)
	if err != nil || string(list) != want {
		t.Errorf("list %s, want %s", list, want)
	}
	if _, err := New(Options{Channels: []Channel{{Name: "a"}, {Name: "a"}}}); err == nil {
		t.Error("two channels of one name")
	}
	if _, err := New(Options{Channels: []Channel{{Name: "heartbeat"}}, Heartbeat: &Heartbeat{}}); err == nil {
		t.Error("a channel called heartbeat")
	}
}
