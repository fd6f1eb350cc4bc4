package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

func TestTranslate(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		// Not of 2.5: unchanged.
		{"", ""},
		{"snapshots", "snapshots"},
		{"backup --source-dir A --backup-dirs B", "backup --source-dir A --backup-dirs B"},
		{"--json snapshots", "--json snapshots"},
		{"-q backup --source-dir A", "-q backup --source-dir A"},
		{"--backup-dirs A snapshots --json", "--backup-dirs A snapshots --json"},
		{"--backup-dirs A,B -v key list", "--backup-dirs A,B -v key list"},
		{"--config C --backup-dirs=A dump latest:/x", "--config C --backup-dirs=A dump latest:/x"},
		{"--config snapshots snapshots", "--config snapshots snapshots"},
		{"--help", "--help"},
		{"-h", "-h"},
		{"--json", "--json"},
		{"--config C", "--config C"},
		{"--config C nonsense", "--config C nonsense"},

		// A backup.
		{"--operation-modes local --backup-mode full --source-dir A --backup-dirs B C",
			"backup --backup-mode=full --operation-modes=local --source-dir=A --backup-dirs=B --backup-dirs=C"},
		{"--backup-dirs B C --source-dir A", "backup --backup-mode=full --operation-modes=local --source-dir=A --backup-dirs=B --backup-dirs=C"},
		{"--backup-dirs B", "backup --backup-mode=full --operation-modes=local --backup-dirs=B"},
		{"--backup-dirs B --backup-dirs C --source-dir A", "backup --backup-mode=full --operation-modes=local --source-dir=A --backup-dirs=B --backup-dirs=C"},
		{"--backup-dirs=B --source-dir=A --backup-mode=incremental --dry-run", "backup --backup-mode=incremental --operation-modes=local --source-dir=A --dry-run --backup-dirs=B"},
		{"--source-dir A --source-dir B --backup-mode differential", "backup --backup-mode=differential --operation-modes=local --source-dir=B"},
		{"--source-dir A --backup-dirs B,C", `backup --backup-mode=full --operation-modes=local --source-dir=A --backup-dirs="B,C"`},
		{"--source-dir A --exclude *.tmp,|node_modules,", "backup --backup-mode=full --operation-modes=local --source-dir=A --exclude=*.tmp --exclude=node_modules"},
		{`--source-dir A --exclude a"b`, `backup --backup-mode=full --operation-modes=local --source-dir=A --exclude="a""b"`},
		{"--encrypt --dedup --source-dir A", "backup --backup-mode=full --operation-modes=local --source-dir=A --encrypt"},
		{"--operation-modes local --config C", "backup --backup-mode=full --operation-modes=local --config=C"},
		{"--operation-modes local --profile home --json -q", "backup --backup-mode=full --operation-modes=local --profile=home --json -q"},
		{"--source-d A --backup-m incremental", "backup --backup-mode=incremental --operation-modes=local --source-dir=A"},
		{"--key-file K --source-dir A", "backup --backup-mode=full --operation-modes=local --source-dir=A --key-file=K"},

		{"--operation-modes ssh s3 --ssh-servers h u@g:22 --source-dir A",
			"backup --backup-mode=full --operation-modes=ssh,s3 --ssh-servers=h --ssh-servers=u@g:22 --source-dir=A"},

		{"--notifications --receiver a@b.c d@e.f --source-dir A --backup-dirs B",
			"backup --backup-mode=full --operation-modes=local --source-dir=A --notifications --receiver=a@b.c --receiver=d@e.f --backup-dirs=B"},
		{"--source-dir A --receiver=a@b.c --dry-run", "backup --backup-mode=full --operation-modes=local --source-dir=A --receiver=a@b.c --dry-run"},
		{"--scheduled --notifications --receiver a@b.c", "daemon -- --notifications --receiver=a@b.c"},
		{"--verify --notifications --receiver a@b.c", "verify"},
		{"--restore --from-dir S --to-dir D --notifications", "restore latest --to=D --strip-source --backup-dirs=S"},

		// The rest.
		{"--restore --from-dir u@h:/p --to-dir D", "restore latest --to=D --strip-source --backup-dirs=sftp://u@h/p"},
		{"--restore --from-dir ssh://u@h/p --to-dir D", "restore latest --to=D --strip-source --backup-dirs=sftp://u@h/p"},
		{"--restore --from-dir s3://b/p --to-dir D", "restore latest --to=D --strip-source --backup-dirs=s3://b/p"},
		{"--version", "version"},
		{"--scheduled", "daemon"},
		{"--scheduled --config C -q", "daemon --config=C -q"},
		{"--sched --profile home --encrypt --source-dir A --backup-dirs B C --dedup",
			"daemon --profile=home --backup-dirs=B --backup-dirs=C -- --source-dir=A --encrypt"},
		{"--scheduled --operation-modes local ssh --backup-mode incremental --retain 3 --json",
			"daemon --json -- --backup-mode=incremental --operation-modes=local,ssh --retain=3"},
		{"--status", "status"},
		{"--status --config C", "status --config=C"},
		{"--show-setup --profile p", "config show --profile=p"},
		{"--verify", "verify"},
		{"--verify --backup-dirs A B", "verify --backup-dirs=A --backup-dirs=B"},
		{"--json --verify", "verify --json"},
		{"--tailscale --source-dir A", "backup --backup-mode=full --operation-modes=local --source-dir=A --tailscale"},
		{"--tailscale", "backup --backup-mode=full --operation-modes=local --tailscale"},
		{"--operation-modes local db --source-dir A", "backup --backup-mode=full --operation-modes=local,db --source-dir=A"},
		{"--operation-modes db", "backup --backup-mode=full --operation-modes=db"},
		{"--tailscale-authkey K --operation-modes ssh", "backup --backup-mode=full --operation-modes=ssh --tailscale-authkey=K"},
		{"--tailscale --verify", "verify --tailscale"},
		{"--tailscale --tailscale-authkey=K --restore --from-dir ssh://u@h/p --to-dir D",
			"restore latest --to=D --strip-source --backup-dirs=sftp://u@h/p --tailscale --tailscale-authkey=K"},
		{"--tailscale snapshots", "--tailscale snapshots"},
		{"--tailscale-authkey K snapshots", "--tailscale-authkey K snapshots"},
		{"--status --help", "--help"},
		{"--restore --from-dir S --to-dir D", "restore latest --to=D --strip-source --backup-dirs=S"},
		{"--restore --from-dir /a,b --to-dir D --restore-timestamp 20260228_030000 --dry-run --config C",
			`restore 20260228_030000 --to=D --strip-source --dry-run --backup-dirs="/a,b" --config=C`},
	} {
		got, err := translate(words(c.in))
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
		} else if !slices.Equal(got, words(c.want)) {
			t.Errorf("%q\n got %q\nwant %q", c.in, got, words(c.want))
		}
	}
}

