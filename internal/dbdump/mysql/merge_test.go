package mysql

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// part describes the logs of "1 2+ !3": 1 and 2 are continuous, 2 is longer than usual, and
// before 3 there is a gap; "-4" is described and not there.
func part(uuid, text string) Part {
	l := &Logs{Kind: LogsKind, UUID: uuid}
	gone := make(map[string]bool)
	for i, word := range strings.Fields(text) {
		f := LogFile{Bytes: 100, Gap: i == 0}
		if rest, ok := strings.CutPrefix(word, "!"); ok {
			f.Gap, word = true, rest
		}
		lacks := strings.HasPrefix(word, "-")
		word = strings.TrimPrefix(word, "-")
		if rest, ok := strings.CutSuffix(word, "+"); ok {
			f.Bytes, word = 200, rest
		}
		var n int
		fmt.Sscan(word, &n)
		f.Name = fmt.Sprintf("binlog.%06d", n)
		f.Created = time.Date(2026, 3, 1, 0, n, 0, 0, time.UTC)
		f.Last = f.Created.Add(50 * time.Second)
		f.File = f.Created.Format("20060102T150405Z") + "-" + f.Name
		gone[f.File] = lacks
		l.Files = append(l.Files, f)
	}
	return Part{l, func(f *LogFile) bool { return !gone[f.File] }}
}

func TestMergeLogs(t *testing.T) {
	for _, tt := range []struct{ parts, want string }{
		{"1 2", "!1 2"},
		{"1 2 | 1 2+ 3", "!1 2+ 3"},
		{"1 2+ | 2 3", "!1 2+ 3"},           // the shorter one is older, whichever snapshot is
		{"1 2 | 2+ 3 | 3+ 4", "!1 2+ 3+ 4"}, // of a write-only host, whose server purges
		{"1 2 | 3 4", "!1 2 !3 4"},          // nobody knows how 2 went on
		{"1 2 | 3 4 | 2+ 3 4", "!1 2+ 3 4"},
		{"1 -2 3", "!1 !3"},
		{"1 -2 3 | 2 3", "!1 2 3"}, // the first knows that nothing was between 1 and 2
		{"1 2 3 | 2 -3 4", "!1 2 3 4"},
		{"1 !3", "!1 !3"},
		{"3 4 | 1 2 3 4", "!1 2 3 4"}, // the older one has less at its beginning
		{"5 6 | 1 2 3 4 5 6+ | 6+ 7", "!1 2 3 4 5 6+ 7"},
		{"1 2 5 6 | 2 3 4 5 | 6 7", "!1 2 3 4 5 6 7"},
	} {
		var parts []Part
		for text := range strings.SplitSeq(tt.parts, "|") {
			parts = append(parts, part("", text))
		}
		l, err := MergeLogs(parts)
		if err != nil {
			t.Errorf("%s: %v", tt.parts, err)
			continue
		}
		var got []string
		for _, f := range l.Files {
			word := strings.TrimLeft(strings.TrimPrefix(f.Name, "binlog."), "0")
			if f.Gap {
				word = "!" + word
			}
			if f.Bytes == 200 {
				word += "+"
			}
			got = append(got, word)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.parts, s, tt.want)
		}
	}
	if _, err := MergeLogs(nil); err == nil {
		t.Error("nothing is something")
	}
	// One server after another, or both at once.
	if _, err := MergeLogs([]Part{part("a", "1 2"), part("b", "4 5")}); err != nil {
		t.Error(err)
	}
	if _, err := MergeLogs([]Part{part("a", "1 2"), part("b", "4 5"), part("a", "2+ 3 4 5 6")}); err == nil || !strings.Contains(err.Error(), "two servers") {
		t.Errorf("%v", err)
	}
}
