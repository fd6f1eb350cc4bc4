// Package daemon runs jobs when they are due, each as a process of its own. It knows
// schedules and processes, and nothing of what jobs do; their locks, records and
// notifications are their own business.
//
// Invariants:
//
//   - jobs run one at a time; of each kind at most one waits, and one that somebody asked
//     for;
//   - each time that is due is started once, or made up for by one run with others that
//     were missed, whatever is killed when: a job claims its time before it does
//     anything else (see [Claim]), and what nobody has claimed is still due;
//   - the clock is looked at once a minute at least, so that it does not matter how it
//     got where it is.
//
// daemon.go: the loop. state.go: what was started last, and claims. process.go: jobs as
// processes. notify.go: what systemd is told.
package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

const (
	// maxSleep is how long the clock is not looked at, at most.
	maxSleep = time.Minute
	// onTime is how late a job may be found due and still be on time: a machine that is
	// awake looks each minute.
	onTime = 5 * time.Minute
	// claimPoll is how often it is looked whether a job has claimed its time.
	claimPoll = 200 * time.Millisecond
	// maxBack is how far the clock may be set back such that nothing runs twice. Where
	// the last run is further in the future than that, the clock was wrong then: its
	// schedule begins anew.
	maxBack = 24 * time.Hour
)

// A Job is one run that is due.
type Job struct {
	Kind schedule.Kind
	// Due is the time by the schedule, without jitter; the newest, where several were
	// missed. Zero: somebody asked for it, and no time is claimed.
	Due time.Time
	// Trigger is what started it, for its record: schedule, or what the request says.
	Trigger string
}

// A Request asks for a job that need not be due.
type Request struct {
	Kind    schedule.Kind
	Trigger string
	// Answer, with room for one, gets nil when the job waits for its turn, or why it does
	// not: ErrBusy, ErrStops.
	Answer chan<- error
	// Ended is told the exit code, -1 for an end without one, and how long the job took;
	// not called if it does not start before the daemon ends. It must not block.
	Ended func(code int, took time.Duration)
}

// Why a request is refused.
var (
	ErrBusy  = errors.New("one waits or runs already")
	ErrStops = errors.New("the daemon is about to stop")
)

// A Process is a job that was started. Its methods may be called at any time, also after
// its end.
type Process interface {
	// Done gives the exit code, once; -1 for an end without one.
	Done() <-chan int
	// Interrupt asks it to end. Kill ends it, with what it has started.
	Interrupt()
	Kill()
}

// Options are what a daemon works with.
type Options struct {
	State *State
	// Load reads the configuration's plan: at the start, and when Signals says so.
	Load func() (schedule.Plan, error)
	// Start starts a job. An error leaves it due; it is tried again within a minute.
	Start func(Job) (Process, error)
	Host  string // for the jitter
	Now   func() time.Time
	// Signals are SIGHUP, to load anew, and any other to stop; a second one hurries.
	Signals <-chan os.Signal
	// Requests may ask for jobs; nil: nobody does.
	Requests <-chan Request
	// Idle is called when no job runs: at the start, after each job, and once a minute;
	// nil: nobody wants to know. lost says that a job may have ended without a word
	// since: at the start, or after one that did. It must not block.
	Idle func(lost bool)
	// Notify tells systemd; it gets lines such as READY=1.
	Notify func(lines ...string)
	// Watchdog is how often systemd wants to hear something; 0: never.
	Watchdog time.Duration
	// Note and Warn take lines for the log.
	Note, Warn func(line string)
}

// A daemon is the state of the loop. All of it belongs to one goroutine.
type daemon struct {
	Options
	plan  schedule.Plan
	delay time.Duration
	tasks map[schedule.Kind]*task

	asked []asked // that wait

	child   Process // nil: none
	job     Job     // of child
	request *Request
	started time.Time

	idle time.Time // when Idle was called last; zero: not since the last job
	lost bool      // is what Idle is told next

	reloads     bool // is to load anew as soon as child has claimed its time
	stops       int  // signals to stop so far
	interrupted bool // child was told to end
	killAt      *time.Timer
	status      string // as systemd knows it
}

