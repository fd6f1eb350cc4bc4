package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
	"github.com/SP1R4/BackupHandler/v3/internal/service"
)

type serviceFlags struct {
	user, timer, noSandbox, force, dryRun bool
	runAs, unitDir, credential, envFile   string
	system                                string // GOOS whose files are meant
}

func (a *app) serviceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "Have the daemon started with the machine, or runs by systemd's timers",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(a.serviceInstallCommand(), a.serviceShowCommand(), a.serviceStatusCommand(), a.serviceRemoveCommand())
	return c
}

// where registers the flags that say where files are.
func (f *serviceFlags) where(fl *pflag.FlagSet) {
	fl.BoolVar(&f.user, "user", false, "of this user alone, without root's rights")
	fl.StringVar(&f.unitDir, "unit-dir", "", "directory of the files, for packagers; the service manager is not called")
	f.system = runtime.GOOS
}

// what registers the flags that say what is in them.
func (f *serviceFlags) what(fl *pflag.FlagSet) {
	f.where(fl)
	fl.BoolVar(&f.timer, "timer", false, "a systemd timer for each kind of run instead of the daemon")
	fl.StringVar(&f.runAs, "run-as", "", "user who runs it; may read everything, and writes only as this user (default root)")
	fl.BoolVar(&f.noSandbox, "no-sandbox", false, "leave out the sandbox: for hooks that need more")
	fl.StringVar(&f.credential, "load-passphrase", "", "file with the passphrase that systemd hands over; encrypted by systemd-creds if it ends in .cred")
	fl.StringVar(&f.envFile, "environment-file", "", "file with variables for ${NAME} in the configuration (default environment beside it)")
}

func (a *app) serviceInstallCommand() *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the service, and start it",
		Long: `Install what starts the daemon with the machine, and start it: a unit of systemd; on
macOS a launch daemon, on Windows a task. With --timer it is a systemd timer for
each kind of run in [SCHEDULE]: nothing stays resident, and systemd keeps the times.

A unit of systemd is a sandbox. It reads everything, and writes only to the local
destinations of the configuration, the state, cache and drill directories. So
install again when these have changed; it changes only what differs. Files that it
has not written are left alone (--force replaces them).

No secret is written into a unit: use [ENCRYPTION] key_file, --load-passphrase, or
${NAME} in the configuration and NAME=… in --environment-file (of root, mode 600).

Exit codes: 0 installed · 1 usage, configuration, or it cannot be installed`,
		Example: `  backup-handler service install --config /etc/backup-handler/config.ini
  backup-handler service install --timer --run-as backup --dry-run
  backup-handler service install --user`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serviceInstall(cmd, &f) },
	}
	f.what(c.Flags())
	c.Flags().BoolVar(&f.force, "force", false, "replace files that were not written by this command")
	c.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "print the files; write nothing")
	return c
}

func (a *app) serviceShowCommand() *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the files that install would write",
		Long: `Print the files that install would write with these flags, of this system or
another one (--for linux, darwin, windows).

Exit codes: 0 printed · 1 usage or configuration`,
		Example: `  backup-handler service show --timer
  backup-handler service show --for darwin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := a.serviceFiles(cmd, &f)
			if err != nil {
				return err
			}
			return a.printFiles(files)
		},
	}
	f.what(c.Flags())
	c.Flags().StringVar(&f.system, "for", runtime.GOOS, "system: linux, darwin or windows")
	return c
}

func (a *app) serviceStatusCommand() *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is installed, and whether it runs",
		Long: `Show which files are installed, and, where systemd runs, how their units are.

Exit codes: 0 something is installed · 1 nothing is, or usage`,
		Example: `  backup-handler service status`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.serviceStatus(cmd.Context(), &f) },
	}
	f.where(c.Flags())
	return c
}

func (a *app) serviceRemoveCommand() *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use:   "remove",
		Short: "Stop the service, and remove what install has written",
		Long: `Stop the service, and remove the files that install has written; what others have
written, state and configuration stay.

