package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A drillReport is what drill --json prints of each repository.
type drillReport struct {
	Snapshot    string   `json:"snapshot"`
	Passed      bool     `json:"passed"`
	ExitCode    int      `json:"exit_code"`
	Error       string   `json:"error"`
	Reasons     []string `json:"reasons"`
	Seed        string   `json:"seed"`
	Files       int64    `json:"files"`
	Verified    int64    `json:"verified_files"`
	Listed      int      `json:"listed_files"`
	Compared    int      `json:"compared_files"`
	Lost        []problem
	Differences []problem
	Command     *struct {
		ExitCode int    `json:"exit_code"`
		TimedOut bool   `json:"timed_out"`
		Output   string `json:"output"`
	} `json:"command"`
	File string `json:"report_file"`
}

type problem struct{ Path, Problem string }

// drill runs one, which must end with code, and leave nothing behind.
func (w *world) drill(code int, args ...string) drillReport {
	w.t.Helper()
	r := w.want(code, append([]string{"drill", "--json"}, args...)...)
	var reps []drillReport
	if err := json.Unmarshal([]byte(r.out), &reps); err != nil || len(reps) != 1 {
		w.t.Fatalf("%v: %v", err, r)
	}
	if reps[0].ExitCode != code || reps[0].Passed != (code == ok) {
		w.t.Errorf("the report says otherwise: %v", r)
	}
	w.tidy()
	return reps[0]
}

// tidy checks that no scratch directory is left.
func (w *world) tidy() {
	w.t.Helper()
	if left, _ := filepath.Glob(w.path("tmp", "*")); len(left) > 0 {
		w.t.Errorf("left behind: %q", left)
	}
}

// drillConfig writes a configuration with a section [DRILL].
func (w *world) drillConfig(lines string) string {
	w.t.Helper()
	name := w.write([]byte("[DRILL]\n"+lines+"\n"), "drill.ini")
	must(w.t, os.Chmod(name, 0o600))
	return name
}

// TestDrill: what passes, by sample and whole, of the latest and of an older snapshot,
// and what is kept of it.
func TestDrill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(20, "src"), w.path("repo")
	must(t, os.Symlink("d1/f001", w.path("src", "link")))
	must(t, os.Link(w.path("src", "d1", "f001"), w.path("src", "d2", "hard")))
	must(t, os.Chmod(w.path("src", "d3"), 0o500))
	if os.Geteuid() == 0 {
		tool(t, w.dir, "chattr", "+i", w.path("src", "d1", "f001"))
		defer tool(t, w.dir, "chattr", "-i", w.path("src", "d1", "f001"))
	}
	first := w.backup(ok, encrypted(src, dest)...).Snapshot
	w.write([]byte("another"), "src", "d4", "f004")
	second := w.backup(ok, encrypted(src, dest)...).Snapshot

	rep := w.drill(ok, "--backup-dirs", dest, "--full")
	if rep.Snapshot != second || rep.Files != 21 || rep.Verified != 21 || rep.Listed != 21 || rep.Compared != 21 {
		t.Errorf("%+v", rep)
	}
	rep = w.drill(ok, "--backup-dirs", dest, "--sample", "5", "--to", w.path("tmp"))
	if rep.Snapshot != second || rep.Files != 5 || rep.Verified != 5 || rep.Compared != 5 {
		t.Errorf("%+v", rep)
	}
	again := w.drill(ok, "--backup-dirs", dest, "--sample", "5", "--seed", rep.Seed)
	if again.Seed != rep.Seed || again.Compared != rep.Compared {
		t.Errorf("%+v", again)
	}
	if rep = w.drill(ok, "--backup-dirs", dest, "--random"); rep.Snapshot != first || rep.Compared != 20+1 {
		t.Errorf("an older one is %+v, want %s", rep, first)
	}
	if rep = w.drill(ok, "--backup-dirs", dest, first[:8], "--sample", "3"); rep.Snapshot != first {
		t.Errorf("%+v", rep)
	}
	tool(t, w.dir, "sha256sum", "--check", "--quiet", w.path("state", "lists", second+".sha256"))

	// It is on record, signed, and status tells of it.
	audit, err := os.ReadFile(w.path("state", "Logs", "audit.log"))
	must(t, err)
	if n := strings.Count(string(audit), `"event":"audit.drill"`); n != 5 {
		t.Errorf("%d drills are on record", n)
	}
	w.want(ok, "drill", "report", "--backup-dirs", dest)
	w.want(ok, "drill", "report", again.File, "--backup-dirs", dest)
	if r := w.want(ok, "status", "--backup-dirs", dest); !strings.Contains(r.out, "drill       passed ") {
		t.Errorf("%v", r)
	}
	data, err := os.ReadFile(rep.File)
	must(t, err)
	must(t, os.WriteFile(rep.File, []byte(strings.Replace(string(data), `"files":3`, `"files":300`, 1)), 0o600))
	if r := w.want(failed, "drill", "report", "--backup-dirs", dest); !strings.Contains(r.out, "SIGNATURE IS WRONG") {
		t.Errorf("%v", r)
	}
	if r := w.want(failed, "status", "--backup-dirs", dest); !strings.Contains(r.out, "the signature is wrong") {
		t.Errorf("%v", r)
	}

	// Nothing that could be drilled, and no such thing.
	w.want(failed, "drill", "--backup-dirs", dest, "0123abcd").complaint(t, true, "no such snapshot")
	w.want(failed, "drill", "--backup-dirs", dest, "--sample", "0").complaint(t, true, "from 1 on")
	w.want(failed, "drill", "--backup-dirs", dest, "--to", w.path("none")).complaint(t, true, "none")
	w.want(failed, "drill", "latest", "--random", "--backup-dirs", dest).complaint(t, true, "--random")
	w.want(refused, "drill", "--backup-dirs", w.path("none")).complaint(t, true, "no repository")
	w.env = []string{"BACKUP_HANDLER_PASSPHRASE=wrong"}
	w.want(refused, "drill", "--backup-dirs", dest).complaint(t, true, "wrong key")
	w.tidy()
}

