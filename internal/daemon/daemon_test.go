package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// A machine is a simulated computer: a clock that can be set, a daemon that can be
// killed, and jobs that take their time. Its clock is that of a synctest bubble and an
// offset; a machine that sleeps is one whose clock jumps while nothing else goes on.
// Each method belongs to the test's goroutine; the fields are shared by goroutines that
// synctest lets run one after the other, whenever time stands still.
type machine struct {
	t      *testing.T
	state  *State
	plan   schedule.Plan
	host   string
	offset time.Duration

	signals  chan os.Signal
	requests chan Request
	idles    []bool        // calls of Idle, and whether something may be lost
	over     chan struct{} // closed when the daemon is gone
	alive    bool
	killed   bool   // the daemon dies at its next look at the clock
	crash    string // where it dies when it starts a job next
	load     error  // of the next load
	lax      bool   // m.plan is not the one that counts
	taken    int    // jobs that found their time taken

	lasts     func(Job) time.Duration // how long jobs take
	does      func(*simulated) int    // instead, what they do; it returns an exit code
	jobs      []*simulated            // those that run
	runs      []run
	disturbed time.Time // when something happened that the daemon may need a minute for
}

type run struct {
	Job
	at          time.Time
	interrupted bool
}

// A simulated is a simulated job.
type simulated struct {
	job       Job
	done      chan int
	interrupt chan struct{}
	kill      chan struct{}
	deaf      bool // does not listen to Interrupt
	asked     bool // was interrupted
}

func (p *simulated) Done() <-chan int { return p.done }
func (p *simulated) Interrupt() {
	p.asked = true
	if !p.deaf {
		send(p.interrupt)
	}
}
func (p *simulated) Kill() { send(p.kill) }

