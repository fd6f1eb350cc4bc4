package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// Retention says which snapshots are kept, and how what is forgotten is removed.
type Retention struct {
	MaxAge                                       time.Duration
	MaxCount                                     int
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                       string // years, months, days, hours: 1y6m14d12h
	Tags                                         []string
	MinKeep                                      int

	PruneEvery time.Duration // 0: never
	Grace      time.Duration
	MaxUnused  Unused
}

// Retention returns the section [RETENTION].
func (c *Config) Retention() (Retention, error) {
	var r reader
	number := func(name string) int { return int(get(&r, c.Value("RETENTION", name), Value.Int)) }
	days := func(name string) time.Duration { return time.Duration(number(name)) * 24 * time.Hour }
	out := Retention{
		MaxAge: days("max_age_days"), MaxCount: number("max_count"),
		Last: number("keep_last"), Hourly: number("keep_hourly"), Daily: number("keep_daily"), Weekly: number("keep_weekly"),
		Monthly: number("keep_monthly"), Yearly: number("keep_yearly"),
		Within:     get(&r, c.Value("RETENTION", "keep_within"), Value.Text),
		Tags:       get(&r, c.Value("RETENTION", "keep_tags"), Value.List),
		MinKeep:    number("min_keep"),
		PruneEvery: days("prune_days"),
		Grace:      get(&r, c.Value("RETENTION", "grace"), Value.Duration),
	}
	text := get(&r, c.Value("RETENTION", "max_unused"), Value.Text)
	if r.err != nil {
		return Retention{}, r.err
	}
	var err error
	out.MaxUnused, err = ParseUnused(text)
	return out, err
}

var span = lazyregexp.New(`^(\d{1,6}y)?(\d{1,6}m)?(\d{1,6}d)?(\d{1,6}h)?$`)

func checkSpan(text string) error {
	if !span().MatchString(text) {
		return errors.New("must be a length of time like 1y6m14d12h (years, months, days, hours)")
	}
	return nil
}

// Unused is how much may be unused: a share of what is needed or, where that is 0, so
// many bytes.
type Unused struct {
	Share float64
	Bytes int64
}

// ParseUnused reads "5%", "500M" or "unlimited".
func ParseUnused(text string) (Unused, error) {
	if strings.EqualFold(text, "unlimited") {
		return Unused{Bytes: math.MaxInt64}, nil
	}
	if number, percent := strings.CutSuffix(text, "%"); percent {
		share, err := strconv.ParseFloat(number, 64)
		if err != nil || !(share >= 0 && share <= 10_000) {
			return Unused{}, errUnused
		}
		return Unused{Share: share / 100}, nil
	}
	n, err := ParseSize(text)
	if err != nil {
		return Unused{}, errUnused
	}
	return Unused{Bytes: n}, nil
}

var errUnused = errors.New("must be a share such as 5%, a size such as 500M, or unlimited")

func checkUnused(text string) error {
	_, err := ParseUnused(text)
	return err
}

// VerifyAfterBackup is [VERIFY] after_backup: whether each backup ends with one.
func (c *Config) VerifyAfterBackup() (bool, error) { return c.Value("VERIFY", "after_backup").Bool() }

// ReadDataDays is [VERIFY] read_data_days: in how many days everything is read once; 0:
// never.
func (c *Config) ReadDataDays() (int, error) {
	n, err := c.Value("VERIFY", "read_data_days").Int()
	return int(n), err
}
