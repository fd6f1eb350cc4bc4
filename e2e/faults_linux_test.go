package e2e

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
)

// disturbed are stores behind a proxy that can be told to disturb: each starts one,
// configures w for the way through the proxy, and returns the repository's address
// and the server's directory.
var disturbed = map[string]func(t *testing.T, w *world, network string) (p *sftptest.Proxy, repo, dir string){
	"sftp": func(t *testing.T, w *world, network string) (*sftptest.Proxy, string, string) {
		s := sftptest.Start(t, sftptest.Config{})
		p := sftptest.NewProxy(t, s.Address())
		known := w.write([]byte(s.KnownHostsLine(t, p.Host, p.Port)), "home", "known_hosts")
		w.configure("[SSH]\nkey_file = "+s.KeyFile+"\nknown_hosts = "+known, network)
		return p, "sftp://" + s.User.Name + "@" + p.Address() + s.Dir + "/repo", s.Dir
	},
	"s3": func(t *testing.T, w *world, network string) (*sftptest.Proxy, string, string) {
		s := s3test.Start(t, s3test.Options{})
		s.MakeBucket(t, "bucket")
		p := sftptest.NewProxy(t, s.Address())
		w.configure(w.s3Section("http://"+p.Address()), network)
		return p, "s3://bucket/repo", filepath.Join(s.Dir, "bucket")
	},
}

// stored sums up a server's files: whole objects, and all of them.
func stored(t *testing.T, dir string) (objects, all int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if len(d.Name()) == 32 {
			objects += info.Size()
		}
		all += info.Size()
		return nil
	}))
	return objects, all
}

// TestCuts: a backup whose connections are cut twenty times succeeds, and stores
// little twice.
func TestCuts(t *testing.T) {
	t.Parallel()
	for name, start := range disturbed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p, repo, dir := start(t, w, "[NETWORK]\nretry_for = 60s\n")
			src := w.tree(30, "src")
			calm := repo + "-calm"
			w.backup(ok, encrypted(src, calm)...)
			sent := p.Sent()
			want, _ := stored(t, dir)

			const cuts = 20
			seed := rand.Uint64()
			rnd := rand.New(rand.NewPCG(seed, 0))
			t.Logf("seed %d", seed)
			base := p.Cuts()
			ended := make(chan struct{})
			armed := make(chan struct{})
			go func() {
				defer close(armed)
				for n := base; n < base+cuts; n++ {
					p.CutAfter(rnd.Int64N(sent / 6))
					for p.Cuts() == n {
						select {
						case <-ended:
							return
						case <-time.After(time.Millisecond):
						}
					}
				}
			}()
			rep := w.backup(ok, encrypted(src, repo)...)
			close(ended)
			<-armed
			done := p.Cuts() - base
			p.CutAfter(-1)
			t.Logf("%d cuts; %d bytes sent undisturbed, %d with cuts", done, sent, p.Sent()-sent)
			if done < cuts/2 {
				t.Errorf("the run ended after %d cuts", done)
			}
			objects, all := stored(t, dir)
			objects, all = objects-want, all-want
			t.Logf("objects: %d undisturbed, %d with cuts; %d with remains", want, objects, all-objects)
			// Nothing is stored twice; objects differ by their padding. What the last cut
			// has left may be on the server for a day: each connection has at most a
			// window of 2 MiB on its way.
			if objects > want+64<<10 {
				t.Errorf("%d bytes of objects, undisturbed %d", objects, want)
			}
			if remains := all - objects; remains > 4*2<<20 {
				t.Errorf("%d bytes of remains", remains)
			}
			w.verify(ok, repo, "--read-data")
			same(t, src, w.restore(ok, repo, rep.Snapshot, src))
		})
	}
}