// An asked is a request that waits.
type asked struct {
	Request
	queued time.Time
}

// A task is one kind of job.
type task struct {
	schedule schedule.Schedule
	entry
	next   time.Time // the first time after Last; zero: never
	queued time.Time // since when it waits; zero: it does not
}

// Run is the daemon. It returns when it was told to stop and no job runs any more, or at
// once if the configuration or the state directory is not usable; the error is ErrRunning
// if there is another daemon for the configuration.
func Run(o Options) error {
	release, err := o.State.lockDaemon()
	if err != nil {
		return err
	}
	defer release()
	d := &daemon{Options: o, lost: true}
	plan, err := o.Load()
	if err != nil {
		return err
	}
	if err := d.adopt(plan); err != nil {
		return err
	}
	d.Notify("READY=1")
	d.loop()
	return nil
}

// now is the time of the clock on the wall alone. Times that time.Now returns are
// compared by the time since the machine's start, which knows of no clock that was set
// and no sleep.
func (d *daemon) now() time.Time { return d.Now().Round(0) }

func (d *daemon) loop() {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		now := d.now()
		if d.stops == 0 {
			if d.reloads && d.claimed() {
				d.reload()
			}
			d.look(now)
			if d.child == nil {
				d.rest(now)
				d.startNext(now)
			}
		} else if d.child == nil {
			return
		}
		d.tell()
		wake.Reset(d.sleep(now))
		var done <-chan int
		if d.child != nil {
			done = d.child.Done()
		}
		var kill <-chan time.Time
		if d.killAt != nil {
			kill = d.killAt.C
		}
		select {
		case <-wake.C:
		case code := <-done:
			d.ended(code)
		case r := <-d.Requests:
			d.ask(r)
		case sig := <-d.Signals:
			d.signal(sig)
		case <-kill:
			d.Warn(fmt.Sprintf("%s did not end within %v: it is killed", d.job.Kind, d.plan.StopTimeout))
			d.child.Kill()
			d.killAt = nil
		}
	}
}

// rest calls Idle, if it is time to.
func (d *daemon) rest(now time.Time) {
	if d.Idle == nil || !d.idle.IsZero() && now.Sub(d.idle) < maxSleep && !now.Before(d.idle) {
		return
	}
	d.Idle(d.lost)
	d.idle, d.lost = now, false
}

// ask queues a request, unless the same would run twice in a row.
func (d *daemon) ask(r Request) {
	t := d.tasks[r.Kind]
	switch {
	case d.stops > 0:
		r.Answer <- ErrStops
	case d.child != nil && d.job.Kind == r.Kind, t != nil && !t.queued.IsZero(),
		slices.ContainsFunc(d.asked, func(a asked) bool { return a.Kind == r.Kind }):
		r.Answer <- ErrBusy
	default:
		d.asked = append(d.asked, asked{r, d.now()})
		d.Note(fmt.Sprintf("%s was asked for: %s", r.Kind, r.Trigger))
		r.Answer <- nil
	}
}

// sleep is how long nothing has to be looked at.
func (d *daemon) sleep(now time.Time) time.Duration {
	pause := maxSleep
	if d.Watchdog > 0 {
		pause = min(pause, d.Watchdog/2)
	}
	if d.reloads {
		pause = min(pause, claimPoll)
	}
	for _, t := range d.tasks {
		if d.stops == 0 && t.queued.IsZero() && !t.next.IsZero() {
			pause = min(pause, t.next.Add(d.delay).Sub(now))
		}
	}
	return max(pause, time.Millisecond)
}

