package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// A message is what a channel has received: by the documentation's names of events.
type message struct {
	Channel, Event, Run string
	InRow               int
}

func (m message) String() string {
	return fmt.Sprintf("%s %s %s %d", m.Channel, m.Event, m.Run, m.InRow)
}

// A mailbox is the server that all channels send to. A channel that is down answers
// with HTTP 503. It is outside of the bubble: real connections, real time.
type mailbox struct {
	server *httptest.Server
	down   map[string]*atomic.Bool

	mu       sync.Mutex
	received []message
}

func newMailbox(t *testing.T, channels ...string) *mailbox {
	b := &mailbox{down: map[string]*atomic.Bool{}}
	for _, c := range channels {
		b.down[c] = new(atomic.Bool)
	}
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		channel, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if err != nil || b.down[channel].Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		m := message{Channel: channel, Event: "ping /" + rest}
		if channel != "heartbeat" {
			var p struct {
				Event string
				InRow int `json:"in_row"`
				Run   struct {
					ID string `json:"run_id"`
				}
			}
			if err := json.Unmarshal(body, &p); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			m = message{channel, p.Event, p.Run.ID, p.InRow}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.received = append(b.received, m)
	}))
	t.Cleanup(b.server.Close)
	return b
}

// of is what one channel has received.
func (b *mailbox) of(channel string) (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.received {
		if m.Channel == channel {
			list = append(list, m.String())
		}
	}
	return list
}

// A listener is a channel as the user has configured it, and what it should have
// heard: a model of docs/notifications.md that shares nothing with package notify.
type listener struct {
	name   string
	on     string // levels, with spaces around each
	digest string
	repeat time.Duration

	heard   []string
	told    map[string]time.Time // of what goes on now: by command and what is told
	reports map[string]time.Time // of channels that are down
	digests int                  // the week of the last one
}

func (l *listener) wants(level string) bool { return strings.Contains(l.on, " "+level+" ") }

func (l *listener) hear(event, run string, inRow int) {
	l.heard = append(l.heard, message{l.name, event, run, inRow}.String())
}

// again says whether something that goes on is told (again), and remembers that.
func again(told map[string]time.Time, key string, now time.Time, repeat time.Duration, works bool) bool {
	at, known := told[key]
	if known && now.Sub(at) < repeat && !now.Before(at) {
		return false
	}
	if works {
		told[key] = now
	}
	return true
}

// A story is what has become of the runs of a command so far.
type story struct {
	bad, warned int // in a row
	was         int // bad before the newest
}

// A model hears of each run as it happens.
type model struct {
	listeners []*listener
	beats     []string
	stories   map[string]*story
	up        func(channel string) bool
	runs      []string // ID and status of each
}

// week counts the Mondays, 8 o'clock, up to now.
func week(now time.Time) int {
	wall := time.Date(now.Year(), now.Month(), now.Day(), now.Hour(), now.Minute(), now.Second(), 0, time.UTC)
	monday := time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)
	return int(wall.Sub(monday)+1000*7*24*time.Hour) / int(7*24*time.Hour)
}

func (m *model) started(run *journal.Run) {
	for _, l := range m.listeners {
		if l.wants("started") && m.up(l.name) {
			l.hear("started", run.ID, 0)
		}
	}
	if run.Command == "backup" && m.up("heartbeat") {
		m.beats = append(m.beats, message{Channel: "heartbeat", Event: "ping /start"}.String())
	}
}

// ended takes a run as the simulation meant it to end; class is what is wrong.
func (m *model) ended(run *journal.Run, status journal.Status, exit int, class string, now time.Time) {
	m.count(run, status, exit)
	m.tell(run, status, exit, class, now)
}

// crashed is ended for a run that crashed, which another one tells of; first says that
// nobody has tried yet. It says whether somebody is to try again: nobody could be told.
func (m *model) crashed(run *journal.Run, first, followed bool, now time.Time) bool {
	if first {
		m.count(run, journal.Crashed, -1)
	}
	return !followed && m.tell(run, journal.Crashed, -1, "", now)
}

// count notes a run.
func (m *model) count(run *journal.Run, status journal.Status, exit int) {
	m.runs = append(m.runs, fmt.Sprint(run.ID, " ", status, " ", exit))
	s := m.stories[run.Command]
	if s == nil {
		s = new(story)
		m.stories[run.Command] = s
	}
	s.was = s.bad
	switch {
	case status != journal.Success && status != journal.Warning:
		s.bad, s.warned = s.bad+1, 0
	case status == journal.Warning:
		s.bad, s.warned = 0, s.warned+1
	default:
		s.bad, s.warned = 0, 0
	}
}

