package tailscale

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/client/local"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
)

// leaveTimeout is how long leaving may take: an ephemeral node logs out. One that
// does not is removed by the control server some time later.
const leaveTimeout = 10 * time.Second

// windowBytes is how much a connection has on its way, in each direction.
// WireGuard keeps each packet of some 1,240 bytes in a buffer of 64 KiB, and takes
// as many as it is given: at tsnet's own 6 MiB a backup of random data over four
// connections peaked at 456 MiB (ADR 0017).
const windowBytes = 512 << 10

const badKeyHint = "the key may have expired, be used up or be of another tailnet: make a new one, reusable, ephemeral and tagged, in the admin console"

// An inner is a node inside the process: ephemeral, its keys in memory only.
type inner struct {
	server *tsnet.Server
	client *local.Client
	dir    string // for what tsnet insists on keeping in files
}

// joinUserspace starts a node and waits until it is connected.
func (n *Node) joinUserspace(ctx context.Context) (member, error) {
	for _, t := range n.o.Tags {
		if err := tailcfg.CheckTag(t); err != nil {
			return nil, &Error{Err: fmt.Errorf("tag %q: %w", t, err), Hint: "set [TAILSCALE] advertise_tags to tags such as tag:backup"}
		}
	}
	key, err := n.askKey()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "backup-handler-tailscale-*") // 0700
	if err != nil {
		return nil, &Error{Err: err, Hint: "make room there, or set TMPDIR"}
	}
	// tsnet would send its log to Tailscale, and take a missing option from its own
	// environment variables.
	envknob.SetNoLogsNoSupport()
	url := n.o.ControlURL
	if url == "" {
		url = ipn.DefaultControlURL
	}
	logf := func(format string, args ...any) { n.log(fmt.Sprintf(format, args...)) }
	m := &inner{dir: dir, server: &tsnet.Server{
		Dir: dir, Store: new(mem.Store), Ephemeral: true,
		Hostname: n.o.Hostname, AdvertiseTags: n.o.Tags, AuthKey: key, ControlURL: url,
		UserLogf: logf, Logf: logf,
	}}
	// Start may ask the network, for the key of an OAuth client, and knows no context.
	started := make(chan error, 1)
	go func() { started <- m.server.Start() }()
	select {
	case err = <-started:
	case <-ctx.Done():
		go func() {
			if <-started == nil {
				m.close()
			}
			os.RemoveAll(dir)
		}()
		return nil, n.unanswered()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, &Error{Err: errors.New(n.redact(err.Error())), Hint: badKeyHint}
	}
	if err = m.connect(ctx, n); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// connect waits until the node is in the tailnet, or it is clear that it will not be.
func (m *inner) connect(ctx context.Context, n *Node) (err error) {
	if m.client, err = m.server.LocalClient(); err != nil {
		return n.broken(ctx, err)
	}
	if err = m.limit(); err != nil {
		return n.broken(ctx, err)
	}
	_, err = m.client.EditPrefs(ctx, &ipn.MaskedPrefs{Prefs: ipn.Prefs{RouteAll: n.o.AcceptRoutes}, RouteAllSet: true})
	if err != nil {
		return n.broken(ctx, err)
	}
	events, err := m.client.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return n.broken(ctx, err)
	}
	defer events.Close()
	for {
		e, err := events.Next()
		switch {
		case err != nil:
			return n.broken(ctx, err)
		case e.ErrMessage != nil:
			return &Error{Err: fmt.Errorf("the control server refuses: %s", n.redact(*e.ErrMessage)), Hint: badKeyHint}
		case e.BrowseToURL != nil && *e.BrowseToURL != "":
			return &Error{Err: errors.New("the control server does not take the key: it wants a login in a browser"), Hint: badKeyHint}
		case e.State == nil:
		case *e.State == ipn.Running:
			return nil
		case *e.State == ipn.NeedsMachineAuth:
			return &Error{Err: fmt.Errorf("%s waits for approval", n.o.Hostname), Hint: "approve it in the admin console, or use a key that is pre-approved"}
		}
	}
}

// limit bounds what connections have on their way.
func (m *inner) limit() error {
	stack, ok := m.server.Sys().Netstack.Get().(interface {
		SetTransportProtocolOption(tcpip.TransportProtocolNumber, tcpip.SettableTransportProtocolOption) tcpip.Error
	})
	if !ok {
		return errors.New("the network stack takes no limits")
	}
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: windowBytes, Max: windowBytes},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: windowBytes, Max: windowBytes},
	} {
		if err := stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return errors.New(err.String())
		}
	}
	return nil
}

// broken is the error of a node that has not come up.
func (n *Node) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return n.unanswered()
	}
	return &Error{Err: errors.New(n.redact(err.Error())), Hint: "application.log has more at [LOG] level = debug"}
}

func (n *Node) unanswered() error {
	server := "Tailscale's control server"
	if n.o.ControlURL != "" {
		server = "the control server " + n.o.ControlURL
	}
	return &Error{Err: fmt.Errorf("not connected after %s: no answer from %s", n.o.Timeout, server),
		Hint: "check the network, and [TAILSCALE] control_url if it is set"}
}

func (m *inner) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil && tsaddr.IsTailscaleIP(ip) && !tsaddr.TailscaleViaRange().Contains(ip) {
		// Server.Dial would try the system's network instead.
		if _, err := m.client.WhoIs(ctx, host); errors.Is(err, local.ErrPeerNotFound) {
			return nil, &Error{Err: fmt.Errorf("no machine that this one may see has the address %s", host),
				Hint: "look at the machines and access rules in the admin console"}
		}
	}
	return m.server.Dial(ctx, network, address)
}

func (m *inner) close() {
	done := make(chan struct{})
	go func() {
		m.server.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(leaveTimeout):
	}
	os.RemoveAll(m.dir)
}
