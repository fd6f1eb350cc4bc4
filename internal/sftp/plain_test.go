package sftp

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// A plainServer is one that OpenSSH cannot be made to be: without extensions, with
// a rename that replaces, with a limit to packets that it does not tell, asking
// for passwords by questions, or silent behind an SSH server that is well.
type plainServer struct {
	config     *ssh.ServerConfig
	key        ssh.Signer
	port       int
	extensions []string // what to announce
	maxPacket  int      // 0 is none; a longer one ends the session
	silent     atomic.Bool

	work sync.WaitGroup
}

func (p *plainServer) start(t *testing.T) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.key, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	if p.config == nil {
		p.config = &ssh.ServerConfig{NoClientAuth: true}
	}
	p.config.AddHostKey(p.key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.port = l.Addr().(*net.TCPAddr).Port
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); p.work.Wait() })
}

func (p *plainServer) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, p.config)
	if err != nil {
		return
	}
	p.work.Go(func() {
		for r := range requests {
			if r.WantReply {
				r.Reply(false, nil)
			}
		}
	})
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() {
			for r := range requests {
				r.Reply(r.Type == "subsystem", nil)
			}
		})
		p.work.Go(func() {
			defer channel.Close()
			server, err := sftp.NewServer(&plainChannel{Channel: channel, p: p})
			if err == nil {
				server.Serve()
			}
		})
	}
}

// A plainChannel changes what the library's server announces and takes.
type plainChannel struct {
	ssh.Channel
	p         *plainServer
	in        bytes.Buffer
	out       bytes.Buffer // until the first packet is whole
	announced bool
}

func (c *plainChannel) Read(b []byte) (int, error) {
	if c.in.Len() == 0 {
		var header [4]byte
		if _, err := io.ReadFull(c.Channel, header[:]); err != nil {
			return 0, err
		}
		n := int(binary.BigEndian.Uint32(header[:]))
		if c.p.maxPacket > 0 && n > c.p.maxPacket {
			return 0, errors.New("bad message")
		}
		c.in.Write(header[:])
		if _, err := io.CopyN(&c.in, c.Channel, int64(n)); err != nil {
			return 0, err
		}
	}
	return c.in.Read(b)
}

func (c *plainChannel) Write(b []byte) (int, error) {
	if c.p.silent.Load() {
		return len(b), nil
	}
	if c.announced {
		return c.Channel.Write(b)
	}
	c.out.Write(b)
	packet := c.out.Bytes()
	if len(packet) < 4 || len(packet) < 4+int(binary.BigEndian.Uint32(packet)) {
		return len(b), nil
	}
	c.announced = true
	version := append([]byte(nil), packet[4:9]...) // type, version
	for _, e := range c.p.extensions {
		for _, s := range []string{e, "1"} {
			version = binary.BigEndian.AppendUint32(version, uint32(len(s)))
			version = append(version, s...)
		}
	}
	_, err := c.Channel.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(version))), version...))
	return len(b), err
}

// reach returns what opens a directory on the server.
func (p *plainServer) reach(t *testing.T, dir string) (Target, Options) {
	line := fmt.Sprintf("[127.0.0.1]:%d %s", p.port, ssh.MarshalAuthorizedKey(p.key.PublicKey()))
	return Target{User: "u", Host: "127.0.0.1", Port: p.port, Path: dir}, Options{KnownHosts: []string{writeFile(t, line)}}
}

// No extensions at all: small packets, no flushing, publishing by a rename.
func TestConformancePlain(t *testing.T) {
	p := &plainServer{}
	p.start(t)
	storagetest.Test(t, func(t *testing.T) storage.Backend {
		if strings.HasSuffix(t.Name(), "/Race") {
			t.Skip("this server's rename replaces: two writers at the same time can both win, as publish says")
		}
		target, options := p.reach(t, path.Join(t.TempDir(), "a", "store"))
		s := mustCreate(t, target, options)
		if s.pool.sessions[0].packet != smallPacket {
			t.Error("large packets")
		}
		return noSpace{backend(t, s)}
	})
}

// noSpace hides Free, which this server cannot tell.
type noSpace struct{ storage.Backend }

func TestLargePacketsRefused(t *testing.T) {
	p := &plainServer{extensions: []string{extLimits, extHardlink, extStatVFS}, maxPacket: 64 << 10}
	p.start(t)
	target, options := p.reach(t, t.TempDir())
	s := mustCreate(t, target, options)
	data := random(1 << 20)
	if err := put(s, "a", data); err == nil {
		t.Fatal("the first put succeeded")
	}
	if err := put(s, "a", data); err != nil {
		t.Fatal(err)
	}
	if got, err := get(s, "a", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// The SSH server answers keep-alives, the SFTP server behind it does not.
func TestSilentSFTP(t *testing.T) {
	t.Parallel()
	p := &plainServer{extensions: []string{extStatVFS}}
	p.start(t)
	target, options := p.reach(t, t.TempDir())
	options.KeepAlive = 500 * time.Millisecond
	options.AnswerTimeout = 2 * time.Second
	options.ConnectTimeout = 5 * time.Second
	s := mustCreate(t, target, options)
	if err := put(s, "a", random(100)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * options.AnswerTimeout) // to be idle is no fault
	if s.pool.sessions[0].failure() != nil {
		t.Fatal("an idle session was given up")
	}
	p.silent.Store(true)
	for _, want := range []string{"its SFTP server has not answered for 2s", "no answer within 5s"} {
		bounded(t, "all calls", func() error {
			var wg sync.WaitGroup
			for name, call := range calls(s) {
				wg.Go(func() {
					if err := call(); !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%s: %v, want %s", name, err, want)
					}
				})
			}
			wg.Wait()
			return nil
		})
	}
	p.silent.Store(false)
	wantRecovery(t, s)
}

// A password asked for by a question, as servers with PAM do.
func TestKeyboardInteractive(t *testing.T) {
	var questions []string
	echo := false
	p := &plainServer{config: &ssh.ServerConfig{
		KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			echos := make([]bool, len(questions))
			for i := range echos {
				echos[i] = echo
			}
			answers, err := ask("", "", questions, echos)
			if err == nil && (len(answers) != 1 || answers[0] != "open sesame") {
				err = errors.New("wrong")
			}
			return nil, err
		},
	}}
	p.start(t)
	target, options := p.reach(t, t.TempDir())
	options.Password = func(context.Context) (string, error) { return "open sesame", nil }
	questions = []string{"Password: "}
	s, err := Open(t.Context(), target, options)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	questions = []string{"Password: ", "One-time code: "}
	_, err = Open(t.Context(), target, options)
	wantPermanent(t, err, "more than a password", "log in with a key")
	questions, echo = []string{"User: "}, true
	_, err = Open(t.Context(), target, options)
	wantPermanent(t, err, "more than a password")
}