// tell tells of the newest run of a command. It says whether somebody had to be told, and
// nobody could.
func (m *model) tell(run *journal.Run, status journal.Status, exit int, class string, now time.Time) bool {
	s := m.stories[run.Command]
	event, inRow, key := "success", 0, ""
	switch {
	case s.bad > 0:
		event, inRow, key = "failure", s.bad, string(status)+class
	case s.was > 0:
		event, inRow = "recovered", s.was
	case status == journal.Warning:
		event, inRow, key = "warning", s.warned, class
	}
	failed := map[string]bool{} // channels
	worked := map[string]bool{}
	try := func(channel string) bool {
		failed[channel], worked[channel] = !m.up(channel), m.up(channel)
		return m.up(channel)
	}
	for _, l := range m.listeners {
		prefix := run.Command + " " + event + " "
		for k := range l.told { // what goes on no longer is news when it comes back
			if strings.HasPrefix(k, run.Command+" ") && !strings.HasPrefix(k, prefix) {
				delete(l.told, k)
			}
		}
		tells := l.wants(event)
		switch event {
		case "failure", "warning":
			tells = tells && again(l.told, prefix+key, now, l.repeat, m.up(l.name))
		case "recovered":
			tells = tells || l.wants(string(status))
		case "success":
			tells = tells && l.digest == ""
		}
		if tells && try(l.name) {
			l.hear(event, run.ID, inRow)
		}
		if w := week(now); l.digest == "weekly" && w > l.digests && try(l.name) {
			l.digests = w
			l.hear("digest", "", 0)
		}
	}
	if run.Command == "backup" {
		path := fmt.Sprint(exit)
		switch status {
		case journal.Success, journal.Warning:
			path = ""
		case journal.Interrupted, journal.Crashed:
			path = "fail"
		}
		if try("heartbeat") {
			m.beats = append(m.beats, message{Channel: "heartbeat", Event: "ping /" + path}.String())
		}
	}
	nobody := len(failed) > 0
	for c := range worked { // that a channel is down is not about the run
		nobody = nobody && !worked[c]
	}
	for _, l := range m.listeners {
		for _, c := range slices.Sorted(keysOf(failed)) {
			if failed[c] && !failed[l.name] && l.wants("failure") && again(l.reports, c, now, l.repeat, m.up(l.name)) && m.up(l.name) {
				worked[l.name] = true
				l.hear("channel", "", 0)
			}
		}
	}
	for c := range worked {
		for _, l := range m.listeners {
			if worked[c] {
				delete(l.reports, c)
			}
		}
	}
	return nobody
}

