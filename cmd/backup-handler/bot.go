package main

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/bot"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// A desk is what a daemon has beside its jobs: the bot, digests, and runs that crashed.
// Its methods are for one goroutine.
type desk struct {
	a        *app
	state    *daemon.State
	dir      string // state directory
	path     string // of the configuration, absolute; "" for none
	requests chan daemon.Request

	cfg     atomic.Pointer[config.Config]
	bot     *notify.Telegram // that answers; nil: none does
	stopBot func()           // waits for its end
	botOver chan struct{}    // closed when it has ended
	telling atomic.Bool      // somebody is telling of digests or crashed runs
	retry   atomic.Int64     // when digests are tried again, in Unix seconds
	told    sync.WaitGroup   // until they have
	over    chan struct{}    // closed when the daemon ends
	lost    bool             // there may be crashed runs that nobody was told of
}

func (a *app) newDesk(state *daemon.State) (*desk, error) {
	d := &desk{a: a, state: state, requests: make(chan daemon.Request), stopBot: func() {}, over: make(chan struct{})}
	var err error
	if d.dir, err = a.cfg.StateDir(); err != nil {
		return nil, job.Fail(job.ExitUsage, err, "set [STATE] dir")
	}
	if a.cfg.Path() != "" {
		if d.path, err = filepath.Abs(a.cfg.Path()); err != nil {
			return nil, job.Fail(job.ExitUsage, err, "")
		}
	}
	return d, nil
}

// close ends what the desk has begun.
func (d *desk) close() {
	close(d.over)
	d.stopBot()
	d.told.Wait() // what was told must be remembered as told
}

// adopt makes a configuration the one that counts. A bot that is the same goes on, with
// what was asked of it; any other starts anew, also one whose token was refused.
func (d *desk) adopt(cfg *config.Config) {
	d.cfg.Store(cfg)
	d.retry.Store(0)
	t, err := job.Bot(cfg)
	if err != nil {
		d.a.warn("Telegram: nobody is answered: %v", err)
	}
	if t != nil && reflect.DeepEqual(t, d.bot) {
		select {
		case <-d.botOver:
		default:
			return
		}
	}
	d.stopBot()
	d.stopBot, d.bot = func() {}, t
	if t == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	d.botOver = over
	d.stopBot = func() {
		cancel()
		<-over
	}
	go func() {
		defer close(over)
		err := bot.Run(ctx, bot.Options{
			Bot: t, StateDir: d.dir, Host: hostName(), Started: d.a.started, Now: time.Now, Rand: rand.Reader,
			Redact: func(text string) string { return d.a.redactorOf(d.cfg.Load())(text) },
			Facts:  d.facts,
			Start:  func(kind string, ended func(string)) error { return d.start(ctx, kind, ended) },
			Record: d.a.record,
			Note:   func(line string) { d.a.note("Telegram: " + line) },
			Warn:   func(line string) { d.a.warn("Telegram: %s", line) },
		})
		if err != nil {
			d.a.warn("Telegram: nobody is answered until the configuration is loaded anew: %v", err)
		}
	}()
}

// start asks the daemon for a job.
func (d *desk) start(ctx context.Context, kind string, ended func(string)) error {
	answer := make(chan error, 1)
	r := daemon.Request{
		Kind: schedule.Kind(kind), Trigger: "telegram", Answer: answer,
		Ended: func(code int, took time.Duration) { ended(bot.Ended(code, took)) },
	}
	select {
	case d.requests <- r:
	case <-ctx.Done():
		return daemon.ErrStops
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return daemon.ErrStops
	}
}

// facts are what there is to tell of runs of the configuration.
func (d *desk) facts() (bot.Facts, error) {
	var f bot.Facts
	all, err := journal.OpenRuns(d.dir).List()
	if err != nil {
		return f, err
	}
	for _, r := range all {
		if r.Config == d.path {
			f.Runs = append(f.Runs, r)
		}
	}
	plan, err := d.cfg.Load().Schedule()
	if err != nil {
		return f, err
	}
	upcoming, err := d.state.Upcoming(plan, hostName(), time.Now())
	for _, u := range upcoming {
		f.Next = append(f.Next, bot.Next{Kind: string(u.Kind), Due: u.Due, Owed: u.Owed})
	}
	return f, err
}

// digestRetry is how soon a digest that could not be sent is tried again.
const digestRetry = time.Hour

// idle tells, while no job runs, what is to be told without a run: digests that are due,
// and runs that crashed. The daemon does not wait for it.
func (d *desk) idle(lost bool) {
	d.lost = d.lost || lost
	if d.telling.Load() {
		return
	}
	n, err := d.a.notifierOf(d.cfg.Load())
	if err != nil {
		return // each run says so
	}
	digest := time.Now().Unix() >= d.retry.Load() && n.DigestDue()
	if !d.lost && !digest {
		return
	}
	crashed := d.lost
	d.lost = false
	d.telling.Store(true)
	d.told.Go(func() {
		defer d.telling.Store(false)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-d.over:
				cancel()
			case <-ctx.Done():
			}
		}()
		d.tell(ctx, n, crashed, digest)
	})
}

func (d *desk) tell(ctx context.Context, n *notify.Notifier, crashed, digest bool) {
	runs := journal.OpenRuns(d.dir)
	if crashed {
		if err := job.TellCrashes(ctx, runs, d.path, "", n, d.a.log); err != nil && ctx.Err() == nil {
			d.a.warn("runs that crashed are not told of: %v", err)
		}
	}
	if !digest {
		return
	}
	all, err := runs.List()
	if err != nil {
		d.a.warn("no digest: %v", err)
		d.retry.Store(time.Now().Add(digestRetry).Unix())
		return
	}
	for _, t := range n.Digest(ctx, all) {
		if t.Error != "" && ctx.Err() == nil {
			d.retry.Store(time.Now().Add(digestRetry).Unix())
			d.a.warn("the digest was not sent to %s: %s", t.Channel, t.Error)
		}
	}
}
