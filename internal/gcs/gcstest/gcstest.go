// Package gcstest starts an emulator of Google Cloud Storage for tests:
// fake-gcs-server, on loopback, with its objects in memory. scripts/tools installs
// it at the first use, which takes a minute or two and the network.
//
// It knows how that server is set up, and nothing of backups.
package gcstest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/gcs"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
)

// A Server is a running emulator. It asks for no credentials.
type Server struct {
	Addr string // host:port
}

// Start starts an emulator, and ends it with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program := httpstoretest.Tool(t, "fake-gcs-server")
	return &Server{httpstoretest.Start(t, "/storage/v1/b?project=test", func(port string) []string {
		return []string{program, "-scheme", "http", "-host", "127.0.0.1", "-port", port,
			"-backend", "memory", "-public-host", "127.0.0.1:" + port, "-log-level", "error"}
	})}
}

// Options returns how to reach the server.
func (s *Server) Options() gcs.Options {
	return gcs.Options{Endpoint: "http://" + s.Addr, Credentials: gcs.Credentials{Anonymous: true}}
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(t testing.TB, bucket string) {
	t.Helper()
	s.do(t, http.MethodPost, "/storage/v1/b?project=test", `{"name":"`+bucket+`"}`)
}

func (s *Server) do(t testing.TB, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}
