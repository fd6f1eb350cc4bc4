package s3test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// trusting returns a client for a server of the authority in caFile.
func trusting(caFile string) (*http.Client, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}, nil
}

// Proxy starts a proxy in front of a server without TLS, and returns its URL, to be
// used as an endpoint. It hands requests on as they are, signature and Host header
// included, once change has seen them; a change that answers itself returns true.
func (s *Server) Proxy(t testing.TB, change func(w http.ResponseWriter, r *http.Request) (answered bool)) string {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	target := s.Endpoint[len("http://"):]
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if change(w, r) {
			return
		}
		out := r.Clone(r.Context())
		out.RequestURI = ""
		out.URL.Scheme, out.URL.Host = "http", target
		out.Header.Del("Expect") // this proxy has answered that by reading
		resp, err := transport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	}))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		transport.CloseIdleConnections()
	})
	return p.URL
}

// Cut returns the URL of a server that lets after bytes through in one direction
// (that of the answers if down) of each connection, and then lets the connection
// hang, or closes it if hang is 0. A connection that hangs is closed after hang.
func (s *Server) Cut(t testing.TB, after int64, down bool, hang time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	target := s.Endpoint[len("http://"):]
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go cut(client, target, after, down, hang)
		}
	}()
	return "http://" + l.Addr().String()
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
