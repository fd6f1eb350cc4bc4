package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the generated files of the source tree")

// sample25 is a file in the manner of BackupHandler 2.5.
const sample25 = `[META]
schema_version = 3

[DEFAULT]
source_dir = /home/ann
mode = incremental
compress_type = none
exclude_patterns = *.tmp, .cache/*, 100%%
parallel_copies = 0

[BACKUPS]
backup_dirs = /mnt/one/backup, /mnt/two/backup

[SSH]
ssh_servers = None
username = None
password = None
bandwidth_limit = 0

[S3]
bucket =
secret_key = ${AWS_SECRET}

[ENCRYPTION]
enabled = True
key_file = None
passphrase = ${PASSPHRASE}
workers = 4

[DATABASE]
user = None
port = 3306

[DEDUP]
enabled = False

[MODES]
local = True
ssh = False

[SCHEDULE]
times = 03:00, 15:30
interval_minutes = 60

[HOOKS]
pre_backup = pg_dump -Z9 %(source_dir)s # not a comment
post_backup = None

[WEBHOOK]
url = https://hooks.example/T0KEN
auth_header = None
`

func envOf(pairs ...string) Env {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func mustRead(t *testing.T, text string, env Env) (*Config, []Warning) {
	t.Helper()
	c, warnings, err := read("f.ini", strings.NewReader(text), env)
	if err != nil {
		t.Fatal(err)
	}
	return c, warnings
}

// must unwraps a result that has no business failing.
func must[T any](t *testing.T) func(T, error) T {
	return func(x T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

func wantEqual[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

func abs(t *testing.T, path string) string { return must[string](t)(filepath.Abs(path)) }

func TestFileOf25(t *testing.T) {
	c, warnings := mustRead(t, sample25, envOf())
	wantEqual(t, "sources", must[[]string](t)(c.Sources()), []string{abs(t, "/home/ann")})
	wantEqual(t, "mode", must[string](t)(c.Mode()), "incremental")
	wantEqual(t, "parallel copies", must[int](t)(c.ParallelCopies()), 1)
	wantEqual(t, "backup dirs", must[[]string](t)(c.BackupDirs()), []string{abs(t, "/mnt/one/backup"), abs(t, "/mnt/two/backup")})
	wantEqual(t, "excludes", must[Exclude](t)(c.Exclude()), Exclude{Patterns: []string{"*.tmp", ".cache/*", "100%"}})
	wantEqual(t, "repository", must[Repository](t)(c.Repository()), Repository{Compression: "default"})
	wantEqual(t, "log", must[Log](t)(c.Log()), Log{Level: slog.LevelInfo, MaxSizeMB: 50, MaxFiles: 30})
	wantEqual(t, "hook", must[string](t)(c.Value("HOOKS", "pre_backup").Text()), "pg_dump -Z9 /home/ann # not a comment")

	e := must[Encryption](t)(c.Encryption())
	if !e.Enabled || e.Workers != 4 || e.KDF != "pbkdf2" || e.KeyFile.IsSet() || !e.Passphrase.IsSet() {
		t.Errorf("encryption: %+v", e)
	}
	_, err := e.Passphrase.Get()
	if want := "f.ini:27: [ENCRYPTION] passphrase: the environment variable PASSPHRASE is not set"; err == nil || err.Error() != want {
		t.Errorf("passphrase: %v, want %s", err, want)
	}

	var got []string
	for _, w := range warnings {
		got = append(got, fmt.Sprintf("%d %s", w.Line, w.Kind))
	}
	wantEqual(t, "warnings", got, []string{
		"8 percent", "46 percent", "50 plaintext-secret"})
}

func TestVariablesAreLazy(t *testing.T) {
	const text = "[DEFAULT]\nsource_dir = ${BASE}/data\nparallel_copies = ${N}\n[BACKUPS]\nbackup_dirs = ${DIRS}, /c\n[ENCRYPTION]\npassphrase = a${P}b$${P}${P x}${}${9}$P\n"
	c, _ := mustRead(t, text, envOf())
	for name, err := range map[string]error{
		"BASE": second(c.Sources()), "N": second(c.ParallelCopies()), "DIRS": second(c.BackupDirs()),
		"P": second(must[Encryption](t)(c.Encryption()).Passphrase.Get()),
	} {
		var e *Error
		if !errors.As(err, &e) || !strings.HasSuffix(err.Error(), "variable "+name+" is not set") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if errs := c.Check(); len(errs) != 4 {
		t.Errorf("check found %v", errs)
	}

	c, _ = mustRead(t, text, envOf("BASE", "/x", "N", "3", "DIRS", "/a,/b", "P", "${BASE}%%"))
	wantEqual(t, "sources", must[[]string](t)(c.Sources()), []string{abs(t, "/x/data")})
	wantEqual(t, "copies", must[int](t)(c.ParallelCopies()), 3)
	wantEqual(t, "dirs", must[[]string](t)(c.BackupDirs()), []string{abs(t, "/a"), abs(t, "/b"), abs(t, "/c")})
	wantEqual(t, "passphrase", must[SecretString](t)(must[Encryption](t)(c.Encryption()).Passphrase.Get()).Reveal(),
		"a${BASE}%%b$${BASE}%%${P x}${}${9}$P")
	if errs := c.Check(); errs != nil {
		t.Errorf("check found %v", errs)
	}

	c, _ = mustRead(t, "[DEFAULT]\nparallel_copies = ${N}\n[ENCRYPTION]\npassphrase = ${P}\n", envOf("N", "sevenhunter2", "P", ""))
	if _, err := c.ParallelCopies(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("copies: %v", err)
	}
	if _, err := must[Encryption](t)(c.Encryption()).Passphrase.Get(); err == nil {
		t.Error("an empty variable is a passphrase")
	}
}

func second[T any](_ T, err error) error { return err }

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		meta, value, want string
		warned            bool
	}{
		{"", "50%", "50%", false},
		{"", "50%%", "50%", true},
		{"", "%(mode)s!", "full!", true},
		{"", "%(nothing)s", "%(nothing)s", false},
		{"", "50%% of 10%", "50%% of 10%", false},
		{"3", "50%%", "50%", true},
		{"5", "50%%", "50%", true},
		{"x", "50%%", "50%", true},
		{"6", "50%%", "50%%", false},
		{"6", "%(mode)s", "%(mode)s", false},
		{"7", "50%%", "50%%", false},
	} {
		cfg, warnings := mustRead(t, "[META]\nschema_version = "+c.meta+"\n[DEFAULT]\nmode = full\n[HOOKS]\npre_backup = "+c.value+"\n", envOf())
		wantEqual(t, c.meta+" "+c.value, must[string](t)(cfg.Value("HOOKS", "pre_backup").Text()), c.want)
		warned := slices.ContainsFunc(warnings, func(w Warning) bool { return w.Kind == Percent })
		wantEqual(t, c.meta+" "+c.value+" warned", warned, c.warned)
	}
}

func TestInheritance(t *testing.T) {
	c, warnings := mustRead(t, "[DEFAULT]\nenabled = yes\nport = 99\n[ENCRYPTION]\n[SMTP]\nport = 25\n[DATABASE]\n", envOf())
	wantEqual(t, "encryption", must[Encryption](t)(c.Encryption()).Enabled, true)
	wantEqual(t, "section not in the file", must[bool](t)(c.Value("TAILSCALE", "enabled").Bool()), false)
	wantEqual(t, "own", must[int64](t)(c.Value("SMTP", "port").Int()), 25)
	wantEqual(t, "inherited", must[int64](t)(c.Value("DATABASE", "port").Int()), 99)
	if !slices.ContainsFunc(warnings, func(w Warning) bool { return w.Kind == Inherited && w.Key == "enabled" && w.Note() }) {
		t.Errorf("no note about inheritance in %v", warnings)
	}
	if _, _, err := read("f.ini", strings.NewReader("[DEFAULT]\nport = many\n[SMTP]\n"), envOf()); err == nil {
		t.Error("an inherited value of the wrong type loads")
	}
}

func TestWrongTypesAreErrors(t *testing.T) {
	for _, c := range []string{
		"DEFAULT.mode=sometimes", "DEFAULT.parallel_copies=many", "DEFAULT.parallel_copies=257", "DEFAULT.compress_type=rar",
		"DEFAULT.source_dir=~ann/x", "BACKUPS.backup_dirs=\"/a", "BACKUPS.backup_dirs=\"/a\" b", "BACKUPS.backup_dirs=\"\"",
		"ENCRYPTION.enabled=maybe", "ENCRYPTION.enabled=2", "EXCLUDE.larger_than=big", "EXCLUDE.larger_than=-1", "EXCLUDE.larger_than=9999999T",
		"SMTP.port=65536", "SMTP.port=-1", "SMTP.port=1.5", "SCHEDULE.times=25:00", "SCHEDULE.times=03:00, noon",
		"PREFLIGHT.staleness_factor=NaN", "WEBHOOK.url=ftp://hunter2", "WEBHOOK.url=hunter2", "LOG.level=loud", "WEBHOOK ops.on=failure, whatever", "NOTIFY x.digest=hourly", "SMTP.digest_time=noon", "REPOSITORY.compression=max",
	} {
		name, value, _ := strings.Cut(c, "=")
		section, key, _ := strings.Cut(name, ".")
		_, _, err := read("f.ini", strings.NewReader("["+section+"]\n\n"+key+" = "+value+"\n"), envOf("HOME", "/root"))
		var e *Error
		if !errors.As(err, &e) || e.Line != 3 || e.Section != section || e.Key != key || e.File != "f.ini" {
			t.Errorf("%s: error %v", c, err)
		} else if strings.Contains(err.Error(), value) {
			t.Errorf("%s: the error holds the value: %v", c, err)
		}
	}
	_, _, err := read("f.ini", strings.NewReader("[SMTP]\nport = a\nuse_tls = b\n"), envOf())
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 2 {
		t.Errorf("not all errors are reported: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings := mustRead(t, `[ssh]
x = 1
[Backup]
y = 2
[REPOSITRY]
[Completely Different]
[DEFAULT]
source_dirr = /x
backup_dirs = /y
zzz = 1
[ENCRYPTION]
source_dir = /z
passphrase = hunter2
key_file = ${X}
qsafe_secret_key = /k
qsafe_sign_passphrase = ${X}
[BACKUPS]
backup_dirs = sftp://ann:hunter2@host/x
[DEDUP]
enabled = True
`, envOf())
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	wantEqual(t, "warnings", got, []string{
		"f.ini:1: [ssh] is not a known section; did you mean [SSH]?; it is ignored",
		"f.ini:3: [Backup] is not a known section; did you mean [BACKUPS]?; it is ignored",
		"f.ini:5: [REPOSITRY] is not a known section; did you mean [REPOSITORY]?; it is ignored",
		"f.ini:6: [Completely Different] is not a known section; it is ignored",
		"f.ini:8: [DEFAULT] source_dirr is not a known key; did you mean source_dir?; it is ignored",
		"f.ini:9: [DEFAULT] backup_dirs is inherited by the sections of the file that know it: BACKUPS",
		"f.ini:10: [DEFAULT] zzz is not a known key; it is ignored",
		"f.ini:12: [ENCRYPTION] source_dir is not a known key; it belongs in [DEFAULT]; it is ignored",
		"f.ini:13: [ENCRYPTION] passphrase holds a secret in plain text; keep it in an environment variable and write ${NAME} here",
		"f.ini:15: [ENCRYPTION] qsafe_secret_key is kept but this version does not act on it",
		"f.ini:16: [ENCRYPTION] qsafe_sign_passphrase is kept but this version does not act on it",
		"f.ini:18: [BACKUPS] backup_dirs holds a secret in plain text; keep it in an environment variable and write ${NAME} here",
		"f.ini:20: [DEDUP] enabled has no effect any more: repositories always store equal data once",
	})
}

func TestUnknownNamesAreMadePrintable(t *testing.T) {
	_, warnings := mustRead(t, "["+strings.Repeat("x", 100)+"\x1b[31m]\n[SMTP]\nä\x1b = 1\n", envOf())
	for _, w := range warnings {
		if s := w.String(); strings.ContainsRune(s, 0x1b) || len(s) > 200 {
			t.Errorf("%q", s)
		}
	}
	wantEqual(t, "number of warnings", len(warnings), 2)
}

// TestSecretsNeverShow loads a file full of secrets, right and wrong, and looks
// for them in everything that is made for reading.
func TestSecretsNeverShow(t *testing.T) {
	const secret = "hunter2"
	var text strings.Builder
	text.WriteString("[" + "META]\nschema_version = 6\n")
	for _, s := range Sections() {
		if s.Name != "META" {
			fmt.Fprintf(&text, "[%s]\n", s.Name)
		}
		for _, k := range s.Keys {
			switch {
			case k.Secret && k.Type == URL:
				fmt.Fprintf(&text, "%s = https://x/%s\n", k.Name, secret)
			case k.Secret:
				fmt.Fprintf(&text, "%s = %s\n", k.Name, secret)
			case k.Type == String && s.Name != "META":
				fmt.Fprintf(&text, "%s = /bin/curl https://ann:%s@host/ '${VAR}'\n", k.Name, secret)
			case k.Type == List || k.Type == PathList:
				fmt.Fprintf(&text, "%s = /x, sftp://ann:%s@host/, sftp://ann:a/%s@host/, ${VAR}\n", k.Name, secret, secret)
			}
		}
	}
	env := envOf("VAR", secret)
	c, warnings := mustRead(t, text.String(), env)
	settings := c.Show()
	look := func(what, s string) {
		t.Helper()
		if i := strings.Index(s, secret); i >= 0 {
			t.Errorf("%s shows a secret: %q", what, s[max(0, i-60):i+len(secret)])
		}
	}
	look("text", settings.String())
	look("JSON", string(must[[]byte](t)(json.Marshal(settings))))
	look("warnings", fmt.Sprintf("%v %+v", warnings, warnings))
	if !strings.Contains(settings.String(), "passphrase = ***\n") {
		t.Errorf("no redacted passphrase in\n%s", settings)
	}
	look("check", fmt.Sprint(c.Check()))

	// The same value where it is an error.
	for _, k := range Keys() {
		for _, value := range []string{secret, "${VAR}", "%(" + secret + ")s", `"` + secret} {
			text := "[" + k.Section + "]\n" + k.Name + " = " + value + "\n"
			c, warnings, err := read("f.ini", strings.NewReader(text), env)
			look(text, fmt.Sprint(err, warnings))
			if err == nil {
				look(text, fmt.Sprint(c.Check()))
			}
		}
	}
}

func TestSecretStringDoesNotPrint(t *testing.T) {
	s := NewSecretString("hunter2")
	type holder struct {
		S SecretString
		P *SecretString
	}
	h := holder{s, &s}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "h", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "h", h)
	out := log.String() + string(must[[]byte](t)(json.Marshal(h))) + s.String() + errors.New("x: "+s.String()).Error()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, h) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, []SecretString{s})
	}
	if strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") || strings.Contains(out, "104 117") {
		t.Error(out)
	}
	if s.Reveal() != "hunter2" || s.IsEmpty() || !NewSecretString("").IsEmpty() {
		t.Error("Reveal or IsEmpty is wrong")
	}
}

