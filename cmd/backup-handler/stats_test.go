package main

import (
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

func TestChart(t *testing.T) {
	for _, c := range []struct {
		utf8       bool
		n, largest int64
		want       string
	}{
		{true, 100, 100, strings.Repeat("█", barWidth)}, {true, 1, 1 << 40, "▏"}, {true, 50, 80, strings.Repeat("█", 12) + "▌"}, {true, 0, 100, ""}, {true, 0, 0, ""},
		{false, 100, 100, strings.Repeat("#", barWidth)}, {false, 1, 1 << 40, "#"}, {false, 50, 100, strings.Repeat("#", barWidth/2)}, {false, -1, 100, ""},
	} {
		if got := (&chart{c.utf8}).bar(c.n, c.largest); got != c.want {
			t.Errorf("bar of %d of %d: %q, want %q", c.n, c.largest, got, c.want)
		}
	}
	many := make([]int64, 1000)
	many[999] = 7
	for _, c := range []struct {
		utf8    bool
		amounts []int64
		want    string
	}{
		{true, []int64{0, 1, 4, 8}, "▁▂▅█"}, {false, []int64{0, 1, 4, 8}, "_.=#"}, {true, []int64{0, 0}, "▁▁"}, {true, nil, ""},
		{true, many, strings.Repeat("▁", 58) + "█"}, // 17 days each
	} {
		if got := (&chart{c.utf8}).line(c.amounts); got != c.want {
			t.Errorf("line of %v: %q, want %q", c.amounts, got, c.want)
		}
	}
}

func TestUTF8(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false}, {map[string]string{"LANG": "C"}, false}, {map[string]string{"LANG": "de_DE.UTF-8"}, true}, {map[string]string{"LANG": "en_US.utf8"}, true},
		{map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, false}, {map[string]string{"LC_CTYPE": "UTF-8", "LANG": "C"}, true},
	} {
		a := newApp(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }, nil, nil, nil)
		if got := a.utf8(); got != c.want {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

func TestGrowthText(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	days := func(x float64) *float64 { return &x }
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	for want, g := range map[string]job.Growth{
		"not enough history":   {Days: 3, PerDay: []int64{0, 1, 2}, Free: number(1 << 30)},
		"it does not grow":     {Days: 30, Rate: number(0), Free: number(1 << 30)},
		"how much is free is":  {Days: 30, Rate: number(1 << 20)},
		"more than ten years":  {Days: 30, Rate: number(1 << 10), Free: number(1 << 40), FullIn: days(1 << 30)},
		"about 2026-03-11, if": {Days: 30, Rate: number(1 << 20), Free: number(10 << 20), FullIn: days(10)},
	} {
		var b strings.Builder
		growthText(&b, &g, &chart{}, now)
		if !strings.Contains(b.String(), want) {
			t.Errorf("%+v: %q, want %q", g, b.String(), want)
		}
	}
}