// words splits at spaces; a bar stands for a space within a word.
func words(s string) []string {
	var out []string
	for _, w := range strings.Fields(s) {
		out = append(out, strings.ReplaceAll(w, "|", " "))
	}
	return out
}

func TestTranslateRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		// What is not in this version is named.
		{"--ssh-servers h --source-dir A", "--ssh-servers"},
		{"--source-dir A --compress zip", "--compress "},
		{"--source-dir A --retain", "--retain needs a value"},
		{"--scheduled --dry-run", "--scheduled and --dry-run"},
		{"--scheduled --verify", "--verify and --scheduled"},
		{"--scheduled --ssh-servers h", "--ssh-servers"},
		{"--source-dir A --ssh-servers h1 h2", "--ssh-servers "},
		{"--snapshot", "--snapshot "},
		{"--restore-snapshot F", "--restore-snapshot "},
		{"--snapshot-diff A B", "--snapshot-diff "},
		{"--snapshot-output F", "--snapshot-output "},
		{"--tailscale-authkey", "--tailscale-authkey needs a value"},
		{"--tailscale=yes --source-dir A", "--tailscale takes no value"},
		{"--source-dir A --receiver", "--receiver needs a value"},
		{"--notifications=yes --source-dir A", "--notifications takes no value"},
		{"--install", "--install "},
		{"--restore --from-dir b.ZIP --to-dir D", "--from-dir"},

		// What made no sense in 2.5 either.
		{"--operation-modes", "--operation-modes needs a value"},
		{"--operation-modes tape", "tape"},
		{"--source-dir", "--source-dir needs a value"},
		{"--source-dir --encrypt", "--source-dir needs a value"},
		{"--source-dir A B", `unexpected argument "B"`},
		{"--encrypt=yes", "--encrypt takes no value"},
		{"--source-dir A --backup-mode weekly", "weekly"},
		{"--verify --backup-mode full", "--backup-mode"},
		{"--verify --restore --from-dir A --to-dir B", "exclude each other"},
		{"--restore --from-dir A", "--to-dir"},
		{"--restore --to-dir A", "--from-dir"},
		{"--to-dir A --verify", "--to-dir needs --restore"},
		{"--restore --from-dir A --to-dir B --restore-timestamp latest:/etc", "--restore-timestamp"},
		{"--config A --profile B --status", "--profile"},
		{"--res --from-dir A", "may be --restore or"},
		{"--nonsense", "unknown flag --nonsense"},
		{"--source-dir A --tag x", "unknown flag --tag"},
		{"--source-dir A -x", "unknown flag -x"},
	} {
		got, err := translate(words(c.in))
		f, ok := errors.AsType[*job.Failure](err)
		switch {
		case !ok || f.Code != job.ExitUsage:
			t.Errorf("%q: got %q, %v", c.in, got, err)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: %q does not tell of %q", c.in, err, c.want)
		case strings.Contains(err.Error()+f.Hint, "SECRET"):
			t.Errorf("%q: tells the secret: %q", c.in, err)
		}
	}
}