func TestShow(t *testing.T) {
	c, _ := mustRead(t, "[DEFAULT]\nsource_dir = /x/../y\nexclude_patterns = \"a,b\",c\n[BACKUPS]\nbackup_dirs = ${DIRS}\n[LOG]\nlevel = debug\n", envOf())
	got := c.Show()
	find := func(section, key string) Setting {
		return got[slices.IndexFunc(got, func(s Setting) bool { return s.Section == section && s.Key == key })]
	}
	wantEqual(t, "source_dir", find("DEFAULT", "source_dir"), Setting{Section: "DEFAULT", Key: "source_dir", Value: abs(t, "/y"), Set: true, Line: 2})
	wantEqual(t, "patterns", find("DEFAULT", "exclude_patterns").Value, `"a,b", c`)
	wantEqual(t, "dirs", find("BACKUPS", "backup_dirs"), Setting{Section: "BACKUPS", Key: "backup_dirs", Value: "${DIRS}", Set: true, Line: 5, Unset: []string{"DIRS"}})
	wantEqual(t, "mode", find("DEFAULT", "mode"), Setting{Section: "DEFAULT", Key: "mode", Value: "full"})
	text := got.String()
	for _, want := range []string{"[DEFAULT]\n", "# the environment variable DIRS is not set\n# line 5\nbackup_dirs = ${DIRS}\n", "# default\nmode = full\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestCheckDemands(t *testing.T) {
	c, _ := mustRead(t, "[ENCRYPTION]\nenabled = True\n", envOf())
	var got []string
	for _, err := range c.Check() {
		got = append(got, err.Error())
	}
	wantEqual(t, "errors", got, []string{
		"f.ini: [DEFAULT] source_dir: nothing to back up: set it",
		"f.ini: [BACKUPS] backup_dirs: nowhere to back up to: set it, or one of [MODES] ssh and s3",
		"f.ini:2: [ENCRYPTION] enabled: needs key_file or passphrase",
	})
}

func TestTable(t *testing.T) {
	seen := map[ref]bool{}
	c := Defaults(envOf("HOME", t.TempDir(), "USERPROFILE", t.TempDir()))
	for _, k := range Keys() {
		at := k.Section + "." + k.Name
		if seen[ref{k.Section, k.Name}] {
			t.Errorf("%s is declared twice", at)
		}
		seen[ref{k.Section, k.Name}] = true
		if k.Name != strings.ToLower(k.Name) || !strings.HasSuffix(k.Doc, ".") || strings.Contains(k.Doc, "\n") {
			t.Errorf("%s: name or sentence", at)
		}
		if k.Type == Enum && k.Values == nil || k.Values != nil && k.Type != Enum && k.Type != List || k.Secret && k.Default != "" {
			t.Errorf("%s: values or default", at)
		}
		if k.Secret && !strings.HasPrefix(k.Example, "${") {
			t.Errorf("%s: a secret's example must be a variable", at)
		}
		if !k.Secret {
			if err := c.Value(k.Section, k.Name).check(); err != nil && k.Default != "" {
				t.Errorf("%s: the default is wrong: %v", at, err)
			}
		}
	}
}

func TestExampleLoads(t *testing.T) {
	env := envOf("BACKUP_HANDLER_PASSPHRASE", "x", "HOME", "/root", "USERPROFILE", `C:\x`)
	c, warnings := mustRead(t, string(Example()), env)
	if len(warnings) > 0 || c.Check() != nil {
		t.Errorf("warnings %v, errors %v", warnings, c.Check())
	}
	wantEqual(t, "mode", must[string](t)(c.Mode()), "incremental")
	if e := must[Encryption](t)(c.Encryption()); !e.Enabled || !e.Passphrase.IsSet() {
		t.Errorf("encryption %+v", e)
	}
	// With every key uncommented the file is right too.
	all := strings.ReplaceAll(string(Example()), "\n#", "\n")
	var lines []string
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "[") || slices.ContainsFunc(Keys(), func(k Key) bool { return strings.HasPrefix(line, k.Name+" =") }) {
			lines = append(lines, line)
		}
	}
	mustRead(t, strings.Join(lines, ""), env)
}