func keysOf(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// An office is a machine whose jobs are runs: with locks, a record, notifications.
type office struct {
	*machine
	t     *testing.T
	rng   *rand.Rand
	box   *mailbox
	model *model
	dir   string

	weather map[schedule.Kind]string // how runs end now
	crashed []*crash                 // that nobody has heard of yet, the oldest first
	newest  map[string]string        // run of each command
	serial  int
	fates   map[string]int
}

// A crash is a run that went down.
type crash struct {
	*journal.Run
	tried bool // somebody has tried to tell of it
}

// fate draws how a run ends: by the weather of its command, or for a reason of its own.
func (o *office) fate(k schedule.Kind) string {
	if w := o.weather[k]; w != "" && o.rng.IntN(10) > 0 {
		return w
	}
	switch o.rng.IntN(40) {
	case 0:
		return "crash"
	case 1:
		return "warning"
	case 2:
		return "file"
	}
	return "good"
}

// does is what a job does once it has claimed its time.
func (o *office) does(p *simulated) int {
	fate := o.fate(p.job.Kind)
	o.serial++
	id := fmt.Sprintf("%05d-%s", o.serial, p.job.Kind)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var dead atomic.Bool // it was killed
	go func() {
		select {
		case <-p.interrupt:
		case <-p.kill:
			dead.Store(true)
		case <-ctx.Done():
		}
		cancel()
	}()
	die := func() {
		if dead.Load() || fate == "crash" && ctx.Err() == nil {
			o.fates["crash"]++
			runtime.Goexit() // what is deferred stands for what the system does
		}
	}
	notifier, err := notify.New(o.options())
	if err != nil {
		o.t.Error(err)
		return -1
	}
	run := &journal.Run{
		ID: id, Command: string(p.job.Kind), Trigger: "schedule", Start: o.now(), Host: "host", Config: "/etc/config.ini",
		Lock: job.LockName(string(p.job.Kind), "/etc/config.ini"),
	}
	// Whoever comes first tells of those that crashed.
	mine := &crash{Run: run}
	left := []*crash{mine} // unless it ends
	for _, c := range slices.Backward(o.crashed) {
		if o.model.crashed(c.Run, !c.tried, o.newest[c.Command] != c.ID, o.now()) {
			c.tried = true
			left = slices.Insert(left, 0, c)
		}
	}
	o.crashed, o.newest[run.Command] = left, run.ID
	var warnings []string
	r := job.Runner{
		Runs: journal.OpenRuns(o.dir), Sentinel: filepath.Join(o.dir, "Logs", "last_run_status.json"), Notify: teller{notifier, o.model},
		Preflight: func(ctx context.Context, _ *journal.Run) error {
			die()
			if fate == "refused" {
				return job.Fail(job.ExitRefused, errors.New("/mnt/backup is not mounted"), "mount it")
			}
			return ctx.Err()
		},
		Ended: func(_ context.Context, run *journal.Run) {
			o.crashed = slices.DeleteFunc(o.crashed, func(c *crash) bool { return c == mine })
			status, exit := journal.Success, 0
			switch fate {
			case "warning":
				status = journal.Warning
			case "destination", "file":
				status, exit = journal.Failed, job.ExitPartial
			case "refused":
				status, exit = journal.Refused, job.ExitRefused
				if run.Command == "drill" { // its 2 is: not restored
					status = journal.Failed
				}
			}
			if run.Status == journal.Interrupted && (p.asked || dead.Load()) {
				status, exit, fate = journal.Interrupted, job.ExitInterrupted, "interrupted"
			}
			o.fates[fate]++
			o.model.ended(run, status, exit, fate, o.now())
		},
		Now: o.now, Warnings: func() []string { return warnings },
		Warn: func(s string) {
			if !strings.Contains(s, "could not be told of the run") { // channels are down at times
				o.t.Error(s)
			}
		},
		Log: slog.New(slog.DiscardHandler), Ending: func(bool) {}, Tidy: func() { die() },
	}
	took := time.Duration(1+o.rng.IntN(90)) * time.Minute
	number := o.rng.IntN(1000)
	err = r.Do(ctx, run, func(ctx context.Context, run *journal.Run) error {
		run.Destinations = []journal.DestinationRun{{Location: "/mnt/backup"}, {Location: "sftp://nas/backup"}}
		select {
		case <-time.After(took):
		case <-ctx.Done():
			if dead.Load() {
				time.Sleep(time.Hour) // does not notice
			}
			return ctx.Err()
		}
		switch fate {
		case "warning":
			warnings = append(warnings, fmt.Sprintf("%d files have odd owners", number))
		case "file":
			return job.Fail(job.ExitPartial, fmt.Errorf("%d files could not be read", number), "")
		case "destination":
			run.Destinations[1].Error = fmt.Sprintf("no answer after %d seconds", number)
			return job.Fail(job.ExitPartial, fmt.Errorf("sftp://nas/backup: no answer after %d seconds", number), "")
		}
		return nil
	})
	if f, ok := errors.AsType[*job.Failure](err); ok {
		return f.Code
	}
	if err != nil {
		return exitInterrupted
	}
	return 0
}

// A teller tells the model that a run begins at the moment at which people are told.
type teller struct {
	*notify.Notifier
	model *model
}

func (t teller) Started(ctx context.Context, run *journal.Run) []journal.Told {
	t.model.started(run)
	return t.Notifier.Started(ctx, run)
}

func (o *office) options() notify.Options {
	opts := notify.Options{StateDir: o.dir, Host: "host", Program: "backup-handler test", Now: o.now, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	for _, l := range o.model.listeners {
		c := notify.Channel{
			Name: l.name, Repeat: l.repeat, Digest: notify.Period(l.digest), DigestHour: 8,
			Sender: &notify.Webhook{URL: o.box.server.URL + "/" + l.name, Full: true, AllowPrivate: true},
		}
		for level := range strings.FieldsSeq(l.on) {
			c.On = append(c.On, notify.Level(level))
		}
		opts.Channels = append(opts.Channels, c)
	}
	opts.Heartbeat = &notify.Heartbeat{URL: o.box.server.URL + "/heartbeat", Protocol: "healthchecks", AllowPrivate: true}
	return opts
}

// TestNotifiedYear: a year of the daemon, whose jobs are real runs with a real record and
// real notifications, while destinations are away for days, disks are not mounted, runs
// crash or are interrupted, channels are down, the machine sleeps and its clock is set. The
// runs are those of the schedule (machine.claimed and idle), each is in the record as
// it ended, and each channel hears exactly what docs/notifications.md promises.
func TestNotifiedYear(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4}
	if testing.Short() {
		seeds = seeds[:1]
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			box := newMailbox(t, "quiet", "all", "weekly", "heartbeat")
			synctest.Test(t, func(t *testing.T) { notifiedYear(t, box, seed) })
		})
	}
}

