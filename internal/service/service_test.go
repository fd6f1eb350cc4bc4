package service

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

var update = flag.Bool("update", false, "write the golden files anew")

func plan(t *testing.T, jobs map[schedule.Kind]string) schedule.Plan {
	t.Helper()
	p := schedule.Plan{Jobs: map[schedule.Kind]schedule.Schedule{}, Zone: time.UTC, CatchUp: true, StopTimeout: 3 * time.Minute}
	for k, text := range jobs {
		s, err := schedule.Parse(text, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		p.Jobs[k] = s
	}
	return p
}

func options(t *testing.T) Options {
	return Options{
		Program: "/usr/local/bin/backup-handler", Config: "/etc/backup-handler/config.ini", Sources: []string{"/home", "/etc"},
		Writable: []string{"/mnt/backup", "/var/lib/backup-handler", "/var/cache/backup-handler"}, StateDir: "/var/lib/backup-handler",
		EnvironmentFile: "/etc/backup-handler/environment",
		Plan:            plan(t, map[schedule.Kind]string{schedule.Backup: "03:00, 15:30", schedule.Verify: "every 6h"}),
	}
}

// odd has in its paths what units have rules for.
func odd(t *testing.T, dir string) Options {
	o := options(t)
	o.Program = filepath.Join(dir, `100% my $HOME prog;ram`)
	o.Config = filepath.Join(dir, `con fig %h 'x' $(y) ${Z} \n.ini`)
	o.Args = []string{`--key-file=/a b/%i"c"`}
	o.Writable = []string{filepath.Join(dir, `de st %u "q" 'r' \s`), "/plain"}
	o.Environment = []string{`BACKUP_HANDLER_DATA_DIR=/st ate %t "x"`}
	o.PassphraseFile = "/etc/pass phrase%n"
	o.EnvironmentFile = "/etc/en vi%n"
	o.Plan.Jitter = 10 * time.Minute
	o.Plan.Finish = true
	o.Plan.Jobs[schedule.Drill] = plan(t, map[schedule.Kind]string{schedule.Drill: "0 4 13 * 5; every 7h"}).Jobs[schedule.Drill]
	return o
}

func TestGolden(t *testing.T) {
	timers := options(t)
	timers.Timers, timers.Zone, timers.Plan.CatchUp, timers.User = true, "Europe/Berlin", false, "backup"
	user := options(t)
	user.UserUnit = true
	oddOne := odd(t, "/opt/a b")
	all := options(t)
	all.Sources, all.Unconfined = []string{"/"}, true
	root := options(t)
	root.Sources = []string{"/"}
	root.Plan.Jobs[schedule.Drill] = root.Plan.Jobs[schedule.Verify]
	for name, made := range map[string]func() ([]File, error){
		"daemon":          func() ([]File, error) { return Systemd(options(t)) },
		"timers":          func() ([]File, error) { return Systemd(timers) },
		"user":            func() ([]File, error) { return Systemd(user) },
		"odd":             func() ([]File, error) { return Systemd(oddOne) },
		"unconfined":      func() ([]File, error) { return Systemd(all) },
		"root-and-drills": func() ([]File, error) { return Systemd(root) },
		"launchd":         func() ([]File, error) { return Launchd(oddOne) },
		"task":            func() ([]File, error) { return Task(oddOne) },
		"user-task":       func() ([]File, error) { return Task(user) },
	} {
		files, err := made()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got strings.Builder
		for _, f := range files {
			got.WriteString("==> " + f.Name + "\n" + strings.ReplaceAll(decodeUTF16(f.Data), "\r\n", "\n"))
		}
		golden := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || got.String() != string(want) {
			t.Errorf("%s: %v, or it differs from its golden file:\n%s", name, err, got.String())
		}
	}
}

// xmlOf checks that a file is well-formed, and returns its texts.
func xmlOf(t *testing.T, data []byte) (texts []string) {
	t.Helper()
	text := strings.Replace(decodeUTF16(data), `encoding="UTF-16"`, `encoding="UTF-8"`, 1)
	dec := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if c, ok := token.(xml.CharData); ok {
			texts = append(texts, string(c))
		}
	}
}