Exit codes: 0 nothing is there any more · 1 it cannot be removed, or usage`,
		Example: `  backup-handler service remove
  backup-handler service remove --user`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serviceRemove(cmd.Context(), &f) },
	}
	f.where(c.Flags())
	c.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "print the names; remove nothing")
	return c
}

// dir is where the files of the service are.
func (f *serviceFlags) dir(env func(string) (string, bool)) (string, error) {
	if f.unitDir != "" {
		return filepath.Abs(f.unitDir)
	}
	home, err := os.UserHomeDir()
	if err != nil && f.user {
		return "", err
	}
	switch {
	case f.system == "darwin" && f.user:
		return filepath.Join(home, "Library/LaunchAgents"), nil
	case f.system == "darwin":
		return "/Library/LaunchDaemons", nil
	case f.system == "windows":
		all, _ := env("ProgramData")
		if all == "" || f.user {
			return filepath.Join(home, `AppData\Local\backup-handler`), nil
		}
		return filepath.Join(all, service.Name), nil
	case f.system != "linux":
		return "", usageError("call 'backup-handler backup' from cron, or start 'backup-handler daemon' yourself", "there is no service on %s", f.system)
	case !f.user:
		return "/etc/systemd/system", nil
	}
	if config, _ := env("XDG_CONFIG_HOME"); filepath.IsAbs(config) {
		return filepath.Join(config, "systemd/user"), nil
	}
	return filepath.Join(home, ".config/systemd/user"), nil
}

// serviceFiles renders the files of the configuration's service.
func (a *app) serviceFiles(cmd *cobra.Command, f *serviceFlags) ([]service.File, error) {
	o, err := a.serviceOptions(cmd, f)
	if err != nil {
		return nil, err
	}
	var files []service.File
	switch f.system {
	case "darwin":
		files, err = service.Launchd(*o)
	case "windows":
		files, err = service.Task(*o)
	case "linux":
		files, err = service.Systemd(*o)
	default:
		_, err = f.dir(a.env)
	}
	return files, job.Fail(job.ExitUsage, err, "")
}

func (a *app) serviceOptions(cmd *cobra.Command, f *serviceFlags) (*service.Options, error) {
	if err := a.load(); err != nil {
		return nil, err
	}
	if a.cfg.Path() == "" {
		return nil, usageError("'backup-handler config example' prints one to begin with", "a service needs a configuration, and there is none")
	}
	for flag, wrong := range map[string]bool{
		"--user and --run-as":                     f.user && f.runAs != "",
		"--timer and --for " + f.system:           f.timer && f.system != "linux",
		"--load-passphrase and --for " + f.system: f.credential != "" && f.system != "linux",
	} {
		if wrong {
			return nil, usageError("", "%s exclude each other", flag)
		}
	}
	plan, err := a.plan(a.cfg)
	if err != nil {
		return nil, err
	}
	o := &service.Options{UserUnit: f.user, Timers: f.timer, Unconfined: f.noSandbox, User: f.runAs, Plan: plan}
	if o.Zone, err = a.cfg.TimeZone(); err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	if o.Program, err = os.Executable(); err == nil {
		o.Config, err = filepath.Abs(a.cfg.Path())
	}
	if err == nil {
		o.Args, err = serviceArgs(cmd.Flags())
	}
	if err == nil && f.credential != "" {
		o.PassphraseFile, err = filepath.Abs(f.credential)
	}
	if o.EnvironmentFile = f.envFile; err == nil && o.EnvironmentFile == "" {
		o.EnvironmentFile = filepath.Join(filepath.Dir(o.Config), "environment")
	}
	if err == nil {
		o.EnvironmentFile, err = filepath.Abs(o.EnvironmentFile)
	}
	if err == nil {
		o.Sources, err = a.cfg.Sources()
	}
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	return o, a.serviceDirs(o)
}

// serviceDirs fills in the directories that the service writes to.
func (a *app) serviceDirs(o *service.Options) error {
	state, err := a.cfg.StateDir()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "set [STATE] dir")
	}
	cache, err := a.cfg.CacheDir()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "set [CACHE] dir")
	}
	if o.User != "" && o.User != "root" {
		// The defaults of that user are in a home that may not be there.
		if !a.cfg.Value("CACHE", "dir").IsSet() {
			cache = "/var/cache/" + service.Name
		}
		o.Environment = append(o.Environment, "XDG_CACHE_HOME="+filepath.Dir(cache))
	}
	if !a.cfg.Value("STATE", "dir").IsSet() {
		o.Environment = append(o.Environment, "BACKUP_HANDLER_DATA_DIR="+state)
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	o.StateDir = state
	for _, l := range locations {
		if !strings.Contains(l, "://") {
			if l, err = filepath.Abs(l); err != nil {
				return job.Fail(job.ExitUsage, err, "")
			}
			o.Writable = append(o.Writable, l)
		}
	}
	o.Writable = append(o.Writable, state, cache)
	if drill, err := a.cfg.Drill(); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	} else if _, drills := o.Plan.Jobs[schedule.Drill]; drills && drill.Dir != "" {
		o.Writable = append(o.Writable, drill.Dir)
	}
	more, err := a.metricsWritable()
	if err != nil {
		return err
	}
	o.Writable = append(o.Writable, more...)
	return nil
}

// serviceArgs are the flags that were given, for each run. Paths become absolute.
func serviceArgs(fl *pflag.FlagSet) (args []string, err error) {
	fl.VisitAll(func(f *pflag.Flag) {
		if !f.Changed || err != nil {
			return
		}
		switch f.Name {
		case "tailscale-authkey", "recovery-key":
			err = usageError("use [TAILSCALE] auth_key_file, or [ENCRYPTION] key_file", "--%s: a service cannot have it", f.Name)
		case "key-file", "passphrase-file", "identity-file":
			var path string
			if path, err = filepath.Abs(f.Value.String()); err == nil {
				args = append(args, "--"+f.Name+"="+path)
			}
		case "backup-dirs":
			for _, v := range f.Value.(pflag.SliceValue).GetSlice() {
				if !strings.Contains(v, "://") {
					v, err = filepath.Abs(v)
				}
				args = append(args, csvFlag(f.Name, v))
			}
		case "keyring", "tailscale", "no-cache", "verbose", "limit-cpu", "limit-upload", "limit-download", "io-idle":
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args, err
}

type fileReport struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

func (a *app) printFiles(files []service.File) error {
	var all []fileReport
	for _, f := range files {
		all = append(all, fileReport{f.Name, service.Text(f.Data)})
	}
	return a.print(all, func(w io.Writer) error {
		for i, f := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if len(all) > 1 {
				fmt.Fprintf(w, "# %s\n", f.Name)
			}
			fmt.Fprint(w, f.Content)
		}
		return nil
	})
}

type serviceReport struct {
	Dir     string   `json:"directory"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
	Steps   []string `json:"steps"`          // that were done
	Todo    []string `json:"todo,omitempty"` // that are left to whoever installs
}

