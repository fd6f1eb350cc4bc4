//go:build unix

package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// certificate writes one for 127.0.0.1, signed by itself, and its key.
func certificate(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name *string
		end  string
		kind string
		b    []byte
	}{{&cert, ".crt", "CERTIFICATE", der}, {&key, ".key", "PRIVATE KEY", secret}} {
		*f.name = filepath.Join(dir, name+f.end)
		if err := os.WriteFile(*f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.b}), 0o600); err != nil {
			t.Fatal(err)
		}
		postgrestest.Own(t, *f.name)
	}
	return cert, key
}

// TLS with a CA, a password file, and the account that a socket lets in.
func TestConnections(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	cert, key := certificate(t, server.Dir, "server")
	other, _ := certificate(t, server.Dir, "other")
	hba := "local all all peer\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(server.Data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	server.SQL("postgres", fmt.Sprintf("ALTER SYSTEM SET ssl_cert_file = '%s'; ALTER SYSTEM SET ssl_key_file = '%s'; ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()", cert, key))
	tls := Server{Host: "127.0.0.1", Port: server.Port, User: "postgres", Password: postgrestest.Password, SSLMode: "verify-full", SSLRootCert: cert}
	try := func(s Server) error {
		sess, err := s.connect(t.Context(), "")
		if err == nil {
			sess.close()
		}
		return err
	}
	for range 200 { // the server reads its settings anew when it likes
		if try(tls) == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	dump(t, &tls, DumpOptions{Databases: []string{"postgres"}})
	wrong := tls
	wrong.SSLRootCert = other
	wantError(t, try(wrong), "certificate verify failed")
	wrong = tls
	wrong.SSLMode = "disable"
	wantError(t, try(wrong), "no pg_hba.conf entry")

	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("127.0.0.1:%d:*:postgres:%s\n", server.Port, postgrestest.Password)), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile := tls
	byFile.Password, byFile.Passfile = "", file
	if err := try(byFile); err != nil {
		t.Error(err)
	}

	if os.Geteuid() != 0 {
		t.Log("only root can act for another account")
		return
	}
	socket := Server{Host: server.Dir, Port: server.Port, User: "postgres"}
	wantError(t, try(socket), "Peer authentication failed")
	socket.Account = "postgres"
	dump(t, &socket, DumpOptions{Databases: []string{"postgres"}, Globals: true})
	socket.Account = "no-such-account"
	wantError(t, try(socket), "no-such-account")
}
