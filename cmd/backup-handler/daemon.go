package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

func (a *app) daemonCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "daemon [-- FLAGS OF BACKUP]",
		Short: "Run backups and the like when they are due",
		Long: `Run backups and the like when they are due, until it is told to stop.

[SCHEDULE] in the configuration says when: times and backup for backups, forget,
prune, verify and drill for the commands of these names. Each run is a process of its
own, with the configuration as it is then, and the flags that the daemon was given;
what stands after -- is for backups. Runs do not overlap. What was missed while the
machine was off or asleep is made up for once.

SIGTERM or Ctrl-C stops it: a run is interrupted cleanly and made up for at the next
start, or ([SCHEDULE] on_stop = finish) finished; a second signal hurries. SIGHUP
loads the schedule anew; if it is wrong, the old one goes on.

'backup-handler daemon next' prints what is due. 'backup-handler service install'
has the daemon started with the machine.

Exit codes: 0 told to stop · 1 usage, configuration, nothing is scheduled, or there
is a daemon for this configuration already`,
		Example: `  backup-handler daemon --config /etc/backup-handler/config.ini
  backup-handler daemon -- --tag nightly`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) > 0 && n != 0 {
				return usageError("flags for backups stand after --", "unexpected argument %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.daemon(cmd, args) },
	}
	c.AddCommand(a.daemonNextCommand())
	return c
}

// nothingScheduled is what is wrong with a configuration without a schedule.
func nothingScheduled() error {
	return usageError("set [SCHEDULE] times = 03:00 in the configuration, or backup, verify, drill or prune there",
		"nothing is scheduled: [SCHEDULE] has no times")
}

func (a *app) daemon(cmd *cobra.Command, backupArgs []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	a.resident.Store(true)
	if err := a.load(); err != nil {
		return err
	}
	if err := a.checkBackupArgs(backupArgs); err != nil {
		return err
	}
	state, err := a.scheduleState()
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("find this program's file: %w", err), "")
	}
	flags := a.flagsForJobs(cmd.Flags())
	stdout, stderr := outputFile(a.stdout), outputFile(a.stderr)
	notify, watchdog := daemon.Notifier(a.env, os.Getpid())
	desk, err := a.newDesk(state)
	if err != nil {
		return err
	}
	defer desk.close()
	first := a.cfg // as load has read it
	var latest atomic.Pointer[config.Config]
	latest.Store(a.cfg)
	defer a.serveMetrics(latest.Load)()
	err = daemon.Run(daemon.Options{
		State: state, Host: hostName(), Now: time.Now, Signals: signals, Watchdog: watchdog,
		Load: func() (schedule.Plan, error) {
			cfg := first
			if first = nil; cfg == nil {
				var err error
				if cfg, err = a.reloadConfig(); err != nil {
					return schedule.Plan{}, err
				}
			}
			plan, err := a.plan(cfg)
			if err == nil {
				latest.Store(cfg)
				desk.adopt(cfg)
			}
			return plan, err
		},
		Requests: desk.requests, Idle: desk.idle,
		Start: daemon.Program{
			Path: program, Env: os.Environ(), Stdout: stdout, Stderr: stderr, State: state,
			Args: func(j daemon.Job) []string {
				args := append([]string{string(j.Kind)}, flags...)
				if j.Kind == schedule.Backup {
					args = append(args, backupArgs...)
				}
				return args
			},
		}.Start,
		Notify: func(lines ...string) {
			if err := notify(lines...); err != nil {
				a.log.Warn(oneLine(err.Error()))
			}
			if lines[0] == "READY=1" {
				a.note("daemon: ready")
			}
		},
		Note: func(line string) { a.note("daemon: " + line) },
		Warn: func(line string) { a.warn("daemon: %s", line) },
	})
	if errors.Is(err, daemon.ErrRunning) {
		return job.Fail(job.ExitUsage, err, "stop it first, or let it load the configuration anew: kill -HUP")
	}
	if err == nil {
		a.note("daemon: ends")
	}
	return job.Fail(job.ExitUsage, err, "")
}

// reloadConfig reads the configuration file once more; its warnings are shown.
func (a *app) reloadConfig() (*config.Config, error) {
	if a.cfg.Path() == "" {
		return a.cfg, nil
	}
	cfg, warnings, err := config.Load(a.cfg.Path(), a.env)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		if !w.Note() {
			a.warn("%s", w)
		}
	}
	return cfg, nil
}

// plan is the configuration's schedule, which must not be empty.
func (a *app) plan(cfg *config.Config) (schedule.Plan, error) {
	plan, err := cfg.Schedule()
	if err != nil {
		return plan, job.Fail(job.ExitUsage, err, "'backup-handler help daemon', and docs/schedule.md, tell how times are written")
	}
	if len(plan.Jobs) == 0 {
		return plan, nothingScheduled()
	}
	return plan, nil
}

// scheduleState is what is remembered of the configuration's schedule.
func (a *app) scheduleState() (*daemon.State, error) {
	dir, err := a.cfg.StateDir()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "set [STATE] dir")
	}
	path := a.cfg.Path()
	if path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return nil, job.Fail(job.ExitUsage, err, "")
		}
	}
	return daemon.OpenState(dir, path), nil
}

