// Package tailscale reaches other machines through a tailnet: by a node of its own
// inside the process, which needs no installed client and no root (userspace.go),
// or by the client that is installed (system.go).
//
// It knows nothing of what is sent, and nothing of configuration files. It keeps
// three promises:
//   - A key is in no command line, log line or error, and in no file that outlives
//     the call (Options.Key).
//   - What was connected before stays so, with the settings that it has.
//   - Joining ends: within Options.Timeout there is a connection or an [Error].
package tailscale

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// JoinTimeout is how long joining may take, unless Options say otherwise; what
// BackupHandler 2.5 gave the client. A node that is accepted needs about a second.
const JoinTimeout = 60 * time.Second

// Limits of a connection that does not go through a node; those of net/http.
const (
	dialTimeout = 30 * time.Second
	keepAlive   = 30 * time.Second
)

// Options say how a tailnet is joined.
type Options struct {
	// System uses the installed client instead of a node inside the process.
	System bool
	// Key returns the auth key, or the secret of an OAuth client; "" if there is
	// none. It is called at most once, when a key is needed: a client that is
	// connected, or was, needs none.
	Key func() (string, error)
	// Hostname is the name of this machine in the tailnet. "" is the client's own
	// in system mode; otherwise it must be set.
	Hostname string
	// Tags of this machine, with or without "tag:".
	Tags []string
	// AcceptRoutes uses the routes to other networks that the tailnet offers.
	AcceptRoutes bool
	// ControlURL is the control server; "" is Tailscale's.
	ControlURL string
	// DisconnectAfter makes Close disconnect the client, if Join has connected it.
	// A node inside the process always leaves the tailnet.
	DisconnectAfter bool
	// Timeout bounds Join; 0 means JoinTimeout.
	Timeout time.Duration
	// Client is the program of system mode; "" means "tailscale", of PATH.
	Client string
	// Log receives lines for those who look for a fault; nil: nobody does. Called
	// concurrently.
	Log func(line string)
}

// An Error says why the tailnet cannot be used. Trying again does not mend it.
type Error struct {
	Err  error
	Hint string // what to do about it, a line
}

func (e *Error) Error() string { return "tailscale: " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// A Node is this machine's place in a tailnet. All methods may be called
// concurrently.
type Node struct {
	o   Options
	key atomic.Pointer[string] // what must not be shown; nil before it is asked for

	mu     sync.Mutex // held while joining
	joined bool
	err    error  // of the first Join that failed and was not interrupted
	member member // nil before Join, and after Close
}

// A member is a node that has joined, of either kind.
type member interface {
	dial(ctx context.Context, network, address string) (net.Conn, error)
	close()
}

// New returns a node that has not joined yet: nothing happens before Join or Dial.
func New(o Options) *Node {
	if o.Timeout == 0 {
		o.Timeout = JoinTimeout
	}
	if o.Client == "" {
		o.Client = "tailscale"
	}
	o.Tags = slices.Clone(o.Tags)
	for i, t := range o.Tags {
		if !strings.HasPrefix(t, "tag:") {
			o.Tags[i] = "tag:" + t
		}
	}
	return &Node{o: o}
}

// Join joins the tailnet, once; later calls return what came of it. An error is an
// *[Error], or that of ctx, after which Join may be called again.
func (n *Node) Join(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.joined || n.err != nil {
		return n.err
	}
	limited, cancel := context.WithTimeout(ctx, n.o.Timeout)
	defer cancel()
	join := n.joinUserspace
	if n.o.System {
		join = n.joinSystem
	}
	m, err := join(limited)
	switch {
	case err == nil:
		n.member, n.joined = m, true
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	n.err = err
	return err
}

// Dial connects to an address, and joins first if that has not happened.
//
// With a node inside the process, names and addresses of machines in the tailnet,
// and with Options.AcceptRoutes of the networks behind them, are reached through it;
// names of the tailnet come before those of the system. Everything else is reached
// as without it, such as an object store on the internet. An address of
// Tailscale's own ranges that no machine of the tailnet has is an error: it must
// not leak into another network that uses the same range.
//
// With the installed client, the system decides. Loopback addresses are this
// machine's, and never need a tailnet.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if isLoopback(address) {
		return dialSystem(ctx, network, address)
	}
	if err := n.Join(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	m := n.member
	n.mu.Unlock()
	if m == nil {
		return nil, net.ErrClosed
	}
	return m.dial(ctx, network, address)
}

// Close leaves the tailnet, as far as Join has joined it; it takes at most about ten
// seconds. Connections end.
func (n *Node) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.member != nil {
		n.member.close()
		n.member = nil
	}
}

func dialSystem(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext(ctx, network, address)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// log passes a line on, without the key.
func (n *Node) log(line string) {
	if n.o.Log != nil {
		n.o.Log(n.redact(strings.TrimSpace(line)))
	}
}