func TestXML(t *testing.T) {
	o := odd(t, "/opt/a & <b>")
	files, err := Launchd(o)
	if err != nil {
		t.Fatal(err)
	}
	texts := xmlOf(t, files[0].Data)
	for _, want := range []string{o.Program, "daemon", "--config=" + o.Config, o.Args[0]} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is not in %q", want, texts)
		}
	}
	if files, err = Task(o); err != nil {
		t.Fatal(err)
	}
	if texts = xmlOf(t, files[0].Data); !slices.Contains(texts, o.Program) {
		t.Errorf("%q is not in %q", o.Program, texts)
	}
	for arg, want := range map[string]string{
		`a`: `a`, ``: `""`, `a b`: `"a b"`, `a"b`: `"a\"b"`, `C:\a b\`: `"C:\a b\\"`, `a\"b`: `"a\\\"b"`, `C:\a\b`: `C:\a\b`,
	} {
		if got := quoteWindows(arg); got != want {
			t.Errorf("%s: %s, want %s", arg, got, want)
		}
	}
}

// analyze runs systemd-analyze on files, which are written to a directory of their own.
func analyze(t *testing.T, files []File, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, f.Perm); err != nil {
			t.Fatal(err)
		}
		args = append(args, filepath.Join(dir, f.Name))
	}
	c := exec.Command("systemd-analyze", args...)
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir}
	out, err := c.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return string(out)
}

// TestSystemdVerify: systemd finds nothing to complain about, also with odd paths. Its
// exit code says nothing, so what counts is that it is silent.
func TestSystemdVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o *Options){
		"daemon":      func(*Options) {},
		"timers":      func(o *Options) { o.Timers = true },
		"zone":        func(o *Options) { o.Timers, o.Zone = true, "Europe/Berlin" },
		"user":        func(o *Options) { o.UserUnit = true },
		"user timers": func(o *Options) { o.UserUnit, o.Timers = true, true },
		"other user":  func(o *Options) { o.User = "daemon" },
		"unconfined":  func(o *Options) { o.Unconfined = true },
		"everything":  func(o *Options) { o.Sources = []string{"/"} },
		"credential":  func(o *Options) { o.PassphraseFile += ".cred" },
	} {
		o := odd(t, dir)
		if err := os.WriteFile(o.Program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		change(&o)
		files, err := Systemd(o)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"verify", "--man=no"}
		if o.UserUnit {
			args = append(args, "--user")
		}
		if out := analyze(t, files, args...); out != "" {
			t.Errorf("%s: systemd complains:\n%s\n%s", name, out, files[0].Data)
		}
	}
	// That it would: of a key that it does not know, and of a program that is not there.
	files, err := Systemd(odd(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	files[0].Data = []byte(strings.Replace(string(files[0].Data), "PrivateTmp", "PrivateTemp", 1))
	if out := analyze(t, files, "verify", "--man=no"); !strings.Contains(out, "PrivateTemp") {
		t.Errorf("a key that is unknown goes unnoticed: %q", out)
	}
	if files, err = Systemd(odd(t, dir+"/elsewhere")); err != nil {
		t.Fatal(err)
	}
	if out := analyze(t, files, "verify", "--man=no"); !strings.Contains(out, "elsewhere") {
		t.Errorf("a program that is not there goes unnoticed: %q", out)
	}
}

// TestSystemdSecurity: systemd's own score of the exposure, of 10; below 3 is OK.
func TestSystemdSecurity(t *testing.T) {
	overall := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) (\w+)`)
	for name, c := range map[string]struct {
		change func(o *Options)
		most   float64
	}{
		"daemon":     {func(*Options) {}, 2.4},
		"other user": {func(o *Options) { o.User = "daemon" }, 2.2},
		"drills":     {func(o *Options) { o.Plan.Jobs[schedule.Drill] = o.Plan.Jobs[schedule.Verify] }, 3.0},
		"everything": {func(o *Options) { o.Sources = []string{"/"} }, 3.0},
	} {
		o := options(t)
		o.Program = "/bin/sh"
		c.change(&o)
		files, err := Systemd(o)
		if err != nil {
			t.Fatal(err)
		}
		out := analyze(t, files, "security", "--offline=true", "--no-pager")
		found := overall.FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("%s: no score in %s", name, out)
		}
		score, _ := strconv.ParseFloat(found[1], 64)
		t.Logf("%s: %s %s", name, found[1], found[2])
		if score > c.most {
			t.Errorf("%s: exposure %.1f, want at most %.1f\n%s", name, score, c.most, out)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, change := range map[string]func(o *Options){
		"a line in a path":    func(o *Options) { o.Config = "/etc/a\nExecStartPre=/bin/rm" },
		"a line in an option": func(o *Options) { o.Args = []string{"--key-file=/a\n"} },
		"a path of no text":   func(o *Options) { o.Writable = []string{"/a\xff"} },
		"a user":              func(o *Options) { o.User = "a b" },
		"no schedule":         func(o *Options) { o.Plan.Jobs = nil },
	} {
		o := options(t)
		change(&o)
		for _, make := range []func(Options) ([]File, error){Systemd, Launchd, Task} {
			if _, err := make(o); err == nil {
				t.Errorf("%s is accepted", name)
			}
		}
	}
}

// TestSystemdPrograms: systemd starts none with such a name, however it is quoted.
func TestSystemdPrograms(t *testing.T) {
	for _, name := range []string{`/a"b`, `/a'b`, `/a\b`} {
		o := options(t)
		o.Program = name
		if _, err := Systemd(o); err == nil || !strings.Contains(err.Error(), "quote") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "units")
	files, err := Systemd(options(t))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, files[0].Name)
	state := func(want State) {
		t.Helper()
		if got, err := Look(dir, files[0]); err != nil || got != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	install := func(force bool, want ...string) {
		t.Helper()
		if changed, err := Install(dir, files, force); err != nil || !slices.Equal(changed, want) {
			t.Errorf("changed %q, %v, want %q", changed, err, want)
		}
	}
	state(Missing)
	install(false, files[0].Name)
	state(Current)
	install(false)
	files[0].Data = append(files[0].Data, "# newer\n"...)
	state(Changed)
	install(false, files[0].Name)

	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	state(Foreign)
	if _, err := Install(dir, files, false); !errors.Is(err, ErrForeign) {
		t.Errorf("error %v", err)
	}
	if removed, err := Remove(dir); err != nil || len(removed) != 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	state(Foreign)
	install(true, files[0].Name)
	state(Current)

	o := options(t)
	o.Timers = true
	if files, err = Systemd(o); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	install(false, names...)
	if removed, err := Remove(dir, names...); err != nil || !slices.Equal(removed, []string{Name + ".service"}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	task, err := Task(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir, task, false); err != nil {
		t.Fatal(err)
	}
	if removed, err := Remove(dir); err != nil || len(removed) != len(names)+1 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if removed, err := Remove(filepath.Join(dir, "missing")); err != nil || removed != nil {
		t.Errorf("removed %q, %v", removed, err)
	}
}