func (a *app) serviceInstall(cmd *cobra.Command, f *serviceFlags) error {
	files, err := a.serviceFiles(cmd, f)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.printFiles(files)
	}
	dir, err := f.dir(a.env)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	if err := a.prepareService(cmd, f); err != nil {
		return err
	}
	rep := serviceReport{Dir: dir, Changed: []string{}, Removed: []string{}, Steps: []string{}}
	changed, err := service.Install(dir, files, f.force)
	if err != nil {
		return job.Fail(job.ExitUsage, err, serviceHint(err))
	}
	rep.Changed = append(rep.Changed, changed...)
	m := a.manager(f, dir)
	var keep []string
	for _, x := range files {
		keep = append(keep, x.Name)
	}
	old, err := service.Installed(dir)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	for _, n := range old {
		if !slices.Contains(keep, n) {
			m.stop(cmd.Context(), n)
		}
	}
	removed, err := service.Remove(dir, keep...)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	rep.Removed = append(rep.Removed, removed...)
	m.start(cmd.Context(), keep, len(changed)+len(removed) > 0)
	rep.Steps, rep.Todo = append(rep.Steps, m.done...), m.todo
	err = a.print(rep, func(w io.Writer) error {
		for _, n := range rep.Changed {
			fmt.Fprintf(w, "wrote %s\n", quote(filepath.Join(dir, n)))
		}
		serviceText(w, &rep)
		if len(rep.Changed)+len(rep.Removed) == 0 {
			fmt.Fprintln(w, "nothing had to be changed")
		}
		return nil
	})
	if err == nil && m.err != nil {
		err = job.Fail(job.ExitUsage, m.err, "the files are written; 'backup-handler service status' tells more")
	}
	return err
}