func send(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func newMachine(t *testing.T, zone, start string, jobs map[schedule.Kind]string) *machine {
	z, err := schedule.Zone(zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation(time.DateTime, start, z)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		t: t, state: OpenState(t.TempDir(), "/etc/config.ini"), host: "host", offset: time.Until(at),
		plan:  schedule.Plan{Jobs: map[schedule.Kind]schedule.Schedule{}, Zone: z, CatchUp: true, StopTimeout: 3 * time.Minute},
		lasts: func(Job) time.Duration { return 10 * time.Minute },
	}
	for k, text := range jobs {
		m.set(k, text)
	}
	return m
}

func (m *machine) set(k schedule.Kind, text string) {
	jobs := map[schedule.Kind]schedule.Schedule{}
	for k, s := range m.plan.Jobs {
		jobs[k] = s
	}
	s, err := schedule.Parse(text, m.plan.Zone)
	if err != nil {
		m.t.Fatal(err)
	}
	jobs[k] = s
	m.plan.Jobs = jobs
}

// now is the machine's clock.
func (m *machine) now() time.Time { return time.Now().Add(m.offset).In(m.plan.Zone).Round(0) }

// boot starts the daemon.
func (m *machine) boot() {
	m.requests = make(chan Request)
	m.signals, m.over, m.alive, m.killed = make(chan os.Signal), make(chan struct{}), true, false
	m.disturbed = time.Now()
	go func() {
		defer close(m.over)
		defer func() { m.alive = false }()
		err := Run(Options{
			State: m.state, Host: m.host, Signals: m.signals, Start: m.start, Requests: m.requests,
			Idle: func(lost bool) { m.idles = append(m.idles, lost) },
			Load: func() (schedule.Plan, error) { return m.plan, m.load },
			Now: func() time.Time {
				if m.killed {
					runtime.Goexit() // what is deferred stands for what the system does
				}
				return m.now()
			},
			Notify: func(...string) {}, Note: func(string) {}, Warn: func(string) {},
		})
		if err != nil {
			m.t.Error(err)
		}
	}()
	synctest.Wait()
}

// kill ends the daemon without a word, and with power the jobs too.
func (m *machine) kill(power bool) {
	m.killed = true
	if power {
		for _, p := range slices.Clone(m.jobs) {
			p.Kill()
		}
	}
	select {
	case m.signals <- syscall.SIGHUP: // so that it looks at the clock
	case <-m.over:
	}
	<-m.over
	synctest.Wait()
}

// stop tells the daemon to stop, and waits for its end.
func (m *machine) stop() {
	m.signal(syscall.SIGTERM)
	<-m.over
	synctest.Wait()
}

func (m *machine) signal(sig os.Signal) {
	select {
	case m.signals <- sig:
	case <-m.over:
	}
	synctest.Wait()
}

// start is the daemon's Start.
func (m *machine) start(j Job) (Process, error) {
	crash := m.crash
	m.crash = ""
	if crash == "before" {
		runtime.Goexit()
	}
	if crash == "fail" {
		return nil, errors.New("no memory")
	}
	p := &simulated{job: j, done: make(chan int, 1), interrupt: make(chan struct{}, 1), kill: make(chan struct{}, 1), deaf: crash == "deaf"}
	m.jobs = append(m.jobs, p)
	go m.live(p, crash)
	if crash == "after" {
		runtime.Goexit()
	}
	return p, nil
}

// live is the life of a job.
func (m *machine) live(p *simulated, crash string) {
	code := -1
	defer func() {
		m.jobs = slices.DeleteFunc(m.jobs, func(q *simulated) bool { return p == q })
		m.disturbed = time.Now()
		p.done <- code
	}()
	time.Sleep(time.Second) // it loads
	select {
	case <-p.kill:
		return
	default:
	}
	if crash == "unborn" {
		return // killed before its claim
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	claimed := make(chan struct{})
	go func() { // signals while it waits
		select {
		case <-p.kill:
			send(p.kill)
			cancel()
		case <-p.interrupt:
			send(p.interrupt)
			cancel()
		case <-claimed:
		}
	}()
	release, err := Claim(ctx, m.state.Env(p.job))
	close(claimed)
	if errors.Is(err, ErrTaken) {
		m.taken++
		code = 0
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			m.t.Error(err)
		}
		code = exitInterrupted
		return
	}
	defer release()
	m.claimed(p.job)
	n := len(m.runs) - 1
	if m.does != nil {
		code = m.does(p)
		m.runs[n].interrupted = code != 0 && p.asked
		return
	}
	select {
	case <-time.After(m.lasts(p.job)):
		code = 0
	case <-p.interrupt:
		code = exitInterrupted
		time.Sleep(2 * time.Second)
	case <-p.kill:
	}
	m.runs[n].interrupted = code != 0 && p.asked
}

// claimed checks a run that begins: its time is one of the schedule, the newest there is,
// and has not had a run that was not interrupted.
func (m *machine) claimed(j Job) {
	if j.Due.IsZero() { // asked for
		m.runs = append(m.runs, run{j, m.now(), false})
		return
	}
	s := m.plan.Jobs[j.Kind]
	if want := s.Last(m.now().Add(-m.plan.Delay(m.host))); !want.Equal(j.Due) && m.now().Sub(want) > 2*time.Minute && !m.waited() && !m.lax {
		m.t.Errorf("%s at %v: due %v, and the newest is %v", j.Kind, m.now(), j.Due, want)
	}
	for _, r := range m.runs {
		if r.Kind == j.Kind && !r.Due.Before(j.Due) && r.Due.Before(m.now().Add(maxBack)) && !(r.Due.Equal(j.Due) && r.interrupted) {
			m.t.Errorf("%s of %v begins at %v, after that of %v", j.Kind, j.Due, m.now(), r.Due)
		}
	}
	m.runs = append(m.runs, run{j, m.now(), false})
	m.disturbed = time.Now()
}

// waited says whether the newest run had to wait for a job of an earlier daemon.
func (m *machine) waited() bool { return time.Since(m.disturbed) < 2*time.Minute }

// idle checks that nothing is due that should have been started: after two quiet minutes
// of a daemon that has nothing to do.
func (m *machine) idle() {
	if !m.alive || len(m.jobs) > 0 || time.Since(m.disturbed) < 2*time.Minute {
		return
	}
	f, err := m.state.read()
	if err != nil {
		m.t.Fatal(err)
	}
	for k, s := range m.plan.Jobs {
		e := f.Jobs[k]
		if next := s.Next(e.Last); e.Owed || next.Before(m.now().Add(-m.plan.Delay(m.host)-2*time.Minute)) {
			m.t.Fatalf("%s of %v is not run at %v (owed: %v)", k, next, m.now(), e.Owed)
		}
	}
}

// pass lets time go by, and watches.
func (m *machine) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Until(end), 97*time.Minute))
		synctest.Wait()
		m.idle()
	}
}

// jump sets the clock, or lets the machine sleep.
func (m *machine) jump(d time.Duration) {
	m.offset += d
	m.disturbed = time.Now()
}