// TestGeneratedFiles keeps the documents of the source tree equal to the table.
// go test -update rewrites them.
func TestGeneratedFiles(t *testing.T) {
	for path, want := range map[string][]byte{
		"../../config/config.ini.example": Example(),
		"../../docs/configuration.md":     Reference(),
	} {
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ReplaceAll(string(got), "\r\n", "\n") != string(want) {
			t.Errorf("%s is not what the table says; run go test ./internal/config -update", path)
		}
	}
}

func TestLists(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{" , ,\n,", nil},
		{"a", []string{"a"}},
		{"a, b ,c", []string{"a", "b", "c"}},
		{"a b\nc", []string{"a b", "c"}},
		{`"a,b", c`, []string{"a,b", "c"}},
		{`"a\"b\\c\d" , "e` + "\n" + `f"`, []string{`a"b\c\d`, "e\nf"}},
		{`C:\x, a"b"`, []string{`C:\x`, `a"b"`}},
		{`" a "`, []string{" a "}},
	} {
		wantEqual(t, c.text, must[[]string](t)(splitList(c.text)), c.want)
		wantEqual(t, c.text+" joined", must[[]string](t)(splitList(joinList(c.want))), c.want)
	}
}

func TestDurationsAndSizes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "5m": 5 * time.Minute, "5 min": 5 * time.Minute, "2h": 2 * time.Hour, "7d": 168 * time.Hour,
		"4w": 672 * time.Hour, "1h30m": 90 * time.Minute, "10": 10 * time.Second, "106751d": 106751 * 24 * time.Hour,
	} {
		wantEqual(t, text, must[time.Duration](t)(parseDuration(text, "s")), want)
	}
	for _, text := range []string{"", "x", "-1s", "-1", "1y", "106752d", "9999999999999999999s", "1.5d"} {
		if d, err := parseDuration(text, "s"); err == nil {
			t.Errorf("duration %q is %v", text, d)
		}
	}
	for text, want := range map[string]int64{
		"0": 0, "7": 7, "7B": 7, "1K": 1 << 10, "1kb": 1 << 10, "1KiB": 1 << 10, "20 MiB": 20 << 20, "3G": 3 << 30, "8388607T": 8388607 << 40,
	} {
		wantEqual(t, text, must[int64](t)(parseSize(text, "")), want)
	}
	for _, text := range []string{"", "K", "1I", "1KI", "1iB", "1X", "1KM", "-1", "1.5G", "8388608T", "99999999999999999999"} {
		if n, err := parseSize(text, ""); err == nil {
			t.Errorf("size %q is %d", text, n)
		}
	}
	wantEqual(t, "unit", must[int64](t)(parseSize("3", "MiB")), 3<<20)
}

