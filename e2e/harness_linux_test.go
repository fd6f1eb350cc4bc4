package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// Exit codes, as the program documents them.
const (
	ok          = 0
	failed      = 1
	refused     = 2
	partial     = 3
	interrupted = 130
)

// nobody is who runs the program without privileges.
const nobody = 65534

// timeout is how long one execution may take, and anything that is waited for.
const timeout = 3 * time.Minute

// atOnce is how many tests run side by side at least, whatever the number of
// processors: most of them wait, for servers, disks, rates and schedules, longer than they
// compute.
const atOnce = 6

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	if to := os.Getenv(peakFile); to != "" {
		os.Exit(writePeak(to))
	}
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue && runtime.GOMAXPROCS(0) < atOnce {
		p.Value.Set(strconv.Itoa(atOnce))
	}
	os.Exit(func() int {
		if binary = os.Getenv("E2E_BINARY"); binary != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "backup-handler-e2e-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = os.Chmod(dir, 0o755) // nobody runs it, too
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binary = filepath.Join(dir, "backup-handler")
		build := exec.Command("go", "build", "-o", binary, "./cmd/backup-handler")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// depend tells 'go test' that results are those of the sources as they are: it sees what a
// test opens, and not what the compiler opens for it.
var depend = sync.OnceValue(func() error {
	if _, err := os.Stat("../go.mod"); err != nil {
		return err
	}
	for _, root := range []string{"../cmd", "../internal"} {
		if err := filepath.WalkDir(root, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			return err
		}
	}
	return nil
})

// A world is a directory with a state, a cache and keys of its own.
type world struct {
	t   *testing.T
	dir string
	// env is added to the environment of each execution.
	env []string
	uid int
}

// newWorld makes a world of an encrypted repository's user.
func newWorld(t *testing.T) *world {
	t.Helper()
	must(t, depend())
	// Not t.TempDir: others cannot enter that one, and it fails where a test that
	// failed left immutable files.
	dir, err := os.MkdirTemp("", "bh-e2e-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	w := &world{t: t, dir: dir, uid: os.Geteuid(), env: []string{"BACKUP_HANDLER_PASSPHRASE=correct horse battery staple"}}
	t.Cleanup(func() { removeAll(t, dir) })
	for _, d := range []string{"home", "state", "cache", "tmp"} {
		must(t, os.Mkdir(w.path(d), 0o700))
	}
	return w
}

// removeAll removes a tree whatever its flags and modes.
func removeAll(t *testing.T, dir string) {
	// Paths may be longer than any that a system call takes: rm walks by handle.
	if exec.Command("rm", "-rf", dir).Run() == nil {
		return
	}
	exec.Command("chattr", "-R", "-f", "-i", "-a", dir).Run()
	exec.Command("chmod", "-R", "u+rwx", dir).Run()
	if out, err := exec.Command("rm", "-rf", dir).CombinedOutput(); err != nil {
		t.Errorf("remove %s: %v: %s", dir, err, out)
	}
}

// drop lets nobody run the program in w.
func (w *world) drop() {
	w.uid = nobody
	for _, d := range []string{"home", "state", "cache", "tmp"} {
		must(w.t, os.Chown(w.path(d), nobody, nobody))
	}
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir}, names...)...)
}

// mkdir makes a directory that belongs to the program's user.
func (w *world) mkdir(names ...string) string {
	w.t.Helper()
	dir := w.path(names...)
	must(w.t, os.MkdirAll(dir, 0o755))
	must(w.t, os.Chown(dir, w.uid, -1))
	return dir
}

// write makes a file, and the directories above it.
func (w *world) write(data []byte, names ...string) string {
	w.t.Helper()
	name := w.path(names...)
	must(w.t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(w.t, os.WriteFile(name, data, 0o644))
	if w.uid != os.Geteuid() {
		must(w.t, os.Chown(name, w.uid, -1))
		must(w.t, os.Chown(filepath.Dir(name), w.uid, -1))
	}
	return name
}

// tree fills a source of n files of a few hundred KiB that do not compress.
func (w *world) tree(n int, names ...string) string {
	w.t.Helper()
	for i := range n {
		name := fmt.Sprintf("d%d/f%03d", i%5, i)
		w.write(filestest.Bytes(strings.Join(names, "/")+name, 200_000+i*1000), append(names, name)...)
	}
	return w.path(names...)
}

// A result is what an execution left.
type result struct {
	args        []string
	code        int
	out, errout string
	took        time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("backup-handler %s\nexit code %d after %v\n--- stdout\n%s--- stderr\n%s", strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), r.out, r.errout)
}

// command prepares an execution.
func (w *world) command(ctx context.Context, args ...string) (c *exec.Cmd, out, errout *bytes.Buffer) {
	c = exec.CommandContext(ctx, binary, args...)
	c.Dir = w.path("home")
	c.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.path("home"), "TMPDIR=" + w.path("tmp"), "TZ=UTC",
		"BACKUP_HANDLER_DATA_DIR=" + w.path("state"), "XDG_CACHE_HOME=" + w.path("cache"), "XDG_CONFIG_HOME=" + w.path("home"),
	}, w.env...)
	if w.uid != os.Geteuid() {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.uid), Gid: nobody}}
	}
	out, errout = new(bytes.Buffer), new(bytes.Buffer)
	c.Stdout, c.Stderr = out, errout
	return c, out, errout
}

// peakFile is the variable with which the test program is started to be between itself and
// the program: the peak that the kernel notes of a process begins with that of the one
// that started it, and the test program may have had more than what it measures.
const peakFile = "E2E_PEAK_FILE"

