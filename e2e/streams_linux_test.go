package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// A streamsReport is what backup --json prints of streams.
type streamsReport struct {
	Snapshot *string
	Streams  []struct {
		Name, Kind, Source, Command, Error, Hint string
		Snapshot                                 *string
		Files, Bytes                             int64
	}
}

// streams runs a backup that must end with code.
func (w *world) streams(code int, args ...string) (rep streamsReport, r result) {
	w.t.Helper()
	r = w.want(code, append([]string{"backup", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		w.t.Fatalf("%v: %v", err, r)
	}
	return rep, r
}

// A listed is what is looked at of `snapshots --json`.
type listed struct {
	ID, Kind string
	Sources  []string
	Tags     []string
}

func (w *world) listed(dest string, args ...string) (all []listed) {
	w.t.Helper()
	out := w.want(ok, append([]string{"snapshots", "--json", "--backup-dirs", dest}, args...)...).out
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return all
}

// logs are the lines of the application log.
func (w *world) logs() string {
	w.t.Helper()
	names, err := filepath.Glob(w.path("state", "Logs", "application.log*"))
	must(w.t, err)
	more, err := filepath.Glob(w.path("state", "logs", "application.log*"))
	must(w.t, err)
	var all strings.Builder
	for _, n := range append(names, more...) {
		data, err := os.ReadFile(n)
		must(w.t, err)
		all.Write(data)
	}
	if all.Len() == 0 {
		w.t.Fatal("there is no application log")
	}
	return all.String()
}

// TestStreams: what a command prints is a snapshot if, and only if, it ended well, and
// printed something; nothing keeps the other snapshots of the run from being made.
func TestStreams(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	binaryData := filestest.Bytes("binary", 3_000_001)
	data := w.write(binaryData, "data")
	w.configure(w.path("src"), w.dest, `
[STREAM good]
command = cat '`+data+`'; echo all is well >&2; echo "$BACKUP_HANDLER_SOURCE" >'`+w.path("tmp", "env")+`'; test -z "$BACKUP_HANDLER_PASSPHRASE"
file = dumps/data.bin
tags = db, nightly
[STREAM bad]
command = head -c 5000000 '`+data+`'; echo "access denied for correct horse battery staple" >&2; exit 1
[STREAM killed]
command = cat '`+data+`'; kill -9 $$
[STREAM hangs]
command = echo $$ >'`+w.path("tmp", "pid")+`'; cat '`+data+`'; sleep 600 & wait
limit = 2s
[STREAM empty]
command = true
[STREAM nothing]
command = :
allow_empty = yes
[STREAM left]
command = cat '`+data+`' & sleep 600 &
[STREAM last]
command = echo last
`)
	rep, r := w.streams(partial, "--config", w.config)
	wrong := map[string]string{
		"/stream/bad":    "exit code 1: access denied for ***",
		"/stream/killed": "killed",
		"/stream/hangs":  "longer than 2s",
		"/stream/empty":  "printed nothing",
		"/stream/left":   "left behind",
	}
	if rep.Snapshot == nil || len(rep.Streams) != 8 {
		t.Fatalf("%v", r)
	}
	for _, s := range rep.Streams {
		want, bad := wrong[s.Source]
		if bad != (s.Snapshot == nil) || bad != (s.Error != "") || !strings.Contains(s.Error, want) || s.Kind != "stream" {
			t.Errorf("%s: %+v", s.Source, s)
		}
		if s.Source == "/stream/empty" && !strings.Contains(s.Hint, "allow") {
			t.Errorf("no hint: %+v", s)
		}
	}
	if strings.Contains(r.String(), "correct horse") {
		t.Errorf("a secret: %v", r)
	}
	log := w.logs()
	if strings.Contains(log, "correct horse") || !strings.Contains(log, "all is well") || !strings.Contains(log, "access denied for ***") {
		t.Errorf("the log says\n%s", log)
	}
	if got := w.read("tmp", "env"); got != "/stream/good\n" {
		t.Errorf("the command's environment: %q", got)
	}
	run := w.last()
	if run.Exit != partial || run.Status != "failure" || !strings.Contains(run.Error, "/stream/bad") || strings.Contains(run.Error, "horse") {
		t.Errorf("%+v", run)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(w.read("tmp", "pid")))
	must(t, err)
	if syscall.Kill(-pid, 0) == nil {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if !strings.Contains(string(stat), ") Z ") {
			t.Errorf("the command that hung is still there: %s", stat)
		}
	}

	kinds := map[string]string{}
	for _, s := range w.listed(w.dest) {
		kinds[strings.Join(s.Sources, ",")] = s.Kind
	}
	want := map[string]string{w.path("src"): "", "/stream/good": "stream", "/stream/nothing": "stream", "/stream/last": "stream"}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("snapshots of %v, want %v", kinds, want)
	}
	if got := w.listed(w.dest, "--kind", "stream", "--tag", "nightly"); len(got) != 1 || got[0].Sources[0] != "/stream/good" {
		t.Errorf("%+v", got)
	}
	good := *rep.Streams[0].Snapshot
	for _, command := range []string{"cat", "dump"} {
		r := w.want(ok, command, good[:8]+":/stream/good/dumps/data.bin", "--backup-dirs", w.dest)
		if r.out != string(binaryData) {
			t.Errorf("%s gives %d bytes", command, len(r.out))
		}
	}
	to := w.restore(ok, w.dest, good, "")
	got, err := os.ReadFile(filepath.Join(to, "stream", "good", "dumps", "data.bin"))
	if err != nil || !bytes.Equal(got, binaryData) {
		t.Errorf("restored %d bytes, %v", len(got), err)
	}
	if info, err := os.Stat(filepath.Join(to, "stream", "good")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	w.verify(ok, w.dest, "--read-data")
	if table := w.want(ok, "snapshots", "--backup-dirs", w.dest).out; !strings.Contains(table, "KIND") || !strings.Contains(table, "stream") {
		t.Errorf("%s", table)
	}
	if text := w.want(partial, "backup", "--config", w.config).out; !strings.Contains(text, "/stream/bad  FAILED, and not stored: the command failed with exit code 1") {
		t.Errorf("%s", text)
	}
}

// TestStreamsLatest: latest and times mean files, where there are any; --kind chooses.
func TestStreamsLatest(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.configure(w.path("src"), w.dest, "[RETENTION]\nkeep_last = 1\n[STREAM a]\ncommand = date +%s%N\n[STREAM b]\ncommand = echo b\nfile = out\n")
	w.want(ok, "backup", "--config", w.config)
	first := w.listed(w.dest)
	table := w.want(ok, "ls", "latest:"+w.path("src"), "--backup-dirs", w.dest).out
	if !strings.Contains(table, "file") {
		t.Errorf("latest is\n%s", table)
	}
	if got := w.want(ok, "cat", "latest:/stream/b/out", "--kind", "stream", "--backup-dirs", w.dest).out; got != "b\n" {
		t.Errorf("%q", got)
	}
	r := w.want(failed, "cat", "latest:/stream/b/out", "--backup-dirs", w.dest)
	r.complaint(t, true, "/stream/b/out")
	if !strings.Contains(r.errout, "--kind stream") {
		t.Errorf("%v", r)
	}
	w.want(failed, "ls", "latest", "--kind", "mysql", "--backup-dirs", w.dest)
	w.want(failed, "ls", "latest", "--kind", "nonsense", "--backup-dirs", w.dest).complaint(t, false, "nonsense", "postgresql")

	// Each is a version of its own, and rules are for each by itself.
	w.want(ok, "backup", "--config", w.config)
	second := w.listed(w.dest)
	if len(first) != 3 || len(second) != 3 {
		t.Fatalf("%d and %d snapshots", len(first), len(second))
	}
	for i := range first {
		if first[i].ID == second[i].ID || first[i].Sources[0] != second[i].Sources[0] || first[i].Kind != second[i].Kind {
			t.Errorf("%+v became %+v", first[i], second[i])
		}
	}
	status := w.want(ok, "status", "--config", w.config).out
	for _, path := range []string{w.path("src"), "/stream/a", "/stream/b"} {
		if !strings.Contains(status, path) {
			t.Errorf("no %s in the status:\n%s", path, status)
		}
	}
	// Without files, latest is of a stream.
	other := w.path("other")
	w.want(ok, "copy", "--kind", "stream", "--backup-dirs", w.dest, "--to", other)
	if got := w.want(ok, "cat", "latest:/stream/b/out", "--backup-dirs", other).out; got != "b\n" {
		t.Errorf("%q", got)
	}
}

// TestStreamsTwoDestinations: a destination that is away misses streams, and catches up.
func TestStreamsTwoDestinations(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	a, b := w.path("a"), w.path("b")
	w.configure(w.path("src"), a+", "+b, "[STREAM s]\ncommand = date +%s%N\n")
	w.want(ok, "backup", "--config", w.config)
	must(t, os.Rename(a, a+".away"))
	must(t, os.WriteFile(a, []byte("no directory"), 0o600))
	w.want(partial, "backup", "--config", w.config)
	if n := len(w.listed(b)); n != 4 {
		t.Errorf("b has %d snapshots", n)
	}
	must(t, os.Remove(a))
	must(t, os.Rename(a+".away", a))
	w.want(ok, "backup", "--config", w.config)
	for _, d := range []string{a, b} {
		if n := len(w.listed(d, "--kind", "stream")); n != 3 {
			t.Errorf("%s has %d snapshots", d, n)
		}
		w.verify(ok, d, "--read-data")
	}
	if x, y := w.want(ok, "cat", "latest:/stream/s/s", "--kind", "stream", "--backup-dirs", a), w.want(ok, "cat", "latest:/stream/s/s", "--kind", "stream", "--backup-dirs", b); x.out != y.out {
		t.Errorf("%q and %q", x.out, y.out)
	}
}

// TestStreamsAreNotRun: in a dry run, with other sources, and where others could have
// written the command.
func TestStreamsAreNotRun(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	mark := w.path("tmp", "mark")
	w.configure(w.path("src"), w.dest, "[STREAM s]\ncommand = touch '"+mark+"'; echo correct horse battery staple\n")
	rep, r := w.streams(ok, "--config", w.config, "--dry-run")
	if len(rep.Streams) != 1 || !strings.Contains(rep.Streams[0].Command, "touch") || strings.Contains(r.String(), "correct horse") || rep.Streams[0].Snapshot != nil {
		t.Errorf("%v", r)
	}
	if text := w.want(ok, "backup", "--config", w.config, "-n").out; !strings.Contains(text, "/stream/s  would be made by: ") {
		t.Errorf("%s", text)
	}
	w.write([]byte("x"), "else", "file")
	w.want(ok, "backup", "--config", w.config, "--source-dir", w.path("else"))
	must(t, os.Chmod(w.config, 0o666))
	r = w.want(failed, "backup", "--config", w.config)
	r.complaint(t, true, "[STREAM NAME]", "not run")
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command was run")
	}
	w.env = append(w.env, "BACKUP_HANDLER_TRUST_CONFIG=1")
	w.want(ok, "backup", "--config", w.config)
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

// TestStreamsOnly: a configuration need not have files to back up.
func TestStreamsOnly(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.configure("", w.dest, "[STREAM s]\ncommand = echo only\n")
	w.want(ok, "config", "check", "--config", w.config)
	w.want(ok, "preflight", "--config", w.config)
	for range 2 {
		rep, r := w.streams(ok, "--config", w.config)
		if rep.Snapshot != nil || len(rep.Streams) != 1 || rep.Streams[0].Snapshot == nil {
			t.Errorf("%v", r)
		}
		w.want(ok, "backup", "--config", w.config)
	}
	if got := w.want(ok, "cat", "latest:/stream/s/s", "--backup-dirs", w.dest).out; got != "only\n" {
		t.Errorf("%q", got)
	}
	w.want(ok, "status", "--config", w.config)
	w.configure("", w.dest, "[STREAM s]\ncommand = false\n")
	w.want(partial, "backup", "--config", w.config)
	w.want(partial, "backup", "--quiet", "--config", w.config)
	w.configure("", w.dest, "[STREAM]\ncommand = echo x\n")
	w.want(failed, "backup", "--config", w.config).complaint(t, false, "name")
	w.configure("", w.dest, "[STREAM s]\nfile = ../x\ncommand = echo x\n")
	w.want(failed, "backup", "--config", w.config).complaint(t, false, "file")
}

// piped runs the program with standard input.
func (w *world) piped(in io.Reader, code int, args ...string) result {
	w.t.Helper()
	c, out, errout := w.command(w.t.Context(), args...)
	c.Stdin = in
	err := c.Run()
	r := result{args, c.ProcessState.ExitCode(), out.String(), errout.String(), 0}
	if r.code != code {
		w.t.Fatalf("want exit code %d: %v, %v", code, err, r)
	}
	return r
}

// TestStdin: standard input, or what a command prints, is one file of a snapshot.
func TestStdin(t *testing.T) {
	t.Parallel()
	w := newRunWorld(t)
	w.configure(w.path("src"), w.dest, "[STREAM s]\ncommand = touch '"+w.path("tmp", "mark")+"'; echo x\n")
	data := filestest.Bytes("stdin", 2_000_000)
	base := []string{"backup", "--config", w.config}
	with := func(more ...string) []string { return append(base[:len(base):len(base)], more...) }
	w.piped(bytes.NewReader(data), ok, with("--stdin")...)
	if r := w.want(ok, "cat", "latest:/stdin", "--backup-dirs", w.dest); r.out != string(data) {
		t.Errorf("%d bytes", len(r.out))
	}
	w.piped(bytes.NewReader(data[:100]), ok, with("--stdin", "--stdin-filename", "/dumps/shop.sql", "--tag", "x")...)
	if r := w.want(ok, "cat", "latest:/dumps/shop.sql", "--backup-dirs", w.dest); r.out != string(data[:100]) {
		t.Errorf("%d bytes", len(r.out))
	}
	// Nothing is backed up as if it were something.
	w.piped(strings.NewReader(""), partial, with("--stdin")...)
	r := w.piped(strings.NewReader(""), partial, with("--stdin", "--dry-run=false")...)
	if !strings.Contains(r.out, "standard input is empty") || !strings.Contains(r.out, "--allow-empty") {
		t.Errorf("%v", r)
	}
	w.piped(strings.NewReader(""), ok, with("--stdin", "--stdin-filename", "empty", "--allow-empty")...)

	w.want(ok, with("--stdin-filename", "shop", "--stdin-from-command", "--", "printf", "%s", "$HOME; *")...)
	if r := w.want(ok, "cat", "latest:/shop", "--path", "/shop", "--backup-dirs", w.dest); r.out != "$HOME; *" {
		t.Errorf("%v", r)
	}
	before := len(w.listed(w.dest))
	r = w.want(partial, with("--stdin-from-command", "--", "sh", "-c", "echo half; echo no route >&2; exit 7")...)
	if !strings.Contains(r.out, "exit code 7: no route") {
		t.Errorf("%v", r)
	}
	w.want(partial, with("--stdin-from-command", "--", "no-such-program-anywhere")...)
	r = w.piped(strings.NewReader("not read"), ok, with("--stdin", "--dry-run")...)
	if !strings.Contains(r.out, "standard input") {
		t.Errorf("%v", r)
	}
	for _, args := range [][]string{
		{"--stdin", "--source-dir", "/etc"}, {"--stdin", "--stdin-from-command", "--", "true"}, {"--stdin-from-command"}, {"--stdin", "x"}, {"x"},
		{"--stdin-filename", "x"}, {"--stdin", "--stdin-filename", "../x"}, {"--stdin", "--stdin-filename", ""}, {"--stdin", "--stdin-filename", "/"},
	} {
		w.want(failed, with(args...)...).complaint(t, false)
	}
	if n := len(w.listed(w.dest)); n != before || before != 4 {
		t.Errorf("%d snapshots, then %d", before, n)
	}
	if _, err := os.Stat(w.path("tmp", "mark")); err == nil {
		t.Error("a configured stream was run")
	}
	if got := w.listed(w.dest); got[1].Sources[0] != "/dumps/shop.sql" || got[1].Kind != "stream" || len(got[1].Tags) != 1 {
		t.Errorf("%+v", got)
	}
	w.verify(ok, w.dest, "--read-data")
}

// TestStreamInterrupted: a signal ends the command, and leaves no snapshot.
func TestStreamInterrupted(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"stdin":   {"--stdin"},
		"command": {"--stdin-from-command", "--", "sh", "-c", "trap '' TERM; echo $$ >pid.new; mv pid.new pid; while :; do echo more; sleep 1; done"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRunWorld(t)
			w.configure(w.path("src"), w.dest, "")
			w.want(ok, "backup", "--config", w.config)
			c, out, errout := w.command(t.Context(), append([]string{"backup", "--config", w.config}, args...)...)
			in, err := c.StdinPipe()
			must(t, err)
			must(t, c.Start())
			pid := filepath.Join(c.Dir, "pid")
			if name == "stdin" {
				_, err = in.Write(filestest.Bytes("x", 4_000_000)) // more than a pipe holds: it reads
				must(t, err)
			} else {
				waitFor(t, "the command", func() bool { _, err := os.Stat(pid); return err == nil })
			}
			must(t, c.Process.Signal(syscall.SIGINT))
			c.Wait()
			r := result{args, c.ProcessState.ExitCode(), out.String(), errout.String(), 0}
			if r.code != interrupted {
				t.Errorf("want exit code %d: %v", interrupted, r)
			}
			if n := len(w.listed(w.dest)); n != 1 {
				t.Errorf("%d snapshots", n)
			}
			if data, err := os.ReadFile(pid); err == nil {
				n, err := strconv.Atoi(strings.TrimSpace(string(data)))
				must(t, err)
				waitFor(t, "the end of the command", func() bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
					return err != nil || strings.Contains(string(stat), ") Z ")
				})
			}
		})
	}
}

