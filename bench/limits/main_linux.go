// Command limits measures whether a limited run keeps to its limits, and what a
// running backup does to other programs. It runs the built program; README.md says
// what came out. Linux only: it reads /proc and goes around the page cache.
//
// main_linux.go: the runs of the program. compete_linux.go: the other program.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// autogroup is where a session's rank is written.
const autogroup = "/proc/self/autogroup"

// A bench is one run of the measurement.
type bench struct {
	bin, dir string
	rounds   int
	window   time.Duration
	size     int64 // of the source, bytes
	files    int   // small ones, for the walk
	rank     int   // of our session's processor time; 0: as any other
}

func main() {
	log.SetFlags(0)
	var b bench
	what := flag.String("only", "cpu,rate,processors,disk", "what to measure")
	flag.StringVar(&b.bin, "bin", "bin/backup-handler", "program to measure")
	flag.StringVar(&b.dir, "dir", "", "directory on the file system to measure (default: a temporary one)")
	flag.IntVar(&b.rounds, "rounds", 3, "interleaved rounds; medians are shown")
	flag.DurationVar(&b.window, "window", 4*time.Second, "how long the other program is watched each time")
	mib := flag.Int64("mib", 384, "size of the source, MiB")
	flag.IntVar(&b.files, "files", 50000, "number of small files for the unchanged run")
	flag.IntVar(&b.rank, "autogroup", 0, "nice of this session, and of the backup's where it has one of its own: negative to be disturbed less by others (root, autogroup)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b.size = *mib << 20
	if err := b.run(ctx, strings.Split(*what, ",")); err != nil {
		log.Fatal("limits: ", err)
	}
}

func (b *bench) run(ctx context.Context, what []string) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(b.dir, "limits-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	if err := b.source(); err != nil {
		return err
	}
	if b.rank != 0 {
		if err := os.WriteFile(autogroup, []byte(strconv.Itoa(b.rank)), 0); err != nil {
			return err
		}
	}
	fmt.Printf("%d processors, Linux %s, autogroup %s, I/O scheduler of %s: %s\n",
		runtime.NumCPU(), read("/proc/sys/kernel/osrelease"), read("/proc/sys/kernel/sched_autogroup_enabled"), b.dir, scheduler(b.dir))
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"cpu", b.cpu}, {"rate", b.rates}, {"processors", b.processors}, {"disk", b.disk}} {
		if !slices.Contains(what, part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// source makes what is backed up: half of it digits, which compress, half noise.
func (b *bench) source() error {
	const piece = 1 << 20
	rng := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, piece)
	for i := range int(b.size / piece) {
		rng.Read(noise)
		data := noise
		if i%2 == 0 {
			data = fmt.Appendf(nil, "%x", noise[:piece/2])
		}
		if err := write(filepath.Join(b.dir, "src", strconv.Itoa(i%16), strconv.Itoa(i)), data); err != nil {
			return err
		}
	}
	for i := range b.files {
		if err := write(filepath.Join(b.dir, "small", strconv.Itoa(i%500), strconv.Itoa(i)), nil); err != nil {
			return err
		}
	}
	return nil
}

func write(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o600)
}

// command prepares an execution of the program.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, b.bin, args...)
	c.Env = append(os.Environ(), "HOME="+b.dir, "BACKUP_HANDLER_DATA_DIR="+filepath.Join(b.dir, "state"),
		"XDG_CACHE_HOME="+filepath.Join(b.dir, "cache"), "XDG_CONFIG_HOME="+b.dir, "BACKUP_HANDLER_PASSPHRASE=bench")
	return c
}

// repo is the path of a repository that does not exist yet.
func (b *bench) repo() string {
	return filepath.Join(b.dir, fmt.Sprintf("repo-%d", time.Now().UnixNano()))
}

func (b *bench) backupArgs(src, repo string, more ...string) []string {
	return append([]string{"backup", "--encrypt", "--quiet", "--source-dir", filepath.Join(b.dir, src), "--backup-dirs", repo}, more...)
}

// A usage is what one execution took.
type usage struct {
	took, cpu time.Duration
	peak      float64 // processors, in the busiest second
}

func (u usage) share() float64 { return u.cpu.Seconds() / u.took.Seconds() }