func (m *machine) count(k schedule.Kind) (n int) {
	for _, r := range m.runs {
		if r.Kind == k {
			n++
		}
	}
	return n
}

func (m *machine) wantRuns(want string) {
	m.t.Helper()
	got := ""
	for _, r := range m.runs {
		got += fmt.Sprintf("%s %s; ", r.Kind, r.at.Format("02 15:04"))
	}
	if got != want {
		m.t.Errorf("runs\n got %s\nwant %s", got, want)
	}
}

// end stops everything.
func (m *machine) end() {
	if m.alive {
		m.kill(true)
	}
	for _, p := range slices.Clone(m.jobs) {
		p.Kill()
	}
	for len(m.jobs) > 0 {
		time.Sleep(time.Second)
	}
	synctest.Wait()
}

// TestQuietYear: a year without incidents has exactly the runs of its calendar, both
// changes of the clock included.
func TestQuietYear(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"} { // half an hour; at midnight
		t.Run(zone, func(t *testing.T) {
			if testing.Short() && zone != "Australia/Lord_Howe" {
				t.Skip("one zone is enough for -short")
			}
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t, zone, "2026-01-01 12:00:00", map[schedule.Kind]string{
					schedule.Backup: "02:15", schedule.Prune: "0 0 * * sun", schedule.Verify: "every 36h", schedule.Drill: "30 2 1 * *", schedule.Forget: "15 2 * * 1-5",
				})
				m.boot()
				m.pass(365 * 24 * time.Hour)
				m.end()
				want := map[schedule.Kind]int{
					schedule.Backup: 365, schedule.Prune: 52, schedule.Verify: 365 * 24 / 36, schedule.Drill: 12, schedule.Forget: 261,
				}
				for k, n := range want {
					if got := m.count(k); got != n && !(k == schedule.Verify && got == n+1) { // a year is not a multiple of 36 h
						t.Errorf("%s: %d runs, want %d", k, got, n)
					}
				}
			})
		})
	}
}

// TestYear: machines that crash, sleep, are set wrong and told to stop, while jobs take
// longer than they should. claimed and idle check what has to be true at any time.
func TestYear(t *testing.T) {
	for i, zone := range []string{"Australia/Lord_Howe", "Asia/Beirut"} {
		t.Run(zone, func(t *testing.T) {
			if testing.Short() && i > 0 {
				t.Skip("one zone is enough for -short")
			}
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { hardYear(t, zone, uint64(i)) })
		})
	}
}

func hardYear(t *testing.T, zone string, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2026))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	m := newMachine(t, zone, "2026-01-01 00:00:00", map[schedule.Kind]string{
		schedule.Backup: "30 2 * * *; 0 14 * * 1-5", schedule.Forget: "every 12h", schedule.Prune: "0 0 * * sun", schedule.Verify: "every 36h", schedule.Drill: "@weekly",
	})
	m.plan.Jitter = 40 * time.Minute
	m.lasts = func(Job) time.Duration {
		if rng.IntN(20) == 0 {
			return upTo(40 * time.Hour)
		}
		return upTo(2 * time.Hour)
	}
	m.boot()
	incidents := map[string]int{}
	for end := time.Now().Add(365 * 24 * time.Hour); time.Now().Before(end) && !t.Failed(); {
		m.pass(upTo(48 * time.Hour))
		what := []string{"kill", "power", "stop", "sleep", "forward", "back", "reload", "before", "after", "unborn", "fail", "deaf"}[rng.IntN(12)]
		incidents[what]++
		switch what {
		case "kill", "power":
			m.kill(what == "power")
			m.pass(upTo(72 * time.Hour))
		case "stop":
			m.stop()
			m.pass(upTo(72 * time.Hour))
		case "sleep":
			m.jump(upTo(120 * time.Hour))
		case "forward":
			m.jump(upTo(3 * time.Hour))
		case "back":
			m.jump(-upTo(3 * time.Hour))
		case "reload":
			m.signal(syscall.SIGHUP)
		default:
			m.crash = what
			for m.crash != "" && m.alive {
				m.pass(time.Hour)
			}
			m.pass(upTo(time.Hour))
			if what == "deaf" && m.alive {
				m.stop()
			}
		}
		if !m.alive {
			m.boot()
		}
	}
	m.pass(72 * time.Hour)
	if m.alive {
		m.end()
	}
	counts := map[schedule.Kind]int{}
	interrupted := 0
	for _, r := range m.runs {
		counts[r.Kind]++
		if r.interrupted {
			interrupted++
		}
	}
	t.Logf("%v after %v; %d interrupted, %d found their time taken", counts, incidents, interrupted, m.taken)
	if counts[schedule.Backup] < 200 || counts[schedule.Drill] < 30 || len(incidents) != 12 {
		t.Errorf("too little happened: %v, %v", counts, incidents)
	}
}

