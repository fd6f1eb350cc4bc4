package sftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
)

// tryOpen opens the directory of a server, and closes what comes of it.
func tryOpen(t *testing.T, s *sftptest.Server, options Options) error {
	t.Helper()
	store, err := Open(t.Context(), targetOf(t, s, s.Dir), options)
	if err == nil {
		store.Close()
	}
	return err
}

func TestUnknownHost(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	options := Options{KeyFile: server.KeyFile, Home: home}
	err := tryOpen(t, server, options)
	command := fmt.Sprintf("ssh-keyscan -p %d 127.0.0.1 >> ~/.ssh/known_hosts", server.Port)
	wantPermanent(t, err, "is not known", command, fingerprint(t, server), "compare the fingerprint")

	// The hint is right.
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "HOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	if err := tryOpen(t, server, options); err != nil {
		t.Error(err)
	}

	// Another file is named in it.
	options.KnownHosts = []string{filepath.Join(home, "it's mine")}
	wantPermanent(t, tryOpen(t, server, options), `127.0.0.1 >> '`+home+`/it'\''s mine', then`)
}

func fingerprint(t *testing.T, s *sftptest.Server) string {
	t.Helper()
	return ssh.FingerprintSHA256(publicKey(t, s.HostKeyFile+".pub"))
}