func TestProcessors(t *testing.T) {
	for text, want := range map[string]float64{ // of 8
		"0": 0, "0.0": 0, "0%": 0, "0.5": 0.5, ".5": 0.5, "2": 2, "2.": 2, "0.01": 0.01, "64": 64,
		"50%": 4, "50 %": 4, "0.1%": 0.008, "12.5%": 1, "100%": 8, "100.0%": 8,
	} {
		wantEqual(t, text, must[Processors](t)(ParseProcessors(text)).Of(8), want)
	}
	for _, text := range []string{
		"", "%", ".", ".%", "x", "-1", "+1", "-5%", "1e1", "0x1p3", "inf", "NaN", "1_0", "1,5", "50%%", "2 CPUs", " 2", "0.0099", "100.1%", "101%",
	} {
		if p, err := ParseProcessors(text); err == nil {
			t.Errorf("%q is %v", text, p)
		}
	}
}

func TestLimits(t *testing.T) {
	c, _ := mustRead(t, "[META]\nschema_version = 6\n[LIMITS]\ncpu = 25%\nupload = 500K\ndownload = 10MiB\nio_idle = yes\n", envOf())
	wantEqual(t, "limits", must[Limits](t)(c.Limits()), Limits{CPU: Processors{0.25, true}, Upload: 500 << 10, Download: 10 << 20, IOIdle: true})
	c, warnings := mustRead(t, "[LIMITS]\ncpu = 25%\n", envOf())
	wantEqual(t, "a percent sign as 2.5 read it", must[Limits](t)(c.Limits()), Limits{CPU: Processors{0.25, true}})
	wantEqual(t, "warnings", len(warnings), 0)
	wantEqual(t, "none", must[Limits](t)(Defaults(envOf()).Limits()), Limits{})
}

