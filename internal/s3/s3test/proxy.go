package s3test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
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

// Address returns the server's host:port.
func (s *Server) Address() string {
	_, addr, _ := strings.Cut(s.Endpoint, "://")
	return addr
}

// Proxy starts a proxy in front of a server without TLS: see [httpstoretest.Proxy].
func (s *Server) Proxy(t testing.TB, change func(w http.ResponseWriter, r *http.Request) (answered bool)) string {
	t.Helper()
	return httpstoretest.Proxy(t, s.Address(), change)
}
