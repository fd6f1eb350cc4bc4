package config

import (
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// Schedule returns the section [SCHEDULE]. It may be a plan without jobs.
func (c *Config) Schedule() (schedule.Plan, error) {
	var r reader
	plan := schedule.Plan{
		Jobs:        make(map[schedule.Kind]schedule.Schedule),
		Jitter:      get(&r, c.Value("SCHEDULE", "jitter"), Value.Duration),
		CatchUp:     get(&r, c.Value("SCHEDULE", "catch_up"), Value.Bool),
		Finish:      get(&r, c.Value("SCHEDULE", "on_stop"), Value.Text) == "finish",
		StopTimeout: get(&r, c.Value("SCHEDULE", "stop_timeout"), Value.Duration),
	}
	zone := c.Value("SCHEDULE", "timezone")
	name := get(&r, zone, Value.Text)
	if r.err != nil {
		return schedule.Plan{}, r.err
	}
	var err error
	if plan.Zone, err = schedule.Zone(name); err != nil {
		return schedule.Plan{}, zone.errorf("%v", err)
	}
	for _, kind := range schedule.Kinds() {
		v := c.Value("SCHEDULE", string(kind))
		text := get(&r, v, Value.Text)
		if r.err != nil {
			return schedule.Plan{}, r.err
		}
		if text == "" {
			continue
		}
		if plan.Jobs[kind], err = schedule.Parse(text, plan.Zone); err != nil {
			return schedule.Plan{}, v.errorf("%v", err)
		}
	}
	v := c.Value("SCHEDULE", "times")
	times := get(&r, v, Value.List)
	if r.err != nil || len(times) == 0 {
		return plan, r.err
	}
	s, err := schedule.Parse(strings.Join(times, ", "), plan.Zone)
	if err != nil {
		return schedule.Plan{}, v.errorf("%v", err)
	}
	plan.Jobs[schedule.Backup] = s.Join(plan.Jobs[schedule.Backup])
	return plan, nil
}

// TimeZone returns [SCHEDULE] timezone, an IANA name; "" for the machine's.
func (c *Config) TimeZone() (string, error) { return c.Value("SCHEDULE", "timezone").Text() }

func checkSchedule(text string) error {
	_, err := schedule.Parse(text, time.UTC)
	return err
}

func checkZone(text string) error {
	_, err := schedule.Zone(text)
	return err
}