// flagsForJobs are the flags that every command has, as the daemon was given them, and
// its configuration.
func (a *app) flagsForJobs(fl *pflag.FlagSet) []string {
	args := []string{"--no-progress"}
	if path, err := filepath.Abs(a.cfg.Path()); err == nil && a.cfg.Path() != "" {
		args = append(args, "--config="+path)
	}
	fl.Visit(func(f *pflag.Flag) {
		switch list, ok := f.Value.(pflag.SliceValue); {
		case f.Name == "config" || f.Name == "profile" || f.Name == "no-progress":
		case ok:
			for _, v := range list.GetSlice() {
				args = append(args, csvFlag(f.Name, v))
			}
		default:
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

// checkBackupArgs says at once what each backup would say.
func (a *app) checkBackupArgs(args []string) error {
	root := newApp(func(string) (string, bool) { return "", false }, nil, io.Discard, io.Discard).rootCommand()
	c, rest, err := root.Find(append([]string{"backup"}, args...))
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err == nil && len(c.Flags().Args()) > 0 {
		err = fmt.Errorf("unexpected argument %q", c.Flags().Arg(0))
	}
	if err != nil {
		return usageError("see 'backup-handler backup --help'", "what stands after -- is for backups: %v", err)
	}
	// A loaded configuration is needed to judge these.
	notifications, err := c.Flags().GetBool("notifications")
	if err != nil {
		return err
	}
	receivers, err := c.Flags().GetStringArray("receiver")
	if err != nil {
		return err
	}
	if err := a.toldBy(notifications, receivers); err != nil {
		return err
	}
	a.receivers = nil // the daemon itself mails nobody about a run
	return nil
}

// outputFile is where jobs write to; nil is nowhere.
func outputFile(w io.Writer) *os.File {
	f, _ := w.(*os.File)
	return f
}

// claimDue lets a process that a daemon has started claim its time. It returns what to
// do at the end of the run; nil, with an exit code: there is nothing to run.
func (a *app) claimDue(ctx context.Context, due string) (release func(), code int) {
	release, err := daemon.Claim(ctx, due)
	switch {
	case err == nil:
		return release, 0
	case errors.Is(err, daemon.ErrTaken):
		a.note(err.Error())
		return nil, job.ExitOK
	case ctx.Err() != nil:
		return nil, job.ExitInterrupted
	}
	a.warn("the run goes on, and may be repeated: %v", err)
	if release == nil {
		release = func() {}
	}
	return release, 0
}

func (a *app) daemonNextCommand() *cobra.Command {
	count := parsed[int]{kind: "number", parse: parseCount}
	c := &cobra.Command{
		Use:   "next",
		Short: "Print the next times at which something is due",
		Long: `Print the next times at which something is due, of each kind, with the jitter of
this host. What is overdue is run as soon as a daemon runs.

Exit codes: 0 printed · 1 usage, configuration, or nothing is scheduled`,
		Example: `  backup-handler daemon next
  backup-handler daemon next --count 20 --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.daemonNext(count.or(3)) },
	}
	c.Flags().VarP(&count, "count", "n", "print this many of each kind (default 3)")
	return c
}

type nextReport struct {
	Daemon bool      `json:"daemon_runs"`
	Zone   string    `json:"timezone"` // Local: the machine's
	Delay  float64   `json:"jitter_seconds"`
	Jobs   []nextJob `json:"jobs"`
}

type nextJob struct {
	Kind     schedule.Kind `json:"kind"`
	Schedule string        `json:"schedule"`
	Owed     bool          `json:"owed,omitempty"`
	Overdue  bool          `json:"overdue,omitempty"` // the first time
	Due      []time.Time   `json:"due"`
}

func (a *app) daemonNext(count int) error {
	if err := a.load(); err != nil {
		return err
	}
	plan, err := a.plan(a.cfg)
	if err != nil {
		return err
	}
	state, err := a.scheduleState()
	if err != nil {
		return err
	}
	now := time.Now()
	upcoming, err := state.Upcoming(plan, hostName(), now)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	delay := plan.Delay(hostName())
	rep := nextReport{Daemon: state.Running(), Zone: plan.Zone.String(), Delay: delay.Seconds()}
	for _, u := range upcoming {
		s := plan.Jobs[u.Kind]
		j := nextJob{Kind: u.Kind, Schedule: s.String(), Owed: u.Owed, Overdue: !u.Due.IsZero() && u.Due.Before(now)}
		for due := u.Due; !due.IsZero() && len(j.Due) < count; {
			j.Due = append(j.Due, due.In(plan.Zone))
			after := due.Add(-delay)
			if due.Before(now) {
				after = now.Add(-delay)
			}
			if due = s.Next(after); !due.IsZero() {
				due = due.Add(delay)
			}
		}
		rep.Jobs = append(rep.Jobs, j)
	}
	return a.print(rep, func(w io.Writer) error { nextText(w, &rep); return nil })
}

func nextText(w io.Writer, rep *nextReport) {
	for _, j := range rep.Jobs {
		fmt.Fprintf(w, "%-7s %s\n", j.Kind, cutLine(oneLine(j.Schedule), 72))
		if j.Owed {
			fmt.Fprintln(w, "        one is owed: it was interrupted or missed")
		}
		for i, due := range j.Due {
			mark := ""
			if i == 0 && j.Overdue {
				mark = "  overdue"
			}
			fmt.Fprintf(w, "        %s%s\n", due.Format("Mon 2006-01-02 15:04:05 MST"), mark)
		}
	}
	if rep.Delay > 0 {
		fmt.Fprintf(w, "with this host's jitter, %s\n", time.Duration(rep.Delay*float64(time.Second)))
	}
	if !rep.Daemon {
		fmt.Fprintln(w, "no daemon runs for this configuration")
	}
}

// cutLine shortens a line to so many characters.
func cutLine(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}
