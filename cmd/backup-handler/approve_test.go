package main

import (
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// What another host has written does not talk to the terminal.
func TestSuspicionsText(t *testing.T) {
	got := suspicionsText(&tree.Snapshot{Suspicions: []string{"a\x1b[2J", "b\nc"}})
	if strings.ContainsAny(got, "\x1b\n") || !strings.Contains(got, "; b") {
		t.Errorf("%q", got)
	}
}
