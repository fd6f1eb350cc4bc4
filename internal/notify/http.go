package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Bounds of a call.
const (
	maxRedirects   = 3
	maxAnswerBytes = 64 << 10 // that are read of an answer; what is behind is not
	maxAnswerText  = 200      // runes of it in an error
	tryTimeout     = 20 * time.Second
	maxCAFileBytes = 1 << 20
)

// An env is what senders use of the world.
type env struct {
	now      func() time.Time
	sleep    func(context.Context, time.Duration) error
	proxy    func(*http.Request) (*url.URL, error)
	sendmail string
}

// An endpoint is an address and how far it is trusted.
type endpoint struct {
	url          string
	allowPrivate bool // addresses that are not of the public Internet, and http
	allowHTTP    bool
	caFile       string        // PEM; "" for the system's authorities
	timeout      time.Duration // of one try; 0 is tryTimeout
}

// check says what is wrong with an endpoint, without its address.
func (p endpoint) check() error {
	u, err := url.Parse(p.url)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("url: must be an http:// or https:// address")
	case u.Scheme == "http" && !p.allowHTTP && !p.allowPrivate:
		return errors.New("url: must begin with https://; allow_private = True allows http:// for a server of your own")
	}
	if p.caFile != "" {
		_, err = authorities(p.caFile)
	}
	return err
}

// authorities reads the certificates to trust.
func authorities(file string) (*x509.CertPool, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFileBytes))
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// tlsConfig for a server, with the authorities of a file, or the system's if it is "".
func tlsConfig(host, caFile string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	var err error
	c.RootCAs, err = authorities(caFile)
	return c, err
}

// A privateError says that a connection was refused because of where it leads.
type privateError struct{ addr netip.Addr }

func (e *privateError) Error() string {
	return fmt.Sprintf("%s is not an address of the public Internet; allow_private = True allows it", e.addr)
}

// special are prefixes that netip has no words for: shared (RFC 6598), protocol
// assignments, benchmarks, documentation, reserved; NAT64 and 6to4 lead to what they
// hold, 0/8 and :: to this machine.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fec0::/10"),
}

// public says whether an address is one of the public Internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsGlobalUnicast() && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		!slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// client makes the HTTP client of one call. It keeps no connections.
func (p endpoint) client(e *env) (*http.Client, error) {
	tc, err := tlsConfig("", p.caFile)
	if err != nil {
		return nil, err
	}
	var through sync.Map // host:port of proxies, which may be anywhere
	guarded := net.Dialer{Timeout: tryTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		// The address is the one that is connected to, after any name was resolved.
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !public(to.Addr()) {
			return &privateError{to.Addr()}
		}
		return nil
	}}
	open := net.Dialer{Timeout: tryTimeout}
	transport := &http.Transport{
		TLSClientConfig: tc, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: tryTimeout, MaxResponseHeaderBytes: maxAnswerBytes,
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := e.proxy(r)
			if err != nil || proxy == nil {
				return nil, err
			}
			// The proxy connects for us: at least what is written as an address is looked at.
			if a, err := netip.ParseAddr(r.URL.Hostname()); err == nil && !p.allowPrivate && !public(a) {
				return nil, &privateError{a}
			}
			through.Store(hostPort(proxy), true)
			return proxy, nil
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if _, proxy := through.Load(address); proxy || p.allowPrivate {
				return open.DialContext(ctx, network, address)
			}
			return guarded.DialContext(ctx, network, address)
		},
	}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// errRedirect is that of a redirect that is not followed.
var errRedirect = errors.New("the server redirects")

// checkRedirect follows at most three redirects, and none to a clear connection. A
// message stays on its host, and stays a message: 301, 302 and 303 make a GET of it,
// and the answer would look like success. Go leaves the address, which may hold a
// token, in the Referer.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first, last := via[0], via[len(via)-1]
	r.Header.Del("Referer")
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w more than %d times", errRedirect, maxRedirects)
	case r.URL.Scheme != "https" && r.URL.Scheme != last.URL.Scheme:
		return fmt.Errorf("%w to a connection that is not https", errRedirect)
	case r.Method != first.Method:
		return fmt.Errorf("%w, and the message would be lost: use the new address", errRedirect)
	case first.Method != http.MethodGet && !sameServer(first.URL, r.URL):
		return fmt.Errorf("%w to another host: use the new address if it is right", errRedirect)
	}
	return nil
}

