package preflight

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
)

// Databases warns of patterns of SQLite databases that fit none.
func (m *Machine) Databases(ctx context.Context, patterns []string) []Result {
	var results []Result
	for _, p := range patterns {
		results = append(results, m.within(ctx, CheckSource, p, func() []Result { return databases(p) })...)
	}
	return results
}

func databases(pattern string) []Result {
	const hint = "correct [SQLITE] paths"
	r := Result{Check: CheckSource, State: Warning, Subject: pattern, Hint: hint}
	all, err := filepath.Glob(pattern)
	switch {
	case err != nil:
		r.Text = "it is no pattern"
		return []Result{r}
	case len(all) == 0:
		r.Text = "there is no such SQLite database"
		return []Result{r}
	}
	other := ""
	for _, path := range all {
		if isDatabase(path) {
			r.State, r.Text, r.Hint = OK, "is a SQLite database", ""
			if path != pattern {
				r.Text = fmt.Sprintf("names %d files, among them SQLite databases", len(all))
			}
			return []Result{r}
		}
		other = path
	}
	r.Text = other + " is no SQLite database that can be read; one that is encrypted is stored as it is"
	return []Result{r}
}

func isDatabase(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, sqlite.HeadBytes)
	n, _ := io.ReadFull(f, head)
	return sqlite.IsDatabase(head[:n])
}
