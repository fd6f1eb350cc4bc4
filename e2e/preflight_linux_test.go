package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
)

// A preflightReport is what preflight --json prints.
type preflightReport struct {
	State    string           `json:"state"`
	Checks   []preflightCheck `json:"checks"`
	Refused  bool             `json:"backup_refused"`
	ExitCode int              `json:"exit_code"`
}

type preflightCheck struct {
	Check, State, Subject, Text, Hint string
}

// state returns the worst state of a check, and its text; "" if it was not made.
func (r *preflightReport) state(check string) (state, text string) {
	rank := map[string]int{"": 0, "skipped": 1, "ok": 2, "warning": 3, "refused": 4}
	for _, c := range r.Checks {
		if c.Check == check && rank[c.State] > rank[state] {
			state, text = c.State, c.Text
		}
	}
	return state, text
}

// preflight runs the checks, which must end with code. A table of mounts, if not nil,
// stands for /etc/fstab, in a mount namespace of its own: what is mounted there is
// gone afterwards.
func (w *world) preflight(code int, fstab *string, args ...string) preflightReport {
	w.t.Helper()
	args = append([]string{"preflight", "--json"}, args...)
	ctx, cancel := context.WithTimeout(w.t.Context(), timeout)
	defer cancel()
	c, out, errout := w.command(ctx, args...)
	if fstab != nil {
		table := w.write([]byte(*fstab), "fstab")
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			w.t.Skip("there is no unshare")
		}
		c.Path = unshare
		c.Args = append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/fstab && exec "$@"`, table, binary}, args...)
	}
	err := c.Run()
	r := result{args: args, code: c.ProcessState.ExitCode(), out: out.String(), errout: errout.String()}
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		w.t.Fatalf("%v: %v", err, r)
	}
	if fstab != nil && strings.Contains(r.errout, "unshare failed") {
		w.t.Skipf("this system makes no mount namespaces: %s", r.errout)
	}
	if r.code != code {
		w.t.Fatalf("want exit code %d: %v", code, r)
	}
	var rep preflightReport
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		w.t.Fatalf("%v: %v", err, r)
	}
	if rep.ExitCode != code {
		w.t.Errorf("the report says exit code %d: %v", rep.ExitCode, r)
	}
	for _, c := range rep.Checks {
		if strings.Contains(c.Text+c.Hint, "\n") || c.State == "refused" && c.Hint == "" {
			w.t.Errorf("not one line and a hint: %+v", c)
		}
	}
	return rep
}

// refuses runs the checks, of which that one alone must refuse, with such a text.
func (w *world) refuses(check string, words []string, fstab *string, args ...string) preflightReport {
	w.t.Helper()
	rep := w.preflight(refused, fstab, args...)
	n := 0
	for _, c := range rep.Checks {
		if c.State != "refused" {
			continue
		}
		n++
		if c.Check != check {
			w.t.Errorf("%s refuses, not %s: %+v", c.Check, check, c)
		}
		for _, word := range words {
			if !strings.Contains(c.Subject+" "+c.Text, word) {
				w.t.Errorf("it does not tell of %q: %+v", word, c)
			}
		}
	}
	if n != 1 {
		w.t.Errorf("%d checks refuse: %+v", n, rep.Checks)
	}
	return rep
}

// listing is what is in a directory: names, sizes and times of files. The times of
// directories tell of probe files that were there and are gone.
func listing(t *testing.T, dir string) string {
	t.Helper()
	if _, err := os.Stat(dir); err != nil {
		return "none"
	}
	return tool(t, dir, "find", ".", "-printf", `%P %y %m %s\n`, "-type", "f", "-printf", `%T@\n`)
}

// TestPreflight: what keeps a backup from being made is refused, one line and a hint
// each, and nothing is changed by looking.
func TestPreflight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(3, "src"), w.path("repo")
	args := encrypted(src, dest)
	rep := w.preflight(ok, nil, args...)
	for _, check := range []string{"source", "clock", "writable", "repository", "key"} {
		if s, text := rep.state(check); s != "ok" {
			t.Errorf("%s: %s %s", check, s, text)
		}
	}
	if listing(t, dest) != "none" {
		t.Fatal("a repository was made")
	}
	w.backup(ok, args...)
	before := listing(t, dest)
	rep = w.preflight(ok, nil, args...)
	if s, text := rep.state("stale"); s != "skipped" || !strings.Contains(text, "0 min old") {
		t.Errorf("%s %s", s, text)
	}

	w.refuses("source", []string{w.path("nowhere"), "does not exist"}, nil, encrypted(w.path("nowhere"), dest)...)
	w.refuses("source", []string{w.path("empty"), "it is empty"}, nil, encrypted(w.mkdir("empty"), dest)...)
	w.preflight(ok, nil, append(encrypted(w.path("empty"), dest), "--allow-empty")...)
	// Full yesterday, empty today.
	must(t, os.Rename(src, w.path("elsewhere")))
	w.mkdir("src")
	w.refuses("source", []string{src, "it is empty; the last backup of it had 3 files"}, nil, args...)
	must(t, os.Remove(src))
	must(t, os.Rename(w.path("elsewhere"), src))

	wrong := w.write([]byte("wrong\n"), "wrong")
	w.refuses("key", []string{dest}, nil, append(args, "--passphrase-file", wrong)...)
	w.refuses("writable", []string{wrong, "not a directory"}, nil, encrypted(src, wrong)...)
	w.refuses("mounted", []string{"/mnt/bh-no-such-disk"}, nil, encrypted(src, "/mnt/bh-no-such-disk")...)
	if after := listing(t, dest); after != before {
		t.Errorf("the repository was changed:\n%s\nwas\n%s", after, before)
	}
	// Gone: one of two is refused, and the backup would go on with the other.
	must(t, os.Rename(dest, w.path("away")))
	rep = w.refuses("repository", []string{dest, "gone"}, nil, encrypted(src, dest, w.path("second"))...)
	if rep.Refused {
		t.Error("the backup would be refused, though there is another destination")
	}
	if rep = w.refuses("repository", []string{dest, "gone"}, nil, args...); !rep.Refused {
		t.Error("the backup would not be refused, though no destination is left")
	}
	must(t, os.Rename(w.path("away"), dest))

	// As text: a line each, the hint below.
	r := w.want(refused, append([]string{"preflight"}, encrypted(w.path("nowhere"), dest)...)...)
	if !strings.Contains(r.out, "REFUSED  source      "+w.path("nowhere")+"  it does not exist\n         hint: ") || !strings.HasSuffix(r.out, "A backup cannot be made.\n") {
		t.Errorf("%v", r)
	}
	r = w.want(ok, append([]string{"preflight", "--quiet"}, args...)...)
	if r.out != "" || r.errout != "" {
		t.Errorf("%v", r)
	}
	r = w.want(failed, "preflight", "--source-dir", src)
	r.complaint(t, true, "repository")
}

// TestPreflightVolumes: on real file systems, which are mounted, full, read-only, and
// the wrong ones.
func TestPreflightVolumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, disk := w.tree(2, "src"), w.mkdir("disk")
	dest := filepath.Join(disk, "repo")
	args := append(encrypted(src, dest), "--config", w.path("home", "backup-handler", "config.ini"))
	expect := func(lines ...string) { w.configure("[PREFLIGHT]\n" + strings.Join(lines, "\n")) }

	expect("expected_mount = " + disk)
	w.refuses("mounted", []string{dest, "nothing is mounted at " + disk}, nil, args...)
	if listing(t, dest) != "none" {
		t.Error("something was made in the mount point")
	}
	mount(t, disk, "-t", "tmpfs", "-o", "size=20m", "tmpfs")
	w.preflight(ok, nil, args...)
	expect("expected_mount = "+disk, "expected_fs_type = ext4")
	w.refuses("volume", []string{"tmpfs, not ext4"}, nil, args...)
	expect("expected_uuid = 0123-ABCD")
	w.refuses("volume", []string{"cannot be found out"}, nil, args...)
	expect("expected_owner = nobody")
	w.refuses("owner", []string{disk, "root", "nobody"}, nil, append(encrypted(src, disk), args[len(args)-2:]...)...)
	expect("min_free = 20M")
	w.preflight(ok, nil, args...)
	w.backup(ok, args...)
	w.refuses("space", []string{"min_free"}, nil, args...)
	expect()

	// A run needs what runs have needed.
	w.write(make([]byte, 100), "src", "new")
	w.backup(ok, args...)
	rep := w.preflight(ok, nil, args...)
	rep.Checks = slices.DeleteFunc(rep.Checks, func(c preflightCheck) bool { return c.Subject != dest })
	if s, text := rep.state("space"); s != "ok" || !strings.Contains(text, "usual run stores") {
		t.Errorf("%s %s", s, text)
	}
	fill := filepath.Join(disk, "fill")
	exec.Command("dd", "if=/dev/zero", "of="+fill, "bs=4k").Run() // until there is no space left
	w.refuses("space", []string{"full"}, nil, args...)
	if left, _ := filepath.Glob(filepath.Join(disk, ".backup-handler-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	must(t, os.Remove(fill))
	tool(t, "", "mount", "-o", "remount,ro", disk)
	w.refuses("writable", []string{"read-only"}, nil, args...)
	tool(t, "", "mount", "-o", "remount,rw", disk)
	w.preflight(ok, nil, args...)
}

// preflightState runs the checks and returns the state of one.
func (w *world) preflightState(code int, check string, args ...string) (state, text string) {
	w.t.Helper()
	rep := w.preflight(code, nil, args...)
	return rep.state(check)
}

// TestPreflightLabels: the disk says by itself who it is.
func TestPreflightLabels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	needRoot(t, "it mounts a file system")
	src, disk, image := w.tree(2, "src"), w.mkdir("disk"), w.write(nil, "image")
	must(t, os.Truncate(image, 16<<20))
	const uuid = "6f1b2c3d-0000-4000-8000-0123456789ab"
	tool(t, "", "mkfs.ext4", "-q", "-L", "BH TEST", "-U", uuid, image)
	mount(t, disk, "-o", "loop", image)
	args := append(encrypted(src, filepath.Join(disk, "repo")), "--config", w.path("home", "backup-handler", "config.ini"))
	expect := func(lines ...string) {
		w.configure("[PREFLIGHT]\nexpected_mount = " + disk + "\n" + strings.Join(lines, "\n"))
	}
	expect("expected_label = BH TEST", "expected_uuid = "+strings.ToUpper(uuid), "expected_fs_type = ext4")
	if s, text := w.preflightState(ok, "volume", args...); s != "ok" {
		t.Errorf("%s %s", s, text)
	}
	expect("expected_label = BACKUP")
	w.refuses("volume", []string{"another volume", "BH TEST, not BACKUP"}, nil, args...)
	expect("expected_uuid = " + strings.Replace(uuid, "6", "7", 1))
	w.refuses("volume", []string{"another volume", uuid}, nil, args...)
	expect("expected_label = BH TEST", "expected_fs_type = xfs") // 2.5's default
	if s, text := w.preflightState(ok, "volume", args...); s != "warning" || !strings.Contains(text, "ext4, not xfs") {
		t.Errorf("%s %s", s, text)
	}
	expect("enabled = False", "expected_label = BACKUP")
	w.preflight(ok, nil, args...)
}

// TestPreflightMounts: what /etc/fstab has and is not mounted is refused, wherever it
// is, or mounted, if that is asked for. Alone: what another test unmounts meanwhile stays
// mounted in its namespace.
func TestPreflightMounts(t *testing.T) {
	w := newWorld(t)
	needRoot(t, "it mounts file systems in a mount namespace of its own")
	src, disk := w.tree(2, "src"), w.mkdir("my disk")
	args := encrypted(src, filepath.Join(disk, "repo"))
	escaped := strings.ReplaceAll(disk, " ", `\040`)
	table := "tmpfs " + escaped + " tmpfs size=8m,mode=755 0 0\n"
	rep := w.preflight(ok, &table, args...)
	if s, text := rep.state("mounted"); s != "warning" || !strings.Contains(text, "a backup mounts it first") {
		t.Errorf("%s %s", s, text)
	}
	if s, _ := rep.state("repository"); s != "" {
		t.Errorf("a repository was looked for on a disk that is not there: %s", s)
	}
	rep = w.preflight(ok, &table, append(args, "--mount")...)
	if s, text := rep.state("mounted"); s != "ok" || !strings.Contains(text, "is now") {
		t.Errorf("%s %s", s, text)
	}
	for _, c := range rep.Checks {
		if c.Check == "space" && strings.HasPrefix(c.Subject, disk) && !strings.Contains(c.Text, "8.0 MiB free") {
			t.Errorf("not the room of what was mounted: %+v", c)
		}
	}
	bad := strings.Replace(table, "tmpfs "+escaped+" tmpfs", "/dev/bh-no-such-device "+escaped+" ext4", 1)
	w.refuses("mounted", []string{"cannot be mounted", "/dev/bh-no-such-device"}, &bad, append(args, "--mount")...)
	w.configure("[PREFLIGHT]\nauto_mount = False\n")
	config := []string{"--config", w.path("home", "backup-handler", "config.ini")}
	w.refuses("mounted", []string{"nothing is mounted at " + disk}, &table, append(args, config...)...)
	w.refuses("mounted", []string{"nothing is mounted at " + disk}, &table, append(append(args, config...), "--mount")...)

	// A source is never mounted: an empty mount point must not look like one.
	sources := "tmpfs " + src + " tmpfs size=1m 0 0\n"
	w.refuses("mounted", []string{src, "nothing is mounted at " + src}, &sources, append(encrypted(src, w.path("repo")), "--mount")...)
	below := "tmpfs " + w.dir + " tmpfs size=1m 0 0\n"
	rep = w.preflight(refused, &below, args...)
	if s, text := rep.state("mounted"); s != "refused" || !strings.Contains(text, "nothing is mounted at "+w.dir) {
		t.Errorf("%s %s", s, text)
	}
	if entries, _ := os.ReadDir(disk); len(entries) > 0 {
		t.Errorf("left in the mount point: %v", entries)
	}
}

// TestPreflightRemote: why a server cannot be used has a name.
func TestPreflightRemote(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.tree(2, "src")
	ssh := sftptest.Start(t, sftptest.Config{})
	s3 := s3test.Start(t, s3test.Options{})
	s3.MakeBucket(t, "bucket")
	skewed := meddler(t, s3, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time is too large.</Message></Error>")
		return false
	}, nil)
	wrongKey := w.path("wrong-key")
	sftptest.Keygen(t, wrongKey, "ed25519", "")
	unknown := w.write(nil, "no_hosts")
	env := w.env
	s3With := func(endpoint string) string {
		return "[S3]\nendpoint = " + endpoint + "\naccess_key = ${S3_KEY}\nsecret_key = ${S3_SECRET}\nregion = us-east-1\n"
	}
	sshWith := func(key, known string) string { return "[SSH]\nkey_file = " + key + "\nknown_hosts = " + known + "\n" }
	patience := "[NETWORK]\nretry_for = 600ms\n"
	for _, c := range []struct {
		name, section, place, check string
		words                       []string
	}{
		{"wrong SSH key", sshWith(wrongKey, ssh.KnownHosts), ssh.URL(ssh.Dir + "/r"), "credentials", []string{"accepts none of"}},
		{"unknown host", sshWith(ssh.KeyFile, unknown), ssh.URL(ssh.Dir + "/r"), "reachable", []string{"not known"}},
		{"nothing listens", sshWith(ssh.KeyFile, ssh.KnownHosts), "sftp://127.0.0.1:1/r", "reachable", []string{"refused"}},
		{"wrong S3 secret", s3With(s3.Endpoint), "s3://bucket/r", "credentials", []string{"secret key does not fit"}},
		{"no bucket", s3With(s3.Endpoint), "s3://nowhere/r", "reachable", []string{"does not exist"}},
		{"no secret", "[S3]\nendpoint = " + s3.Endpoint + "\naccess_key = a\nsecret_key = ${NOT_SET}\n", "s3://bucket/r", "credentials", []string{"NOT_SET"}},
		{"clocks differ", s3With(skewed), "s3://bucket/r", "clock", []string{"clock"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			secret := s3test.SecretKey
			if c.name == "wrong S3 secret" {
				secret = "wrong-secret"
			}
			w.t, w.env = t, append(env, "S3_KEY="+s3test.AccessKey, "S3_SECRET="+secret)
			w.configure(c.section, patience)
			w.refuses(c.check, append(c.words, c.place), nil, encrypted(src, c.place)...)
			noSecrets(t, w)
		})
	}
	w.t, w.env = t, append(env, "S3_KEY="+s3test.AccessKey, "S3_SECRET="+s3test.SecretKey)
	w.configure(sshWith(ssh.KeyFile, ssh.KnownHosts), s3With(s3.Endpoint))
	for _, place := range []string{ssh.URL(ssh.Dir + "/r"), "s3://bucket/r"} {
		for _, when := range []string{"before", "after"} {
			rep := w.preflight(ok, nil, encrypted(src, place)...)
			for _, check := range []string{"reachable", "credentials", "repository", "key"} {
				if s, text := rep.state(check); s != "ok" {
					t.Errorf("%s the first backup to %s: %s %s %s", when, place, check, s, text)
				}
			}
			if when == "before" {
				if r := w.want(failed, "snapshots", "--backup-dirs", place); !strings.Contains(r.errout, "no repository") {
					t.Errorf("it was made by looking: %v", r)
				}
				w.backup(ok, encrypted(src, place)...)
			}
		}
	}
}

// TestPreflightStale: only what the file says of a schedule makes a backup too old.
func TestPreflightStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(2, "src"), w.path("repo")
	args := encrypted(src, dest)
	w.configure()
	w.backup(ok, args...)
	last := time.Now().Add(-3 * time.Hour)
	must(t, journal.OpenRuns(w.path("state")).Put(&journal.Run{
		ID: "r1", Command: "backup", Status: journal.Success, Start: last.Add(-time.Minute), End: last, Sources: []journal.SourceRun{{Path: src}},
	}))
	for _, c := range []struct{ text, want string }{
		{"", "skipped"},
		{"[SCHEDULE]\ninterval_minutes = 60\n", "warning"},
		{"[SCHEDULE]\ninterval_minutes = 60\n[PREFLIGHT]\nstaleness_factor = 4\n", "ok"},
		{"[SCHEDULE]\ntimes = 03:00\n", "ok"},
	} {
		w.configure(c.text)
		if s, text := w.preflightState(ok, "stale", args...); s != c.want {
			t.Errorf("%q: %s %s", c.text, s, text)
		}
	}
}

// TestPreflightConfiguration: commands of a file that others can change are refused.
func TestPreflightConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	args := encrypted(w.tree(2, "src"), w.path("repo"))
	w.configure("[HOOKS]\npre_backup = true\n")
	file := w.path("home", "backup-handler", "config.ini")
	w.preflight(ok, nil, args...)
	must(t, os.Chmod(file, 0o666))
	w.refuses("config", []string{file, "0666", "its commands"}, nil, args...)
	w.env = append(w.env, "BACKUP_HANDLER_TRUST_CONFIG=1")
	w.preflight(ok, nil, args...)
	w.env = w.env[:len(w.env)-1]
	must(t, os.Chmod(file, 0o600))
	must(t, os.Chmod(filepath.Dir(file), 0o777))
	w.refuses("config", []string{filepath.Dir(file), "0777"}, nil, args...)
	w.configure("[SSH]\npassword = hush\n")
	must(t, os.Chmod(file, 0o644))
	must(t, os.Chmod(filepath.Dir(file), 0o755))
	rep := w.preflight(ok, nil, args...)
	if s, text := rep.state("config"); s != "warning" || !strings.Contains(text, "plain text") || strings.Contains(fmt.Sprint(rep), "hush") {
		t.Errorf("%s %s", s, text)
	}
}

// TestPreflightNobody: what a user without privileges may not do is found out before it
// is tried.
func TestPreflightNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	needRoot(t, "it runs the program as another user")
	closed, theirs := w.mkdir("closed"), w.mkdir("theirs")
	must(t, os.Chmod(closed, 0o700))
	w.drop()
	src, mine := w.tree(2, "src"), w.mkdir("mine")
	w.preflight(ok, nil, encrypted(src, mine)...)
	w.refuses("source", []string{closed, "permission denied"}, nil, encrypted(closed, mine)...)
	w.refuses("source", []string{closed, "permission denied"}, nil, encrypted(filepath.Join(closed, "below"), mine)...)
	w.refuses("writable", []string{theirs, "may not make a file"}, nil, encrypted(src, theirs)...)
	w.refuses("writable", []string{theirs, "may not make a file"}, nil, encrypted(src, filepath.Join(theirs, "repo"))...)
	w.refuses("writable", []string{closed}, nil, encrypted(src, filepath.Join(closed, "repo"))...)
}
