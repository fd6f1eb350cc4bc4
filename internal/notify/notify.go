// Package notify tells people about runs: by mail, Telegram, chat services,
// webhooks and a heartbeat. docs/notifications.md is its contract with users.
//
// It is given a finished record of a run, decides for each channel whether that is
// worth a message, and sends it. It knows nothing of configuration files, backups
// or repositories, and never fails a run: what goes wrong is in the answer.
//
// Invariants:
//
//   - what is told follows from the record, the runs before it and what was told
//     already (decide.go is pure), never from how sending went;
//   - a lost or locked state makes a message come twice, never not at all;
//   - all channels together take no longer than Options.Limit;
//   - no error holds a secret of a channel, or its address beyond the host.
//
// Files: notify.go (the API), decide.go (which message), text.go (its words),
// state.go (what was told when), deliver.go (side by side, in time), http.go (the one
// HTTP client), retry.go, and the channels: mail.go, localmail.go, telegram.go,
// inbox.go (what people write to it), webhook.go, services.go, heartbeat.go.
package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A Level is what a channel may want to hear.
type Level string

// The levels; None is no level.
const (
	Failure   Level = "failure"   // not everything was done
	Warning   Level = "warning"   // everything was done, and there is something to look at
	Recovered Level = "recovered" // good, and the run before was not
	Success   Level = "success"   // good, and nothing to say
	Started   Level = "started"   // begins
	None      Level = "none"
)

// Events beside levels.
const (
	eventDigest  = "digest"
	eventTest    = "test"
	eventChannel = "channel" // another channel failed
)

// A Period is how often a digest is sent.
type Period string

// The periods.
const (
	Never  Period = ""
	Daily  Period = "daily"
	Weekly Period = "weekly" // on Mondays
)

// A Channel is one way to somebody, and what goes it.
type Channel struct {
	Name string // unique
	// Sender is how: a Mail, LocalMail, Telegram, Webhook or Service.
	Sender Sender
	On     []Level
	// Repeat is how soon the same failure or warning is told again; 0: each time.
	Repeat time.Duration
	// Digest replaces messages of level Success by a summary, due from DigestHour
	// and DigestMinute on.
	Digest                   Period
	DigestHour, DigestMinute int

	// Err is why the channel cannot be used: its settings cannot be read. It is one
	// that always fails, and is reported by the others.
	Err error
}

// A Sender is how a channel sends: one of the structs of this package.
type Sender interface {
	// kind names it: smtp, webhook, slack.
	kind() string
	// target is where it goes, without secrets.
	target() string
	// check says what is wrong with the settings.
	check() error
	// secrets are texts that no error may hold.
	secrets() []string
	// send sends a message, with all tries that are to be made, before ctx ends.
	send(ctx context.Context, e *env, m *message) error
}

// Check says what is wrong with the channel's settings, in one line without
// secrets; nil if nothing is.
func (c *Channel) Check() error {
	switch {
	case c.Err != nil:
		return c.Err
	case c.Sender == nil:
		return errors.New("nothing says how to send")
	}
	return c.Sender.check()
}

func (c *Channel) wants(l Level) bool { return slices.Contains(c.On, l) }

// Options of a Notifier.
type Options struct {
	Channels  []Channel
	Heartbeat *Heartbeat // nil: none

	// StateDir is where notify.json is kept; it is made if need be. "" keeps nothing.
	StateDir string
	Host     string // of this machine
	Program  string // name and version
	// Limit is how long all channels may take together; 0 is a minute.
	Limit time.Duration
	// Redact takes secrets out of the text of messages; nil leaves it.
	Redact func(string) string

	// Now is the clock; nil is time.Now. Its zone is that of all times in messages.
	Now func() time.Time
	// Sleep waits between tries; nil is a timer. It returns ctx's error if that ends first.
	Sleep func(ctx context.Context, d time.Duration) error
	// Proxy finds the proxy of a request; nil is http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Sendmail is the program for local mail; "" looks for it.
	Sendmail string
}

// A Notifier tells people about runs. It may be used concurrently, and several
// processes may share a state directory.
type Notifier struct {
	o     Options
	env   env
	state stateFile
}

// Times within which everything has to be told.
const (
	defaultLimit = time.Minute
	// startLimit: nobody wants to wait longer for a backup to begin.
	startLimit = 10 * time.Second
)

