package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tailscale"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// An app is one execution of the program.
//
// Rules of the output: facts go to standard output, as text or (--json) as one JSON
// document; progress, notes and errors go to standard error. An error is one line
// "backup-handler: …", what to do about it one line "hint: …".
type app struct {
	env            func(string) (string, bool)
	environ        []string // all of it, for hooks
	stdin          io.Reader
	stdout, stderr io.Writer

	// Global flags.
	configPath, profile          string
	backupDirs                   []string
	keyFile, passFile, identFile string
	keyring, recoveryKey         bool
	json, quiet, verbose         bool
	noCache, noProgress          bool
	joinTailnet                  bool
	tailnetKey                   string
	limitFlags                   limitFlags
	receivers                    []string   // of mail about this run
	filter                       job.Filter // of commands with filterFlags

	pacer  limit.Pacer
	limits storage.Limits
	// proving: what is read has to come from the repository itself, not from what
	// this machine keeps of it.
	proving bool
	untidy  atomic.Int32 // scratch directories that are still there
	ending  atomic.Int32 // runs that have to be brought to their end
	// resident: the command takes care of signals itself.
	resident atomic.Bool
	retried  atomic.Int64 // when a retry was last shown, Unix nanoseconds

	// recovery is what --recovery-key has asked for; nil: not yet.
	recovery *seal.KeyFile

	warnMu sync.Mutex
	warned []string // of this run

	cfg     *config.Config
	runID   string
	started time.Time
	log     *slog.Logger
	logs    *journal.Log
	audit   *journal.Audit
	// tailnet is how other machines are reached; nil: directly.
	tailnet *tailscale.Node
}

func newApp(env func(string) (string, bool), stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{env: env, stdin: stdin, stdout: stdout, stderr: stderr, log: slog.New(slog.DiscardHandler)}
}

// run executes a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	args, err := translate(args)
	if err == nil {
		root.SetArgs(args)
		root.SetIn(a.stdin)
		root.SetOut(a.stdout)
		root.SetErr(a.stderr)
		err = root.ExecuteContext(limit.With(ctx, &a.pacer))
	}
	if a.tailnet != nil {
		a.tailnet.Close()
	}
	if ctx.Err() != nil && !a.resident.Load() {
		err = &job.Failure{Code: job.ExitInterrupted, Err: errors.New("interrupted"), Hint: "nothing is lost: what was stored is used by the next run"}
	}
	code := a.report(err)
	a.closeLogs(code, err)
	return code
}

// awaitTidy waits until nothing is left behind that a command has made for itself, at
// most for tidyTime.
func (a *app) awaitTidy() { await(tidyTime, &a.untidy) }

// awaitEnding waits until runs have ended as they should, at most for endingTime.
func (a *app) awaitEnding() { await(endingTime, &a.ending) }