// peak lets a command of w.command be measured: once it has ended, bytes returns its peak
// of resident memory.
func (w *world) peak(c *exec.Cmd) (bytes func() int64) {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	to := filepath.Join(w.t.TempDir(), "peak")
	c.Path, c.Args, c.Env = self, append([]string{self}, c.Args...), append(c.Env, peakFile+"="+to)
	return func() int64 {
		w.t.Helper()
		data, err := os.ReadFile(to)
		must(w.t, err)
		n, err := strconv.ParseInt(string(data), 10, 64)
		must(w.t, err)
		return n
	}
}

// writePeak runs the program in the arguments, and writes its peak of memory to a file.
func writePeak(to string) (code int) {
	c := exec.Command(os.Args[1], os.Args[2:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	if c.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return failed
	}
	peak := c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if err := os.WriteFile(to, fmt.Append(nil, peak), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return failed
	}
	return c.ProcessState.ExitCode()
}

// run executes the program.
func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), timeout)
	defer cancel()
	c, out, errout := w.command(ctx, args...)
	start := time.Now()
	err := c.Run()
	r := result{args, c.ProcessState.ExitCode(), out.String(), errout.String(), time.Since(start)}
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit || r.code < 0 {
		w.t.Fatalf("%v: %v", err, r)
	}
	if strings.Contains(r.errout, "goroutine ") || strings.Contains(r.errout, "panic:") {
		w.t.Errorf("a stack trace: %v", r)
	}
	return r
}

// want runs the program and fails the test unless it ends with that code.
func (w *world) want(code int, args ...string) result {
	w.t.Helper()
	r := w.run(args...)
	if r.code != code {
		w.t.Fatalf("want exit code %d: %v", code, r)
	}
	return r
}

// A backupReport is what backup --json prints.
type backupReport struct {
	Snapshot string `json:"snapshot"`
	Details  struct {
		Counts struct {
			Files      int64 `json:"files"`
			Dirs       int64 `json:"dirs"`
			Bytes      int64 `json:"bytes"`
			New        int64 `json:"new"`
			Changed    int64 `json:"changed"`
			Unmodified int64 `json:"unmodified"`
			Read       int64 `json:"bytes_read"`
			Stored     int64 `json:"bytes_stored"`
			Skipped    int64 `json:"skipped"`
			Problems   int64 `json:"problems"`
		} `json:"counts"`
		Problems []struct {
			Path, Kind, Text string
		} `json:"problem_list"`
	} `json:"details"`
	Destinations []struct {
		Location string   `json:"location"`
		Place    string   `json:"repository"`
		Copied   []string `json:"copied"`
		Error    string   `json:"error"`
	} `json:"destinations"`
	Notes    []string `json:"notes"`
	ExitCode int      `json:"exit_code"`
}

// backup runs a backup that must end with code.
func (w *world) backup(code int, args ...string) backupReport {
	w.t.Helper()
	r := w.want(code, append([]string{"backup", "--json"}, args...)...)
	var rep backupReport
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		w.t.Fatalf("%v: %v", err, r)
	}
	if rep.ExitCode != code {
		w.t.Errorf("the report says exit code %d: %v", rep.ExitCode, r)
	}
	return rep
}

// encrypted is the backup of src into each of dests, encrypted.
func encrypted(src string, dests ...string) []string {
	args := []string{"--encrypt", "--source-dir", src}
	for _, d := range dests {
		args = append(args, "--backup-dirs", d)
	}
	return args
}

// restore restores the directory path of a snapshot into a new directory and
// returns its name.
func (w *world) restore(code int, dest, snapshot, path string, more ...string) string {
	w.t.Helper()
	to, err := os.MkdirTemp(w.dir, "restored-")
	must(w.t, err)
	must(w.t, os.Chown(to, w.uid, -1))
	w.want(code, append([]string{"restore", snapshot + ":" + path, "--to", to, "--backup-dirs", dest}, more...)...)
	return to
}

// verify checks a repository; more may be --read-data.
func (w *world) verify(code int, dest string, more ...string) result {
	w.t.Helper()
	return w.want(code, append([]string{"verify", "--backup-dirs", dest}, more...)...)
}

// snapshotIDs are the names of the snapshot objects of a repository.
func (w *world) snapshotIDs(dest string) []string {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(dest, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		if len(e.Name()) == 32 {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// objects are the paths of a repository's objects below dir, with their sizes.
func objects(t *testing.T, dest, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(filepath.Join(dest, dir), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || len(d.Name()) != 32 {
			if errors.Is(err, fs.ErrNotExist) { // not made yet
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err == nil {
			all[p] = info.Size()
		}
		return err
	})
	must(t, err)
	return all
}

func total(sizes map[string]int64) (n int64) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// complaint checks that an execution told what is wrong in one line, which holds
// each of the words, and, if hint, what to do about it in one more.
func (r result) complaint(t *testing.T, hint bool, words ...string) {
	t.Helper()
	var errs, hints []string
	for line := range strings.Lines(r.errout) {
		switch {
		case strings.HasPrefix(line, "backup-handler: "):
			errs = append(errs, line)
		case strings.HasPrefix(line, "hint: "):
			hints = append(hints, line)
		}
	}
	if len(errs) != 1 || len(hints) > 1 || hint && len(hints) == 0 {
		t.Errorf("%d lines of errors, %d hints: %v", len(errs), len(hints), r)
	}
	for _, word := range words {
		if !strings.Contains(strings.ToLower(strings.Join(errs, "")), strings.ToLower(word)) {
			t.Errorf("the error does not tell of %q: %v", word, r)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tool runs another program, which must succeed, and returns its output.
func tool(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needRoot skips the rest of a test.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: " + why)
	}
}