func publicKey(t *testing.T, file string) ssh.PublicKey {
	t.Helper()
	key, err := readPublic(file)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestChangedHostKey(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	for _, keyType := range []string{"ed25519", "ecdsa"} {
		other := filepath.Join(t.TempDir(), "other")
		sftptest.Keygen(t, other, keyType, "")
		old := publicKey(t, other+".pub")
		options := optionsFor(server)
		options.KnownHosts = []string{writeFile(t, fmt.Sprintf("# mine\n[127.0.0.1]:%d %s", server.Port, ssh.MarshalAuthorizedKey(old)))}
		wantPermanent(t, tryOpen(t, server, options), "HAS CHANGED", options.KnownHosts[0]+" line 2", ssh.FingerprintSHA256(old),
			"listening in", fmt.Sprintf("ssh-keygen -R '[127.0.0.1]:%d' -f %s", server.Port, options.KnownHosts[0]))
	}
}

// known_hosts has one type of the two that the server has, and not the one that
// would be agreed on without it.
func TestHostKeyAlgorithms(t *testing.T) {
	for _, keyType := range []string{"rsa", "ecdsa"} {
		other := filepath.Join(t.TempDir(), "host_key")
		sftptest.Keygen(t, other, "ed25519", "")
		server := sftptest.Start(t, sftptest.Config{HostKeyType: keyType, Extra: "HostKey " + other + "\n"})
		if err := tryOpen(t, server, optionsFor(server)); err != nil {
			t.Errorf("%s: %v", keyType, err)
		}
	}
}

func TestKnownHostsForms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, hostKey := filepath.Join(dir, "ca"), filepath.Join(dir, "host_key")
	sftptest.Keygen(t, ca, "ed25519", "")
	sftptest.Keygen(t, hostKey, "ed25519", "")
	run(t, "ssh-keygen", "-q", "-s", ca, "-I", "test", "-h", "-n", "127.0.0.1", hostKey+".pub")
	server := sftptest.Start(t, sftptest.Config{HostKeyFile: hostKey, Extra: "HostCertificate " + hostKey + "-cert.pub\n"})
	host := fmt.Sprintf("[127.0.0.1]:%d ", server.Port)
	caLine, keyLine := read(t, ca+".pub"), read(t, hostKey+".pub")
	hashed := writeFile(t, host+keyLine)
	run(t, "ssh-keygen", "-q", "-H", "-f", hashed)

	tests := []struct{ name, lines, want string }{
		{"plain", host + keyLine, ""},
		{"hashed", read(t, hashed), ""},
		{"authority", "@cert-authority " + host + caLine, ""},
		{"authority for all", "@cert-authority * " + caLine, ""},
		{"pattern", "*.0.0.1 " + keyLine, ""},
		{"other authority", "@cert-authority " + host + keyLine, "host key of"},
		{"other port", "[127.0.0.1]:1 " + keyLine, "is not known"},
		{"no port", "127.0.0.1 " + keyLine, "is not known"},
		{"negated", "!127.0.0.1,[127.0.0.2]:22 " + keyLine, "is not known"},
		{"revoked", host + keyLine + "@revoked * " + keyLine, "is revoked by"},
		{"damaged", host + "ssh-ed25519 AAAA\n", "correct that line"},
		{"empty", "", "is not known"},
	}
	for _, tt := range tests {
		options := optionsFor(server)
		options.KnownHosts = []string{writeFile(t, tt.lines), filepath.Join(dir, "missing")}
		err := tryOpen(t, server, options)
		if tt.want != "" {
			wantPermanent(t, err, tt.want)
		} else if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPassword(t *testing.T) {
	t.Parallel()
	u := sftptest.NewUser(t)
	server := sftptest.Start(t, sftptest.Config{User: u})
	proxy := sftptest.NewProxy(t, server.Address())
	target, options := through(t, server, proxy, server.Dir)
	asked := 0
	options.KeyFile = ""
	options.Password = func(context.Context) (string, error) { asked++; return u.Password, nil }
	s := mustCreate(t, target, options)
	proxy.Cut()
	wantRecovery(t, s)
	if asked != 1 {
		t.Errorf("asked %d times for the password", asked)
	}

	options.Password = func(context.Context) (string, error) { return "wrong SECRET", nil }
	_, err := Open(t.Context(), target, options)
	wantPermanent(t, err, u.Name+"@", "none of: password", fmt.Sprintf("sftp -P %d %s@127.0.0.1", proxy.Port, u.Name))
	if strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}

	// Time to think does not count.
	options.ConnectTimeout = 5 * time.Second
	options.Password = func(context.Context) (string, error) { time.Sleep(6 * time.Second); return u.Password, nil }
	if s, err := Open(t.Context(), target, options); err != nil {
		t.Error(err)
	} else {
		s.Close()
	}
	noTerminal := errors.New("no terminal")
	options.Password = func(context.Context) (string, error) { return "", noTerminal }
	if _, err := Open(t.Context(), target, options); !errors.Is(err, noTerminal) {
		t.Errorf("error is %v", err)
	}
	options.Password = nil
	_, err = Open(t.Context(), target, options)
	wantPermanent(t, err, "none of: nothing (there is no key, no agent and no password)")
}

// wantRecovery checks that a store works again, after at most one error for each
// connection that it has lost without knowing yet. On a slow machine a connection
// may take longer than the test allows; that does not count.
func wantRecovery(t *testing.T, s *Store) {
	t.Helper()
	var err error
	deadline := time.Now().Add(patience)
	for failures := 0; failures <= DefaultConnections && time.Now().Before(deadline); {
		_, err = s.Free(t.Context())
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "no answer within") {
			failures++
		}
	}
	t.Errorf("does not recover: %v", err)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, sftptest.Config{})
	dir := t.TempDir()
	for _, keyType := range []string{"ed25519", "rsa", "ecdsa"} { // RSA has its own ways to sign
		for name, passphrase := range map[string]string{"plain": "", "locked": "open sesame", "refused": "open sesame"} {
			file := filepath.Join(dir, keyType+name)
			sftptest.Keygen(t, file, keyType, passphrase)
			if name != "refused" {
				server.Authorize(t, read(t, file+".pub"))
			}
		}
		options := optionsFor(server)
		options.KeyFile = filepath.Join(dir, keyType+"plain")
		if err := tryOpen(t, server, options); err != nil {
			t.Errorf("%s: %v", keyType, err)
		}

		options.KeyFile = filepath.Join(dir, keyType+"locked")
		wantPermanent(t, tryOpen(t, server, options), "needs a passphrase")
		asked := 0
		answer := "open sesame"
		options.Passphrase = func(_ context.Context, file string) (string, error) {
			if asked++; file != options.KeyFile {
				t.Errorf("asked for the passphrase of %s", file)
			}
			return answer, nil
		}
		if err := tryOpen(t, server, options); err != nil || asked != 1 {
			t.Errorf("%s: %v, asked %d times", keyType, err, asked)
		}
		answer = "wrong SECRET"
		err := tryOpen(t, server, options)
		wantPermanent(t, err, "wrong passphrase for key "+options.KeyFile)
		if strings.Contains(err.Error(), "SECRET") {
			t.Error(err)
		}

		asked = 0
		options.KeyFile = filepath.Join(dir, keyType+"refused")
		wantPermanent(t, tryOpen(t, server, options), "accepts none of: key "+options.KeyFile)
		if asked != 0 {
			t.Error("asked for the passphrase of a key that the server does not want")
		}
	}
	options := optionsFor(server)
	options.KeyFile = filepath.Join(dir, "missing")
	wantPermanent(t, tryOpen(t, server, options), "read key", "missing")
	options.KeyFile = writeFile(t, "SECRET nonsense")
	err := tryOpen(t, server, options)
	wantPermanent(t, err, "damaged or of an unknown kind")
	if strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}