// TestDrillFinds: what is damaged, and what is not what it was, by name.
func TestDrillFinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := w.tree(10, "src"), w.path("repo")
	id := w.backup(ok, encrypted(src, dest)...).Snapshot
	w.drill(ok, "--backup-dirs", dest)

	// A file that is restored as the repository has it, but not as it was in the source.
	list := w.path("state", "lists", id+".sha256")
	good, err := os.ReadFile(list)
	must(t, err)
	line := strings.SplitAfter(string(good), "\n")[3]
	digits, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " *")
	must(t, os.WriteFile(list, []byte(strings.Replace(string(good), digits, strings.Repeat("0", 64), 1)), 0o600))
	rep := w.drill(partial, "--backup-dirs", dest)
	if len(rep.Differences) != 1 || rep.Differences[0].Path != path || rep.Compared != 9 {
		t.Errorf("%+v, want %s", rep, path)
	}
	must(t, os.WriteFile(list, good, 0o600))

	// A flipped bit in each pack of data.
	var lost []string
	for name, size := range objects(t, dest, "packs") {
		if size < 100_000 {
			continue
		}
		flipBit(t, name, size/2)
		rep := w.drill(refused, "--backup-dirs", dest)
		if len(rep.Lost) == 0 || !strings.HasPrefix(rep.Lost[0].Path, src) || !strings.Contains(strings.Join(rep.Reasons, ""), rep.Lost[0].Path) {
			t.Errorf("%+v", rep)
		}
		lost = append(lost, rep.Lost[0].Path)
		if r := w.want(failed, "status", "--backup-dirs", dest); !strings.Contains(r.out, "the last drill, ") {
			t.Errorf("%v", r)
		}
		flipBit(t, name, size/2)
	}
	if len(lost) == 0 {
		t.Fatal("no pack of data")
	}
	// The newest snapshot does not open: an older one is no proof of it.
	w.write([]byte("more"), "src", "more")
	newest := w.backup(ok, encrypted(src, dest)...).Snapshot
	flipBit(t, filepath.Join(dest, "snapshots", newest), 100)
	rep = w.drill(refused, "--backup-dirs", dest)
	if rep.Snapshot != id || !strings.Contains(rep.Reasons[0], "snapshot "+newest[:8]+" cannot be read") {
		t.Errorf("%+v", rep)
	}
	w.drill(ok, "--backup-dirs", dest, id[:8])
	flipBit(t, filepath.Join(dest, "snapshots", newest), 100)
	w.drill(ok, "--backup-dirs", dest)
}

