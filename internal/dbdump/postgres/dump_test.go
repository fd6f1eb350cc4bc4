//go:build unix

package postgres

import (
	"strings"
	"testing"
)

func TestDump(t *testing.T) {
	s := admin(sharedServer(t))
	dir, m := dump(t, s, DumpOptions{Databases: []string{"awkward"}, Globals: true})
	t.Log(dir, m)
	for name := range sums(t, dir) {
		t.Log(name)
	}
	_ = strings.Cut
}
