package sftp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Extensions of OpenSSH (its PROTOCOL, section 4) that are made use of.
const (
	extHardlink = "hardlink@openssh.com"
	extFsync    = "fsync@openssh.com"
	extStatVFS  = "statvfs@openssh.com"
	extLimits   = "limits@openssh.com"
)

// Bytes per request. Every server takes smallPacket. OpenSSH takes messages of
// 256 KiB; since 8.5 it says so (limits@openssh.com), and returns as many bytes
// for a read, where older ones return 64 KiB at most.
const (
	smallPacket = 32 << 10
	largePacket = 255 << 10
)

// missedKeepAlives is how many intervals without a sign of life end a session, as
// ssh's ServerAliveCountMax.
const missedKeepAlives = 3

// A session is an SFTP session on an SSH connection, which may have a second one. It ends
// once, for all calls on it, and is not used again. The connection ends with it, unless the
// server has closed no more than the second one.
//
// Three watches make sure that it ends: the SFTP client notices a closed
// connection; a keep-alive request goes out whenever nothing has arrived for a
// while, and what a dead network or host does not answer in time closes the
// connection, also under a write that blocks; and an SFTP server that leaves
// requests unanswered (a dead disk or mount behind it) while the SSH server below
// it is well, is given up after a longer time. What counts as a sign of life is
// any byte that arrives: behind a slow line that is full of data, the answer to a
// keep-alive may take minutes, those to earlier requests go on arriving. Silence is
// counted in looks that saw nothing new, not by the clock: a program that was itself
// stopped for a while (SIGSTOP, a virtual machine that is moved) has missed nothing.
type session struct {
	peer   string // user@host:port, for messages
	conn   *ssh.Client
	below  *heardConn
	client *sftp.Client
	packet int           // bytes per request that the server takes, as it says
	closer func()        // closes what is below, never blocks
	second bool          // on the connection of another
	lost   chan struct{} // closed at the end

	answered atomic.Uint64 // counts arrivals of bytes from the SFTP server, and beginnings of waiting for it
	waiting  atomic.Int64  // requests without an answer

	// Guarded by the pool.
	active int  // calls and readers
	paired bool // there is, or was, another one on its connection, or it is about to be

	mu  sync.Mutex
	err error
}

// heardConn counts arrivals of bytes, and remembers why it was closed from this side.
type heardConn struct {
	net.Conn
	heard atomic.Uint64
	cause atomic.Pointer[error]
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Add(1)
	}
	return n, err
}

// answers is the stream from the SFTP server.
type answers struct {
	io.Reader
	s *session
}

func (a answers) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if n > 0 {
		a.s.answered.Add(1)
	}
	return n, err
}

// startSFTP starts the SFTP subsystem on a connection, and the watches. The
// session owns closer from then on, if there is no error.
func startSFTP(conn *ssh.Client, below *heardConn, peer string, closer func(), options Options) (*session, error) {
	s := &session{peer: peer, conn: conn, below: below, closer: closer, lost: make(chan struct{})}
	return s, s.start(options)
}

// pair starts a second session on the connection.
func (s *session) pair(options Options) (*session, error) {
	second := &session{peer: s.peer, conn: s.conn, below: s.below, closer: s.closer, lost: make(chan struct{}), second: true, paired: true}
	return second, second.start(options)
}

func (s *session) start(options Options) error {
	if err := s.openClient(); err != nil {
		return err
	}
	s.packet = smallPacket
	if s.has(extLimits) {
		s.packet = largePacket
	}
	go s.watchConn(options.KeepAlive, options.AnswerTimeout)
	go func() {
		err := s.client.Wait()
		if err == nil || errors.Is(err, io.EOF) {
			err = errClosed
		}
		s.fail(err)
	}()
	return nil
}

var errClosed = errors.New("closed by the server")

