package main

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// limitFlags are how much of a busy machine a command may take. Every command has
// them: each opens repositories, or may do so one day.
type limitFlags struct {
	cpu              parsed[config.Processors]
	upload, download parsed[int64]
	ioIdle           parsed[bool]
}

// A parsed is a flag that is checked when the command line is read. It is a
// pflag.Value.
type parsed[T any] struct {
	value T
	text  string // as given; "": not
	kind  string
	parse func(string) (T, error)
}

func (p *parsed[T]) String() string { return p.text }
func (p *parsed[T]) Type() string   { return p.kind }

func (p *parsed[T]) Set(text string) error {
	v, err := p.parse(text)
	if err == nil {
		p.value, p.text = v, text
	}
	return err
}

// or is the flag's value if it is given, else v.
func (p *parsed[T]) or(v T) T {
	if p.text != "" {
		return p.value
	}
	return v
}

func (l *limitFlags) register(c *cobra.Command) {
	l.cpu = parsed[config.Processors]{kind: "number", parse: config.ParseProcessors}
	l.upload = parsed[int64]{kind: "rate", parse: config.ParseSize}
	l.download = l.upload
	l.ioIdle = parsed[bool]{kind: "bool", parse: func(text string) (bool, error) {
		v, err := strconv.ParseBool(text)
		if err != nil {
			err = errors.New("must be true or false")
		}
		return v, err
	}}
	f := c.PersistentFlags()
	f.Var(&l.cpu, "limit-cpu", "use at most so many processors, e.g. 0.5 or 2, or a share of the machine, e.g. 50% (0: no limit)")
	f.Var(&l.upload, "limit-upload", "write at most so many bytes a second to repositories, e.g. 500K or 10M (0: no limit)")
	f.Var(&l.download, "limit-download", "read at most so many bytes a second from repositories")
	f.VarPF(&l.ioIdle, "io-idle", "", "let every other program go first at disks and processors").NoOptDefVal = "true"
}

// limit puts the limits of the flags and the configuration into effect.
func (a *app) limit() error {
	c, err := a.cfg.Limits()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	f := &a.limitFlags
	processors := f.cpu.or(c.CPU).Of(limit.Processors())
	upload, download := f.upload.or(c.Upload), f.download.or(c.Download)
	idle := f.ioIdle.or(c.IOIdle)
	if idle {
		if err := limit.Idle(); err != nil {
			a.warn("--io-idle: %v", err)
		}
	}
	a.pacer.Limit(processors)
	schedule := storage.NewSchedule(periods(c.Schedule), time.Now)
	a.limits = storage.Limits{Upload: storage.NewRate(upload).And(schedule), Download: storage.NewRate(download).And(schedule)}
	if idle || a.pacer.Limited() || a.limits != (storage.Limits{}) {
		a.log.Info("limits", "processors", processors, "upload", upload, "download", download, "io_idle", idle)
	}
	return nil
}

func periods(all []config.RatePeriod) []storage.Period {
	out := make([]storage.Period, len(all))
	for i, p := range all {
		out[i] = storage.Period(p)
	}
	return out
}

// limitsTopic is what 'help limits' prints.
func limitsTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "limits",
		Short: "How to keep a run from being noticed on a busy machine",
		Long: `Each command that works on repositories takes these flags; the configuration has
the same in [LIMITS]. A flag goes before its key.

--limit-cpu NUMBER[%]
    At most so many processors on average: 0.5 is half of one, 2 is two, 50% is
    half of all that the program may use. Not below 0.01. 0 is no limit, and so
    is as much as there is. Everything the process does counts, work of the
    system on its behalf, too. It works in pieces of a few milliseconds and
    sleeps in between; single steps that cannot be cut (an index of millions of
    chunks, a slow passphrase) are made up for afterwards.

--limit-upload RATE, --limit-download RATE
    At most so many bytes a second written to, or read from, repositories: 500K,
    10M; K is 1024, and no unit is bytes. 0 is no limit. All destinations and all
    transfers of the run share one rate, whether the repository is on a network
    or on a local disk. What is counted is the content of the objects, not what
    file systems and protocols add. Reading the sources is not limited.
    [LIMITS] limit_schedule = 08:00-18:00 500 limits both directions to 500 KiB/s
    in these hours; [SSH] bandwidth_limit and [S3] max_bandwidth hold for each
    server or bucket.

--io-idle
    Every other program goes first. Linux: the idle class for disks and nice 19,
    for all threads. macOS: background state. Windows: idle priority and very low
    I/O priority. What a system lacks is a warning, not an error.
    On Linux, the class has an effect only where the disk's I/O scheduler knows
    it: bfq does, mq-deadline does since Linux 5.14, none and kyber do not ('cat
    /sys/block/*/queue/scheduler'). It orders the disk's queue, and nothing else:
    not what the page cache writes later, not what a network file system's server
    does. nice ranks within a session or control group: where the kernel groups
    by session (autogroup), or in a service of its own, use CPUWeight= and
    IOWeight= of systemd, or --limit-cpu.

A run that is limited takes longer, and is as safe as any other.

Exit codes: 0 printed. A value that cannot be understood is 1 in any command`,
		Example: `  backup-handler backup --io-idle --limit-cpu 50%
  backup-handler backup --limit-upload 2M --limit-cpu 0.5
  backup-handler verify --read-data --limit-download 20M --io-idle`,
	}
}
