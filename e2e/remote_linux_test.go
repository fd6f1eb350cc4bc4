package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/azure/azuretest"
	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs/gcstest"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
)

// configure writes the configuration that the program finds by itself, with these sections
// and a key file: tests with many executions have it for that alone.
func (w *world) configure(sections ...string) {
	w.t.Helper()
	key := w.write(bytes.Repeat([]byte{7}, 32), "home", "key") // a passphrase takes its time in each execution
	text := "[META]\nschema_version = 6\n[DEFAULT]\nmode = incremental\n[ENCRYPTION]\nkey_file = " + key + "\n" + strings.Join(sections, "\n")
	file := w.write([]byte(text), "home", "backup-handler", "config.ini")
	must(w.t, os.Chmod(file, 0o600))
}

// Sections of the configuration for the servers of tests. Secrets are variables of w.
func (w *world) sshSection(s *sftptest.Server, more ...string) string {
	return fmt.Sprintf("[SSH]\nkey_file = %s\nknown_hosts = %s\n%s\n", s.KeyFile, s.KnownHosts, strings.Join(more, "\n"))
}

func (w *world) s3Section(endpoint string, more ...string) string {
	w.env = append(w.env, "S3_KEY="+s3test.AccessKey, "S3_SECRET="+s3test.SecretKey)
	return "[S3]\nendpoint = " + endpoint + "\naccess_key = ${S3_KEY}\nsecret_key = ${S3_SECRET}\nregion = us-east-1\n" + strings.Join(more, "\n") + "\n"
}

// remoteKinds are the ways to a repository on another machine: each starts a server,
// configures w for it, and returns the repository's address.
var remoteKinds = []struct {
	name  string
	start func(t *testing.T, w *world) string
}{
	{"sftp with a key", func(t *testing.T, w *world) string {
		s := sftptest.Start(t, sftptest.Config{})
		w.configure(w.sshSection(s))
		return s.URL(filepath.Join(s.Dir, "deep", "repo"))
	}},
	{"sftp with a password in a chroot", func(t *testing.T, w *world) string {
		u := sftptest.NewUser(t)
		s := sftptest.Start(t, sftptest.Config{User: u, Chroot: chroot(t, u), ForceSFTP: true})
		w.env = append(w.env, "SSH_PASSWORD="+u.Password)
		w.configure(fmt.Sprintf("[SSH]\nusername = %s\npassword = ${SSH_PASSWORD}\nport = %d\nknown_hosts = %s\n", u.Name, s.Port, s.KnownHosts))
		return "sftp://" + s.Host + "/data/repo"
	}},
	{"s3", func(t *testing.T, w *world) string {
		s := s3test.Start(t, s3test.Options{TLS: true})
		s.MakeBucket(t, "bucket")
		w.configure(w.s3Section(s.Endpoint, "ca_file = "+s.CAFile))
		return "s3://bucket/some/prefix"
	}},
	{"gcs", func(t *testing.T, w *world) string {
		s := gcstest.Start(t)
		s.MakeBucket(t, "bucket")
		w.env = append(w.env, "STORAGE_EMULATOR_HOST=http://"+s.Addr)
		w.configure("[GCS]\n")
		return "gs://bucket/some/prefix"
	}},
	{"azure", func(t *testing.T, w *world) string {
		s := azuretest.Start(t)
		s.MakeContainer(t, "box")
		w.env = append(w.env, "AZURE_KEY="+azuretest.Key)
		w.configure("[AZURE]\naccount = " + azuretest.Account + "\naccount_key = ${AZURE_KEY}\nendpoint = " + azuretest.Endpoint("http://"+s.Addr) + "\n")
		return "azblob://box/some/prefix"
	}},
}

// chroot makes a directory that a user can be locked into, with one in it that is
// the user's.
func chroot(t *testing.T, u sftptest.User) string {
	t.Helper()
	jail, err := os.MkdirTemp("/", "bh-e2e-jail-") // all above it must be root's, and not writable by others
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(jail) })
	must(t, os.Chmod(jail, 0o755))
	must(t, os.Mkdir(filepath.Join(jail, "data"), 0o700))
	tool(t, "", "chown", u.Name, filepath.Join(jail, "data"))
	return jail
}