func await(most time.Duration, n *atomic.Int32) {
	for end := time.Now().Add(most); n.Load() > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

// report prints an error and returns its exit code.
func (a *app) report(err error) int {
	if err == nil {
		return job.ExitOK
	}
	code, hint := job.ExitUsage, ""
	if f, ok := errors.AsType[*job.Failure](err); ok {
		code, hint = f.Code, f.Hint
	}
	if !errors.Is(err, job.ErrReported) {
		fmt.Fprintln(a.stderr, "backup-handler: "+oneLine(err.Error()))
	}
	if hint != "" {
		fmt.Fprintln(a.stderr, "hint: "+hint)
	}
	return code
}

// outcome ends a command that has said all there is to say.
func outcome(code int) error {
	if code == job.ExitOK {
		return nil
	}
	return &job.Failure{Code: code, Err: job.ErrReported}
}

// oneLine keeps joined errors and hostile names, which errors of the system hold,
// from breaking lines or talking to the terminal.
func oneLine(s string) string {
	return escape(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "), false)
}

func (a *app) rootCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup-handler",
		Short: "Keep every version of your files, encrypted, deduplicated and verified",
		Long: `backup-handler keeps every version of a machine's files in repositories:
deduplicated, compressed, encrypted and verified.

SNAPSHOT is "latest", the first digits of an ID, or a time (20260228_030000,
2026-02-28 03:00, RFC 3339): the newest snapshot at or before it. In a repository
with snapshots of several hosts, latest and times are those of this host, or --host.

Exit codes: 0 all done · 1 usage, configuration, or a verification found damage
2 refused before anything was done · 3 a destination, source or file failed
130 interrupted`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SetOut(a.stderr)
			cmd.Help()
			return outcome(job.ExitUsage)
		},
	}
	c.CompletionOptions.HiddenDefaultCmd = false
	f := c.PersistentFlags()
	f.StringVar(&a.configPath, "config", "", "configuration file")
	f.StringVar(&a.profile, "profile", "", "use config.NAME.ini beside the default configuration")
	f.StringSliceVar(&a.backupDirs, "backup-dirs", nil, "repositories (repeat, or separate with commas)")
	f.StringVar(&a.keyFile, "key-file", "", "key file of 32 bytes, or a file with the key of a recovery sheet")
	f.StringVar(&a.passFile, "passphrase-file", "", "file with the passphrase (else $"+job.PassphraseEnv+", the configuration, or a prompt)")
	f.StringVar(&a.identFile, "identity-file", "", "file with the private key of a recipient")
	f.BoolVar(&a.recoveryKey, "recovery-key", false, "ask for the key of a recovery sheet")
	f.BoolVar(&a.keyring, "keyring", false, "use the key in the operating system's keyring first ([ENCRYPTION] keyring: last)")
	f.BoolVar(&a.json, "json", false, "print facts as JSON")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print errors only")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print more, e.g. each file")
	f.BoolVar(&a.noCache, "no-cache", false, "do not use the index cache")
	f.BoolVar(&a.noProgress, "no-progress", false, "no progress display")
	f.BoolVar(&a.joinTailnet, "tailscale", false, "reach repositories on other machines through the tailnet of [TAILSCALE]")
	f.StringVar(&a.tailnetKey, "tailscale-authkey", "", "key to join it with; everybody can see it here, in the configuration nobody")
	a.limitFlags.register(c)
	c.MarkFlagsMutuallyExclusive("config", "profile")
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return job.Fail(job.ExitUsage, err, "see 'backup-handler "+strings.TrimPrefix(cmd.CommandPath()+" ", "backup-handler ")+"--help'")
	})
	c.AddCommand(a.commands()...)
	return c
}

// load reads the configuration, once, opens the logs, and puts the limits into
// effect.
func (a *app) load() error {
	if a.cfg != nil {
		return nil
	}
	path, err := config.Find(config.FindOptions{Path: a.configPath, Profile: a.profile, Env: a.env})
	switch {
	case errors.Is(err, config.ErrNone):
		a.cfg = config.Defaults(a.env)
	case err != nil:
		return job.Fail(job.ExitUsage, err, "")
	default:
		cfg, warnings, err := config.Load(path, a.env)
		if err != nil {
			return job.Fail(job.ExitUsage, err, "'backup-handler config check' lists everything that is wrong")
		}
		a.cfg = cfg
		for _, w := range warnings {
			if !w.Note() {
				a.warn("%s", w)
			}
		}
	}
	if err := a.openLogs(); err != nil {
		return err
	}
	return a.limit()
}

// openLogs opens application.log and audit.log. A log that cannot be written is a
// warning: it must not stand between a person and their data.
func (a *app) openLogs() error {
	start := time.Now()
	id, err := journal.NewRunID(start, rand.Reader)
	if err != nil {
		return err
	}
	a.runID, a.started = id, start
	lc, err := a.cfg.Log()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	if lc.Syslog {
		h, err := journal.SystemLog(id, lc.Level)
		if err != nil {
			a.warn("no system log: %v", err)
		} else {
			a.log = slog.New(h)
		}
	}
	dir, err := a.cfg.StateDir()
	if err != nil {
		a.warn("no logs: %v", err)
		return nil
	}
	a.logs, err = journal.OpenLog(journal.LogOptions{Dir: dir, RunID: id, Level: lc.Level, JSON: lc.JSON, MaxSizeMB: lc.MaxSizeMB, MaxFiles: lc.MaxFiles})
	if err != nil {
		a.warn("no application log: %v", err)
	} else {
		a.log = slog.New(slog.NewMultiHandler(a.logs.Handler(), a.log.Handler()))
	}
	host, _ := os.Hostname()
	a.audit, err = journal.OpenAudit(journal.AuditOptions{Dir: dir, RunID: id, User: userName(), Host: host, Now: time.Now})
	if err != nil {
		a.audit = nil
		a.warn("no audit log: %v", err)
	}
	if a.cfg.Path() != "" {
		a.record("config_loaded", slog.String("path", a.cfg.Path()))
	}
	return nil
}