// adopt makes a plan the one that counts.
func (d *daemon) adopt(plan schedule.Plan) error {
	now := d.now()
	entries, err := d.State.adopt(plan, plan.Delay(d.Host), now)
	if err != nil {
		return err
	}
	tasks := make(map[schedule.Kind]*task)
	for kind, s := range plan.Jobs {
		t := &task{schedule: s, entry: entries[kind], next: s.Next(entries[kind].Last)}
		if old := d.tasks[kind]; old != nil {
			t.queued = old.queued
		}
		tasks[kind] = t
	}
	d.plan, d.delay, d.tasks = plan, plan.Delay(d.Host), tasks
	return nil
}

// look queues what is due.
func (d *daemon) look(now time.Time) {
	for _, kind := range schedule.Kinds() {
		t := d.tasks[kind]
		if t == nil {
			continue
		}
		if t.Last.After(now.Add(maxBack)) {
			d.Warn(fmt.Sprintf("%s: the clock was set back by more than a day, or was wrong before: its schedule begins anew", kind))
			d.count(kind, t, now)
		}
		if !t.queued.IsZero() {
			continue
		}
		due := !t.next.IsZero() && !t.next.Add(d.delay).After(now)
		switch {
		case t.Owed && d.plan.CatchUp:
			d.Note(fmt.Sprintf("%s makes up for a run that was missed or interrupted", kind))
			t.queued = now
		case t.Owed:
			d.pass(kind, t, t.Last)
		case !due:
		case now.Sub(t.next.Add(d.delay)) <= onTime:
			t.queued = now
		case d.plan.CatchUp:
			d.Note(fmt.Sprintf("%s makes up for the run of %s", kind, t.next.Format(timeForm)))
			t.queued = now
		default:
			last := t.schedule.Last(now.Add(-d.delay))
			if now.Sub(last.Add(d.delay)) <= onTime {
				t.queued = now
				continue
			}
			d.Note(fmt.Sprintf("%s leaves out the run of %s, as [SCHEDULE] catch_up says", kind, t.next.Format(timeForm)))
			d.pass(kind, t, last)
		}
	}
}

const timeForm = "2006-01-02 15:04 MST"

// pass gives up what was due up to then.
func (d *daemon) pass(kind schedule.Kind, t *task, last time.Time) {
	t.Owed = false
	d.count(kind, t, last)
}

// count lets times count from then on.
func (d *daemon) count(kind schedule.Kind, t *task, from time.Time) {
	t.Last, t.next = from, t.schedule.Next(from)
	if err := d.State.put(kind, t.entry); err != nil {
		d.Warn(err.Error())
	}
}

// startNext starts what waits longest.
func (d *daemon) startNext(now time.Time) {
	var kind schedule.Kind
	for _, k := range schedule.Kinds() {
		if t := d.tasks[k]; t != nil && !t.queued.IsZero() && (kind == "" || t.queued.Before(d.tasks[kind].queued)) {
			kind = k
		}
	}
	if len(d.asked) > 0 && (kind == "" || d.asked[0].queued.Before(d.tasks[kind].queued)) {
		d.startAsked(now)
		return
	}
	if kind == "" {
		return
	}
	t := d.tasks[kind]
	job := Job{kind, t.Last, "schedule"}
	if last := t.schedule.Last(now.Add(-d.delay)); last.After(t.Last) {
		job.Due = last
	} else if !t.Owed {
		t.queued = time.Time{} // the clock was set back meanwhile
		return
	}
	child, err := d.Start(job)
	if err != nil {
		d.Warn(fmt.Sprintf("%s cannot be started, and is tried again in a minute: %v", kind, err))
		return
	}
	d.child, d.job, d.request, d.started, d.interrupted = child, job, nil, now, false
	t.Last, t.Owed, t.queued, t.next = job.Due, false, time.Time{}, t.schedule.Next(job.Due)
	d.Note(fmt.Sprintf("%s started, due %s", kind, job.Due.Format(timeForm)))
}

