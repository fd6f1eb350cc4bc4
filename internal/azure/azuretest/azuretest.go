// Package azuretest starts an emulator of Azure Blob Storage for tests: Azurite, on
// loopback, with its blobs in memory. scripts/tools installs it at the first use,
// which takes a minute, npm and the network.
//
// It knows how that server is set up, and nothing of backups.
package azuretest

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/SP1R4/BackupHandler/v3/internal/azure"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
)

// The account that Azurite has, and its key, which is in Microsoft's documentation.
const (
	Account = "devstoreaccount1"
	Key     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// A Server is a running emulator.
type Server struct {
	Addr string // host:port
}

// Start starts an emulator, and ends it with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program := filepath.Join(httpstoretest.Tool(t, "azurite"), "node_modules", "azurite", "dist", "src", "blob", "main.js")
	return &Server{httpstoretest.Start(t, "/"+Account+"?comp=list", func(port string) []string {
		return []string{"node", program, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry",
			"--blobHost", "127.0.0.1", "--blobPort", port}
	})}
}

// Endpoint is that of the account at a server, or at a proxy in front of it.
func Endpoint(url string) string { return url + "/" + Account }

// Options returns how to reach the server, as its owner.
func (s *Server) Options() azure.Options {
	return azure.Options{
		Account:     Account,
		Endpoint:    Endpoint("http://" + s.Addr),
		Credentials: azure.Credentials{Key: Key},
		Getenv:      func(string) string { return "" },
	}
}

// MakeContainer makes a container.
func (s *Server) MakeContainer(t testing.TB, name string) {
	t.Helper()
	if _, err := s.Client(t, name).Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// Client returns a plain client for a container.
func (s *Server) Client(t testing.TB, name string) *container.Client {
	t.Helper()
	key, err := container.NewSharedKeyCredential(Account, Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(Endpoint("http://"+s.Addr)+"/"+name, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// SAS returns a signature for a container with some permissions, for a time from now,
// or up to an hour ago if that is negative.
func (s *Server) SAS(t testing.TB, name, permissions string, lasts time.Duration) string {
	t.Helper()
	key, err := container.NewSharedKeyCredential(Account, Key)
	if err != nil {
		t.Fatal(err)
	}
	query, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, StartTime: time.Now().UTC().Add(-2 * time.Hour), ExpiryTime: time.Now().UTC().Add(lasts),
		ContainerName: name, Permissions: permissions,
	}.SignWithSharedKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return query.Encode()
}