// TestSlowLine: a long and narrow line takes time, and nothing else.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	for name, start := range disturbed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p, repo, _ := start(t, w, "")
			src := w.tree(8, "src")
			p.SetDelay(20 * time.Millisecond)
			p.SetRate(1 << 20)
			rep := w.backup(ok, encrypted(src, repo)...)
			p.SetRate(0)
			p.SetDelay(0)
			w.verify(ok, repo, "--read-data")
			same(t, src, w.restore(ok, repo, rep.Snapshot, src))
		})
	}
}

// TestFrozen: a network that drops everything. Each command ends, in bounded time,
// and says what it did not do; what was there stays whole.
func TestFrozen(t *testing.T) {
	t.Parallel()
	for name, start := range disturbed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p, repo, _ := start(t, w, "[NETWORK]\n")
			config := w.path("home", "backup-handler", "config.ini")
			patient, err := os.ReadFile(config)
			must(t, err)
			// A busy machine stands still for a second, too: only what is to fail is told
			// so soon.
			impatient := slices.Concat(patient, []byte("\nretry_for = 3s\nstall_timeout = 1s\n"))
			src, local := w.tree(4, "src"), w.path("local")
			first := w.backup(ok, encrypted(src, repo)...)
			w.write(filestest.Bytes(name, 8<<20), "src", "large")

			// In the middle of the transfer of what is new.
			must(t, os.WriteFile(config, impatient, 0o600))
			frozen := make(chan struct{})
			before := p.Sent()
			ended := make(chan struct{})
			go func() {
				defer close(frozen)
				for p.Sent() < before+4<<20 {
					select {
					case <-ended:
						return
					case <-time.After(time.Millisecond):
					}
				}
				p.SetFrozen(true)
			}()
			rep := w.backup(partial, encrypted(src, repo, local)...)
			close(ended)
			<-frozen
			if rep.Destinations[0].Error == "" || rep.Destinations[1].Error != "" {
				t.Errorf("%+v", rep.Destinations)
			}
			same(t, src, w.restore(ok, local, "latest", src))

			// From the beginning.
			p.SetFrozen(true)
			at := []string{"--backup-dirs", repo}
			w.want(failed, append([]string{"snapshots"}, at...)...).complaint(t, true)
			w.want(refused, append([]string{"backup"}, encrypted(src, repo)...)...).complaint(t, true)
			p.SetFrozen(false)
			must(t, os.WriteFile(config, patient, 0o600))
			w.verify(ok, repo, "--read-data")
			rep = w.backup(ok, encrypted(src, repo, local)...)
			same(t, src, w.restore(ok, repo, rep.Snapshot, src))
			w.want(ok, append([]string{"diff", first.Snapshot, "latest"}, at...)...)
			w.verify(ok, repo, "--read-data")
		})
	}
}

// meddler starts a proxy in front of an S3 server that meddles with requests and
// answers, and returns its URL. A request for which request returns false is answered
// by it.
func meddler(t *testing.T, s *s3test.Server, request func(w http.ResponseWriter, r *http.Request) bool, answer func(*http.Response)) string {
	t.Helper()
	target, err := url.Parse(s.Endpoint)
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: func(r *http.Response) error {
			if answer != nil {
				answer(r)
			}
			return nil
		},
	}
	l := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Expect") // this proxy answers that by reading
		if request == nil || request(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(l.Close)
	return l.URL
}

// TestCorruptUpload: what is changed on its way to the server is refused there, sent
// again, and never stored.
func TestCorruptUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var left, changed atomic.Int64
	endpoint := meddler(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.ContentLength > 100 && left.Add(-1) >= 0 {
			changed.Add(1)
			r.Body = httpstoretest.Flip(r.Body, r.ContentLength/2)
		}
		return true
	}, nil)
	section := w.s3Section(endpoint)
	w.configure(section)
	src, repo := w.tree(6, "src"), "s3://bucket/repo"
	left.Store(3)
	rep := w.backup(ok, encrypted(src, repo)...)
	if changed.Load() != 3 {
		t.Errorf("%d uploads were changed", changed.Load())
	}
	w.verify(ok, repo, "--read-data")
	same(t, src, w.restore(ok, repo, rep.Snapshot, src))

	// Always.
	w.configure(section, "[NETWORK]\nretry_for = 1s\n")
	w.write([]byte("new"), "src", "new")
	left.Store(1 << 40)
	r := w.want(partial, append([]string{"backup"}, encrypted(src, repo)...)...)
	r.complaint(t, true, repo, "not what was sent")
	left.Store(0)
	w.verify(ok, repo, "--read-data")
}