// startAsked starts the first of those that were asked for.
func (d *daemon) startAsked(now time.Time) {
	a := d.asked[0]
	job := Job{Kind: a.Kind, Trigger: a.Trigger}
	child, err := d.Start(job)
	if err != nil {
		d.Warn(fmt.Sprintf("%s cannot be started, and is tried again in a minute: %v", a.Kind, err))
		return
	}
	d.asked = d.asked[1:]
	d.child, d.job, d.request, d.started, d.interrupted = child, job, &a.Request, now, false
	d.Note(fmt.Sprintf("%s started, as was asked for: %s", a.Kind, a.Trigger))
}

// ended takes note of the end of the child.
func (d *daemon) ended(code int) {
	kind := d.job.Kind
	took := max(d.now().Sub(d.started), 0)
	line := fmt.Sprintf("%s ended after %v, exit code %d", kind, took.Round(time.Second), code)
	if code == 0 {
		d.Note(line)
	} else {
		d.Warn(line)
	}
	// Only a run that this daemon has stopped is made up for: one that crashes would do
	// so again and again.
	owed := d.interrupted && (code == exitInterrupted || code < 0)
	if d.request == nil {
		if err := d.State.settle(d.job, owed); err != nil {
			d.Warn(err.Error())
		}
	} else if d.request.Ended != nil {
		d.request.Ended(code, took)
	}
	d.child, d.request = nil, nil
	d.idle, d.lost = time.Time{}, d.lost || code < 0
	if d.killAt != nil {
		d.killAt.Stop()
		d.killAt = nil
	}
}

// exitInterrupted is the exit code of a run that a signal has ended.
const exitInterrupted = 130

func (d *daemon) signal(sig os.Signal) {
	if sig == syscall.SIGHUP {
		d.reloads = true
		return
	}
	d.stops++
	if d.stops == 1 {
		d.Notify("STOPPING=1")
	}
	switch {
	case d.child == nil:
	case d.plan.Finish && d.stops == 1:
		d.Note(fmt.Sprintf("told to stop: waits for the end of %s; once more to interrupt it", d.job.Kind))
	case !d.interrupted:
		d.Note(fmt.Sprintf("told to stop: interrupts %s", d.job.Kind))
		d.interrupted = true
		d.child.Interrupt()
		d.killAt = time.NewTimer(d.plan.StopTimeout)
	default:
		d.Warn(fmt.Sprintf("told to stop once more: kills %s", d.job.Kind))
		d.child.Kill()
	}
}

// claimed says whether the child, if there is one, has recorded its start: before that,
// its time would look as if it were missed.
func (d *daemon) claimed() bool {
	if d.child == nil || d.request != nil {
		return true
	}
	f, err := d.State.read()
	return err == nil && !f.Jobs[d.job.Kind].Last.Before(d.job.Due)
}

func (d *daemon) reload() {
	d.reloads = false
	d.Notify("RELOADING=1")
	plan, err := d.Load()
	if err == nil {
		err = d.adopt(plan)
	}
	if err != nil {
		d.Warn("the configuration is not loaded anew, the old schedule goes on: " + err.Error())
	} else {
		d.Note("the configuration was loaded anew")
	}
	d.Notify("READY=1")
}

// tell lets systemd know that the daemon is alive, and what it does.
func (d *daemon) tell() {
	var lines []string
	if d.Watchdog > 0 {
		lines = append(lines, "WATCHDOG=1")
	}
	if s := d.describe(); s != d.status {
		d.status = s
		lines = append(lines, "STATUS="+s)
	}
	if len(lines) > 0 {
		d.Notify(lines...)
	}
}

func (d *daemon) describe() string {
	if d.child != nil {
		return fmt.Sprintf("%s since %s", d.job.Kind, d.started.Format(timeForm))
	}
	var first schedule.Kind
	for _, k := range schedule.Kinds() {
		if t := d.tasks[k]; t != nil && !t.next.IsZero() && (first == "" || t.next.Before(d.tasks[first].next)) {
			first = k
		}
	}
	if first == "" {
		return "nothing is due"
	}
	return fmt.Sprintf("waits for %s, %s", first, d.tasks[first].next.Add(d.delay).Format(timeForm))
}
