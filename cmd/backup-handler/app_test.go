package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

// What libraries say goes to the application log, at debug level, without secrets; before
// it is open, nowhere.
func TestStrayLog(t *testing.T) {
	var out bytes.Buffer
	env := func(name string) (string, bool) { return "hunter2hunter2", name == job.PassphraseEnv }
	a := newApp(env, nil, &out, &out)
	say := func() {
		if n, err := (strayLog{a}).Write([]byte("tlsdial: hunter2hunter2\n\x1b[2J")); err != nil || n == 0 {
			t.Error(n, err)
		}
	}
	say()
	a.cfg = config.Defaults(env)
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: `level=DEBUG msg="library: tlsdial: ***;`, slog.LevelInfo: "",
	} {
		out.Reset()
		a.log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
		say()
		if got := out.String(); want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, "\x1b") {
			t.Errorf("%v: %q", level, got)
		}
	}
}