// TestCorruptDownload: what is changed on its way from the server is noticed.
func TestCorruptDownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := s3test.Start(t, s3test.Options{})
	s.MakeBucket(t, "bucket")
	var on atomic.Bool
	endpoint := meddler(t, s, nil, func(r *http.Response) {
		if on.Load() && r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/packs/") && r.ContentLength > 100 {
			r.Body = httpstoretest.Flip(r.Body, r.ContentLength/2)
		}
	})
	w.configure(w.s3Section(endpoint), "[NETWORK]\nretry_for = 1s\n")
	src, repo := w.tree(6, "src"), "s3://bucket/repo"
	w.backup(ok, encrypted(src, repo)...)
	on.Store(true)
	r := w.verify(failed, repo, "--read-data")
	if !strings.Contains(r.out, "DAMAGED") {
		t.Errorf("%v", r)
	}
	to := w.restore(failed, repo, "latest", src)
	must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got, err := os.ReadFile(path)
		must(t, err)
		rel, _ := filepath.Rel(to, path)
		if want, err := os.ReadFile(filepath.Join(src, rel)); err != nil || string(got) != string(want) {
			t.Errorf("%s was restored, and is not what it was", rel)
		}
		return nil
	}))
	on.Store(false)
	w.verify(ok, repo, "--read-data")
	same(t, src, w.restore(ok, repo, "latest", src))
}