// TestIncidents: single stories, and the runs that they should have.
func TestIncidents(t *testing.T) {
	const day = 24 * time.Hour
	daily := map[schedule.Kind]string{schedule.Backup: "02:30"}
	for name, story := range map[string]struct {
		jobs map[schedule.Kind]string
		tell func(m *machine)
		want string
	}{
		"no run at the first start": {daily, func(m *machine) { m.boot(); m.pass(day) }, "backup 02 02:30; "},
		"off for three days": {daily, func(m *machine) {
			m.boot()
			m.pass(day)
			m.kill(true)
			m.pass(3 * day)
			m.boot()
			m.pass(day)
		}, "backup 02 02:30; backup 05 12:00; backup 06 02:30; "},
		"asleep for three days": {daily, func(m *machine) {
			m.boot()
			m.pass(day)
			m.jump(3*day + time.Hour)
			m.pass(time.Hour)
		}, "backup 02 02:30; backup 05 13:00; "},
		"without catching up": {daily, func(m *machine) {
			m.plan.CatchUp = false
			m.boot()
			m.pass(day)
			m.jump(3 * day)
			m.pass(day)
		}, "backup 02 02:30; backup 06 02:30; "},
		"without catching up, awake just in time": {daily, func(m *machine) {
			m.plan.CatchUp = false
			m.boot()
			m.jump(2*day + 14*time.Hour + 32*time.Minute) // 02:32
			m.pass(day)
		}, "backup 04 02:33; backup 05 02:30; "},
		"set back an hour after the run": {daily, func(m *machine) {
			m.boot()
			m.pass(15 * time.Hour)
			m.jump(-time.Hour)
			m.pass(day + time.Hour)
		}, "backup 02 02:30; backup 03 02:30; "},
		"a year forward, and back": {daily, func(m *machine) {
			m.boot()
			m.pass(15 * time.Hour)
			m.jump(365 * day)
			m.pass(time.Hour)
			m.jump(-365 * day)
			m.pass(2 * day)
		}, "backup 02 02:30; backup 02 03:00; backup 03 02:30; backup 04 02:30; "},
		"a battery that is empty: back to 1970 and forth again": {daily, func(m *machine) {
			m.boot()
			m.pass(15 * time.Hour)
			d := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC).Sub(m.now())
			m.jump(d)
			m.pass(day)
			m.jump(-d)
			m.pass(day)
		}, "backup 02 02:30; backup 01 02:30; backup 03 03:00; backup 04 02:30; "},
		"in their order, one after the other": {map[schedule.Kind]string{
			schedule.Drill: "02:30", schedule.Verify: "02:30", schedule.Prune: "02:30", schedule.Backup: "02:30", schedule.Forget: "02:30",
		}, func(m *machine) { m.boot(); m.pass(day) }, "backup 02 02:30; forget 02 02:40; prune 02 02:50; verify 02 03:00; drill 02 03:10; "},
		"a run of five days leaves one run waiting, and what waits longest goes first": {map[schedule.Kind]string{schedule.Backup: "02:30", schedule.Verify: "12:30"}, func(m *machine) {
			m.lasts = func(j Job) time.Duration {
				if len(m.runs) == 1 {
					return 5 * day
				}
				return time.Hour
			}
			m.boot()
			m.pass(6 * day)
		}, "verify 01 12:30; backup 06 12:30; verify 06 13:30; backup 07 02:30; "},
		"killed before the start": {daily, func(m *machine) {
			m.boot()
			m.crash = "before"
			m.pass(day)
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 12:00; "},
		"killed between start and claim": {daily, func(m *machine) {
			m.boot()
			m.pass(14 * time.Hour)
			m.crash = "after"
			m.pass(30*time.Minute + 500*time.Millisecond)
			m.boot() // the job that is still loading, and its twin
			m.pass(day + time.Hour)
			if m.taken != 1 {
				m.t.Errorf("%d jobs found their time taken", m.taken)
			}
		}, "backup 02 02:30; backup 03 02:30; "},
		"job killed before its claim, and the daemon too": {daily, func(m *machine) {
			m.boot()
			m.pass(14 * time.Hour)
			m.crash = "unborn"
			m.pass(30*time.Minute + 500*time.Millisecond)
			m.kill(true)
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; "},
		"cannot be started at first": {daily, func(m *machine) {
			m.boot()
			m.crash = "fail"
			m.pass(day)
		}, "backup 02 02:31; "},
		"stopped during a run, which is made up for": {daily, func(m *machine) {
			m.boot()
			m.pass(14*time.Hour + 35*time.Minute)
			m.stop()
			m.pass(time.Hour)
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; backup 02 03:35; "},
		"stopped during a run that does not listen": {daily, func(m *machine) {
			m.boot()
			m.lasts = func(Job) time.Duration { return day }
			m.crash = "deaf"
			m.pass(14*time.Hour + 35*time.Minute)
			m.stop() // it is killed after 3 minutes
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; backup 02 02:38; "},
		"told twice": {daily, func(m *machine) {
			m.boot()
			m.lasts = func(Job) time.Duration { return day }
			m.crash = "deaf"
			m.pass(14*time.Hour + 35*time.Minute)
			m.signal(syscall.SIGTERM)
			m.stop()
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; backup 02 02:35; "},
		"finishes": {daily, func(m *machine) {
			m.plan.Finish = true
			m.boot()
			m.pass(14*time.Hour + 35*time.Minute)
			m.stop()
			if at := m.now().Format("15:04"); at != "02:40" {
				m.t.Errorf("stopped at %s", at)
			}
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; "},
		"finishes, and told twice": {daily, func(m *machine) {
			m.plan.Finish = true
			m.boot()
			m.pass(14*time.Hour + 35*time.Minute)
			m.signal(syscall.SIGTERM)
			m.stop()
			m.boot()
			m.pass(time.Hour)
		}, "backup 02 02:30; backup 02 02:35; "},
		"a new schedule owes nothing": {daily, func(m *machine) {
			m.boot()
			m.pass(day)
			m.set(schedule.Backup, "04:00")
			m.signal(syscall.SIGHUP)
			m.pass(day)
		}, "backup 02 02:30; backup 03 04:00; "},
		"a new schedule after days off: what the old one missed": {daily, func(m *machine) {
			m.boot()
			m.kill(true)
			m.set(schedule.Backup, "04:00")
			m.pass(2 * day)
			m.boot()
			m.pass(day)
		}, "backup 03 12:00; backup 04 04:00; "},
		"a bad configuration changes nothing": {daily, func(m *machine) {
			m.boot()
			m.load, m.lax = errors.New("bad"), true
			m.set(schedule.Backup, "04:00")
			m.signal(syscall.SIGHUP)
			m.pass(12 * time.Hour)
			m.plan.Jobs = map[schedule.Kind]schedule.Schedule{}
			m.pass(3 * time.Hour)
		}, "backup 02 02:30; "},
		"loaded anew while a job claims its time": {daily, func(m *machine) {
			m.boot()
			m.pass(14*time.Hour + 30*time.Minute + 500*time.Millisecond)
			m.lax = true
			m.set(schedule.Backup, "04:00")
			m.signal(syscall.SIGHUP)
			m.pass(day)
		}, "backup 02 02:30; backup 02 04:00; "},
		"a job outlives its daemon": {map[schedule.Kind]string{schedule.Backup: "02:30", schedule.Verify: "03:00"}, func(m *machine) {
			m.lasts = func(j Job) time.Duration {
				return map[schedule.Kind]time.Duration{schedule.Backup: 2 * time.Hour, schedule.Verify: time.Minute}[j.Kind]
			}
			m.boot()
			m.pass(14*time.Hour + 35*time.Minute)
			m.kill(false)
			m.boot()
			m.pass(3 * time.Hour)
		}, "backup 02 02:30; verify 02 04:30; "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t, "UTC", "2026-01-01 12:00:00", story.jobs)
				story.tell(m)
				m.end()
				m.wantRuns(story.want)
			})
		})
	}
}

// ask asks for a job; how is how it ended.
func (m *machine) ask(k schedule.Kind, how *string) error {
	answer := make(chan error, 1)
	m.requests <- Request{Kind: k, Trigger: "telegram", Answer: answer, Ended: func(code int, took time.Duration) { *how = fmt.Sprint(code, " ", took) }}
	return <-answer
}

// TestRequests: what was asked for runs when nothing else does, in its turn, and changes
// nothing of what is due.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "UTC", "2026-03-01 02:55:00", map[schedule.Kind]string{"backup": "03:00"})
		defer m.end()
		m.boot()
		var how, verified string
		if err := m.ask("backup", &how); err != nil {
			t.Fatal(err)
		}
		m.pass(time.Second)
		if err := m.ask("backup", &how); !errors.Is(err, ErrBusy) {
			t.Errorf("while one runs: %v", err)
		}
		// A verification, which no schedule has, waits; and 03:00 waits behind it.
		if err := m.ask("verify", &verified); err != nil {
			t.Error(err)
		}
		if err := m.ask("verify", &verified); !errors.Is(err, ErrBusy) {
			t.Errorf("while one waits: %v", err)
		}
		m.pass(6 * time.Minute)
		if how != "" || len(m.runs) != 1 || m.runs[0].Trigger != "telegram" {
			t.Errorf("ended %q, runs %+v", how, m.runs)
		}
		m.pass(time.Hour)
		m.wantRuns("backup 01 02:55; verify 01 03:05; backup 01 03:15; ")
		if how != "0 10m1s" || verified != "0 10m1s" || m.runs[2].Trigger != "schedule" {
			t.Errorf("ended %q, %q; runs %+v", how, verified, m.runs)
		}
		if slices.Contains(m.idles[1:], true) || !m.idles[0] || len(m.idles) < 30 {
			t.Errorf("idle %v", m.idles)
		}

		// The daemon stops: the run is interrupted, and not owed.
		if err := m.ask("backup", &how); err != nil {
			t.Fatal(err)
		}
		m.pass(time.Minute)
		m.signal(syscall.SIGTERM)
		if err := m.ask("verify", &verified); !errors.Is(err, ErrStops) {
			t.Errorf("while it stops: %v", err)
		}
		<-m.over
		if !strings.HasPrefix(how, "130 ") {
			t.Errorf("ended %q", how)
		}
		m.boot()
		m.pass(time.Hour)
		if n := len(m.runs); n != 4 {
			t.Errorf("%d runs", n)
		}

		// It cannot be started at once; then it crashes, which Idle is told.
		m.crash = "fail"
		if err := m.ask("backup", &how); err != nil {
			t.Fatal(err)
		}
		m.pass(3 * time.Minute)
		m.idles = nil
		for _, p := range m.jobs {
			p.Kill()
		}
		synctest.Wait()
		if len(m.runs) != 5 || !strings.HasPrefix(how, "-1 ") || len(m.idles) != 1 || !m.idles[0] {
			t.Errorf("runs %+v, ended %q, idle %v", m.runs, how, m.idles)
		}

		// The daemon is killed: its job goes on, and the next daemon's waits for it.
		if err := m.ask("backup", &how); err != nil {
			t.Fatal(err)
		}
		m.pass(time.Minute)
		m.kill(false)
		m.boot()
		if err := m.ask("verify", &verified); err != nil {
			t.Fatal(err)
		}
		begun := m.runs[5].at
		m.pass(time.Hour)
		if len(m.runs) != 7 || m.runs[6].Kind != "verify" || m.runs[6].at.Sub(begun) < 10*time.Minute {
			t.Errorf("runs %+v", m.runs)
		}
		m.stop()
	})
}

// TestWallClock: what is due depends on the clock on the wall, not on the time since the
// start of the machine, which no test can set.
func TestWallClock(t *testing.T) {
	d := daemon{Options: Options{Now: time.Now}}
	for _, text := range []string{"30 * * * *", "02:30", "every 6h"} {
		s, err := schedule.Parse(text, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{d.now(), s.Next(time.Now()), s.Last(time.Now())} {
			if strings.Contains(at.String(), "m=") {
				t.Errorf("%s: %v", text, at)
			}
		}
	}
}

func TestOneDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "UTC", "2026-01-01 12:00:00", map[schedule.Kind]string{schedule.Backup: "02:30"})
		if m.state.Running() {
			t.Error("runs before it is started")
		}
		m.boot()
		if !m.state.Running() {
			t.Error("does not run")
		}
		if err := Run(Options{State: m.state}); !errors.Is(err, ErrRunning) {
			t.Errorf("error %v", err)
		}
		other := OpenState(m.state.dir, "/etc/other.ini")
		if other.Running() || other.file() == m.state.file() {
			t.Error("two configurations have one daemon")
		}
		m.stop()
		if m.state.Running() {
			t.Error("runs after its end")
		}
	})
}