// startAgent serves an agent that holds keys.
func startAgent(t *testing.T, files ...string) (socket string) {
	t.Helper()
	keys := agent.NewKeyring()
	for _, file := range files {
		key, err := ssh.ParseRawPrivateKey([]byte(read(t, file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "a") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(keys, conn)
			}()
		}
	}()
	return socket
}

func TestAgent(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	sftptest.Keygen(t, other, "ed25519", "")
	both := startAgent(t, other, server.KeyFile)
	known := []string{server.KnownHosts}
	// A key whose private half is in the agent only.
	public := filepath.Join(dir, "public")
	if err := os.WriteFile(public+".pub", []byte(read(t, server.KeyFile+".pub")), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		options Options
		config  string
		want    string
	}{
		{"any key", Options{AgentSocket: both}, "", ""},
		{"wrong key", Options{AgentSocket: startAgent(t, other)}, "", "1 other keys in the agent"},
		{"no agent", Options{AgentSocket: filepath.Join(dir, "none")}, "", "agent (not reachable)"},
		{"key file in the agent", Options{AgentSocket: both, KeyFile: public}, "", ""},
		{"key file, no other", Options{AgentSocket: both, KeyFile: other}, "", "(in the agent)"},
		{"identities only", Options{AgentSocket: both}, "IdentitiesOnly yes\nIdentityFile " + public, ""},
		{"other identities only", Options{AgentSocket: both}, "IdentitiesOnly yes\nIdentityFile " + other, "(in the agent)"},
		{"no identities only", Options{AgentSocket: both}, "IdentitiesOnly yes", "nothing"},
		{"other identity first", Options{AgentSocket: both}, "IdentityFile " + other, ""},
		{"missing identity", Options{AgentSocket: both}, "IdentityFile " + dir + "/missing", ""},
		{"file", Options{}, "IdentityFile " + server.KeyFile, ""},
		{"public half without agent", Options{KeyFile: public}, "", "only its public half is here"},
	}
	for _, tt := range tests {
		options := tt.options
		options.KnownHosts = known
		if options.SSHConfig = "none"; tt.config != "" {
			options.SSHConfig = writeFile(t, "Host *\n"+tt.config+"\n")
		}
		err := tryOpen(t, server, options)
		if tt.want != "" {
			t.Run(tt.name, func(t *testing.T) { wantPermanent(t, err, tt.want) })
		} else if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestDefaultKeys(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, name := range map[string]string{server.KeyFile: "id_ed25519", server.KnownHosts: "known_hosts"} {
		if err := os.WriteFile(filepath.Join(home, ".ssh", name), []byte(read(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target := targetOf(t, server, server.Dir)
	target.User = ""
	s, err := Open(t.Context(), target, Options{Home: home, LocalUser: server.User.Name})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	_, err = Open(t.Context(), target, Options{Home: home})
	wantPermanent(t, err, "no user to log in as")
}

// Three hops, all of them named in the configuration alone.
func TestProxyJump(t *testing.T) {
	first, second, target := sftptest.Start(t, sftptest.Config{}), sftptest.Start(t, sftptest.Config{}), sftptest.Start(t, sftptest.Config{})
	closed := sftptest.Start(t, sftptest.Config{ForceSFTP: true}) // forwards nothing
	known := writeFile(t, read(t, first.KnownHosts)+read(t, second.KnownHosts)+read(t, target.KnownHosts)+read(t, closed.KnownHosts))
	block := func(alias string, s *sftptest.Server, more string) string {
		return fmt.Sprintf("Host %s\n  HostName %s\n  Port %d\n  User %s\n  IdentityFile %s\n  UserKnownHostsFile %s\n  %s\n",
			alias, s.Host, s.Port, s.User.Name, s.KeyFile, known, more)
	}
	config := block("first", first, "") + block("second", second, "ProxyJump first") + block("closed", closed, "") +
		block("direct", target, "") + block("one", target, "ProxyJump first") + block("two", target, "ProxyJump first,second") +
		block("chain", target, "ProxyJump second") + block("refused", target, "ProxyJump closed") + block("loop", target, "ProxyJump loop2") +
		block("loop2", target, "ProxyJump loop") + block("command", target, "ProxyCommand nc %h %p") +
		block("strange", target, "UserKnownHostsFile "+os.DevNull)
	options := Options{SSHConfig: writeFile(t, config)}
	for alias, want := range map[string]string{
		"direct": "", "one": "", "two": "", "chain": "",
		"refused": "the jump host refuses", "loop": "more than", "command": "ProxyCommand",
	} {
		s, err := Create(t.Context(), Target{Host: alias, Path: target.Dir}, options)
		if want != "" {
			t.Run(alias, func(t *testing.T) { wantPermanent(t, err, want) })
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", alias, err)
			continue
		}
		if err := put(s, alias, random(1<<20)); err != nil {
			t.Errorf("%s: %v", alias, err)
		}
		s.Close()
	}
	if first := strings.Count(first.Log(), "Accepted publickey"); first != 3 {
		t.Errorf("%d logins to the first jump host, want 3", first)
	}

	// What is known of the target, behind a jump host.
	options.KnownHosts = []string{writeFile(t, read(t, first.KnownHosts))}
	_, err := Open(t.Context(), Target{Host: "one", Path: target.Dir}, options)
	wantPermanent(t, err, "is not known", fmt.Sprintf("ssh -o UserKnownHostsFile=%s -J %s@127.0.0.1:%d -p %d %s@127.0.0.1",
		options.KnownHosts[0], first.User.Name, first.Port, target.Port, target.User.Name))

	// An option wins over the configuration.
	options = Options{SSHConfig: options.SSHConfig, ProxyJump: "none"}
	s, err := Open(t.Context(), Target{Host: "refused", Path: target.Dir}, options)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestNoSFTP(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{NoSFTP: true})
	wantPermanent(t, tryOpen(t, server, optionsFor(server)), "offers no SFTP", "Subsystem sftp")
}

func TestResolve(t *testing.T) {
	config := writeFile(t, `
# in front of all
Host nas
  HostName nas.example.org
  User backup
  Port 2222
  IdentityFile ~/.ssh/%h_%r
  IdentityFile "/keys/with space"
Host *.lan !no.lan
  User lan
  ProxyJump jump@bastion:22022, inner
Host bastion
  HostName 192.0.2.7
  UserKnownHostsFile /a/%n /b/%p%%
Match host *.old
  User old
Host *
  User anyone
  IdentitiesOnly yes
`)
	tests := []struct {
		target  Target
		options Options
		want    string
		keys    string
		known   string
	}{
		{Target{Host: "nas"}, Options{Home: "/h"}, "backup@nas.example.org:2222", "/h/.ssh/nas.example.org_backup,/keys/with space", "/h/.ssh/known_hosts,/etc/ssh/ssh_known_hosts"},
		{Target{Host: "nas", User: "me", Port: 1}, Options{Home: "/h", KeyFile: "/k", KnownHosts: []string{"/kh"}}, "me@nas.example.org:1", "/k", "/kh"},
		{Target{Host: "x.lan"}, Options{}, "jump@192.0.2.7:22022 anyone@inner:22 lan@x.lan:22", "", ""},
		{Target{Host: "x.lan"}, Options{ProxyJump: "none"}, "lan@x.lan:22", "", ""},
		{Target{Host: "x.lan"}, Options{ProxyJump: "ssh://a@[::1]:5"}, "a@[::1]:5 lan@x.lan:22", "", ""},
		{Target{Host: "no.lan"}, Options{}, "anyone@no.lan:22", "", ""},
		{Target{Host: "bastion"}, Options{}, "anyone@192.0.2.7:22", "", "/a/bastion,/b/22%"},
		{Target{Host: "y.old"}, Options{Home: "/h"}, "old@y.old:22", "/h/.ssh/id_ed25519,/h/.ssh/id_ecdsa,/h/.ssh/id_rsa", "/h/.ssh/known_hosts,/etc/ssh/ssh_known_hosts"},
		{Target{Host: "nas"}, Options{SSHConfig: "none", LocalUser: "l"}, "l@nas:22", "", ""},
	}
	for _, tt := range tests {
		if tt.options.SSHConfig == "" {
			tt.options.SSHConfig = config
		}
		route, err := resolve(tt.target, tt.options)
		if err != nil {
			t.Errorf("%s: %v", tt.target.Host, err)
			continue
		}
		var peers []string
		for _, h := range route {
			peers = append(peers, h.peer())
		}
		last := route[len(route)-1]
		got := []string{strings.Join(peers, " "), strings.Join(last.identities, ","), strings.Join(last.knownHosts, ",")}
		if want := []string{tt.want, tt.keys, tt.known}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", tt.target.Host, got, want)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	for config, want := range map[string]string{
		"Host *\n User u\n Port 70000\n":           "Port of host",
		"Host *\n HostName -oProxyCommand=x\n":     "HostName of host is not valid",
		"Host *\n User a;b\n":                      "no user",
		"Host *\n User u\n IdentityFile ~/x\n":     "no home directory",
		"Host *\n User u\n IdentityFile /x/%x\n":   "%x",
		"Host *\n User u\n IdentityFile /x/%\n":    "lone %",
		"Host *\n User u\n ProxyJump a,,b\n":       "jump host of host: no valid host",
		"Host *\n User u\n ProxyJump a:b\n":        "jump host of host: port",
		"Host *\n User u\n ProxyJump a:0\n":        "jump host of host: port",
		"Host *\n User u\n ProxyJump u:SECRET@a\n": "jump host of host: no valid user",
		"Match exec true\n User u\n":               "write a configuration for the backup without that line",
	} {
		_, err := resolve(Target{Host: "host"}, Options{SSHConfig: writeFile(t, config)})
		wantPermanent(t, err, want)
		if strings.Contains(err.Error(), "SECRET") {
			t.Error(err)
		}
	}
	_, err := resolve(Target{Host: "host", User: "u"}, Options{SSHConfig: filepath.Join(t.TempDir(), "missing")})
	wantPermanent(t, err, "read SSH configuration")
	if _, err := resolve(Target{Host: "host", User: "u"}, Options{Home: t.TempDir()}); err != nil {
		t.Errorf("no configuration in the home directory: %v", err)
	}
}

func FuzzParseJump(f *testing.F) {
	f.Add("user@host:2222")
	f.Add("ssh://user@[::1]:22")
	f.Add("::%]0")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseJump(text)
		if err != nil {
			return
		}
		if !validHost(s.host) || s.port < 0 || s.port > 65535 {
			t.Errorf("%q is %+v", text, s)
		}
		port := s.port
		if port == 0 {
			port = 22
		}
		written := net.JoinHostPort(s.host, fmt.Sprint(port))
		if s.user != "" {
			written = s.user + "@" + written
		}
		again, err := parseJump(written)
		if s.port = port; err != nil || again != s {
			t.Errorf("%q is %+v, and again %+v, %v", text, s, again, err)
		}
	})
}