// New returns a notifier. Channels that cannot be used are not an error: they fail
// when they are needed, and are reported by the others. Two channels of one name are.
func New(o Options) (*Notifier, error) {
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Redact == nil {
		o.Redact = func(s string) string { return s }
	}
	names := map[string]bool{heartbeatName: o.Heartbeat != nil}
	for _, c := range o.Channels {
		if names[c.Name] {
			return nil, fmt.Errorf("two channels are called %s", c.Name)
		}
		names[c.Name] = true
	}
	return &Notifier{
		o:     o,
		env:   env{now: o.Now, sleep: o.Sleep, proxy: o.Proxy, sendmail: o.Sendmail},
		state: stateFile{dir: o.StateDir},
	}, nil
}

// Started tells that a run begins: to the heartbeat, and to channels that want to
// know. It takes 10 seconds at most, and returns what became of each message.
func (n *Notifier) Started(ctx context.Context, run *journal.Run) []journal.Told {
	if run.DryRun {
		return nil
	}
	var out []delivery
	for i := range n.o.Channels {
		if c := &n.o.Channels[i]; c.wants(Started) {
			out = append(out, delivery{channel: c, messages: []*message{n.startedText(run)}})
		}
	}
	if n.o.Heartbeat != nil && run.Series() == heartbeatCommand {
		out = append(out, n.beat(func(ctx context.Context) error { return n.o.Heartbeat.start(ctx, &n.env, run.ID) }))
	}
	n.deliver(ctx, min(n.o.Limit, startLimit), out)
	return answers(out)
}

// Ended tells what became of a run: to each channel what its levels, the history
// (the newest run first; the run itself may be among them, those in front of it are later) and what it heard already
// call for. What a channel could not be told is reported by the others. It takes
// Options.Limit at most, returns what became of each message, and nothing for
// channels that had nothing to hear. ctx must not be the one whose end has ended
// the run.
func (n *Notifier) Ended(ctx context.Context, run *journal.Run, history []journal.Run) []journal.Told {
	if run.DryRun || !run.Status.Over() {
		return nil
	}
	now := n.o.Now()
	st := n.state.read()
	s := newStory(run, history)
	var out []delivery
	for i := range n.o.Channels {
		c := &n.o.Channels[i]
		d := delivery{channel: c}
		if decide(c, s, st.channel(c.Name), now) {
			m := n.runText(s)
			m.mark = mark{key: s.key(), run: run.ID}
			d.messages = append(d.messages, m)
		}
		n.addDigest(&d, st, withRun(run, history), now)
		out = append(out, d)
	}
	if n.o.Heartbeat != nil && run.Series() == heartbeatCommand {
		text := n.runText(s).whole()
		out = append(out, n.beat(func(ctx context.Context) error { return n.o.Heartbeat.end(ctx, &n.env, run, text) }))
	}
	return n.tell(ctx, out, st, now)
}

// Digest sends the digests that are due, as the end of a run does: for programs that
// go on, so that it comes when no run does. history is every run, the newest first.
func (n *Notifier) Digest(ctx context.Context, history []journal.Run) []journal.Told {
	now := n.o.Now()
	st := n.state.read()
	var out []delivery
	for i := range n.o.Channels {
		d := delivery{channel: &n.o.Channels[i]}
		n.addDigest(&d, st, history, now)
		out = append(out, d)
	}
	return n.tell(ctx, out, st, now)
}

// DigestDue says whether Digest has something to do: to send one, or to note from when on
// the first counts. It is cheap.
func (n *Notifier) DigestDue() bool {
	if !slices.ContainsFunc(n.o.Channels, func(c Channel) bool { return c.Digest != Never }) {
		return false
	}
	now := n.o.Now()
	st := n.state.read()
	return slices.ContainsFunc(n.o.Channels, func(c Channel) bool {
		last := st.channel(c.Name).Digest
		return c.Digest != Never && (last.Before(boundary(&c, now)) || last.After(now))
	})
}

// addDigest adds a channel's digest to a delivery, if it is due.
func (n *Notifier) addDigest(d *delivery, st *state, history []journal.Run, now time.Time) {
	last := st.channel(d.channel.Name).Digest
	from, due := digestDue(d.channel, last, history, now)
	switch {
	case due:
		m := n.digestText(history, from, now)
		m.mark = mark{digest: now}
		d.messages = append(d.messages, m)
	case !from.Equal(last):
		d.digest = from
	}
}

