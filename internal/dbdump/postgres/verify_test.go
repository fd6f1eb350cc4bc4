//go:build unix

package postgres

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A drill leaves out what it cannot check here, and tells that by the error.
func TestVerifyWithoutServer(t *testing.T) {
	for name, c := range map[string]struct{ server, bin string }{
		"none":         {"PostgreSQL 15.1", t.TempDir()},
		"an older one": {"PostgreSQL 99.1", ""},
	} {
		dump := fstest.MapFS{dbdump.ManifestName: {Data: []byte(`{"kind":"postgresql","server":"` + c.server + `","databases":[{"name":"shop"}]}`)}}
		if _, err := Verify(t.Context(), dump, VerifyOptions{Bin: c.bin}); !errors.Is(err, dbdump.ErrNoProgram) || dbdump.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
