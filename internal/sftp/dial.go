package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A dialer makes connections along a route.
type dialer struct {
	route   []hop // the last one is the target
	options Options
	keys    *keyring
}

func newDialer(route []hop, options Options) *dialer {
	return &dialer{route: route, options: options, keys: newKeyring(options)}
}

// errConnectTimeout is the cause of a context that ends as a connection takes too
// long.
var errConnectTimeout = errors.New("no connection in time")

// A limit ends a context when time is up, questions to the user not counted.
type limit struct {
	timer *time.Timer
	left  time.Duration
}

func (d *dialer) newLimit(ctx context.Context) (context.Context, *limit, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(d.options.ConnectTimeout, func() { cancel(errConnectTimeout) })
	return ctx, &limit{timer, d.options.ConnectTimeout}, func() { timer.Stop(); cancel(nil) }
}

// pause stops the clock until the function it returns is called; then the whole
// time begins anew.
func (l *limit) pause() (resume func()) {
	l.timer.Stop()
	return func() { l.timer.Reset(l.left) }
}

// connect makes a connection through all hops and starts SFTP on it.
func (d *dialer) connect(ctx context.Context) (*session, error) {
	ctx, limit, cancel := d.newLimit(ctx)
	defer cancel()
	var conns closers
	s, err := d.connectAll(ctx, limit, &conns)
	if err != nil {
		conns.closeAll()
		if errors.Is(context.Cause(ctx), errConnectTimeout) {
			last := d.route[len(d.route)-1]
			return nil, fmt.Errorf("connect to %s: no answer within %s", last.peer(), d.options.ConnectTimeout)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return s, nil
}

// closers are connections on top of each other, the lowest first: once that is
// closed, nothing that the others send can block.
type closers struct {
	mu     sync.Mutex
	conns  []io.Closer
	closed bool
}

func (c *closers) add(conn io.Closer) {
	c.mu.Lock()
	c.conns = append(c.conns, conn)
	closed := c.closed
	c.mu.Unlock()
	if closed {
		conn.Close()
	}
}

func (c *closers) closeAll() {
	c.mu.Lock()
	c.closed = true
	conns := c.conns
	c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
}

func (d *dialer) connectAll(ctx context.Context, limit *limit, conns *closers) (*session, error) {
	// Neither a handshake nor a jump host's channel knows contexts.
	stop := context.AfterFunc(ctx, conns.closeAll)
	defer stop()
	var client *ssh.Client
	var below *heardConn
	for i := range d.route {
		hop := &d.route[i]
		conn, err := d.dialHop(ctx, client, hop)
		if err != nil {
			return nil, err
		}
		conns.add(conn)
		below = &heardConn{Conn: conn}
		if client, err = d.handshake(ctx, limit, below, i); err != nil {
			return nil, err
		}
		conns.add(client)
	}
	target := d.route[len(d.route)-1]
	s, err := startSFTP(client, below, target.peer(), conns.closeAll, d.options)
	if err != nil {
		return nil, err
	}
	if !stop() {
		s.fail(ctx.Err())
		return nil, ctx.Err()
	}
	return s, nil
}

// dialHop makes the connection below that of a hop: through the one before, if
// there is one.
func (d *dialer) dialHop(ctx context.Context, via *ssh.Client, hop *hop) (net.Conn, error) {
	if via == nil {
		conn, err := d.options.Dial(ctx, "tcp", hop.address())
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", hop.peer(), err)
		}
		return conn, nil
	}
	conn, err := via.DialContext(ctx, "tcp", hop.address())
	if err != nil {
		if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok && refused.Reason == ssh.Prohibited {
			return nil, permanent("it must allow TCP forwarding", "the jump host refuses to connect to %s: %w", hop.address(), err)
		}
		return nil, fmt.Errorf("connect to %s through the jump host: %w", hop.peer(), err)
	}
	return conn, nil
}

// handshake agrees on keys, checks that of the host, and logs in.
func (d *dialer) handshake(ctx context.Context, limit *limit, conn net.Conn, i int) (*ssh.Client, error) {
	hop := &d.route[i]
	check, err := loadHostKeys(hop, d.via(i), d.options.Home)
	if err != nil {
		return nil, err
	}
	login, err := d.keys.login(ctx, limit, hop, i == len(d.route)-1)
	if err != nil {
		return nil, err
	}
	defer login.close()
	config := &ssh.ClientConfig{
		User:              hop.user,
		Auth:              login.methods,
		HostKeyAlgorithms: check.algorithms(),
		HostKeyCallback:   check.callback,
	}
	c, channels, requests, err := ssh.NewClientConn(conn, hop.address(), config)
	if err != nil {
		return nil, handshakeError(hop, check, login, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// via is what reaches hop i, in the form of ProxyJump; "" for the first.
func (d *dialer) via(i int) string {
	var list []string
	for _, h := range d.route[:i] {
		list = append(list, h.user+"@"+net.JoinHostPort(h.host, strconv.Itoa(h.port)))
	}
	return strings.Join(list, ",")
}

func handshakeError(hop *hop, check *hostKeyCheck, login *login, err error) error {
	switch {
	case check.err != nil:
		return check.err
	case login.err != nil:
		return login.err
	}
	if e, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok {
		return check.negotiationError(e)
	}
	// The library has no type for these. The second is the server's own word.
	if text := err.Error(); strings.Contains(text, "unable to authenticate") || strings.Contains(text, "authentication failures") {
		return denied("try it by hand: "+hop.command("sftp"),
			"log in as %s: the server accepts none of: %s", hop.peer(), login.tried())
	}
	return fmt.Errorf("connect to %s: %w", hop.peer(), err)
}