// tell delivers, remembers what was delivered, and reports what was not through
// the channels that work.
func (n *Notifier) tell(ctx context.Context, out []delivery, st *state, now time.Time) []journal.Told {
	out = slices.DeleteFunc(out, func(d delivery) bool { return !d.sends() && d.digest.IsZero() })
	if len(out) == 0 {
		return nil
	}
	// A quarter of the time is left for the reports.
	n.deliver(ctx, n.o.Limit*3/4, out)
	reports := n.reports(out, st, now)
	n.deliver(ctx, n.o.Limit/4, reports)
	told := answers(out)
	for _, r := range reports {
		if r.err != nil {
			told = append(told, journal.Told{Channel: r.channel.Name, Error: "report of another channel: " + r.err.Error()})
		}
	}
	if err := n.state.change(now, func(st *state) {
		for _, d := range slices.Concat(out, reports) {
			d.remember(st, now)
		}
	}); err != nil {
		told = append(told, journal.Told{Channel: "state", Error: oneLine(err.Error())})
	}
	return told
}

// reports are messages about channels that failed.
func (n *Notifier) reports(out []delivery, st *state, now time.Time) (reports []delivery) {
	failed := map[string]bool{}
	for _, d := range out {
		failed[d.name()] = d.err != nil
	}
	for i := range n.o.Channels {
		c := &n.o.Channels[i]
		if failed[c.Name] || c.Check() != nil || !c.wants(Failure) {
			continue
		}
		r := delivery{channel: c}
		for _, d := range out {
			key := channelKey(d.name())
			if d.err == nil || quiet(c, st.channel(c.Name).Told[key], time.Time{}, now) {
				continue
			}
			m := n.channelText(d.name(), d.err)
			m.mark = mark{key: key}
			r.messages = append(r.messages, m)
		}
		if len(r.messages) > 0 {
			reports = append(reports, r)
		}
	}
	return reports
}

// ErrNoChannel says that no channel has a name.
var ErrNoChannel = errors.New("no such channel")

// Test sends a test message to one channel, or to all if name is "". A plain
// heartbeat is called only by its name, as that says that a backup was good.
func (n *Notifier) Test(ctx context.Context, name string) ([]journal.Told, error) {
	var out []delivery
	for i := range n.o.Channels {
		if c := &n.o.Channels[i]; name == "" || name == c.Name {
			out = append(out, delivery{channel: c, messages: []*message{n.testText(c.Name)}})
		}
	}
	if h := n.o.Heartbeat; h != nil && (name == heartbeatName || name == "" && h.testable()) {
		out = append(out, n.beat(func(ctx context.Context) error { return h.test(ctx, &n.env, n.testText(heartbeatName).whole()) }))
	}
	if len(out) == 0 && name != "" {
		return nil, fmt.Errorf("%s: %w", oneLine(name), ErrNoChannel)
	}
	n.deliver(ctx, n.o.Limit, out)
	return answers(out), nil
}

// An Info describes a channel, without secrets.
type Info struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"`             // smtp, telegram, slack …
	Target string  `json:"target,omitempty"` // host, or addresses of mail
	On     []Level `json:"on,omitempty"`
	Repeat string  `json:"repeat,omitempty"` // as Go writes durations
	Digest Period  `json:"digest,omitempty"`
	Error  string  `json:"error,omitempty"` // why it cannot be used
}

// List describes the channels, the heartbeat last.
func (n *Notifier) List() []Info {
	infos := []Info{}
	for i := range n.o.Channels {
		c := &n.o.Channels[i]
		info := Info{Name: c.Name, On: c.On, Repeat: c.Repeat.String(), Digest: c.Digest}
		if c.Sender != nil {
			info.Kind, info.Target = c.Sender.kind(), c.Sender.target()
		}
		if err := c.Check(); err != nil {
			info.Error = c.clean(err).Error()
		}
		infos = append(infos, info)
	}
	if h := n.o.Heartbeat; h != nil {
		info := Info{Name: heartbeatName, Kind: h.protocol(), Target: hostOf(h.URL)}
		if err := h.Check(); err != nil {
			info.Error = mask(err, h.secrets()).Error()
		}
		infos = append(infos, info)
	}
	return infos
}