// TestRemote is the life of a repository on another machine, command by command.
func TestRemote(t *testing.T) {
	t.Parallel()
	for _, kind := range remoteKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			repo := kind.start(t, w)
			src := w.tree(8, "src")
			first := w.backup(ok, encrypted(src, repo)...)
			if first.Details.Counts.New != 8 || first.Details.Counts.Problems != 0 {
				t.Errorf("the first run: %+v", first.Details.Counts)
			}
			again := w.backup(ok, encrypted(src, repo)...)
			if c := again.Details.Counts; c.Unmodified != 8 || c.Read != 0 {
				t.Errorf("nothing has changed: %+v", c)
			}
			w.write([]byte("word\n"), "src", "new file")
			must(t, os.Remove(w.path("src", "d0", "f000")))
			w.backup(ok, encrypted(src, repo)...)

			out := w.want(ok, "snapshots", "--backup-dirs", repo, "--json").out
			var snapshots []struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal([]byte(out), &snapshots); err != nil || len(snapshots) != 3 {
				t.Errorf("snapshots: %v: %s", err, out)
			}
			for _, c := range []struct {
				want string
				args []string
			}{
				{"new file\n", []string{"ls", "latest:" + src}},
				{"new file", []string{"diff", first.Snapshot, "latest"}},
				{"f000", []string{"diff", first.Snapshot, "latest"}},
				{"word\n", []string{"cat", "latest:" + src + "/new file"}},
				{"new file", []string{"find", "new*"}},
				{"keyfile", []string{"key", "list"}},
				{repo + "  ok", []string{"status"}},
				{"3\n", []string{"stats"}},
				{"  ok", []string{"verify", "--read-data"}},
			} {
				r := w.want(ok, append(c.args, "--backup-dirs", repo)...)
				if !strings.Contains(r.out, c.want) {
					t.Errorf("no %q: %v", c.want, r)
				}
				if r.errout != "" {
					t.Errorf("something to complain about: %v", r)
				}
			}
			same(t, src, w.restore(ok, repo, "latest", src))
			w.write(filestest.Bytes(src+"d0/f000", 200_000), "old", "d0", "f000")
			got := w.restore(ok, repo, first.Snapshot, src)
			if want, err := os.ReadFile(w.path("old", "d0", "f000")); err == nil {
				data, err := os.ReadFile(filepath.Join(got, "d0", "f000"))
				if must(t, err); len(data) != len(want) {
					t.Errorf("%d bytes of a removed file, want %d", len(data), len(want))
				}
			}
			w.want(ok, "verify", "latest:"+src, "--against", src, "--backup-dirs", repo)
			w.want(failed, "init", "--encrypt", "--backup-dirs", repo).complaint(t, false, repo)
			noSecrets(t, w)
		})
	}
}

// noSecrets looks for what the program was given in what it has left.
func noSecrets(t *testing.T, w *world) {
	t.Helper()
	for _, dir := range []string{"state", "cache", "tmp"} {
		must(t, filepath.WalkDir(w.path(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			for _, v := range w.env {
				name, value, _ := strings.Cut(v, "=")
				if secret := name != "STORAGE_EMULATOR_HOST" && name != "S3_KEY"; secret && strings.Contains(string(data), value) {
					t.Errorf("%s holds what is in $%s", path, name)
				}
			}
			return err
		}))
	}
}

