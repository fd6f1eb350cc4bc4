package schedule

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestCalendar(t *testing.T) {
	for text, want := range map[string]string{
		"03:00, 15:30":    "OnCalendar=*-*-* 03:00:00|OnCalendar=*-*-* 15:30:00",
		"30 2 * * 1-5":    "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 02:30:00",
		"0 0 13 * 5":      "OnCalendar=Fri *-*-* 00:00:00|OnCalendar=*-*-13 00:00:00",
		"*/20 1-3 * * 7":  "OnCalendar=Sun *-*-* 01..03:00,20,40:00",
		"@monthly":        "OnCalendar=*-*-01 00:00:00",
		"every 6h":        "OnCalendar=*-*-* 00/6:00:00 UTC",
		"every 1h":        "OnCalendar=*-*-* *:00:00 UTC",
		"every 15m":       "OnCalendar=*-*-* *:00/15:00 UTC",
		"every 1d":        "OnCalendar=*-*-* 00:00:00 UTC",
		"every 7h":        "OnActiveSec=25200s|OnUnitActiveSec=25200s",
		"every 7d":        "OnActiveSec=604800s|OnUnitActiveSec=604800s",
		"0 4 * 1,2,3,7 *": "OnCalendar=*-01..03,07-* 04:00:00",
	} {
		if got := strings.Join(parse(t, text, time.UTC).Calendar(""), "|"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if got := parse(t, "03:00", time.UTC).Calendar("Europe/Berlin"); got[0] != "OnCalendar=*-*-* 03:00:00 Europe/Berlin" {
		t.Error(got)
	}
}

// TestCalendarAgainstSystemd lets systemd say when what is written for it is due.
func TestCalendarAgainstSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	elapse := regexp.MustCompile(`(?m)(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC`)
	start := time.Date(2026, 11, 26, 12, 34, 56, 0, time.UTC)
	for _, text := range []string{
		"03:00", "30 2 * * 1-5", "*/20 1-3 * * 7", "@monthly", "@hourly", "0 4 * 1,2,3,7 *", "0 0 29 2 *", "17 */5 2-28/3 * *",
		"every 6h", "every 1h", "every 15m", "every 1d", "every 20s", "0 0 31 * *", "59 23 * dec sat",
	} {
		s := parse(t, text, time.UTC)
		lines := s.Calendar("UTC")
		if len(lines) != 1 {
			t.Fatalf("%s: %q", text, lines)
		}
		expression := strings.TrimPrefix(lines[0], "OnCalendar=")
		c := exec.Command("systemd-analyze", "calendar", "--iterations=8", "--base-time="+start.Format(time.DateTime)+" UTC", expression)
		c.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=/usr/bin:/bin"}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %s: %v\n%s", text, expression, err, out)
		}
		found := elapse.FindAllSubmatch(out, -1)
		if len(found) < 8 && text != "0 0 29 2 *" || len(found) == 0 {
			t.Fatalf("%s: %s: %d times in\n%s", text, expression, len(found), out)
		}
		at := start
		for _, f := range found {
			at = s.Next(at)
			if got := at.Format(time.DateTime); got != string(f[1]) {
				t.Errorf("%s: %s: ours %s, systemd's %s", text, expression, got, f[1])
			}
		}
	}
}