// flipBit changes one bit of a file.
func flipBit(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// TestDrillCommand: the command of the configuration judges what was restored.
func TestDrillCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(6, "src"), w.path("repo")
	id := w.backup(ok, encrypted(src, dest)...).Snapshot
	w.env = append(w.env, "TOKEN=a secret of the configuration", "OTHER=of the environment")
	run := func(code int, lines string, more ...string) drillReport {
		t.Helper()
		return w.drill(code, append([]string{"--backup-dirs", dest, "--config", w.drillConfig(lines)}, more...)...)
	}
	rep := run(ok, `check_command = cmp "$BACKUP_HANDLER_DRILL_DIR`+src+`/d1/f001" "`+src+`/d1/f001" && cmp .`+src+`/d2/f002 `+src+`/d2/f002 && env | sort`)
	env := rep.Command.Output
	for _, want := range []string{"BACKUP_HANDLER_DRILL_SNAPSHOT=" + id, "BACKUP_HANDLER_DRILL_FILES=6", "BACKUP_HANDLER_DRILL_REPOSITORY=" + dest, "PATH=", "HOME=" + w.path("home")} {
		if !strings.Contains(env, want+"\n") && !strings.Contains(env, want) {
			t.Errorf("no %s in\n%s", want, env)
		}
	}
	for _, secret := range []string{"PASSPHRASE", "TOKEN", "OTHER", "DATA_DIR"} {
		if strings.Contains(env, secret) {
			t.Errorf("%s in\n%s", secret, env)
		}
	}
	rep = run(partial, "check_command = echo it is broken; exit 7")
	if rep.Command.ExitCode != 7 || rep.Command.Output != "it is broken\n" || !strings.Contains(rep.Reasons[0], "exit code 7") {
		t.Errorf("%+v, %+v", rep, rep.Command)
	}
	// What it prints of secrets that the program knows is not kept.
	rep = run(partial, "check_command = echo correct horse battery staple; echo a secret of the configuration; exit 1\n[WEBHOOK]\nauth_header = ${TOKEN}")
	if rep.Command.Output != "***\n***\n" {
		t.Errorf("output %q", rep.Command.Output)
	}
	// Ended after its time, and all that it has started with it.
	start := time.Now()
	rep = run(partial, "check_command = (sleep 300; touch "+w.path("late")+") & echo $!; sleep 300\ncheck_timeout = 1s")
	if !rep.Command.TimedOut || time.Since(start) > time.Minute || !strings.Contains(rep.Reasons[0], "longer than check_timeout") {
		t.Errorf("%+v, %+v", rep, rep.Command)
	}
	if pid := strings.TrimSpace(rep.Command.Output); pid != "" {
		waitFor(t, "the end of what it has started", func() bool {
			state, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(state), ") Z ")
		})
	} else {
		t.Error("it did not start anything")
	}
	// What it leaves in the scratch directory goes, what links lead to stays.
	outside := w.write([]byte("x"), "outside", "file")
	run(ok, "check_command = mkdir -p a/b; touch a/b/c; ln -s "+w.path("outside")+" link; chmod 0 a/b a")
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	// A sample, and a limit of time.
	run(ok, "sample = 2\ncheck_command = test \"$BACKUP_HANDLER_DRILL_FILES\" = 2\nmax_duration = 10m")
	rep = run(partial, "max_duration = 1ms")
	if !strings.Contains(rep.Reasons[0], "longer than max_duration") {
		t.Errorf("%+v", rep)
	}
	// A command that others can write is not run.
	config := w.drillConfig("check_command = touch " + w.path("run"))
	must(t, os.Chmod(config, 0o666))
	w.want(failed, "drill", "--backup-dirs", dest, "--config", config).complaint(t, true, "check_command is not run")
	if _, err := os.Lstat(w.path("run")); err == nil {
		t.Error("it was run")
	}
	w.tidy()
}

