package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A condition is what runs beside the other program.
type condition struct {
	name    string
	flags   []string
	session bool // in a session of its own
	none    bool // no backup at all
}

func conditions() []condition {
	return []condition{
		{name: "no backup", none: true},
		{name: "backup"},
		{name: "--io-idle", flags: []string{"--io-idle"}},
		{name: "--limit-cpu 0.5", flags: []string{"--limit-cpu", "0.5"}},
		{name: "--io-idle --limit-cpu 0.5", flags: []string{"--io-idle", "--limit-cpu", "0.5"}},
		{name: "--io-idle --limit-cpu 0.5 --limit-upload 10M", flags: []string{"--io-idle", "--limit-cpu", "0.5", "--limit-upload", "10M"}},
		{name: "--io-idle, from another session", flags: []string{"--io-idle"}, session: true},
	}
}

// A workload is the other program: it works for a time, and says how it fared.
type workload struct {
	name  string
	lines []string // what the numbers mean
	run   func(d time.Duration) ([]float64, error)
}

// processors measures what a backup does to a program that computes.
func (b *bench) processors(ctx context.Context) error {
	return b.compete(ctx, workload{"processors: one SHA-256 loop for each", []string{"hashes of 64 KiB a second", "slowest of 1,000 hashes, ms"}, hashing})
}

// disk measures what a backup does to a program like a database.
func (b *bench) disk(ctx context.Context) error {
	d, err := newDisk(filepath.Join(b.dir, "database"))
	if err != nil {
		return err
	}
	defer d.close()
	return b.compete(ctx, workload{
		"disk: 4 KiB appended and flushed, in turn with a read of 16 KiB at random",
		[]string{"pairs a second", "median flush, ms", "99th of 100 flushes, ms", "median read, ms", "99th of 100 reads, ms"}, d.work,
	})
}

// compete measures a workload under each condition.
func (b *bench) compete(ctx context.Context, w workload) error {
	results := map[string][][]float64{}
	backups := map[string][]float64{}
	for range b.rounds {
		for _, c := range conditions() {
			got, done, err := b.beside(ctx, c, w)
			if err != nil {
				return err
			}
			results[c.name] = append(results[c.name], got)
			backups[c.name] = append(backups[c.name], done)
		}
	}
	fmt.Printf("\nThe other program on the %s\n\n| beside it | %s | the backup's processors |\n|---%s|---|\n", w.name, strings.Join(w.lines, " | "), strings.Repeat("|---", len(w.lines)))
	for _, c := range conditions() {
		fmt.Printf("| %s", c.name)
		for i := range w.lines {
			base, got := column(results[conditions()[0].name], i), column(results[c.name], i)
			fmt.Printf(" | %.4g (%.2f×)", got, got/base)
		}
		fmt.Printf(" | %.2f |\n", median(backups[c.name]))
	}
	return nil
}

func column(rows [][]float64, i int) float64 {
	var all []float64
	for _, r := range rows {
		all = append(all, r[i])
	}
	return median(all)
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// beside runs a workload while backups run, one after the other, each into a new
// repository, of a source that is not in the page cache. It returns the workload's
// numbers and the processors that the backups used.
func (b *bench) beside(ctx context.Context, c condition, w workload) ([]float64, float64, error) {
	unix.Sync()
	time.Sleep(300 * time.Millisecond)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var cpu atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	if !c.none {
		wg.Go(func() {
			for ctx.Err() == nil {
				b.forget()
				repo := b.repo()
				cmd := b.command(ctx, b.backupArgs("src", repo, c.flags...)...)
				if c.session {
					if b.rank != 0 { // as high as ours
						script := fmt.Sprintf(`echo %d >%s; exec "$@"`, b.rank, autogroup)
						cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script, "sh"}, cmd.Args...)
					}
					cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
				}
				out, err := cmd.CombinedOutput()
				if cmd.ProcessState != nil {
					cpu.Add(int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
				}
				if err != nil && ctx.Err() == nil {
					err = fmt.Errorf("backup %v: %w: %s", c.flags, err, out)
					failed.Store(&err)
					return
				}
				os.RemoveAll(repo)
			}
		})
		time.Sleep(500 * time.Millisecond) // it has begun
	}
	got, err := w.run(b.window)
	cancel()
	wg.Wait()
	took := time.Since(start)
	if p := failed.Load(); p != nil && err == nil {
		err = *p
	}
	return got, time.Duration(cpu.Load()).Seconds() / took.Seconds(), err
}

// forget drops the source from the page cache.
func (b *bench) forget() {
	filepath.WalkDir(filepath.Join(b.dir, "src"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if f, err := os.Open(p); err == nil {
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			f.Close()
		}
		return nil
	})
}

// hashing keeps all processors busy.
func hashing(d time.Duration) ([]float64, error) {
	var done atomic.Int64
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			data := make([]byte, 64<<10)
			var mine []float64
			for time.Since(start) < d {
				before := time.Now()
				sum := sha256.Sum256(data)
				copy(data, sum[:])
				mine = append(mine, float64(time.Since(before).Microseconds())/1000)
				done.Add(1)
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return []float64{float64(done.Load()) / d.Seconds(), quantile(all, 0.999)}, nil
}

// A disk is a program like a database: it flushes what it appends, and reads.
type disk struct {
	log  *os.File
	data *os.File
	buf  []byte // aligned, for O_DIRECT
	rng  *rand.Rand
}

const (
	dataBytes = 256 << 20
	readBytes = 16 << 10
)

func newDisk(name string) (*disk, error) {
	d := &disk{rng: rand.New(rand.NewPCG(1, 2))}
	if err := write(name, make([]byte, 0)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	noise := make([]byte, 1<<20)
	for range dataBytes / len(noise) {
		if _, err := f.Write(noise); err != nil {
			return nil, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	f.Close()
	if d.data, err = os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0); err != nil {
		return nil, err
	}
	if d.log, err = os.OpenFile(name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	const align = 4096
	raw := make([]byte, readBytes+align)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (align - 1)
	d.buf = raw[skip : skip+readBytes]
	return d, nil
}

func (d *disk) close() {
	d.log.Close()
	d.data.Close()
}

func (d *disk) work(long time.Duration) ([]float64, error) {
	var flushes, reads []float64
	ms := func(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }
	for start := time.Now(); time.Since(start) < long; {
		t := time.Now()
		if _, err := d.log.Write(d.buf[:4096]); err != nil {
			return nil, err
		}
		if err := d.log.Sync(); err != nil {
			return nil, err
		}
		flushes = append(flushes, ms(t))
		t = time.Now()
		if _, err := d.data.ReadAt(d.buf, d.rng.Int64N(dataBytes/readBytes)*readBytes); err != nil {
			return nil, err
		}
		reads = append(reads, ms(t))
	}
	return []float64{
		float64(len(reads)) / long.Seconds(), quantile(flushes, 0.5), quantile(flushes, 0.99), quantile(reads, 0.5), quantile(reads, 0.99),
	}, nil
}

func quantile(all []float64, q float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

// scheduler names the I/O scheduler of the device that a directory is on.
func scheduler(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "?"
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	text := read(dev + "/queue/scheduler")
	if text == "?" { // a partition
		text = read(dev + "/../queue/scheduler")
	}
	return text
}
