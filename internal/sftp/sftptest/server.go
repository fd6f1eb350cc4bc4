// Package sftptest starts OpenSSH servers for tests, and proxies that disturb the
// way to them (proxy.go).
//
// The servers are real: the sshd of the machine, on a free port of the loopback
// interface, with keys and a configuration of their own in a temporary directory.
// Without root, sshd serves the user who runs it, by key; with root, [NewUser]
// makes further users, with passwords, and servers can lock users into a chroot.
package sftptest

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A User logs in to servers.
type User struct {
	Name     string
	Password string // "" if there is none to log in with
}

// Config says how a server differs from the usual one, which offers SFTP to anyone
// who has the right key.
type Config struct {
	// User is who may log in; the zero User is the one who runs the test.
	User User
	// Chroot locks users into this directory, which root must own, alone with the
	// right to write, as those above it. For root only.
	Chroot string
	// ForceSFTP allows internal-sftp only: no shell, no forwarding.
	ForceSFTP bool
	// ReadOnly makes the SFTP server refuse changes.
	ReadOnly bool
	// StartDir is where SFTP places users; "" is their home.
	StartDir string
	// NoSFTP leaves SFTP out.
	NoSFTP bool
	// HostKeyType is that of ssh-keygen; "" means ed25519.
	HostKeyType string
	// HostKeyFile is the key to use instead of a new one.
	HostKeyFile string
	// Extra are more lines of sshd_config.
	Extra string
}

// A Server is an sshd that runs.
type Server struct {
	Host string
	Port int
	User User
	// Dir is an empty directory that the user can write to.
	Dir string
	// KeyFile is the private key that the server accepts.
	KeyFile string
	// KnownHosts holds the key of the server.
	KnownHosts string
	// HostKeyFile is the private key of the server.
	HostKeyFile string

	dir     string // configuration
	config  Config
	process *exec.Cmd
	ended   chan struct{}
}

// Start starts a server that stops with the test. If the machine has no sshd, the
// test fails.
func Start(t testing.TB, config Config) *Server {
	t.Helper()
	sshd := findSSHD(t)
	s := &Server{Host: "127.0.0.1", User: config.User, dir: t.TempDir(), Dir: t.TempDir(), config: config}
	if s.User.Name == "" {
		u, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		s.User.Name = u.Username
	}
	s.KeyFile = filepath.Join(s.dir, "id")
	s.KnownHosts = filepath.Join(s.dir, "known_hosts")
	s.HostKeyFile = config.HostKeyFile
	Keygen(t, s.KeyFile, "ed25519", "")
	if s.HostKeyFile == "" {
		s.HostKeyFile = filepath.Join(s.dir, "host_key")
		keyType := config.HostKeyType
		if keyType == "" {
			keyType = "ed25519"
		}
		Keygen(t, s.HostKeyFile, keyType, "")
	}
	public, err := os.ReadFile(s.KeyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	s.Authorize(t, string(public))
	if config.User.Name != "" {
		s.giveDirs(t)
	}
	for {
		s.Port = freePort(t)
		if s.start(t, sshd) {
			break
		}
	}
	write(t, s.KnownHosts, s.KnownHostsLine(t, s.Host, s.Port))
	return s
}

// findSSHD returns the path of sshd, which must be absolute: it starts itself anew
// for each connection.
func findSSHD(t testing.TB) string {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd" // in nobody's PATH but root's
		_, err = os.Stat(sshd)
	}
	if err != nil {
		t.Fatal("no sshd on this machine: install OpenSSH's server (Debian: apt-get install openssh-server); it need not run")
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd confines its unprivileged half
			t.Fatal(err)
		}
	}
	return sshd
}