// sameServer says whether b is a, or a over TLS.
func sameServer(a, b *url.URL) bool {
	return a.Hostname() == b.Hostname() && (hostPort(a) == hostPort(b) || a.Scheme == "http" && b.Scheme == "https")
}

// A request is one call of an endpoint.
type request struct {
	method string
	url    string // "": the endpoint's
	body   []byte
	header func(at time.Time) http.Header // made for each try; nil: none
	text   bool                           // the body is text, not JSON
}

// post is a request with a JSON document.
func post(url string, document any, header http.Header) (request, error) {
	body, err := json.Marshal(document)
	return request{method: http.MethodPost, url: url, body: body, header: func(time.Time) http.Header { return header }}, err
}

// call sends a request, with as many tries as it takes and may, and returns what
// it was answered: any 2xx.
func (p endpoint) call(ctx context.Context, e *env, r request) (answer []byte, err error) {
	if r.url == "" {
		r.url = p.url
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	c, err := p.client(e)
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	err = retry(ctx, e, func() error {
		answer, err = p.try(ctx, e, c, r)
		return err
	})
	return answer, err
}

func (p endpoint) try(ctx context.Context, e *env, c *http.Client, r request) ([]byte, error) {
	timeout := tryTimeout
	if p.timeout > 0 {
		timeout = p.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, errors.New("the address is wrong") // the error holds it
	}
	req.Header.Set("User-Agent", "backup-handler")
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
		if r.text {
			req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		}
	}
	if r.header != nil {
		for k, v := range r.header(e.now()) {
			req.Header[k] = v
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, callError(err)
	}
	defer resp.Body.Close()
	body, readErr := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if resp.StatusCode/100 == 2 {
		return body, nil // it has the message, whatever became of its answer
	}
	err = fmt.Errorf("HTTP %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if text := clip(oneLine(string(body)), maxAnswerText); text != "" && readErr == nil {
		err = fmt.Errorf("%w: %s", err, text)
	}
	if slices.Contains([]int{408, 429, 500, 502, 503, 504}, resp.StatusCode) {
		return nil, &passing{err, retryAfter(resp.Header.Get("Retry-After"), body, e.now())}
	}
	return nil, err
}

// callError is an error of net/http without the address, which it holds; passing
// unless the same must happen again.
func callError(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	var private *privateError
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &private):
		return private
	case errors.Is(err, errRedirect):
		return err
	case errors.As(err, &cert), errors.As(err, &alert), errors.As(err, &record):
		return fmt.Errorf("no trusted TLS connection: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return &passing{err: errors.New("no answer")}
	}
	return &passing{err: err}
}

// maxRetryAfter bounds what a server may ask for; longer than any limit is as good.
const maxRetryAfter = time.Hour

// retryAfter is how long a server wants to be left alone: the header in seconds or
// as a date (RFC 9110), or retry_after in seconds (Discord) or retry_after_ms
// (Matrix) of its answer; 0 if it does not say.
func retryAfter(header string, body []byte, now time.Time) time.Duration {
	var wait time.Duration
	if s, err := strconv.ParseFloat(header, 64); err == nil {
		wait = seconds(s)
	} else if at, err := http.ParseTime(header); err == nil {
		wait = at.Sub(now)
	} else {
		var said struct {
			Seconds float64 `json:"retry_after"`
			Millis  float64 `json:"retry_after_ms"`
		}
		if json.Unmarshal(body, &said) == nil {
			wait = max(seconds(said.Seconds), seconds(said.Millis/1000))
		}
	}
	return min(max(wait, 0), maxRetryAfter)
}

func seconds(s float64) time.Duration {
	if !(s > 0) { // NaN too
		return 0
	}
	return time.Duration(min(s, maxRetryAfter.Seconds()) * float64(time.Second))
}
