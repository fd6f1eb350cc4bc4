// Package httpstore holds what stores behind HTTP have in common: connections that
// do not hang, a word to whoever counts requests, content on its way in both
// directions, the directory in a bucket, and in plain words what went wrong on the
// way to the server.
//
// It knows no protocol of any store, no credentials and no retries: whoever uses it
// makes a request once and says what the server's answer means.
//
// Invariants: no error holds a URL, which may hold a secret; content is not read
// any more once its Body is finished; a connection that stands still breaks.
//
// Files: client.go connections, spares.go those made ahead, body.go content to be stored, reader.go content
// that is read, list.go listings, prefix.go names and keys, errors.go what went wrong. The package
// httpstoretest holds proxies that disturb, for tests.
package httpstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Patience with connections. That with a transfer under way is Options.Stall.
const (
	dialTimeout = 30 * time.Second
	tlsTimeout  = 15 * time.Second
	idleTimeout = time.Minute
	// tokenTimeout bounds a request to a service that hands out credentials.
	tokenTimeout = 30 * time.Second
	// continueBytes is the size of a body before which the server is asked whether
	// it wants it: a name that is taken, a missing permission or a busy server is
	// then told before a pack has been sent for nothing. It costs a round trip.
	continueBytes = 2 << 20
	// continueTimeout is for servers that do not know the question.
	continueTimeout = time.Second
	// bufferBytes of a connection, for each direction. Go's 4 KiB cost a system
	// call for each.
	bufferBytes = 64 << 10
	// idleConns is more than the transfers that are under way at a time, unless somebody
	// asks for more.
	idleConns = 16
)

// Options say how a server is reached.
type Options struct {
	// CAFile holds the certificates (PEM) of the only authorities that are trusted
	// for the store; "": those of the system.
	CAFile string
	// Dial makes connections; nil: TCP, through the proxy that the environment
	// names. With a Dial there is no proxy.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Stall is how long a connection may stand still; 0: storage.DefaultStall.
	Stall time.Duration
	// IdleConns is how many connections are kept for the next requests, if that is more
	// than 16.
	IdleConns int
	// OnRequest, if set, is told of each request before it is sent: its HTTP
	// method, and what Purpose makes of it. Called concurrently.
	OnRequest func(method, what string)
	// Purpose says for OnRequest what a request does.
	Purpose func(*http.Request) string
}

// A Client makes the requests of one store. It may be used concurrently.
type Client struct {
	http      *http.Client
	tokens    *http.Client
	transport *http.Transport
	plain     *spares         // TCP, to the server or to a proxy
	secure    *spares         // TLS, to the server
	closing   context.Context // ends with the client
	close     context.CancelFunc
	first     firstList
	clock     atomic.Pointer[clocks]
	tokenErr  atomic.Pointer[error]
}

// clocks are this machine's clock and the server's at one moment.
type clocks struct{ here, there time.Time }

// New returns a client. The error is that of reading the CAFile.
func New(o Options) (*Client, error) {
	if o.Stall <= 0 {
		o.Stall = storage.DefaultStall
	}
	roots, err := readRoots(o.CAFile)
	if err != nil {
		return nil, err
	}
	d := newDialer(o, roots)
	c := &Client{plain: newSpares(d.plain), secure: newSpares(d.secure)}
	c.transport = newTransport(o, d, c.plain.dial, c.secure.dial)
	c.closing, c.close = context.WithCancel(context.Background())
	c.http = &http.Client{Transport: &observed{c.transport, o, c}, CheckRedirect: noRedirect}
	d = newDialer(o, nil)
	tokens := newTransport(o, d, d.plain, d.secure)
	tokens.DisableKeepAlives = true
	o.Purpose = func(*http.Request) string { return "get token" }
	c.tokens = &http.Client{Transport: &remembering{&observed{tokens, o, c}, &c.tokenErr}, Timeout: tokenTimeout}
	return c, nil
}

// noRedirect: no store sends its clients elsewhere, but portals of networks do.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Do sends a request. Redirects are returned, not followed.
func (c *Client) Do(req *http.Request) (*http.Response, error) { return c.http.Do(req) }

// Transport is what Do uses, for a library that follows no redirects itself.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Tokens is the client for services that hand out credentials: the authorities that
// are trusted for the store are not for them.
func (c *Client) Tokens() *http.Client { return c.tokens }

