package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A server keeps repositories.
type server interface {
	name() string
	address() string
	stop()
	// clear removes all repositories.
	clear()
	// stored is the length of what is in a repository.
	stored(name string) int64
	cpu() time.Duration
}

// startWithin is a hundred times what it takes.
const startWithin = 30 * time.Second

func startServer(ctx context.Context, name, dir, gateway string) (server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	switch name {
	case "sftp":
		return startSSH(ctx, dir)
	case "s3":
		return startS3(ctx, dir, gateway)
	}
	return nil, fmt.Errorf("no server is named %q", name)
}

// A process is a server that runs, with its files in dir.
type process struct {
	dir, addr string
	cmd       *exec.Cmd
}

func (p *process) address() string          { return p.addr }
func (p *process) data() string             { return filepath.Join(p.dir, "data") }
func (p *process) stored(name string) int64 { return sizeOf(filepath.Join(p.data(), name)) }

// cpu is the processor time that the server has used, with that of its children that have
// ended.
func (p *process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var ticks int64
	if fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])); len(fields) > 14 {
		for _, f := range fields[11:15] {
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// ticksPerSecond is USER_HZ, the same on all systems of today.
const ticksPerSecond = 100

func (p *process) stop() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// start runs a server, and returns when it takes connections.
func (p *process) start(ctx context.Context, ready func() bool, argv ...string) error {
	out, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, p.dir
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < startWithin; time.Sleep(20 * time.Millisecond) {
		if ready() {
			return nil
		}
	}
	p.stop()
	text, _ := os.ReadFile(out.Name())
	return fmt.Errorf("%s does not start: %s", argv[0], text)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// sshServer is the machine's sshd, with keys and configuration of its own.
type sshServer struct {
	process
	user string
}

func startSSH(ctx context.Context, dir string) (*sshServer, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	u, err := user.Current()
	if err != nil {
		return nil, err
	}
	s := &sshServer{process{dir: dir}, u.Username}
	if s.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	for _, name := range []string{"id", "host_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "id.pub"))
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(s.addr)
	config := fmt.Sprintf("Port %s\nListenAddress %s\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nUseDNS no\n"+
		"PermitRootLogin yes\nPasswordAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
		port, host, filepath.Join(dir, "host_key"), filepath.Join(dir, "authorized_keys"))
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "authorized_keys"), public, 0o600),
		os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600),
		os.MkdirAll(s.data(), 0o700))
	if os.Getuid() == 0 {
		err = errors.Join(err, os.MkdirAll("/run/sshd", 0o755)) // where sshd confines its unprivileged half
	}
	if err != nil {
		return nil, err
	}
	ready := func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	return s, s.start(ctx, ready, sshd, "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
}

func (s *sshServer) name() string { return "sftp" }

func (s *sshServer) clear() { clearDir(s.data()) }

// knownHosts writes a file with the key of the server at an address.
func (s *sshServer) knownHosts(addr, file string) error {
	key, err := os.ReadFile(filepath.Join(s.dir, "host_key.pub"))
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	return os.WriteFile(file, fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600)
}

// s3Server is versitygw, with its buckets in a directory.
type s3Server struct{ process }

const (
	accessKey = "benchaccess"
	secretKey = "benchsecretkey"
	bucket    = "bench"
)

func startS3(ctx context.Context, dir, gateway string) (*s3Server, error) {
	gateway, err := filepath.Abs(gateway)
	if err != nil {
		return nil, err
	}
	s := &s3Server{process{dir: dir}}
	if s.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(s.data(), bucket), 0o700); err != nil {
		return nil, err
	}
	ready := func() bool {
		resp, err := http.Get("http://" + s.addr + "/health")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}
	return s, s.start(ctx, ready, gateway, "--port", s.addr, "--access", accessKey, "--secret", secretKey, "--region", "us-east-1",
		"--keep-alive", "--quiet", "--health", "/health", "posix", s.data())
}

func (s *s3Server) name() string { return "s3" }

func (s *s3Server) clear() { clearDir(filepath.Join(s.data(), bucket)) }

func (s *s3Server) stored(name string) int64 { return sizeOf(filepath.Join(s.data(), bucket, name)) }

func clearDir(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		os.RemoveAll(filepath.Join(dir, e.Name()))
	}
}

func sizeOf(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