// A strayLog takes what libraries write to the log of package log, a line each: into
// the application log, at debug level, once it is open.
type strayLog struct{ a *app }

func (s strayLog) Write(line []byte) (int, error) {
	if l := s.a.log; l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("library: " + oneLine(s.a.redactor()(string(line))))
	}
	return len(line), nil
}

// record writes an audit record.
func (a *app) record(event string, fields ...slog.Attr) {
	if a.audit == nil {
		return
	}
	if err := a.audit.Append("audit."+event, fields...); err != nil {
		a.warn("audit log: %v", err)
	}
}

func (a *app) closeLogs(code int, err error) {
	if err != nil && !errors.Is(err, job.ErrReported) {
		a.log.Error("command failed", "error", err.Error(), "exit_code", code)
	}
	if a.logs != nil {
		if err := a.logs.Close(); err != nil {
			fmt.Fprintln(a.stderr, "warning: application log: "+oneLine(err.Error()))
		}
	}
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// warn prints a line that is no error.
func (a *app) warn(format string, args ...any) {
	line := oneLine(fmt.Sprintf(format, args...))
	fmt.Fprintln(a.stderr, "warning: "+line)
	a.log.Warn(line)
	a.noteWarning(line)
}

// retriesEvery is how often somebody who waits is told that a request is tried
// again; the log has each.
const retriesEvery = 5 * time.Second

// retrying tells that a request has failed and is tried again.
func (a *app) retrying(line string) {
	line = oneLine(line)
	a.log.Warn(line)
	now := time.Now().UnixNano()
	last := a.retried.Load()
	if a.quiet || last != 0 && now-last < int64(retriesEvery) || !a.retried.CompareAndSwap(last, now) {
		return
	}
	fmt.Fprintln(a.stderr, "waiting: "+line)
}

// note prints a line of information.
func (a *app) note(line string) {
	a.log.Info(line)
	if !a.quiet {
		fmt.Fprintln(a.stderr, oneLine(line))
	}
}

// locations are the repositories that a command works on.
func (a *app) locations() ([]string, error) { return a.destinations(nil, nil) }

// destinations are the repositories that a command works on, where modes, or else
// servers, may be given by flags of BackupHandler 2.5.
func (a *app) destinations(modes, servers []string) ([]string, error) {
	all, err := a.chosen(modes, servers)
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	if len(all) == 0 {
		return nil, job.Fail(job.ExitUsage, errors.New("no repository is given"), "use --backup-dirs, or set [BACKUPS] backup_dirs in the configuration")
	}
	return all, checkLocations(all)
}

func checkLocations(all []string) error {
	for _, l := range all {
		if location.HasPassword(l) {
			return job.Fail(job.ExitUsage, fmt.Errorf("%s: an address must not hold a password", location.Redact(l)),
				"everybody can see command lines: use a key, or set [SSH] password = ${SSH_PASSWORD} in the configuration")
		}
	}
	return nil
}

func (a *app) chosen(modes, servers []string) ([]string, error) {
	if len(modes)+len(servers) == 0 && len(a.backupDirs) > 0 {
		return a.backupDirs, nil
	}
	use, err := a.cfg.Modes()
	if err != nil {
		return nil, err
	}
	if len(servers) > 0 {
		use = config.Modes{Local: len(a.backupDirs) > 0, SSH: true}
	}
	// A database alone goes where BackupHandler 2.5 put it.
	modes = slices.DeleteFunc(slices.Clone(modes), func(m string) bool { return m == "db" })
	if len(modes) > 0 {
		use = config.Modes{Local: slices.Contains(modes, "local"), SSH: slices.Contains(modes, "ssh"), S3: slices.Contains(modes, "s3")}
	}
	var all []string
	if use.Local {
		all = slices.Clone(a.backupDirs)
		if len(all) == 0 {
			if all, err = a.cfg.BackupDirs(); err != nil {
				return nil, err
			}
		}
		if len(all) == 0 && len(modes) > 0 {
			return nil, errors.New("mode local has no destination: use --backup-dirs, or set [BACKUPS] backup_dirs")
		}
	}
	if use.SSH {
		c, err := a.cfg.SSH()
		if err != nil {
			return nil, err
		}
		if len(servers) == 0 {
			servers = c.Servers
		}
		if len(servers) == 0 {
			return nil, errors.New("mode ssh has no destination: use --ssh-servers, or set [SSH] ssh_servers")
		}
		for _, s := range servers {
			l, err := job.ServerLocation(s, c)
			if err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	if use.S3 {
		c, err := a.cfg.S3()
		if err != nil {
			return nil, err
		}
		l, err := job.BucketLocation(c)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// configured are the destinations of the configuration, whatever flags say.
func (a *app) configured() ([]string, error) {
	return (&app{cfg: a.cfg}).chosen(nil, nil)
}

// known is the memory of repositories; it remembers nothing where there is no state
// directory, which load has said.
func (a *app) known() job.Known {
	dir, err := a.cfg.StateDir()
	if err != nil {
		return job.Known{}
	}
	return job.Known{Dir: dir}
}

// lists are those of SHA-256s for drills; none where there is no state directory.
func (a *app) lists() job.Lists {
	dir, err := a.cfg.StateDir()
	if err != nil {
		return job.Lists{}
	}
	return job.Lists{Dir: filepath.Join(dir, "lists")}
}

// prepareTailnet says how other machines are reached. The tailnet is joined later,
// when the first of them is needed.
func (a *app) prepareTailnet() error {
	if a.tailnetKey != "" {
		a.warn("--tailscale-authkey: everybody on this machine can see the key: set [TAILSCALE] auth_key = ${TAILSCALE_AUTHKEY} or auth_key_file instead")
	}
	host, _ := os.Hostname()
	var err error
	a.tailnet, err = job.Tailnet(a.cfg, job.TailnetOptions{
		Enable: a.joinTailnet || a.tailnetKey != "", Key: config.NewSecretString(a.tailnetKey), Host: host,
		Log: func(line string) { a.log.Debug("tailscale: " + oneLine(line)) },
	})
	return job.Fail(job.ExitUsage, err, "")
}

// access gathers the keys.
func (a *app) access(encrypt bool, recipients []string) (*job.Access, error) {
	if a.recoveryKey && a.recovery == nil {
		var err error
		if a.recovery, err = job.AskRecoveryKey(a.prompter(), func(line string) { a.warn("%s", line) }); err != nil {
			return nil, job.Fail(job.ExitUsage, err, "")
		}
	}
	return a.newAccess(job.AccessOptions{
		Encrypt: encrypt, KeyFile: a.keyFile, PassphraseFile: a.passFile, IdentityFile: a.identFile, Recovery: a.recovery,
		Keyring: a.keyring, Recipients: recipients,
	})
}

// newAccess adds to the keys what every Access has.
func (a *app) newAccess(o job.AccessOptions) (*job.Access, error) {
	if a.tailnet == nil {
		if err := a.prepareTailnet(); err != nil {
			return nil, err
		}
	}
	o.Tailnet = a.tailnet
	o.NoCache, o.Env, o.Prompt, o.Limits, o.OnRetry = a.noCache, a.env, a.prompter(), a.limits, a.retrying
	o.OnKey = func(source string) { a.record("encryption_key_loaded", slog.String("source", source)) }
	acc, err := job.NewAccess(a.cfg, o)
	switch {
	case err != nil:
	case a.proving: // it reports what is damaged
		acc.Proving = true
	default:
		acc.OnMended = a.mended
	}
	return acc, job.Fail(job.ExitUsage, err, "")
}

// mended warns of damage that repair data has made good.
func (a *app) mended(place string, objects []string) {
	more := ""
	if n := len(objects) - 1; n > 0 {
		more = fmt.Sprintf(", and %s more", countText(int64(n)))
	}
	a.warn("%s: damaged, and read as repair data has it: %s%s; 'backup-handler verify --heal' puts it right", place, objects[0], more)
}

// open opens the first repository that can be opened, for a command that reads.
// With index, chunks can be read; without, only snapshots and keys.
func (a *app) open(ctx context.Context, index bool) (*job.Destination, error) {
	if err := a.load(); err != nil {
		return nil, err
	}
	locations, err := a.locations()
	if err != nil {
		return nil, err
	}
	acc, err := a.access(false, nil)
	if err != nil {
		return nil, err
	}
	acc.Ahead = index
	var errs error
	for _, l := range locations {
		d, err := acc.OpenDestination(ctx, l)
		if err == nil {
			if index {
				err = d.Load(ctx)
			} else {
				err = d.LoadSnapshots(ctx)
			}
			if err != nil {
				d.Close()
			}
		}
		if err == nil {
			if errs != nil {
				a.warn("%v", errs)
			}
			for _, s := range d.Unreadable {
				a.warn("snapshot %s cannot be read: %v", s.ID.Short(), s.Err)
			}
			return d, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, job.Fail(job.ExitUsage, errs, openHint(errs))
}

func openHint(err error) string {
	switch {
	case errors.Is(err, seal.ErrWrongKey) && strings.HasSuffix(err.Error(), "opens with: none"):
		return "the repository is not encrypted, but a key is given: unset it, or set [ENCRYPTION] enabled = False, to use it as it is"
	case errors.Is(err, keyring.ErrUnavailable):
		return job.KeyringHint
	case errors.Is(err, seal.ErrWrongKey):
		return "check the passphrase ($" + job.PassphraseEnv + ", --passphrase-file) or key file (--key-file); nothing was changed"
	case errors.Is(err, repo.ErrNoRepository):
		return "check the path or address, and whether its file system is mounted; 'backup-handler init' creates a repository"
	}
	return job.Hint(err)
}

// filterFlags lets a command choose among snapshots.
func (a *app) filterFlags(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&a.filter.Host, "host", "", "only snapshots of this host")
	fl.StringVar(&a.filter.Tag, "tag", "", "only snapshots with this tag")
	fl.Var(kindFlag{&a.filter.Kind}, "kind", "only snapshots of this kind: "+kindNames()+" (default: any, but latest and times mean files, where there are any)")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(strings.Split(kindNames(), ", "), cobra.ShellCompDirectiveNoFileComp))
}

// A kindFlag takes the name of a kind.
type kindFlag struct{ to *string }

func (f kindFlag) String() string {
	if f.to == nil {
		return ""
	}
	return *f.to
}

func (kindFlag) Type() string { return "kind" }

func (f kindFlag) Set(text string) error {
	if !slices.ContainsFunc(tree.Kinds(), func(k tree.Kind) bool { return k.String() == text }) {
		return errors.New("want one of " + kindNames())
	}
	*f.to = text
	return nil
}

func kindNames() string {
	var names []string
	for _, k := range tree.Kinds() {
		names = append(names, k.String())
	}
	return strings.Join(names, ", ")
}

// pathFlag goes with filterFlags where the command has no paths of its own.
func (a *app) pathFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.filter.Path, "path", "", "only snapshots that hold this path or one below it")
}

// snapshot resolves SNAPSHOT[:PATH]; the path is "" where none is given.
func (a *app) snapshot(d *job.Destination, spec string) (*tree.Snapshot, string, error) {
	name, path := job.SplitSpec(spec)
	s, err := a.resolve(d, name)
	return s, path, err
}

// resolve returns the snapshot that a name means, within a.filter.
func (a *app) resolve(d *job.Destination, name string) (*tree.Snapshot, error) {
	s, note, err := a.filter.Resolve(d.Snapshots, name, hostName())
	if note != "" {
		a.note(note)
	}
	return s, err
}

// hostName is that of this machine, as snapshots have it.
func hostName() string {
	name, _ := os.Hostname()
	return name
}

// print writes v as JSON, or calls text.
func (a *app) print(v any, text func(w io.Writer) error) error {
	var buf bytes.Buffer
	if a.json {
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return err
		}
	} else if err := text(&buf); err != nil {
		return err
	}
	_, err := a.stdout.Write(buf.Bytes())
	return err
}

// terminal says whether somebody watches standard error.
func (a *app) terminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// prompter asks for passphrases on the terminal; nil where there is none.
func (a *app) prompter() func(string, bool) ([]byte, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	ask := func(question string) ([]byte, error) {
		fmt.Fprint(a.stderr, question+": ")
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		return text, err
	}
	return func(question string, confirm bool) ([]byte, error) {
		text, err := ask(question)
		if err != nil || !confirm {
			return text, err
		}
		again, err := ask("Once more")
		if err == nil && !bytes.Equal(text, again) {
			err = errors.New("the two passphrases differ")
		}
		return text, err
	}
}