func notifiedYear(t *testing.T, box *mailbox, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 6))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	const day = 24 * time.Hour
	m := newMachine(t, "Europe/Berlin", "2026-01-01 00:00:00", map[schedule.Kind]string{
		schedule.Backup: "02:15", schedule.Verify: "every 60h", schedule.Prune: "0 6 * * sun", schedule.Drill: "30 4 1,15 * *",
	})
	m.plan.Jitter = 20 * time.Minute
	o := &office{machine: m, t: t, rng: rng, box: box, dir: t.TempDir(), weather: map[schedule.Kind]string{}, newest: map[string]string{}, fates: map[string]int{}}
	o.model = &model{stories: map[string]*story{}, up: func(c string) bool { return !box.down[c].Load() }}
	for _, l := range []*listener{
		{name: "quiet", on: " failure recovered ", repeat: 23 * time.Hour}, // as by default: telling takes a moment, and days do not fit exactly
		{name: "all", on: " started failure warning recovered success ", repeat: 0},
		{name: "weekly", on: " failure warning recovered success ", repeat: 71 * time.Hour, digest: "weekly"},
	} {
		l.told, l.reports, l.digests = map[string]time.Time{}, map[string]time.Time{}, week(m.now())
		o.model.listeners = append(o.model.listeners, l)
	}
	m.does = o.does
	m.boot()
	incidents := map[string]int{}
	for end := time.Now().Add(365 * day); time.Now().Before(end) && !t.Failed(); {
		m.pass(upTo(4 * day))
		kinds := []schedule.Kind{schedule.Backup, schedule.Backup, schedule.Verify, schedule.Prune, schedule.Drill}
		what := []string{"weather", "weather", "weather", "fair", "fair", "channel", "channel", "kill", "power", "stop", "busy", "sleep", "forward", "back", "flaky"}[rng.IntN(15)]
		incidents[what]++
		switch what {
		case "weather":
			o.weather[kinds[rng.IntN(len(kinds))]] = []string{"destination", "destination", "refused", "warning", "file", "crash"}[rng.IntN(6)]
		case "fair":
			clear(o.weather)
		case "channel":
			for len(m.jobs) > 0 { // not while one tries again
				m.pass(time.Hour)
			}
			c := []string{"quiet", "all", "weekly", "heartbeat"}[rng.IntN(4)]
			box.down[c].Store(!box.down[c].Load())
		case "flaky": // a channel that works again for a day
			c := []string{"quiet", "all", "weekly", "heartbeat"}[rng.IntN(4)]
			for _, down := range []bool{true, false, true, false} {
				for len(m.jobs) > 0 {
					m.pass(time.Hour)
				}
				box.down[c].Store(down)
				m.pass(26 * time.Hour)
			}
		case "kill", "power":
			m.kill(what == "power")
			m.pass(upTo(2 * day))
		case "stop":
			m.stop()
			m.pass(upTo(day))
		case "busy": // as stop, kill or power, but during a run
			for len(m.jobs) == 0 {
				m.pass(10 * time.Minute)
			}
			if rng.IntN(2) == 0 {
				m.stop()
			} else {
				m.kill(rng.IntN(3) > 0)
			}
		case "sleep":
			m.jump(upTo(5 * day))
		case "forward":
			m.jump(upTo(3 * time.Hour))
		case "back":
			m.jump(-upTo(3 * time.Hour))
		}
		if !m.alive {
			m.boot()
		}
	}
	for len(m.jobs) > 0 {
		m.pass(time.Hour)
	}
	if m.alive {
		m.signal(syscall.SIGTERM)
	}
	m.end()

	t.Logf("runs %d %v, incidents %v, messages %d", len(o.model.runs), o.fates, incidents, len(box.received))
	var runs []string
	list, err := journal.OpenRuns(o.dir).List()
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	for _, r := range list {
		runs = append(runs, fmt.Sprint(r.ID, " ", r.Status, " ", r.Exit))
	}
	want := slices.Clone(o.model.runs)
	for _, c := range o.crashed {
		if !c.tried {
			want = append(want, fmt.Sprint(c.ID, " ", journal.Crashed, " ", -1))
		}
	}
	slices.Sort(want) // by serial number: a crash is told late, and recorded in its place
	if d := cmp.Diff(want, runs); d != "" {
		t.Errorf("the record of runs:\n%s", d)
	}
	for _, l := range o.model.listeners {
		if d := cmp.Diff(l.heard, box.of(l.name)); d != "" {
			t.Errorf("channel %s (- should, + did hear):\n%s", l.name, d)
		}
	}
	if d := cmp.Diff(o.model.beats, box.of("heartbeat")); d != "" {
		t.Errorf("heartbeat (- should, + did hear):\n%s", d)
	}
	if len(runs) < 350 || len(o.fates) != 7 || len(incidents) != 11 || len(box.received) < 1000 {
		t.Errorf("too little happened: %d runs, %v, %v, %d messages", len(runs), o.fates, incidents, len(box.received))
	}
}
