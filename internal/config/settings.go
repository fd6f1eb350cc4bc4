package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// Sources returns the directories to back up, absolute, without repetitions.
func (c *Config) Sources() ([]string, error) {
	dir, err := c.Value("DEFAULT", "source_dir").Path()
	if err != nil {
		return nil, err
	}
	more, err := c.Value("DEFAULT", "source_dirs").List()
	if err != nil {
		return nil, err
	}
	for _, section := range c.SectionsOf("SOURCE") {
		path, err := c.Value(section, "path").Path()
		if err != nil {
			return nil, err
		}
		more = append(more, path)
	}
	var dirs []string
	for _, d := range append([]string{dir}, more...) {
		if d != "" && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs, nil
}

// Mode returns "full", "incremental" or "differential".
func (c *Config) Mode() (string, error) { return c.Value("DEFAULT", "mode").Text() }

// ParallelCopies returns how many files are read at once, at least 1.
func (c *Config) ParallelCopies() (int, error) {
	n, err := c.Value("DEFAULT", "parallel_copies").Int()
	return int(n), err
}

// BackupDirs returns the destinations: absolute paths, or addresses with ://.
func (c *Config) BackupDirs() ([]string, error) { return c.Value("BACKUPS", "backup_dirs").List() }

// Exclude says what a backup leaves out.
type Exclude struct {
	Patterns      []string // 2.5's: fnmatch on the name and on the relative path
	Files         []string // absolute paths of files of patterns
	GitIgnore     bool     // Files follow the rules of .gitignore
	Caches        bool     // skip directories with a CACHEDIR.TAG
	IfPresent     []string // skip directories that hold a file of such a name
	OneFileSystem bool
	LargerThan    int64 // bytes; 0 is no limit
}

// Exclude returns [DEFAULT] exclude_patterns and the section [EXCLUDE].
func (c *Config) Exclude() (Exclude, error) {
	var r reader
	return Exclude{
		Patterns:      get(&r, c.Value("DEFAULT", "exclude_patterns"), Value.List),
		Files:         get(&r, c.Value("EXCLUDE", "exclude_files"), Value.List),
		GitIgnore:     get(&r, c.Value("EXCLUDE", "gitignore"), Value.Bool),
		Caches:        get(&r, c.Value("EXCLUDE", "exclude_caches"), Value.Bool),
		IfPresent:     get(&r, c.Value("EXCLUDE", "exclude_if_present"), Value.List),
		OneFileSystem: get(&r, c.Value("EXCLUDE", "one_file_system"), Value.Bool),
		LargerThan:    get(&r, c.Value("EXCLUDE", "larger_than"), Value.Size),
	}, r.err
}

// SQLite says which databases are copied consistently.
type SQLite struct {
	Paths []string // shell patterns of absolute paths
	Find  bool     // whatever begins as a database
	Wait  time.Duration
}

// SQLite returns the section [SQLITE].
func (c *Config) SQLite() (SQLite, error) {
	var r reader
	return SQLite{
		Paths: get(&r, c.Value("SQLITE", "paths"), Value.List),
		Find:  get(&r, c.Value("SQLITE", "find"), Value.Bool),
		Wait:  get(&r, c.Value("SQLITE", "wait"), Value.Duration),
	}, r.err
}

// Encryption says who can open repositories. The lazy ones are read by those
// who need them: a restore needs one of them, never all.
type Encryption struct {
	Enabled bool
	Workers int    // at least 1
	KDF     string // "pbkdf2" or "argon2id"
	Keyring bool   // ask the operating system's keyring

	KeyFile      Lazy[string] // absolute path; goes before Passphrase
	Passphrase   Lazy[SecretString]
	Recipients   Lazy[[]string] // public keys or paths of files, as written
	IdentityFile Lazy[string]   // absolute path
}

// Encryption returns the section [ENCRYPTION].
func (c *Config) Encryption() (Encryption, error) {
	var r reader
	return Encryption{
		Enabled:      get(&r, c.Value("ENCRYPTION", "enabled"), Value.Bool),
		Workers:      int(get(&r, c.Value("ENCRYPTION", "workers"), Value.Int)),
		KDF:          get(&r, c.Value("ENCRYPTION", "kdf"), Value.Text),
		Keyring:      get(&r, c.Value("ENCRYPTION", "keyring"), Value.Bool),
		KeyFile:      Lazy[string]{c.Value("ENCRYPTION", "key_file"), Value.Path},
		Passphrase:   Lazy[SecretString]{c.Value("ENCRYPTION", "passphrase"), Value.Secret},
		Recipients:   Lazy[[]string]{c.Value("ENCRYPTION", "recipients"), Value.List},
		IdentityFile: Lazy[string]{c.Value("ENCRYPTION", "identity_file"), Value.Path},
	}, r.err
}

// Repository says how repositories are written.
type Repository struct {
	Compression string // "off", "fastest", "default", "better" or "best"
	FileSHA256  bool   // record the SHA-256 of files of several chunks too
	Parity      int    // repair data, in percent; 0 for none
}

// Repository returns the section [REPOSITORY].
func (c *Config) Repository() (Repository, error) {
	var r reader
	return Repository{
		Compression: get(&r, c.Value("REPOSITORY", "compression"), Value.Text),
		FileSHA256:  get(&r, c.Value("REPOSITORY", "file_sha256"), Value.Bool),
		Parity:      int(get(&r, c.Value("REPOSITORY", "parity"), Value.Int)),
	}, r.err
}

// Guard says what makes a run suspicious. Shares are in per cent; 0 asks for nothing.
type Guard struct {
	Enabled bool
	Fail    bool

	MaxScrambled, MaxChanged, MaxDeleted, MaxRenamed float64
	MinFiles                                         int64
}

// Guard returns the section [GUARD].
func (c *Config) Guard() (Guard, error) {
	var r reader
	return Guard{
		Enabled:      get(&r, c.Value("GUARD", "enabled"), Value.Bool),
		Fail:         get(&r, c.Value("GUARD", "fail"), Value.Bool),
		MaxScrambled: get(&r, c.Value("GUARD", "max_scrambled_percent"), Value.Float),
		MaxChanged:   get(&r, c.Value("GUARD", "max_changed_percent"), Value.Float),
		MaxDeleted:   get(&r, c.Value("GUARD", "max_deleted_percent"), Value.Float),
		MaxRenamed:   get(&r, c.Value("GUARD", "max_renamed_percent"), Value.Float),
		MinFiles:     get(&r, c.Value("GUARD", "min_files"), Value.Int),
	}, r.err
}

// Limits say how much of the machine the program may take; 0 is no limit.
type Limits struct {
	CPU      Processors
	Upload   int64 // bytes per second
	Download int64 // bytes per second
	Schedule []RatePeriod
	IOIdle   bool
}

// Limits returns the section [LIMITS].
func (c *Config) Limits() (Limits, error) {
	var r reader
	return Limits{
		CPU:      get(&r, c.Value("LIMITS", "cpu"), Value.CPUs),
		Upload:   get(&r, c.Value("LIMITS", "upload"), Value.Size),
		Download: get(&r, c.Value("LIMITS", "download"), Value.Size),
		Schedule: get(&r, c.Value("LIMITS", "limit_schedule"), Value.Schedule),
		IOIdle:   get(&r, c.Value("LIMITS", "io_idle"), Value.Bool),
	}, r.err
}

// Log says how the application log is written.
type Log struct {
	Level     slog.Level
	JSON      bool
	MaxSizeMB int // MiB, at least 1
	MaxFiles  int // rotated files that are kept, at least 1
	Syslog    bool
}

// Log returns the section [LOG].
func (c *Config) Log() (Log, error) {
	var r reader
	log := Log{
		JSON:      get(&r, c.Value("LOG", "json"), Value.Bool),
		MaxSizeMB: int(get(&r, c.Value("LOG", "max_size_mb"), Value.Int)),
		MaxFiles:  int(get(&r, c.Value("LOG", "max_files"), Value.Int)),
		Syslog:    get(&r, c.Value("LOG", "syslog"), Value.Bool),
	}
	level := get(&r, c.Value("LOG", "level"), Value.Text)
	if r.err != nil {
		return Log{}, r.err
	}
	if err := log.Level.UnmarshalText([]byte(level)); err != nil {
		panic("config: the table's log levels are not slog's: " + err.Error())
	}
	for key, v := range map[string]struct {
		name string
		to   *bool
	}{"json": {"BACKUP_HANDLER_LOG_JSON", &log.JSON}, "syslog": {"BACKUP_HANDLER_LOG_SYSLOG", &log.Syslog}} {
		if !c.Value("LOG", key).IsSet() {
			text, _ := c.env(v.name)
			*v.to, _ = parseBool(text) // as in 2.5, what is not true is false
		}
	}
	return log, nil
}

// Drill says how a drill goes about it.
type Drill struct {
	Sample       int    // files; 0: all
	Dir          string // absolute; "": the system's for temporary files
	MaxDuration  time.Duration
	CheckCommand string
	CheckTimeout time.Duration
	ListFiles    int  // in the list that a backup makes
	Databases    bool // their newest dumps, too
}

// Drill returns the section [DRILL].
func (c *Config) Drill() (Drill, error) {
	var r reader
	return Drill{
		Sample:       int(get(&r, c.Value("DRILL", "sample"), Value.Int)),
		Dir:          get(&r, c.Value("DRILL", "dir"), Value.Path),
		MaxDuration:  get(&r, c.Value("DRILL", "max_duration"), Value.Duration),
		CheckCommand: get(&r, c.Value("DRILL", "check_command"), Value.Text),
		CheckTimeout: get(&r, c.Value("DRILL", "check_timeout"), Value.Duration),
		ListFiles:    int(get(&r, c.Value("DRILL", "list_files"), Value.Int)),
		Databases:    get(&r, c.Value("DRILL", "databases"), Value.Bool),
	}, r.err
}

// Hooks are the commands around a run; "" for none.
type Hooks struct {
	PreBackup, PostBackup, OnSuccess, OnFailure string
	PreRestore, PostRestore                     string
	Timeout                                     time.Duration // of each; 0: no limit
	Sources                                     []SourceHooks
}

// SourceHooks are the commands of one [SOURCE NAME].
type SourceHooks struct {
	Path                  string // absolute
	PreBackup, PostBackup string // "" for none
}

// Hooks returns the section [HOOKS].
func (c *Config) Hooks() (Hooks, error) {
	var r reader
	h := Hooks{
		PreBackup:   get(&r, c.Value("HOOKS", "pre_backup"), Value.Text),
		PostBackup:  get(&r, c.Value("HOOKS", "post_backup"), Value.Text),
		OnSuccess:   get(&r, c.Value("HOOKS", "on_success"), Value.Text),
		OnFailure:   get(&r, c.Value("HOOKS", "on_failure"), Value.Text),
		PreRestore:  get(&r, c.Value("HOOKS", "pre_restore"), Value.Text),
		PostRestore: get(&r, c.Value("HOOKS", "post_restore"), Value.Text),
		Timeout:     get(&r, c.Value("HOOKS", "timeout"), Value.Duration),
	}
	for _, section := range c.SectionsOf("SOURCE") {
		s := SourceHooks{
			Path:       get(&r, c.Value(section, "path"), Value.Path),
			PreBackup:  get(&r, c.Value(section, "pre_backup"), Value.Text),
			PostBackup: get(&r, c.Value(section, "post_backup"), Value.Text),
		}
		if s.PreBackup+s.PostBackup == "" {
			continue
		}
		if s.Path == "" && r.err == nil {
			r.err = c.Value(section, "path").errorf("is missing: whose commands are these?")
		}
		h.Sources = append(h.Sources, s)
	}
	return h, r.err
}

// A Stream is one [STREAM NAME].
type Stream struct {
	Name       string // of the section
	Command    string
	File       string // slash-separated
	Limit      time.Duration
	Tags       []string
	AllowEmpty bool
}

// Streams returns the sections [STREAM NAME] that have a command.
func (c *Config) Streams() ([]Stream, error) {
	var r reader
	var streams []Stream
	for _, section := range c.SectionsOf("STREAM") {
		_, name, named := strings.Cut(section, " ")
		command := c.Value(section, "command")
		s := Stream{
			Name:       name,
			Command:    get(&r, command, Value.Text),
			File:       get(&r, c.Value(section, "file"), Value.Text),
			Limit:      get(&r, c.Value(section, "limit"), Value.Duration),
			Tags:       get(&r, c.Value(section, "tags"), Value.List),
			AllowEmpty: get(&r, c.Value(section, "allow_empty"), Value.Bool),
		}
		if s.File == "" {
			s.File = name
		}
		switch {
		case r.err != nil || s.Command == "" && !named:
		case s.Command == "":
			r.err = command.errorf("is missing: what does the stream consist of?")
		case !named:
			r.err = command.errorf("the section needs a name, [STREAM NAME]: the snapshot is called so")
		default:
			streams = append(streams, s)
		}
	}
	return streams, r.err
}

// checkFile accepts names of files in a snapshot.
func checkFile(text string) error {
	if !fs.ValidPath(text) || text == "." || strings.ContainsRune(text, 0) {
		return errors.New("must be the name of a file: no / at its ends, and no .. in it")
	}
	return nil
}

// StatusSentinel returns the file that holds the state of the last run: [PREFLIGHT]
// status_sentinel, within the state directory unless it is absolute.
func (c *Config) StatusSentinel() (string, error) {
	name, err := c.Value("PREFLIGHT", "status_sentinel").Text()
	if err != nil || filepath.IsAbs(name) || name == "" {
		return name, err
	}
	dir, err := c.StateDir()
	return filepath.Join(dir, name), err
}

// Preflight says what is checked before a backup.
type Preflight struct {
	Enabled       bool
	ExpectedMount string // absolute; "": none
	ExpectedLabel string
	ExpectedUUID  string
	// ExpectedFSType is "" where the file does not set it: 2.5's default, xfs, was
	// for what it mounted, and never compared.
	ExpectedFSType  string
	ExpectedOwner   string // name or number
	AutoMount       bool
	MinFree         int64   // bytes
	StalenessFactor float64 // at least 1
	// Interval is the longest time between two backups that [SCHEDULE] has; 0 where
	// the file sets none.
	Interval time.Duration
}

// Preflight returns the section [PREFLIGHT].
func (c *Config) Preflight() (Preflight, error) {
	var r reader
	p := Preflight{
		Enabled:         get(&r, c.Value("PREFLIGHT", "enabled"), Value.Bool),
		ExpectedMount:   get(&r, c.Value("PREFLIGHT", "expected_mount"), Value.Path),
		ExpectedLabel:   get(&r, c.Value("PREFLIGHT", "expected_label"), Value.Text),
		ExpectedUUID:    get(&r, c.Value("PREFLIGHT", "expected_uuid"), Value.Text),
		ExpectedOwner:   get(&r, c.Value("PREFLIGHT", "expected_owner"), Value.Text),
		AutoMount:       get(&r, c.Value("PREFLIGHT", "auto_mount"), Value.Bool),
		MinFree:         get(&r, c.Value("PREFLIGHT", "min_free"), Value.Size),
		StalenessFactor: get(&r, c.Value("PREFLIGHT", "staleness_factor"), Value.Float),
	}
	if v := c.Value("PREFLIGHT", "expected_fs_type"); v.IsSet() {
		p.ExpectedFSType = get(&r, v, Value.Text)
	}
	if v := c.Value("SCHEDULE", "interval_minutes"); v.IsSet() {
		p.Interval = time.Duration(get(&r, v, Value.Int)) * time.Minute
	}
	plan, err := c.Schedule()
	if err != nil {
		return p, err
	}
	p.Interval = max(p.Interval, longestGap(plan.Jobs[schedule.Backup]))
	return p, r.err
}

// longestGap is the longest time between two times of a schedule, in a year or a
// thousand of them; 0 without any.
func longestGap(s schedule.Schedule) (longest time.Duration) {
	if s.IsZero() {
		return 0
	}
	at := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for end, n := at.AddDate(1, 1, 0), 0; n < 1000; n++ {
		next := s.Next(at)
		if next.IsZero() || next.After(end) {
			break
		}
		longest = max(longest, next.Sub(at))
		at = next
	}
	return longest
}

// HasHooks says whether the file sets any command of [HOOKS], [SOURCE NAME] or
// [STREAM NAME].
func (c *Config) HasHooks() bool {
	return slices.ContainsFunc(c.allKeys(), func(k Key) bool {
		command := k.Section == "HOOKS" && k.Name != "timeout" || k.Name == "pre_backup" || k.Name == "post_backup" || k.Name == "command"
		return command && c.Value(k.Section, k.Name).IsSet()
	})
}

// A reader keeps the first error of several values.
type reader struct{ err error }

func get[T any](r *reader, v Value, read func(Value) (T, error)) T {
	x, err := read(v)
	if r.err == nil {
		r.err = err
	}
	return x
}

// StateDir returns the directory for what must last: [STATE] dir, else
// [DefaultStateDir] of this process.
func (c *Config) StateDir() (string, error) {
	if dir, err := c.Value("STATE", "dir").Path(); err != nil || dir != "" {
		return dir, err
	}
	return DefaultStateDir(c.env, isRoot())
}

// CacheDir returns the directory for what can be fetched again: [CACHE] dir,
// else [DefaultCacheDir] of this process.
func (c *Config) CacheDir() (string, error) {
	if dir, err := c.Value("CACHE", "dir").Path(); err != nil || dir != "" {
		return dir, err
	}
	return DefaultCacheDir(c.env, isRoot())
}

// CacheSize returns how many bytes of each remote repository's directories are
// kept.
func (c *Config) CacheSize() (int64, error) { return c.Value("CACHE", "max_size").Size() }

// isRoot is false on Windows, which has no such user.
func isRoot() bool { return os.Geteuid() == 0 }

// appName names our directory inside those of the system.
const appName = "backup-handler"

// DefaultStateDir returns $BACKUP_HANDLER_DATA_DIR, else
// /var/lib/backup-handler for root, else $XDG_STATE_HOME/backup-handler, else
// ~/.local/state/backup-handler. On Windows the last two are
// %LOCALAPPDATA%\backup-handler.
func DefaultStateDir(env Env, root bool) (string, error) {
	if dir, _ := env("BACKUP_HANDLER_DATA_DIR"); dir != "" {
		return absolutePath(dir, env)
	}
	if root {
		return "/var/lib/" + appName, nil
	}
	return userDir(env, "XDG_STATE_HOME", ".local/state", "")
}

// DefaultCacheDir returns $XDG_CACHE_HOME/backup-handler, else
// ~/.cache/backup-handler, and for root without a home directory
// /var/cache/backup-handler. On Windows it is
// %LOCALAPPDATA%\backup-handler\cache.
func DefaultCacheDir(env Env, root bool) (string, error) {
	dir, err := userDir(env, "XDG_CACHE_HOME", ".cache", "cache")
	if err != nil && root {
		return "/var/cache/" + appName, nil
	}
	return dir, err
}

// userDir finds our directory below the one that an XDG variable names. As the
// XDG specification demands, a relative one is ignored.
func userDir(env Env, xdg, inHome, onWindows string) (string, error) {
	if dir, _ := env(xdg); filepath.IsAbs(dir) {
		return filepath.Join(dir, appName), nil
	}
	if dir, _ := env("LOCALAPPDATA"); runtime.GOOS == "windows" && filepath.IsAbs(dir) {
		return filepath.Join(dir, appName, onWindows), nil
	}
	home, err := homeDir(env)
	if err != nil {
		return "", err
	}
	return filepath.Join(home, inHome, appName), nil
}