// What is translated must be understood by the commands.
func TestTranslatedIsUnderstood(t *testing.T) {
	for _, in := range []string{
		"--operation-modes local --backup-mode full --source-dir A --backup-dirs B,1 C --exclude a,b --encrypt --dry-run --config C",
		"--source-dir A --notifications --receiver a@b.c d@e.f", "--status --json", "--show-setup", "--verify --backup-dirs A B", "--version",
		"--restore --from-dir S --to-dir D --restore-timestamp 20260228_030000 --dry-run",
	} {
		args, err := translate(words(in))
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		root := newApp(nil, nil, nil, nil).rootCommand()
		c, rest, err := root.Find(args)
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err == nil {
			err = c.ValidateArgs(c.Flags().Args())
		}
		if err != nil || c == root {
			t.Errorf("%q → %q: %v", in, args, err)
		}
		if dirs, _ := c.Flags().GetStringSlice("backup-dirs"); strings.Contains(in, "B,1") && !slices.Equal(dirs, []string{"B,1", "C"}) {
			t.Errorf("%q → %q: directories %q", in, args, dirs)
		}
	}
}

// FuzzTranslate: whatever the words, there is a command line or a Failure.
func FuzzTranslate(f *testing.F) {
	f.Add("--operation-modes local --source-dir A --backup-dirs B C")
	f.Add("--restore --from-dir S --to-dir D")
	f.Add("--json -q snapshots")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Fields(line)
		got, err := translate(args)
		if err != nil {
			if _, ok := errors.AsType[*job.Failure](err); !ok {
				t.Fatalf("%q: %v", args, err)
			}
			return
		}
		if len(got) == 0 && len(args) > 0 {
			t.Fatalf("%q became nothing", args)
		}
		again, err := translate(got)
		if err != nil || !slices.Equal(again, got) {
			t.Fatalf("%q: %q became %q, %v", args, got, again, err)
		}
	})
}
