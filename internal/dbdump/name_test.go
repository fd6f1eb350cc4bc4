package dbdump

import (
	"io/fs"
	"testing"
)

func TestFileName(t *testing.T) {
	for name, want := range map[string]string{
		"orders":     "orders",
		"größe":      "größe",
		"a b":        "a b",
		"a ":         "a%20",
		"..":         "%2E.",
		"a/b":        "a%2Fb",
		"100%":       "100%25",
		"\xff\x00":   "%FF%00",
		"\ufffd":     "\ufffd",
		`q"uo'te\:*`: `q%22uo'te%5C%3A%2A`,
	} {
		if got := FileName(name); got != want || !fs.ValidPath(got) {
			t.Errorf("FileName(%q) = %q, want %q", name, got, want)
		}
	}
}