// TestDrillInterrupted: nothing stays, whenever it is interrupted, nor a process.
func TestDrillInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := bigSource(w, 40), w.path("repo")
	for i := range 2000 {
		w.write([]byte(fmt.Sprint(i)), "src", "small", fmt.Sprint(i))
	}
	w.backup(ok, encrypted(src, dest)...)
	config := w.drillConfig("check_command = echo $$ >" + w.path("pid") + "; sleep 300")
	scratch := func() bool {
		left, _ := filepath.Glob(w.path("tmp", "backup-handler-drill-*", "*"))
		return len(left) > 0
	}
	for what, ready := range map[string]func() bool{
		"the first files": scratch,
		"the command": func() bool {
			pid, err := os.ReadFile(w.path("pid"))
			return err == nil && len(pid) > 0
		},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			os.Remove(w.path("pid"))
			c, end := w.start("drill", "--full", "--backup-dirs", dest, "--config", config)
			waitFor(t, what, ready)
			must(t, c.Process.Signal(sig))
			if r := end(); r.code != interrupted {
				t.Errorf("%s, %v: %v", what, sig, r)
			}
			w.tidy()
			if pid, err := os.ReadFile(w.path("pid")); err == nil {
				waitFor(t, "the end of the command", func() bool {
					state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
					return err != nil || strings.Contains(string(state), ") Z ")
				})
			}
		}
	}
}

// TestDrillKilled: the next drill removes what one has left that was killed, and nothing
// of one that goes on.
func TestDrillKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(6, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	config := w.drillConfig("check_command = echo $$ >" + w.path("pid") + "; sleep 300")
	running := func() bool {
		pid, err := os.ReadFile(w.path("pid"))
		return err == nil && len(pid) > 0
	}
	c, end := w.start("drill", "--backup-dirs", dest, "--config", config)
	waitFor(t, "the command", running)
	must(t, c.Process.Kill())
	pid, err := strconv.Atoi(strings.TrimSpace(string(read(t, w.path("pid")))))
	must(t, err)
	must(t, syscall.Kill(-pid, syscall.SIGKILL)) // nobody else ends it
	end()
	left, _ := filepath.Glob(w.path("tmp", "backup-handler-drill-*"))
	if len(left) != 1 {
		t.Fatalf("left: %q", left)
	}
	must(t, os.Remove(w.path("pid")))
	going, endGoing := w.start("drill", "--backup-dirs", dest, "--config", config)
	waitFor(t, "the command", running)
	r := w.want(ok, "drill", "--backup-dirs", dest)
	if strings.Contains(r.errout, "removed ") { // that one has done it
		t.Errorf("%v", r)
	}
	now, _ := filepath.Glob(w.path("tmp", "backup-handler-drill-*"))
	if len(now) != 1 || now[0] == left[0] {
		t.Errorf("%q, was %q", now, left)
	}
	must(t, going.Process.Signal(syscall.SIGINT))
	if r := endGoing(); r.code != interrupted || !strings.Contains(r.errout, "removed "+left[0]+", which a drill that was killed has left") {
		t.Errorf("%v", r)
	}
	w.tidy()
	if notes, _ := filepath.Glob(w.path("state", "drills", "backup-handler-*")); len(notes) > 0 {
		t.Errorf("left: %q", notes)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return data
}

// TestDrillNoRoom: what does not fit is not begun.
func TestDrillNoRoom(t *testing.T) {
	t.Parallel()
	needRoot(t, "a small file system")
	w := newWorld(t)
	src, dest := w.tree(6, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	small := w.mkdir("small")
	must(t, syscall.Mount("tmpfs", small, "tmpfs", 0, "size=8m"))
	defer syscall.Unmount(small, syscall.MNT_DETACH)
	w.want(refused, "drill", "--backup-dirs", dest, "--to", small).complaint(t, true, "has room for")
	if left, _ := os.ReadDir(small); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestDrillUnprivileged: who cannot give files away, or make them setuid, can drill.
func TestDrillUnprivileged(t *testing.T) {
	t.Parallel()
	needRoot(t, "to be somebody else")
	w := newWorld(t)
	src, dest := w.tree(6, "src"), w.path("repo")
	must(t, os.Chmod(w.path("src", "d1", "f001"), 0o4755))
	must(t, os.Chmod(w.path("src", "d2", "f002"), 0o444))
	must(t, os.Chmod(w.path("src", "d3"), 0o555))
	tool(t, w.dir, "chattr", "+d", w.path("src", "d4", "f004"))
	w.drop()
	w.mkdir("repo")
	w.backup(ok, encrypted(src, dest)...)
	if rep := w.drill(ok, "--full", "--backup-dirs", dest); rep.Verified != 6 || rep.Compared != 6 {
		t.Errorf("%+v", rep)
	}
}