// TokenError is why the last request to such a service got no answer, nil if it got
// one. The libraries that make these requests turn that into words.
func (c *Client) TokenError() error {
	if err := c.tokenErr.Load(); err != nil {
		return *err
	}
	return nil
}

// Close ends what is under way, and all connections.
func (c *Client) Close() {
	c.close()
	c.transport.CloseIdleConnections()
	c.closeSpares()
}

func (c *Client) closeSpares() {
	c.plain.close()
	c.secure.close()
}

// Begin derives the context of an operation, which ends with the client, too.
func (c *Client) Begin(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.closing, func() { cancel(fs.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// Closing ends with the client.
func (c *Client) Closing() context.Context { return c.closing }

// Usable is fs.ErrClosed after Close, else the error of the context.
func (c *Client) Usable(ctx context.Context) error {
	if c.closing.Err() != nil {
		return fs.ErrClosed
	}
	return ctx.Err()
}

func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		// Not wrapped: it is not the store that does not exist.
		return nil, Permanent(fmt.Errorf("read the trusted certificates: %v", err), "check the file's name and permissions")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, Permanent(fmt.Errorf("%s has no certificate in PEM form", file), "name the file with the certificate of the server's authority")
	}
	return roots, nil
}

// dialer makes connections that do not hang.
type dialer struct {
	dial  dialFunc
	proxy func(*http.Request) (*url.URL, error) // nil: none
	stall time.Duration
	tls   *tls.Config
}

func newDialer(o Options, roots *x509.CertPool) *dialer {
	d := &dialer{dial: o.Dial, stall: o.Stall, tls: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}
	if d.dial == nil {
		d.dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
		d.proxy = http.ProxyFromEnvironment
	}
	return d
}

func (d *dialer) plain(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &watchedConn{c, d.stall}, nil
}

func (d *dialer) secure(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	c, err := d.plain(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	config.ServerName = host
	t := tls.Client(c, config)
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// newTransport makes requests by HTTP/1.1 only: over HTTP/2 all packs would share
// one TCP connection, its window, its losses and its one frame at a time. Amazon speaks
// nothing else.
func newTransport(o Options, d *dialer, plain, secure dialFunc) *http.Transport {
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 d.proxy,
		DialContext:           plain,
		DialTLSContext:        secure,
		TLSClientConfig:       d.tls, // through a proxy
		TLSHandshakeTimeout:   tlsTimeout,
		Protocols:             http1,
		ResponseHeaderTimeout: o.Stall,
		ExpectContinueTimeout: continueTimeout,
		IdleConnTimeout:       min(idleTimeout, o.Stall/2),
		MaxIdleConnsPerHost:   max(o.IdleConns, idleConns),
		DisableCompression:    true, // objects are wanted as they are stored
		WriteBufferSize:       bufferBytes,
		ReadBufferSize:        bufferBytes,
	}
}

// A watchedConn breaks when nothing moves for a time, which http.Transport alone
// does not notice while a body is under way. A Write that succeeds is progress for a
// Read that waits, too: the answer comes after the question.
type watchedConn struct {
	net.Conn
	stall time.Duration
}

func (c *watchedConn) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(c.stall))
	return c.Conn.Read(p)
}

func (c *watchedConn) Write(p []byte) (int, error) {
	done := 0
	for {
		piece := p[done:min(done+bufferBytes, len(p))]
		c.SetDeadline(time.Now().Add(c.stall))
		n, err := c.Conn.Write(piece)
		if done += n; err != nil || done >= len(p) {
			return done, err
		}
	}
}

// observed is a transport whose requests are counted.
type observed struct {
	http.RoundTripper
	o Options
	c *Client
}

func (t *observed) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.o.OnRequest != nil {
		t.o.OnRequest(req.Method, t.o.Purpose(req))
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		t.c.first.drop() // it may be another now
	}
	if req.ContentLength >= continueBytes {
		asking := *req
		asking.Header = req.Header.Clone()
		asking.Header.Set("Expect", "100-continue")
		req = &asking
	}
	resp, err := t.RoundTripper.RoundTrip(req)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	if err != nil {
		t.c.closeSpares() // what broke this connection may have broken them
	}
	if err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			t.c.clock.Store(&clocks{time.Now(), date})
		}
	}
	return resp, err
}

// remembering keeps the error of the last request.
type remembering struct {
	http.RoundTripper
	last *atomic.Pointer[error]
}

func (t *remembering) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	t.last.Store(nil)
	if err != nil {
		t.last.Store(&err)
	}
	return resp, err
}