func TestDrillSettings(t *testing.T) {
	wantEqual(t, "defaults", must[Drill](t)(Defaults(envOf()).Drill()), Drill{Sample: 1000, CheckTimeout: 10 * time.Minute, ListFiles: 100, Databases: true})
	c, _ := mustRead(t, "[DRILL]\nsample = 0\nmax_duration = 4h\ncheck_command = test -s a, b\ncheck_timeout = 90\nlist_files = 7\n", envOf())
	wantEqual(t, "drill", must[Drill](t)(c.Drill()), Drill{MaxDuration: 4 * time.Hour, CheckCommand: "test -s a, b", CheckTimeout: 90 * time.Second, ListFiles: 7, Databases: true})
}

func TestBooleans(t *testing.T) {
	for _, text := range []string{"True", "true", "YES", "on", "1"} {
		wantEqual(t, text, must[bool](t)(parseBool(text)), true)
	}
	for _, text := range []string{"False", "no", "Off", "0"} {
		wantEqual(t, text, must[bool](t)(parseBool(text)), false)
	}
}

func TestPaths(t *testing.T) {
	home := t.TempDir()
	env := envOf("HOME", home, "USERPROFILE", home)
	for text, want := range map[string]string{
		"~": home, "~/x": filepath.Join(home, "x"), "x/../y": abs(t, "y"), "./~ann": abs(t, "~ann"), "sftp://host/x": "sftp://host/x",
	} {
		wantEqual(t, text, must[string](t)(absolutePath(text, env)), want)
	}
	for _, text := range []string{"~ann", "~ann/x", "a\x00b"} {
		if got, err := absolutePath(text, env); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
	if got, err := absolutePath("~/x", envOf()); err == nil {
		t.Errorf("without a home ~/x is %q", got)
	}
}

func TestDirectories(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("these are the places of Unix")
	}
	const state, cache = true, false
	for _, c := range []struct {
		state bool
		root  bool
		env   Env
		want  string
	}{
		{state, true, envOf("BACKUP_HANDLER_DATA_DIR", "/d", "HOME", "/root"), "/d"},
		{state, false, envOf("BACKUP_HANDLER_DATA_DIR", "/d"), "/d"},
		{state, true, envOf("HOME", "/root", "XDG_STATE_HOME", "/s"), "/var/lib/backup-handler"},
		{state, false, envOf("HOME", "/home/a", "XDG_STATE_HOME", "/s"), "/s/backup-handler"},
		{state, false, envOf("HOME", "/home/a", "XDG_STATE_HOME", "relative"), "/home/a/.local/state/backup-handler"},
		{state, false, envOf("HOME", "/home/a"), "/home/a/.local/state/backup-handler"},
		{state, false, envOf(), ""},
		{cache, true, envOf("HOME", "/root"), "/root/.cache/backup-handler"},
		{cache, true, envOf(), "/var/cache/backup-handler"},
		{cache, false, envOf("HOME", "/home/a", "XDG_CACHE_HOME", "/c"), "/c/backup-handler"},
		{cache, false, envOf(), ""},
	} {
		f := DefaultCacheDir
		if c.state {
			f = DefaultStateDir
		}
		got, err := f(c.env, c.root)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	c, _ := mustRead(t, "[STATE]\ndir = /a\n[CACHE]\ndir = /b\n", envOf("BACKUP_HANDLER_DATA_DIR", "/d"))
	wantEqual(t, "state", must[string](t)(c.StateDir()), "/a")
	wantEqual(t, "cache", must[string](t)(c.CacheDir()), "/b")
	wantEqual(t, "state by variable", must[string](t)(Defaults(envOf("BACKUP_HANDLER_DATA_DIR", "/d")).StateDir()), "/d")
}

func TestLogByVariable(t *testing.T) {
	env := envOf("BACKUP_HANDLER_LOG_JSON", "1", "BACKUP_HANDLER_LOG_SYSLOG", "on")
	wantEqual(t, "unset", must[Log](t)(Defaults(env).Log()).JSON, true)
	wantEqual(t, "unset", must[Log](t)(Defaults(env).Log()).Syslog, true)
	c, _ := mustRead(t, "[LOG]\njson = no\nsyslog = no\nlevel = WARN\n", env)
	wantEqual(t, "set", must[Log](t)(c.Log()), Log{Level: slog.LevelWarn, MaxSizeMB: 50, MaxFiles: 30})
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.ini")
	if _, _, err := Load(path, envOf()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("[LOG]\nlevel = debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[fs.FileMode]string{
		0o600: "", 0o400: "",
		0o640: "can be read by others", 0o604: "can be read by others", 0o620: "can be changed by others", 0o666: "can be changed by others",
	} {
		if runtime.GOOS == "windows" && mode != 0o600 {
			continue // no such bits there
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		c, warnings, err := Load(path, envOf())
		if err != nil {
			t.Fatal(err)
		}
		if c.Path() != path || must[Log](t)(c.Log()).Level != slog.LevelDebug {
			t.Error("not the file's configuration")
		}
		var got string
		for _, w := range warnings {
			got += w.String()
		}
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("mode %v: warnings %q, want %q", mode, got, want)
		}
	}
	if _, _, err := Load(t.TempDir(), envOf()); err == nil {
		t.Error("a directory loads")
	}
}

func TestFind(t *testing.T) {
	dir, xdg := t.TempDir(), t.TempDir()
	write := func(path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := envOf("XDG_CONFIG_HOME", xdg)
	find := func(o FindOptions) (string, error) {
		if o.Env == nil {
			o.Env = env
		}
		o.Dir = dir
		return Find(o)
	}
	given := write(filepath.Join(dir, "given.ini"))
	missing := filepath.Join(dir, "missing.ini")
	wantEqual(t, "--config", must[string](t)(find(FindOptions{Path: given})), given)
	for what, o := range map[string]FindOptions{
		"--config":                {Path: missing},
		"$BACKUP_HANDLER_CONFIG":  {Env: envOf("BACKUP_HANDLER_CONFIG", missing)},
		"--profile":               {Profile: "night"},
		"--profile with variable": {Profile: "night", Env: envOf("BACKUP_HANDLER_CONFIG", given)},
	} {
		if path, err := find(o); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNone) {
			t.Errorf("%s of a missing file: %q, %v", what, path, err)
		}
	}
	for _, o := range []FindOptions{{Path: given, Profile: "x"}, {Profile: "../x"}, {Profile: ".x"}, {Profile: `a\b`}, {Path: dir}} {
		if path, err := find(o); err == nil {
			t.Errorf("%+v finds %q", o, path)
		}
	}
	if _, err := os.Stat("/etc/backup-handler/config.ini"); errors.Is(err, fs.ErrNotExist) {
		if path, err := find(FindOptions{}); !errors.Is(err, ErrNone) {
			t.Errorf("nothing: %q, %v", path, err)
		}
	}

	inXDG := write(filepath.Join(xdg, "backup-handler", "config.ini"))
	wantEqual(t, "XDG", must[string](t)(find(FindOptions{})), inXDG)
	home := envOf("HOME", filepath.Dir(filepath.Dir(write(filepath.Join(xdg, "h", ".config", "x")))), "USERPROFILE", filepath.Join(xdg, "h"))
	inHome := write(filepath.Join(xdg, "h", ".config", "backup-handler", "config.ini"))
	wantEqual(t, "home", must[string](t)(find(FindOptions{Env: home})), inHome)
	inDir := write(filepath.Join(dir, "config", "config.ini"))
	wantEqual(t, "directory", must[string](t)(find(FindOptions{})), inDir)
	wantEqual(t, "variable", must[string](t)(find(FindOptions{Env: envOf("BACKUP_HANDLER_CONFIG", given)})), given)

	night := write(filepath.Join(xdg, "backup-handler", "config.night.ini"))
	wantEqual(t, "profile", must[string](t)(find(FindOptions{Profile: "night"})), night)
	night = write(filepath.Join(dir, "config", "config.night.ini"))
	wantEqual(t, "profile", must[string](t)(find(FindOptions{Profile: "night"})), night)
}

func TestProgrammingErrorsPanic(t *testing.T) {
	c := Defaults(envOf())
	for name, f := range map[string]func(){
		"unknown key":    func() { c.Value("SSH", "sshservers") },
		"wrong type":     func() { _, _ = c.Value("SSH", "username").Int() },
		"secret as text": func() { _, _ = c.Value("SSH", "password").Text() },
		"text as secret": func() { _, _ = c.Value("SSH", "username").Secret() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestSecrets: what is set and can be read, and nothing else.
func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.ini")
	text := "[ENCRYPTION]\npassphrase = one\n[SSH]\npassword = ${TWO}\nkey_passphrase = ${UNSET}\n[WEBHOOK]\nauth_header = three\n[S3]\nbucket = four\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path, func(name string) (string, bool) { return "two", name == "TWO" })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Secrets() {
		got = append(got, s.Reveal())
	}
	slices.Sort(got)
	if want := []string{"one", "three", "two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
