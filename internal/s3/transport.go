package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Patience with connections. That with a transfer under way is Options.Stall.
const (
	dialTimeout = 30 * time.Second
	tlsTimeout  = 15 * time.Second
	idleTimeout = time.Minute
	// continueBytes is the size of a body before which the server is asked whether
	// it wants it: a name that is taken, a missing permission or a busy server is
	// then told before a pack has been sent for nothing. It costs a round trip.
	// Amazon's own library does so from the same size.
	continueBytes = 2 << 20
	// continueTimeout is for servers that do not know the question.
	continueTimeout = time.Second
	// bufferBytes of a connection, for each direction. Go's 4 KiB cost a system
	// call for each.
	bufferBytes = 64 << 10
)

// newTransport makes connections of HTTP/1.1 only. Amazon speaks nothing else, and
// over HTTP/2 all packs would share one TCP connection: its window, its losses and
// its one frame at a time.
func newTransport(o Options, roots *x509.CertPool) *http.Transport {
	dial := o.Dial
	proxy := http.ProxyFromEnvironment
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	} else {
		proxy = nil
	}
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{c, o.Stall}, nil
		},
		Protocols:             http1,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: o.Stall,
		ExpectContinueTimeout: continueTimeout,
		IdleConnTimeout:       min(idleTimeout, o.Stall/2),
		MaxIdleConnsPerHost:   max(2*o.MaxConcurrency, 16),
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

// exchange is what the answers to an operation's requests say beside the result.
type exchange struct {
	date atomic.Pointer[time.Time] // the server's clock
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = new(exchange)
	}
	return x
}

// errCut replaces io.EOF for an answer that does not come. The library would make
// advice of its own of that.
var errCut = errors.New("the server has cut the connection")

// observed is a transport whose requests are counted.
type observed struct {
	http.RoundTripper
	onRequest func(method, what string)
}

func (o *observed) RoundTrip(req *http.Request) (*http.Response, error) {
	if o.onRequest != nil {
		o.onRequest(req.Method, purpose(req))
	}
	if req.ContentLength >= continueBytes {
		asking := *req
		asking.Header = req.Header.Clone()
		asking.Header.Set("Expect", "100-continue")
		req = &asking
	}
	resp, err := o.RoundTripper.RoundTrip(req)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	if err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			exchangeOf(req.Context()).date.Store(&date)
		}
	}
	return resp, err
}

// purpose says what a request does.
func purpose(req *http.Request) string {
	q := req.URL.Query()
	switch {
	case q.Has("list-type"):
		return "list objects"
	case q.Has("object-lock"):
		return "get lock"
	case q.Has("uploads") && req.Method == http.MethodGet:
		return "list uploads"
	case q.Has("uploads"):
		return "create upload"
	case q.Has("partNumber"):
		return "put part"
	case q.Has("uploadId") && req.Method == http.MethodDelete:
		return "abort upload"
	case q.Has("uploadId") && req.Method == http.MethodGet:
		return "list parts"
	case q.Has("uploadId"):
		return "complete upload"
	}
	switch req.Method {
	case http.MethodGet:
		return "get object"
	case http.MethodHead:
		return "head object"
	case http.MethodPut:
		return "put object"
	case http.MethodDelete:
		return "delete object"
	}
	return "other"
}
