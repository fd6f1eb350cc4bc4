package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backup-handler": main})
}

// TestScripts runs the program itself. In testdata each file is one story; it has a
// machine of its own: home, state, and nothing configured. $HOOK is an HTTP server
// that takes everything but what is below /bad. The commands are those
// of testscript, and
//
//	save NAME REGEXP   sets the variable NAME to the first group that REGEXP
//	                   finds in the last standard output
//	json               checks that the last standard output is one JSON document
//	damage FILE…       flips a bit in the middle of each file
//	exec-code N …      is exec of a command that has to end with exit code N
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			for name, dir := range map[string]string{
				"HOME": "home", "XDG_CONFIG_HOME": "home/.config", "XDG_CACHE_HOME": "home/.cache", "XDG_STATE_HOME": "home/.state",
				"BACKUP_HANDLER_DATA_DIR": "state", "LOCALAPPDATA": "home/local", "ProgramData": "home/all",
			} {
				env.Setenv(name, filepath.Join(env.WorkDir, filepath.FromSlash(dir)))
			}
			env.Setenv("TZ", "UTC")
			hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/bad") {
					http.Error(w, "no, not "+r.URL.Path, http.StatusBadRequest)
				}
			}))
			env.Defer(hook.Close)
			env.Setenv("HOOK", hook.URL)
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"save":   save,
			"damage": damage,
			"json":   isJSON,

			"exec-code": execCode,
		},
	})
}

func save(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: save NAME REGEXP")
	}
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("%s is not in the output", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: json")
	}
	if !json.Valid([]byte(ts.ReadFile("stdout"))) {
		ts.Fatalf("the output is not JSON")
	}
}

func execCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exec-code CODE PROGRAM…")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s", got)
	}
}

func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: damage FILE…")
	}
	for _, pattern := range args {
		files, err := filepath.Glob(ts.MkAbs(pattern))
		ts.Check(err)
		if len(files) == 0 {
			ts.Fatalf("%s: no such file", pattern)
		}
		for _, name := range files {
			content, err := os.ReadFile(name)
			ts.Check(err)
			content[len(content)/2] ^= 1
			ts.Check(os.WriteFile(name, content, 0o600))
		}
	}
}

// Every command says how it ends, and shows how it is used.
func TestHelp(t *testing.T) {
	root := newApp(os.LookupEnv, nil, nil, nil).rootCommand()
	queue := root.Commands()
	for len(queue) > 0 {
		c := queue[0]
		queue = append(queue[1:], c.Commands()...)
		if c.HasSubCommands() {
			continue
		}
		if !strings.Contains(c.Long, "Exit codes: 0 ") {
			t.Errorf("%s: its help does not tell the exit codes", c.CommandPath())
		}
		if c.Example == "" {
			t.Errorf("%s: its help has no examples", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 84 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
	}
}
