package httpstoretest

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Proxy starts a proxy in front of the server at host:port target, and returns its
// URL, to be used as an endpoint. It hands requests on as they are, signature and
// Host header included, once change has seen them; a change that answers itself
// returns true.
func Proxy(t testing.TB, target string, change func(w http.ResponseWriter, r *http.Request) (answered bool)) string {
	t.Helper()
	p := httptest.NewServer(proxy(t, target, change))
	closeAtEnd(t, p)
	return p.URL
}

// TLSProxy is a Proxy with TLS. It returns the file with the certificate of its
// authority, too.
func TLSProxy(t testing.TB, target string, change func(w http.ResponseWriter, r *http.Request) (answered bool)) (url, caFile string) {
	t.Helper()
	p := httptest.NewUnstartedServer(proxy(t, target, change))
	p.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	p.StartTLS()
	closeAtEnd(t, p)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	if err := os.WriteFile(caFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return p.URL, caFile
}

func closeAtEnd(t testing.TB, p *httptest.Server) {
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
}

func proxy(t testing.TB, target string, change func(w http.ResponseWriter, r *http.Request) (answered bool)) http.Handler {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if change(w, r) {
			return
		}
		out := r.Clone(r.Context())
		out.RequestURI = ""
		out.URL.Scheme, out.URL.Host = "http", target
		out.Header.Del("Expect") // this proxy has answered that by reading
		if out.ContentLength == 0 {
			out.Body = http.NoBody
		}
		resp, err := transport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			if _, set := w.Header()[k]; !set { // by change
				w.Header()[k] = v
			}
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}

// Cut returns the host:port of a server that hands each connection on to target,
// lets after bytes through in one direction (that of the answers if down), and then
// lets the connection hang for a time before it closes it.
func Cut(t testing.TB, target string, after int64, down bool, hang time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go cut(client, target, after, down, hang)
		}
	}()
	return l.Addr().String()
}

func cut(client net.Conn, target string, after int64, down bool, hang time.Duration) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	limited, free := client, server
	if down {
		limited, free = server, client
	}
	ended := make(chan struct{}, 2)
	go func() {
		io.Copy(limited, free)
		ended <- struct{}{}
	}()
	go func() {
		n, _ := io.CopyN(free, limited, after)
		if n == after {
			time.Sleep(hang)
		}
		ended <- struct{}{}
	}()
	<-ended
}

// A Dialer makes all connections to one address, which can change.
type Dialer struct {
	mu    sync.Mutex
	addr  string // host:port
	conns []net.Conn
}

// To changes the address, and closes all connections.
func (d *Dialer) To(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addr = addr
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
	time.Sleep(20 * time.Millisecond) // who holds an idle one should notice
}

// Dial is an Options.Dial.
func (d *Dialer) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := new(net.Dialer).DialContext(ctx, network, d.addr)
	if err == nil {
		d.conns = append(d.conns, c)
	}
	return c, err
}

// Flip changes the byte at an offset of what is read from r.
func Flip(r io.ReadCloser, at int64) io.ReadCloser { return &flipped{r, at} }

type flipped struct {
	io.ReadCloser
	left int64 // before the byte
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if 0 <= f.left && f.left < int64(n) {
		p[f.left] ^= 1
	}
	f.left -= int64(n)
	return n, err
}