func (s *session) openClient() error {
	channel, err := s.conn.NewSession()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	in, err := channel.StdinPipe()
	if err != nil {
		return err
	}
	out, err := channel.StdoutPipe()
	if err != nil {
		return err
	}
	// What is not read would fill the channel's window, and stop it.
	stderr, err := channel.StderrPipe()
	if err != nil {
		return err
	}
	go io.Copy(io.Discard, stderr)
	if err := channel.RequestSubsystem("sftp"); err != nil {
		channel.Close()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("start SFTP: %w", err)
		}
		return permanent(`enable it in the server's sshd_config: Subsystem sftp internal-sftp`, "%s offers no SFTP: %w", s.peer, err)
	}
	// Below that size the library makes one request of one call, as it is.
	s.client, err = sftp.NewClientPipe(answers{out, s}, in, sftp.MaxPacketUnchecked(largePacket))
	if err != nil {
		channel.Close()
		return fmt.Errorf("start SFTP: %w", err)
	}
	return nil
}

func (s *session) has(extension string) bool {
	_, ok := s.client.HasExtension(extension)
	return ok
}

// fail ends the session. The first cause counts.
func (s *session) fail(cause error) {
	if cause == errClosed { // the server's doing, unless the other session on the connection has ended it
		if ended := s.below.cause.Load(); ended != nil {
			cause = *ended
		}
	}
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = fmt.Errorf("connection to %s lost: %w", s.peer, cause)
		close(s.lost)
	}
	s.mu.Unlock()
	if first && !(s.second && cause == errClosed) { // if all of the connection is closed, the other one says so
		s.below.cause.CompareAndSwap(nil, &cause)
		s.closer()
	}
}

// failure is why the session has ended, nil if it lives.
func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// watchConn closes the session when the other side has gone.
func (s *session) watchConn(keepAlive, answer time.Duration) {
	interval := max(min(keepAlive/2, answer/4), time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	heard, answered := quiet{counter: &s.below.heard}, quiet{counter: &s.answered}
	var asking atomic.Bool
	for {
		select {
		case <-s.lost:
			return
		case <-ticker.C:
		}
		waiting := s.waiting.Load() > 0 // before the look, which sees then that it has begun
		silent, unanswered := heard.look()*interval, answered.look()*interval
		switch {
		case silent >= missedKeepAlives*keepAlive:
			s.fail(fmt.Errorf("no sign of life for %s", silent.Round(time.Millisecond)))
		case waiting && unanswered >= answer:
			s.fail(fmt.Errorf("its SFTP server has not answered for %s", unanswered.Round(time.Millisecond)))
		case silent >= keepAlive && asking.CompareAndSwap(false, true):
			go func() { // may block as long as the session lives
				defer asking.Store(false)
				s.conn.SendRequest("keepalive@openssh.com", true, nil)
			}()
		}
	}
}

// quiet says for how long a counter has not changed.
type quiet struct {
	counter *atomic.Uint64
	last    uint64
	looks   time.Duration
}

// look returns the number of looks in a row that have seen nothing new.
func (q *quiet) look() time.Duration {
	if n := q.counter.Load(); n != q.last {
		q.last, q.looks = n, 0
	} else {
		q.looks++
	}
	return q.looks
}

// request makes one request of the SFTP server: all go through here. An error that
// is not the server's answer to it is one of the session, and ends that; io.EOF
// remains what it is.
func request[T any](s *session, f func(*sftp.Client) (T, error)) (T, error) {
	if s.waiting.Load() == 0 { // before it counts as waiting, lest an idle hour count
		s.answered.Add(1)
	}
	s.waiting.Add(1)
	v, err := f(s.client)
	s.waiting.Add(-1)
	if err != nil && !isStatus(err) {
		if cause := s.failure(); cause != nil {
			return v, cause
		}
		if err == io.EOF { // not wrapped: that one says that nothing can be sent
			return v, err
		}
		if errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) {
			err = errClosed
		}
		s.fail(err)
		return v, s.failure()
	}
	return v, err
}

// tell makes a request that returns nothing. Here io.EOF is what a connection says
// that was closed under a request.
func tell(s *session, f func(*sftp.Client) error) error {
	_, err := request(s, func(c *sftp.Client) (struct{}, error) { return struct{}{}, f(c) })
	if errors.Is(err, io.EOF) {
		s.fail(errClosed)
		return s.failure()
	}
	return err
}