// TestRemoteRefusals: what is wrong with a destination on another machine is said in
// one line, with the destination and the cause, and what to do in another; others go
// on; no secret is told.
func TestRemoteRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ssh := sftptest.Start(t, sftptest.Config{})
	readOnly := sftptest.Start(t, sftptest.Config{ReadOnly: true})
	s3 := s3test.Start(t, s3test.Options{Users: true})
	s3.MakeBucket(t, "bucket")
	reader := s3.AddUser(t, "reader", "secret-of-reader")
	s3.Allow(t, "bucket", reader.AccessKey, "s3:GetObject", "s3:ListBucket")
	tls := s3test.Start(t, s3test.Options{TLS: true})
	skewed := meddler(t, s3, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time is too large.</Message></Error>")
		return false
	}, nil)
	wrongKey := w.path("wrong-key")
	sftptest.Keygen(t, wrongKey, "ed25519", "")
	otherHost := w.path("other-host")
	sftptest.Keygen(t, otherHost, "ed25519", "")
	public, err := os.ReadFile(otherHost + ".pub")
	must(t, err)
	changed := w.write([]byte(fmt.Sprintf("[%s]:%d %s", ssh.Host, ssh.Port, public)), "changed_hosts")
	nobody := w.write(nil, "no_hosts")
	none := "127.0.0.1:" + strconv.Itoa(1) // nothing listens there

	sshWith := func(key, known string) string { return "[SSH]\nkey_file = " + key + "\nknown_hosts = " + known + "\n" }
	s3With := func(endpoint, key, secret string) string {
		w.env = append(w.env, "S3_KEY="+key, "S3_SECRET="+secret)
		return "[S3]\nendpoint = " + endpoint + "\naccess_key = ${S3_KEY}\nsecret_key = ${S3_SECRET}\nregion = us-east-1\n"
	}
	good := sshWith(ssh.KeyFile, ssh.KnownHosts)
	src, local := w.tree(2, "src"), w.path("local")
	w.configure("")
	w.backup(ok, encrypted(src, local)...)
	type refusal struct {
		name    string
		section func() string
		repo    string
		words   []string
	}
	cases := []refusal{
		{"wrong key", func() string { return sshWith(wrongKey, ssh.KnownHosts) }, ssh.URL(ssh.Dir + "/r"), []string{"accepts none of"}},
		{"key file is missing", func() string { return sshWith(w.path("none"), ssh.KnownHosts) }, ssh.URL(ssh.Dir + "/r"), []string{w.path("none")}},
		{"SSH configuration is missing", func() string { return good + "ssh_config = " + w.path("none") + "\n" }, ssh.URL(ssh.Dir + "/r"), []string{w.path("none")}},
		{"authority is missing", func() string {
			return s3With(tls.Endpoint, s3test.AccessKey, s3test.SecretKey) + "ca_file = " + w.path("none") + "\n"
		}, "s3://bucket/r", []string{w.path("none")}},
		{"credentials are missing", func() string { return "[GCS]\ncredentials_file = " + w.path("none") + "\n" }, "gs://bucket/r", []string{w.path("none")}},
		{"unknown host", func() string { return sshWith(ssh.KeyFile, nobody) }, ssh.URL(ssh.Dir + "/r"), []string{"not known", "SHA256:"}},
		{"changed host key", func() string { return sshWith(ssh.KeyFile, changed) }, ssh.URL(ssh.Dir + "/r"), []string{"HAS CHANGED", changed}},
		{"read-only server", func() string { return sshWith(readOnly.KeyFile, readOnly.KnownHosts) }, readOnly.URL(readOnly.Dir + "/r"), []string{"permission"}},
		{"host without a name", func() string { return good }, "sftp://host.invalid/r", []string{"no such host"}},
		{"nothing listens", func() string { return good }, "sftp://" + none + "/r", []string{"refused"}},
		{"no sftp there", func() string { return good }, "sftp://" + s3.Address() + "/r", []string{}},
		{"bucket is missing", func() string { return s3With(s3.Endpoint, s3test.AccessKey, s3test.SecretKey) }, "s3://nowhere/r", []string{"bucket nowhere does not exist"}},
		{"wrong secret key", func() string { return s3With(s3.Endpoint, s3test.AccessKey, "wrong-secret") }, "s3://bucket/r", []string{"secret key does not fit"}},
		{"unknown access key", func() string { return s3With(s3.Endpoint, "nobody", "wrong-secret") }, "s3://bucket/r", []string{"does not know the access key"}},
		{"may only read", func() string { return s3With(s3.Endpoint, reader.AccessKey, reader.SecretKey) }, "s3://bucket/r", []string{"not allowed to store"}},
		{"clocks differ", func() string { return s3With(skewed, s3test.AccessKey, s3test.SecretKey) }, "s3://bucket/r", []string{"clock"}},
		{"certificate of an unknown authority", func() string { return s3With(tls.Endpoint, s3test.AccessKey, s3test.SecretKey) }, "s3://bucket/r", []string{"certificate"}},
		{"endpoint without a name", func() string { return s3With("http://host.invalid", s3test.AccessKey, s3test.SecretKey) }, "s3://bucket/r", []string{"host.invalid does not exist"}},
		{"no endpoint listens", func() string { return s3With("http://"+none, s3test.AccessKey, s3test.SecretKey) }, "s3://bucket/r", []string{"refused"}},
		{"secret is not set", func() string {
			return "[S3]\nendpoint = " + s3.Endpoint + "\naccess_key = a\nsecret_key = ${NOT_SET}\n"
		}, "s3://bucket/r", []string{"NOT_SET is not set"}},
		{"no credentials", func() string { return "" }, "gs://bucket/r", []string{"credentials"}},
		{"no account", func() string { return "" }, "azblob://box/r", []string{"account"}},
		{"unknown scheme", func() string { return "" }, "ftp://host/r", []string{"ftp"}},
		{"bad address", func() string { return good }, "sftp://host:0/r", []string{"sftp://host:0/r"}},
	}
	if os.Geteuid() == 0 {
		u := sftptest.NewUser(t)
		s := sftptest.Start(t, sftptest.Config{User: u})
		cases = append(cases, refusal{"wrong password", func() string {
			w.env = append(w.env, "SSH_PASSWORD=wrong-password")
			return "[SSH]\nusername = " + u.Name + "\npassword = ${SSH_PASSWORD}\nknown_hosts = " + s.KnownHosts + "\n"
		}, "sftp://" + s.Address() + s.Dir + "/r", []string{"accepts none of", "password"}})
		sshKeyOf := sshWith(s.KeyFile, s.KnownHosts)
		cases = append(cases, refusal{"no permission", func() string { return sshKeyOf }, "sftp://" + u.Name + "@" + s.Address() + "/r", []string{"permission"}})
	}
	env := w.env
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w.t, w.env = t, env
			w.configure(c.section(), "[NETWORK]\nretry_for = 600ms\n")
			r := w.want(refused, append([]string{"backup"}, encrypted(src, c.repo)...)...)
			words := append(c.words, c.repo)
			r.complaint(t, true, words...)
			rep := w.backup(partial, encrypted(src, c.repo, local)...)
			if rep.Destinations[0].Error == "" || rep.Destinations[1].Error != "" || rep.Snapshot == "" {
				t.Errorf("%+v", rep)
			}
			r = w.want(failed, "snapshots", "--backup-dirs", c.repo)
			r.complaint(t, true, c.repo)
			noSecrets(t, w)
		})
	}
	w.t, w.env = t, env
	w.configure("")
	same(t, src, w.restore(ok, local, "latest", src))

	// A password in an address is refused before anything can log it.
	for _, address := range []string{"sftp://user:hush@host/r", "s3://user:hush@bucket/r"} {
		for _, args := range [][]string{{"backup", "--source-dir", src}, {"snapshots"}, {"verify"}, {"init"}, {"key", "list"}, {"status"}} {
			r := w.want(failed, append(args, "--backup-dirs", address)...)
			r.complaint(t, true, "password")
			if strings.Contains(r.out+r.errout, "hush") {
				t.Errorf("%v", r)
			}
		}
	}
	w.configure("[BACKUPS]\nbackup_dirs = sftp://user:hush@host/r\n")
	for _, args := range [][]string{{"config", "show"}, {"config", "check"}, {"backup"}} {
		if r := w.run(args...); strings.Contains(r.out+r.errout, "hush") {
			t.Errorf("%v", r)
		}
	}
	w.env = append(w.env, "PASSWORD=hush")
	noSecrets(t, w)
}

// TestFullServer: a server whose disk is full fails alone, and catches up.
func TestFullServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := bigSource(w, 4)
	ssh := sftptest.Start(t, sftptest.Config{})
	mount(t, ssh.Dir, "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs")
	w.configure(w.sshSection(ssh), "[NETWORK]\nretry_for = 1s\n")
	repo, local := ssh.URL(ssh.Dir+"/repo"), w.path("local")
	rep := w.backup(partial, encrypted(src, repo, local)...)
	if !strings.Contains(rep.Destinations[0].Error, "full") || rep.Destinations[1].Error != "" {
		t.Errorf("%+v", rep.Destinations)
	}
	r := w.want(partial, append([]string{"backup"}, encrypted(src, repo)...)...)
	r.complaint(t, true, "full", repo)
	same(t, src, w.restore(ok, local, "latest", src))
	tool(t, "", "mount", "-o", "remount,size=200m", ssh.Dir)
	w.backup(ok, encrypted(src, repo, local)...)
	w.verify(ok, repo, "--read-data")
	same(t, src, w.restore(ok, repo, "latest", src))
}