// TestLargeStream: memory does not grow with what a command prints. Alone: it measures
// memory.
func TestLargeStream(t *testing.T) {
	if testing.Short() {
		t.Skip("300 MB")
	}
	w := newRunWorld(t)
	w.configure(w.path("src"), w.dest, "")
	large := w.path("large")
	f, err := os.Create(large)
	must(t, err)
	for i := range 300 {
		_, err = f.Write(filestest.Bytes(fmt.Sprint("large", i), 1_000_000))
		must(t, err)
	}
	must(t, f.Close())
	args := []string{"backup", "--config", w.config, "--stdin-filename", "large", "--stdin-from-command", "--", "cat", large}
	measure := func(args ...string) int64 {
		c, out, errout := w.command(t.Context(), args...)
		to, err := os.Create(w.path("out"))
		must(t, err)
		defer to.Close()
		c.Stdout = to
		peak := w.peak(c)
		if err := c.Run(); err != nil {
			t.Fatalf("%v: %s%s", err, out, errout)
		}
		return peak() >> 20
	}
	stored := measure(args...)
	read := measure("cat", "latest:/large", "--backup-dirs", w.dest)
	t.Logf("%d MiB to store it, %d MiB to read it", stored, read)
	if stored > 150 || read > 150 {
		t.Errorf("%d MiB to store it, %d MiB to read it", stored, read)
	}
	if out, err := exec.Command("cmp", large, w.path("out")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	again := measure(args...)
	if data, err := os.ReadFile(w.path("out")); err != nil || !strings.Contains(string(data), "of which 0 B new") {
		t.Errorf("again, with %d MiB: %s, %v", again, data, err)
	}
}