func serviceText(w io.Writer, rep *serviceReport) {
	for _, n := range rep.Removed {
		fmt.Fprintf(w, "removed %s\n", quote(filepath.Join(rep.Dir, n)))
	}
	for _, s := range rep.Steps {
		fmt.Fprintf(w, "ran %s\n", s)
	}
	for _, s := range rep.Todo {
		fmt.Fprintf(w, "to do: %s\n", s)
	}
}

func serviceHint(err error) string {
	switch {
	case errors.Is(err, service.ErrForeign):
		return "remove it, or use --force to replace it"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or use --user"
	}
	return ""
}

// prepareService makes the directories that have to be there when the service starts, and
// says what it will lack.
func (a *app) prepareService(cmd *cobra.Command, f *serviceFlags) error {
	o, err := a.serviceOptions(cmd, f)
	if err != nil {
		return err
	}
	owner := -1
	if o.User != "" && f.system == "linux" {
		u, err := user.Lookup(o.User)
		if err != nil {
			return usageError("create it first, e.g. useradd --system "+o.User, "there is no user %q", o.User)
		}
		if owner, err = strconv.Atoi(u.Uid); err != nil {
			owner = -1
		}
	}
	metricsDirs, err := a.metricsWritable()
	if err != nil {
		return err
	}
	state := slices.Index(o.Writable, o.StateDir)
	for i, dir := range o.Writable {
		_, err := os.Stat(dir)
		switch {
		case err == nil || f.unitDir != "":
		case slices.Contains(metricsDirs, dir):
			a.warn("%s is not there, so that no metrics are written: make the directory, for whoever reads them, and restart the service", quote(dir))
		case i < state || !errors.Is(err, fs.ErrNotExist):
			a.warn("%s is not there: 'backup-handler init' makes the repository; then restart the service, which cannot write to it before", quote(dir))
		default:
			if err = os.MkdirAll(dir, 0o700); err == nil && owner > 0 {
				err = os.Chown(dir, owner, -1)
			}
			if err != nil {
				return job.Fail(job.ExitUsage, err, serviceHint(err))
			}
		}
	}
	e, err := a.cfg.Encryption()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	_, missing := os.Stat(o.EnvironmentFile)
	if e.Enabled && !e.KeyFile.IsSet() && !e.Keyring && o.PassphraseFile == "" && a.keyFile == "" && a.passFile == "" && missing != nil {
		a.warn("the service has no key yet: set [ENCRYPTION] key_file, use --load-passphrase, or write the variables of the configuration into %s (mode 600)", quote(o.EnvironmentFile))
	}
	for _, hook := range []string{"pre_backup", "post_backup"} {
		if a.cfg.Value("HOOKS", hook).IsSet() && !f.noSandbox && f.system == "linux" {
			a.warn("[HOOKS] %s runs in the sandbox, too: if it needs more, 'systemctl edit' the unit, or use --no-sandbox", hook)
		}
	}
	return nil
}

// A manager calls what starts services, or says what to call.
type manager struct {
	*serviceFlags
	dir  string
	here bool // it runs, and is to be called
	done []string
	todo []string
	err  error // the first
}

func (a *app) manager(f *serviceFlags, dir string) *manager {
	m := &manager{serviceFlags: f, dir: dir, here: f.unitDir == "" && f.system == runtime.GOOS}
	if f.system == "linux" {
		_, err := os.Stat("/run/systemd/system") // as sd_booted(3)
		m.here = m.here && err == nil
	}
	return m
}

// managerTimeout bounds one call: stopping waits for a run to end.
const managerTimeout = 15 * time.Minute