// measure executes the program and watches its processor time.
func (b *bench) measure(ctx context.Context, args ...string) (usage, error) {
	c := b.command(ctx, args...)
	var errout bytes.Buffer
	c.Stderr = &errout
	start := time.Now()
	if err := c.Start(); err != nil {
		return usage{}, err
	}
	var u usage
	quit, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		u.peak = watch(c.Process.Pid, quit)
	}()
	err := c.Wait()
	u.took = time.Since(start)
	close(quit)
	<-watched
	if err != nil {
		return u, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errout.String())
	}
	u.cpu = c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	return u, nil
}

// watch returns how many processors a process used in its busiest second.
func watch(pid int, quit <-chan struct{}) float64 {
	type reading struct {
		at  time.Time
		cpu time.Duration
	}
	var readings []reading
	peak := 0.0
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-quit:
			return peak
		case <-t.C:
		}
		stat := read(fmt.Sprintf("/proc/%d/stat", pid))
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(f) < 14 {
			continue
		}
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		const tick = 10 * time.Millisecond // of USER_HZ
		now := reading{time.Now(), time.Duration(user+system) * tick}
		readings = append(readings, now)
		for len(readings) > 1 && now.at.Sub(readings[1].at) >= time.Second {
			readings = readings[1:]
		}
		if d := now.at.Sub(readings[0].at); d >= time.Second {
			peak = max(peak, (now.cpu-readings[0].cpu).Seconds()/d.Seconds())
		}
	}
}

// cpu measures the processors that runs use, against what they were allowed.
func (b *bench) cpu(ctx context.Context) error {
	fmt.Print("\n| run | --limit-cpu | seconds | processor seconds | processors used | busiest second |\n|---|---|---|---|---|---|\n")
	walked := b.repo()
	if _, err := b.measure(ctx, b.backupArgs("small", walked)...); err != nil {
		return err
	}
	defer os.RemoveAll(walked)
	for _, limit := range []string{"0", "1", "0.5", "0.1"} {
		repo := b.repo()
		for _, run := range []struct {
			name string
			args []string
		}{
			{"first backup", b.backupArgs("src", repo)},
			{"verify --read-data", []string{"verify", "--quiet", "--read-data", "--backup-dirs", repo}},
			{"restore", []string{"restore", "latest", "--quiet", "--to", repo + ".out", "--backup-dirs", repo}},
			{"verify --against", []string{"verify", "latest", "--quiet", "--against", repo + ".out", "--backup-dirs", repo}},
			{"unchanged run", b.backupArgs("small", walked)},
		} {
			if limit == "0.1" && run.name != "unchanged run" && run.name != "restore" && run.name != "first backup" {
				continue
			}
			u, err := b.measure(ctx, append(run.args, "--limit-cpu", limit)...)
			if err != nil {
				return err
			}
			peak := "–"
			if u.peak > 0 {
				peak = fmt.Sprintf("%.2f", u.peak)
			}
			fmt.Printf("| %s | %s | %.2f | %.2f | %.3f | %s |\n", run.name, limit, u.took.Seconds(), u.cpu.Seconds(), u.share(), peak)
		}
		os.RemoveAll(repo)
		os.RemoveAll(repo + ".out")
	}
	return nil
}

// rates measures bytes per second against what was allowed.
func (b *bench) rates(ctx context.Context) error {
	fmt.Print("\n| run | limit | bytes | seconds | MiB/s | of the limit |\n|---|---|---|---|---|---|\n")
	for _, mib := range []int64{0, 10, 50} {
		repo := b.repo()
		rate := strconv.FormatInt(mib, 10) + "M"
		for _, run := range []struct {
			name string
			args []string
		}{
			{"backup --limit-upload", append(b.backupArgs("src", repo), "--limit-upload", rate)},
			{"verify --limit-download", []string{"verify", "--quiet", "--read-data", "--backup-dirs", repo, "--limit-download", rate}},
			{"restore --limit-download", []string{"restore", "latest", "--quiet", "--to", repo + ".out", "--backup-dirs", repo, "--limit-download", rate}},
		} {
			u, err := b.measure(ctx, run.args...)
			if err != nil {
				return err
			}
			n := float64(size(repo)) / (1 << 20)
			got := n / u.took.Seconds()
			share := "–"
			if mib > 0 {
				share = fmt.Sprintf("%.1f %%", got/float64(mib)*100)
			}
			fmt.Printf("| %s | %s | %.1f MiB | %.2f | %.2f | %s |\n", run.name, rate, n, u.took.Seconds(), got, share)
		}
		os.RemoveAll(repo)
		os.RemoveAll(repo + ".out")
	}
	return nil
}

func size(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

// read is what a small file says, "?" if there is none.
func read(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}