// TestOldModes: a command line and a configuration of BackupHandler 2.5, to a
// directory, an SSH server and a bucket at once, one of which is away for a while.
func TestOldModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ssh := sftptest.Start(t, sftptest.Config{})
	s3 := s3test.Start(t, s3test.Options{})
	s3.MakeBucket(t, "bucket")
	src, local := w.tree(6, "src"), w.path("local")
	dir := filepath.Join(ssh.Dir, "from 2.5")
	ini := w.write([]byte(strings.Join([]string{
		"[DEFAULT]\nsource_dir = " + src + "\nmode = incremental\ncompress_type = none",
		"[BACKUPS]\nbackup_dirs = " + local,
		w.sshSection(ssh, "ssh_servers = "+ssh.Host, "port = "+strconv.Itoa(ssh.Port), "username = "+ssh.User.Name, "password = None", "remote_dir = "+dir),
		w.s3Section(s3.Endpoint, "bucket = bucket", "prefix = old/"),
		"[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}",
		"[MODES]\nlocal = True\nssh = False\ns3 = False\ndb = False",
		"[NETWORK]\nretry_for = 1s",
	}, "\n")), "old.ini")
	must(t, os.Chmod(ini, 0o600))
	// What 2.5 has left at both places stays where it is.
	old := filepath.Join(dir, "mirror of 2.5")
	must(t, os.MkdirAll(old, 0o755))

	all := []string{"--json", "--config", ini, "--backup-mode", "incremental", "--operation-modes", "local", "ssh", "s3"}
	want := map[string]string{"local": local, "ssh": "sftp://" + ssh.Host + strings.ReplaceAll(dir, " ", "%20"), "s3": "s3://bucket/old/backup-handler.repo"}
	run := func(code int, failing string) backupReport {
		t.Helper()
		r := w.want(code, all...)
		var rep backupReport
		must(t, json.Unmarshal([]byte(r.out), &rep))
		if len(rep.Destinations) != 3 {
			t.Fatalf("destinations: %v", r)
		}
		for i, mode := range []string{"local", "ssh", "s3"} {
			d := rep.Destinations[i]
			if d.Location != want[mode] {
				t.Errorf("%s is at %s, want %s", mode, d.Location, want[mode])
			}
			if (d.Error != "") != (mode == failing) {
				t.Errorf("%s: error %q", mode, d.Error)
			}
		}
		return rep
	}
	run(ok, "")
	if _, err := os.Stat(old); err != nil {
		t.Error(err)
	}
	ssh.Stop()
	w.write([]byte("1"), "src", "since")
	missed := run(partial, "ssh")
	ssh.Restart(t)
	w.write([]byte("2"), "src", "since then")
	rep := run(ok, "")
	if got := rep.Destinations[1].Copied; len(got) != 2 || got[0] != missed.Snapshot {
		t.Errorf("copied to the server that was away: %q, want first %s", got, missed.Snapshot)
	}
	for mode, place := range want {
		for _, id := range []string{missed.Snapshot, rep.Snapshot} {
			to := w.mkdir("to-" + mode + id)
			w.want(ok, "restore", id+":"+src, "--to", to, "--config", ini, "--backup-dirs", place)
			if id == rep.Snapshot {
				same(t, src, to)
			}
		}
		w.want(ok, "verify", "--read-data", "--config", ini, "--backup-dirs", place)
	}
	// Without modes 2.5 meant directories; and the new command what [MODES] say.
	for _, args := range [][]string{{"--config", ini, "--backup-mode", "full", "--json"}, {"backup", "--config", ini, "--json"}} {
		var rep backupReport
		must(t, json.Unmarshal([]byte(w.want(ok, args...).out), &rep))
		if len(rep.Destinations) != 1 || rep.Destinations[0].Location != local {
			t.Errorf("%q: %+v", args, rep.Destinations)
		}
	}
	// The way of 2.5 to restore from a server.
	to := w.mkdir("to-old")
	w.want(ok, "--restore", "--config", ini, "--from-dir", ssh.User.Name+"@"+ssh.Host+":"+dir, "--to-dir", to).complaintFree(t)
	noSecrets(t, w)
}

// complaintFree checks that there is nothing to complain about.
func (r result) complaintFree(t *testing.T) {
	t.Helper()
	if strings.Contains(r.errout, "warning") || strings.Contains(r.errout, "backup-handler:") {
		t.Errorf("%v", r)
	}
}

// requests counts what reaches a server of objects.
type requests struct {
	mu  sync.Mutex
	all []string
}

func (q *requests) see(_ http.ResponseWriter, r *http.Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := r.Method + " " + r.URL.Path
	if p := r.URL.Query().Get("prefix"); p != "" {
		line += " of " + p
	}
	q.all = append(q.all, line)
	return false
}

// take returns the requests since the last call.
func (q *requests) take() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.all
	q.all = nil
	return all
}

