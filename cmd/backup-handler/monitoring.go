package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/metrics"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
	"github.com/SP1R4/BackupHandler/v3/internal/trace"
)

// tellMonitoring tells monitoring that a run has ended. What goes wrong is a warning.
func (a *app) tellMonitoring(ctx context.Context, runs *journal.Runs, run *journal.Run) {
	m, err := a.cfg.Metrics()
	if err != nil {
		a.warn("monitoring is not told: %v", err)
		return
	}
	if m.Textfile != "" {
		if err := a.writeTextfile(m.Textfile, runs, run); err != nil {
			a.warn("%v", err)
		}
	}
	if m.Endpoint != "" {
		if err := sendTrace(ctx, &m, run); err != nil {
			a.warn("%s", a.redactor()(err.Error()))
		}
	}
}

// tellStart lets the text file know when the run after this one is due, so that nobody takes
// one that goes on for one that is overdue. The end of the run says what goes wrong.
func (a *app) tellStart(runs *journal.Runs, run *journal.Run) {
	m, err := a.cfg.Metrics()
	if err != nil || m.Textfile == "" || runs == nil {
		return
	}
	started := *run
	started.Status = journal.Running
	if err := a.writeTextfile(m.Textfile, runs, &started); err != nil {
		a.log.Info("metrics", "error", oneLine(err.Error()))
	}
}

func sendTrace(ctx context.Context, m *config.Metrics, run *journal.Run) error {
	c := trace.Collector{Endpoint: m.Endpoint, CAFile: m.CAFile}
	if m.Headers.IsSet() {
		text, err := m.Headers.Get()
		if err != nil {
			return err
		}
		if c.Headers, err = config.ParseHeaders(text.Reveal()); err != nil {
			return fmt.Errorf("[METRICS] otlp_headers: %w", err)
		}
	}
	return c.Send(ctx, run)
}

// writeTextfile writes the metrics of all runs with this configuration.
func (a *app) writeTextfile(name string, runs *journal.Runs, run *journal.Run) error {
	if runs == nil {
		return fmt.Errorf("no metrics: there is no state directory, so that nothing is known of earlier runs")
	}
	if err := runs.MakeLocks(); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return metrics.WriteFile(name, runs.LockPath("metrics.lock"), func() (*metrics.State, error) {
		all, err := runs.List()
		if err != nil {
			return nil, err
		}
		// This run may not be recorded, on a full disk for example.
		all = slices.DeleteFunc(all, func(r journal.Run) bool { return r.ID == run.ID })
		all = slices.Insert(all, 0, *run.Bounded())
		return a.metricsOf(a.cfg, all, false)
	})
}

// metricsOf is what metrics are computed from, by a configuration. Without a schedule, or
// with one that is wrong, there are no times of one.
func (a *app) metricsOf(cfg *config.Config, runs []journal.Run, live bool) (*metrics.State, error) {
	path, err := absoluteConfig(cfg)
	if err != nil {
		return nil, err
	}
	s := &metrics.State{
		Runs: runs, Config: path, Version: version, GoVersion: runtime.Version(), Live: live,
		Due: make(map[string]time.Time), MaxAge: make(map[string]time.Duration),
	}
	f := scheduleFacts(cfg, path, time.Now())
	for kind, u := range f.upcoming {
		s.Due[string(kind)] = u.Due
	}
	for kind, age := range f.ages {
		s.MaxAge[string(kind)] = age.Max
	}
	return s, nil
}

// absoluteConfig is the configuration's path as records of runs have it; "" for none.
func absoluteConfig(cfg *config.Config) (string, error) {
	if cfg.Path() == "" {
		return "", nil
	}
	return filepath.Abs(cfg.Path())
}

// scheduled is what a schedule says of each kind of run.
type scheduled struct {
	ages     map[schedule.Kind]config.Age
	upcoming map[schedule.Kind]daemon.Upcoming
	daemon   bool // one runs for this configuration
	err      error
}

func scheduleFacts(cfg *config.Config, path string, now time.Time) (f scheduled) {
	f.upcoming = make(map[schedule.Kind]daemon.Upcoming)
	if f.ages, f.err = cfg.Ages(); f.err != nil {
		return f
	}
	plan, err := cfg.Schedule()
	if err != nil || len(plan.Jobs) == 0 {
		f.err = err
		return f
	}
	dir, err := cfg.StateDir()
	if err != nil {
		f.err = err
		return f
	}
	state := daemon.OpenState(dir, path)
	all, err := state.Upcoming(plan, hostName(), now)
	for _, u := range all {
		f.upcoming[u.Kind] = u
	}
	f.daemon, f.err = state.Running(), err
	return f
}

// serveMetrics answers at [METRICS] listen until it is stopped. latest is the configuration
// as it is at that moment. An address that cannot be had is a warning: backups are more
// important.
func (a *app) serveMetrics(latest func() *config.Config) (stop func()) {
	none := func() {}
	m, err := a.cfg.Metrics()
	if err != nil {
		a.warn("no metrics: %v", err)
		return none
	}
	if m.Listen == "" {
		return none
	}
	dir, err := a.cfg.StateDir()
	if err != nil {
		a.warn("no metrics: %v", err)
		return none
	}
	l, err := net.Listen("tcp", m.Listen)
	if err != nil {
		a.warn("no metrics: %v", err)
		return none
	}
	runs := journal.OpenRuns(dir)
	server := metrics.NewServer(func() (*metrics.State, error) {
		all, err := runs.List()
		if err != nil {
			return nil, err
		}
		return a.metricsOf(latest(), all, true)
	}, func(err error) { a.log.Warn("metrics", "error", oneLine(err.Error())) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends when it is closed
	}()
	a.note("daemon: metrics at http://" + l.Addr().String() + "/metrics")
	return func() {
		server.Close()
		<-done
	}
}

// metricsWritable are the directories, beside the usual ones, that a service writes to for
// monitoring.
func (a *app) metricsWritable() ([]string, error) {
	m, err := a.cfg.Metrics()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	if m.Textfile == "" {
		return nil, nil
	}
	return []string{filepath.Dir(m.Textfile)}, nil
}