// giveDirs gives the user the right to reach and use the directories.
func (s *Server) giveDirs(t testing.TB) {
	t.Helper()
	u, err := user.Lookup(s.User.Name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(s.Dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.dir, s.Dir} {
		// Those that t.TempDir makes are for their owner.
		for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			info, err := os.Stat(d)
			if err == nil {
				err = os.Chmod(d, info.Mode().Perm()|0o111)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(s.dir, "authorized_keys"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start runs sshd, and reports whether it got the port.
func (s *Server) start(t testing.TB, sshd string) bool {
	t.Helper()
	var c strings.Builder
	fmt.Fprintf(&c, "Port %d\nListenAddress %s\nHostKey %s\nPidFile none\n", s.Port, s.Host, s.HostKeyFile)
	fmt.Fprintf(&c, "AuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nUseDNS no\n", filepath.Join(s.dir, "authorized_keys"))
	fmt.Fprintf(&c, "PermitRootLogin yes\nKbdInteractiveAuthentication no\nMaxStartups 100\nLogLevel VERBOSE\n")
	fmt.Fprintf(&c, "PasswordAuthentication %s\n", yesNo(s.User.Password != ""))
	sftp := "internal-sftp"
	if s.config.ReadOnly {
		sftp += " -R"
	}
	if s.config.StartDir != "" {
		sftp += " -d " + s.config.StartDir
	}
	if !s.config.NoSFTP {
		fmt.Fprintf(&c, "Subsystem sftp %s\n", sftp)
	}
	if s.config.ForceSFTP {
		fmt.Fprintf(&c, "ForceCommand %s\nAllowTcpForwarding no\n", sftp)
	}
	if s.config.Chroot != "" {
		fmt.Fprintf(&c, "ChrootDirectory %s\n", s.config.Chroot)
	}
	c.WriteString(s.config.Extra)
	file := filepath.Join(s.dir, "sshd_config")
	write(t, file, c.String())

	s.process = exec.Command(sshd, "-D", "-e", "-f", file)
	// A file, not a pipe: the processes of connections keep it when sshd ends, and
	// Wait would wait for them.
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.process.Stderr = log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.ended = make(chan struct{})
	ended := s.ended
	go func() { s.process.Wait(); close(ended) }()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of sshd:\n%s", s.Log())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		select {
		case <-ended:
			if strings.Contains(s.Log(), "Address already in use") {
				return false
			}
			t.Fatalf("sshd has ended:\n%s", s.Log())
		default:
		}
		if conn, err := net.Dial("tcp", s.Address()); err == nil {
			conn.Close()
			return true
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen:\n%s", s.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop stops listening. Connections that there are stay.
func (s *Server) Stop() {
	s.process.Process.Kill()
	<-s.ended
}

// Restart starts a server that was stopped, on the same port.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if !s.start(t, findSSHD(t)) {
		t.Fatalf("port %d was taken meanwhile", s.Port)
	}
}

// Log is what the server has written so far.
func (s *Server) Log() string {
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Address is host:port.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// URL is that of a directory on the server.
func (s *Server) URL(dir string) string {
	return fmt.Sprintf("sftp://%s@%s%s", s.User.Name, s.Address(), dir)
}

// Authorize adds a public key that may log in.
func (s *Server) Authorize(t testing.TB, public string) {
	t.Helper()
	file := filepath.Join(s.dir, "authorized_keys")
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(data, public...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// KnownHostsLine is the line of known_hosts by which the server is known under a
// name and port: that of a proxy, say.
func (s *Server) KnownHostsLine(t testing.TB, host string, port int) string {
	t.Helper()
	public, err := os.ReadFile(s.HostKeyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if port != 22 {
		host = fmt.Sprintf("[%s]:%d", host, port)
	}
	return host + " " + string(public)
}

// Keygen makes a key pair, in file and file.pub.
func Keygen(t testing.TB, file, keyType, passphrase string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", keyType, "-N", passphrase, "-C", "test", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}

// NewUser makes a user of the system, with a password and without a home, until the
// test ends. It needs root; without it, the test is skipped.
func NewUser(t testing.TB) User {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make users")
	}
	u := User{Name: "bhtest" + strings.ToLower(rand.Text()[:8]), Password: rand.Text()}
	run := func(stdin, name string, args ...string) error {
		var out []byte
		var err error
		for range 20 { // another test may hold the lock of /etc/passwd
			cmd := exec.Command(name, args...)
			cmd.Stdin = strings.NewReader(stdin)
			if out, err = cmd.CombinedOutput(); err == nil {
				return nil
			}
			time.Sleep(100 * time.Millisecond)
		}
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	if err := run("", "useradd", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", u.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("", "userdel", "--force", u.Name); err != nil {
			t.Log(err)
		}
	})
	if err := run(u.Name+":"+u.Password, "chpasswd"); err != nil {
		t.Fatal(err)
	}
	return u
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