func (m *manager) call(ctx context.Context, args ...string) {
	line := strings.Join(args, " ")
	if !m.here {
		m.todo = append(m.todo, line)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err == nil {
		m.done = append(m.done, line)
	} else if m.err == nil {
		m.err = fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
}

func (m *manager) systemctl(ctx context.Context, args ...string) {
	if m.user {
		args = append([]string{"--user"}, args...)
	}
	m.call(ctx, append([]string{"systemctl"}, args...)...)
}

// started says whether a unit is started by itself: not what a timer starts.
func started(name string, all []string) bool {
	service, ok := strings.CutSuffix(name, ".service")
	return !ok || !slices.Contains(all, service+".timer")
}

func (m *manager) start(ctx context.Context, names []string, changed bool) {
	switch m.system {
	case "darwin":
		if changed {
			m.call(ctx, "launchctl", "bootstrap", m.domain(), filepath.Join(m.dir, names[0]))
		}
	case "windows":
		if changed {
			m.call(ctx, "schtasks", "/Create", "/F", "/TN", service.Name, "/XML", filepath.Join(m.dir, names[0]))
			m.call(ctx, "schtasks", "/Run", "/TN", service.Name)
		}
	default:
		m.systemctl(ctx, "daemon-reload")
		for _, n := range names {
			if !started(n, names) {
				continue
			}
			m.systemctl(ctx, "enable", "--now", n)
			if changed {
				m.systemctl(ctx, "try-restart", n)
			}
		}
	}
}

// domain is launchd's.
func (m *manager) domain() string {
	if m.user {
		return "gui/" + strconv.Itoa(os.Getuid())
	}
	return "system"
}

func (m *manager) stop(ctx context.Context, name string) {
	switch m.system {
	case "darwin":
		m.call(ctx, "launchctl", "bootout", m.domain()+"/"+service.Label)
	case "windows":
		m.call(ctx, "schtasks", "/Delete", "/F", "/TN", service.Name)
	default:
		if name == service.Name+".service" || strings.HasSuffix(name, ".timer") {
			m.systemctl(ctx, "disable", "--now", name)
		}
	}
}

func (a *app) serviceRemove(ctx context.Context, f *serviceFlags) error {
	dir, err := f.dir(a.env)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	names, err := service.Installed(dir)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	rep := serviceReport{Dir: dir, Changed: []string{}, Removed: []string{}, Steps: []string{}}
	m := a.manager(f, dir)
	if f.dryRun {
		rep.Removed = append(rep.Removed, names...)
	} else {
		for _, n := range names {
			m.stop(ctx, n)
		}
		removed, err := service.Remove(dir)
		if err != nil {
			return job.Fail(job.ExitUsage, err, serviceHint(err))
		}
		rep.Removed = append(rep.Removed, removed...)
		if len(removed) > 0 && f.system == "linux" {
			m.systemctl(ctx, "daemon-reload")
		}
	}
	rep.Steps, rep.Todo = append(rep.Steps, m.done...), m.todo
	err = a.print(rep, func(w io.Writer) error {
		if len(rep.Removed) == 0 {
			fmt.Fprintln(w, "nothing is installed")
		}
		if f.dryRun {
			for _, n := range rep.Removed {
				fmt.Fprintf(w, "would remove %s\n", quote(filepath.Join(dir, n)))
			}
			return nil
		}
		serviceText(w, &rep)
		return nil
	})
	if err == nil && m.err != nil {
		err = job.Fail(job.ExitUsage, m.err, "the files are removed")
	}
	return err
}

type unitStatus struct {
	File  string `json:"file"`
	State string `json:"state,omitempty"` // as systemd has it; "" where it does not run
}

func (a *app) serviceStatus(ctx context.Context, f *serviceFlags) error {
	dir, err := f.dir(a.env)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	names, err := service.Installed(dir)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	all := []unitStatus{}
	m := a.manager(f, dir)
	for _, n := range names {
		u := unitStatus{File: filepath.Join(dir, n)}
		if m.here && f.system == "linux" {
			u.State = m.unitState(ctx, n)
		}
		all = append(all, u)
	}
	err = a.print(all, func(w io.Writer) error {
		for _, u := range all {
			fmt.Fprintln(w, strings.TrimSpace(quote(u.File)+"  "+u.State))
		}
		if len(all) == 0 {
			fmt.Fprintln(w, "nothing is installed")
		}
		return nil
	})
	if err == nil && len(all) == 0 {
		err = outcome(job.ExitUsage)
	}
	return err
}

// unitState is how a unit is, in systemd's words: "enabled, active (running): waits for …".
func (m *manager) unitState(ctx context.Context, name string) string {
	args := []string{"show", "--value", "-p", "UnitFileState", "-p", "ActiveState", "-p", "SubState", "-p", "StatusText", name}
	if m.user {
		args = append([]string{"--user"}, args...)
	}
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		return oneLine("unknown: " + err.Error())
	}
	return oneLine(strings.Join(strings.Fields(strings.ReplaceAll(string(out), "\n", " ")), " "))
}