// TestRequests: what is paid for by the request, and waits for a round trip each.
// docs/performance.md has this table.
func TestRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var q requests
	w.configure(w.s3Section(s.Proxy(t, q.see)))
	src, repo := w.tree(20, "src"), "s3://bucket/repo"
	count := func(what string, most int, args ...string) []string {
		t.Helper()
		w.want(ok, args...)
		got := q.take()
		t.Logf("%-20s %d", what, len(got))
		if len(got) > most {
			t.Errorf("%s takes %d requests, want at most %d:\n%s", what, len(got), most, strings.Join(got, "\n"))
		}
		return got
	}
	backup := append([]string{"backup"}, encrypted(src, repo)...)
	// How many packs the blocks of a small tree go to is a matter of chance; and a
	// directory above the source, such as /tmp, may have changed, which is two more
	// for the second backup, and a pack to read more for verify.
	count("first backup", 36, backup...)
	count("unchanged backup", 15, backup...)
	for _, c := range []struct {
		what       string
		warm, cold int // cold 0: not counted
		args       []string
	}{
		{"cat of a small file", 8, 0, []string{"cat", "latest:" + src + "/d0/f000"}},
		{"restore", 15, 0, []string{"restore", "latest:" + src, "--to", w.path("to")}},
		{"verify", 17, 0, []string{"verify"}},
		{"snapshots", 4, 6, []string{"snapshots"}},
		{"ls", 7, 16, []string{"ls", "latest:" + src}},
		{"diff", 7, 16, []string{"diff", "latest", "latest"}},
		{"backup", 14, 25, []string{"backup", "--encrypt", "--source-dir", src}},
	} {
		args := append(c.args, "--backup-dirs", repo)
		if c.cold > 0 {
			must(t, os.RemoveAll(w.path("cache")))
			must(t, os.Mkdir(w.path("cache"), 0o700))
			count(c.what+", cold", c.cold, args...)
		}
		got := strings.Join(count(c.what, c.warm, args...), "\n")
		if c.what == "verify" && (!strings.Contains(got, "/snapshots/") || !strings.Contains(got, "/packs/")) {
			t.Errorf("verify believes what is kept on this machine:\n%s", got)
		}
	}
}

// A key that may write and not delete, as a careful administrator gives it, makes
// backups; what has to delete says that it may not, and nothing is lost.
func TestNoPermissionToDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var refusedRequests atomic.Int64
	forbid := func(rw http.ResponseWriter, r *http.Request) bool {
		if _, many := r.URL.Query()["delete"]; r.Method != http.MethodDelete && !many {
			return false
		}
		refusedRequests.Add(1)
		rw.Header().Set("Content-Type", "application/xml")
		rw.WriteHeader(http.StatusForbidden)
		io.WriteString(rw, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>`)
		return true
	}
	w.configure(w.s3Section(s.Proxy(t, forbid)))
	src, repo, local := w.tree(5, "src"), "s3://bucket/repo", w.path("local")
	both := []string{"--backup-dirs", repo + "," + local}
	for i := range 3 {
		w.write([]byte{byte(i)}, "src", "changes")
		w.want(ok, append([]string{"backup", "--encrypt", "--source-dir", src}, both...)...)
	}
	r := w.want(partial, append([]string{"forget", "--keep-last", "1"}, both...)...)
	if all := r.out + r.errout; !strings.Contains(all, "s3://bucket/repo") || !strings.Contains(all, "delete") && !strings.Contains(all, "remove") {
		t.Errorf("%v", r)
	}
	if refusedRequests.Load() == 0 {
		t.Error("nothing was to be deleted")
	}
	for place, want := range map[string]int{repo: 3, local: 1} {
		var list []struct{}
		must(t, json.Unmarshal([]byte(w.want(ok, "snapshots", "--json", "--backup-dirs", place).out), &list))
		if len(list) != want {
			t.Errorf("%s holds %d snapshots, want %d", place, len(list), want)
		}
		w.want(ok, "verify", "--read-data", "--backup-dirs", place)
	}
	w.want(ok, append([]string{"backup", "--encrypt", "--source-dir", src}, both...)...)
}

// A run that takes longer than it may is ended, and says so.
func TestMaxDuration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[NETWORK]\nmax_duration = 1ms\n")
	src, dest := w.tree(1, "src"), w.path("repo")
	r := w.want(partial, append([]string{"backup"}, encrypted(src, dest)...)...)
	r.complaint(t, true, "max_duration")
	w.configure("[NETWORK]\nmax_duration = 1h\n")
	w.backup(ok, encrypted(src, dest)...)
}
