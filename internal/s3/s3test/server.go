// Package s3test starts a real S3 server for tests: versitygw, on loopback, with its
// objects in a directory that goes with the test. scripts/tools installs it at the
// first use, which takes a minute or two and the network.
//
// It knows how that server is set up, and nothing of backups.
package s3test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
	"github.com/SP1R4/BackupHandler/v3/internal/s3"
)

// What a server is started with.
const (
	AccessKey = "testaccess"
	SecretKey = "test+secret/key"

	// startTimeout is a hundred times what it takes: the machine may be busy.
	startTimeout = 30 * time.Second
	// startAttempts, because somebody else may take the free port.
	startAttempts = 3
)

// Options say what kind of server is wanted.
type Options struct {
	TLS        bool   // with a certificate of an authority of its own: Server.CAFile
	Versioning bool   // buckets can keep versions, and lock objects
	Users      bool   // there can be other users: AddUser
	ReadOnly   bool   // refuses all that writes
	Region     string // "": us-east-1
}

// A Server is a running S3 server.
type Server struct {
	Endpoint string // its URL
	CAFile   string // of a server with TLS
	Dir      string // where a bucket is a directory, and an object a file
	o        Options
	binary   string
	output   bytes.Buffer // valid once the server has ended
}

// Start starts a server, and ends it with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("versitygw keeps objects in extended attributes of files, which Windows does not have")
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	s := &Server{o: o, binary: httpstoretest.Tool(t, "versitygw"), Dir: filepath.Join(t.TempDir(), "buckets")}
	var err error
	for range startAttempts {
		if err = s.start(t); err == nil {
			return s
		}
	}
	t.Fatalf("start the S3 server: %v", err)
	return nil
}

func (s *Server) start(t testing.TB) error {
	dir := t.TempDir()
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	args := []string{"--port", addr, "--access", AccessKey, "--secret", SecretKey, "--region", s.o.Region, "--keep-alive", "--quiet", "--health", "/health"}
	scheme, client := "http", &http.Client{}
	if s.o.TLS {
		scheme = "https"
		var key, cert string
		if s.CAFile, cert, key, err = certificates(dir); err != nil {
			return err
		}
		args = append(args, "--cert", cert, "--key", key)
		if client, err = trusting(s.CAFile); err != nil {
			return err
		}
	}
	if s.o.Users {
		args = append(args, "--iam-dir", mkdir(t, filepath.Join(dir, "iam")), "--iam-cache-disable")
	}
	if s.o.ReadOnly {
		args = append(args, "--readonly")
	}
	args = append(args, "posix")
	if s.o.Versioning {
		args = append(args, "--versioning-dir", mkdir(t, filepath.Join(dir, "versions")))
	}
	cmd := exec.Command(s.binary, append(args, mkdir(t, s.Dir))...)
	cmd.Dir = dir
	s.output.Reset()
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	stop := func() {
		cmd.Process.Kill()
		<-ended
	}
	s.Endpoint = scheme + "://" + addr
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return fmt.Errorf("the server has ended: %s", s.output.String())
		default:
		}
		resp, err := client.Get(s.Endpoint + "/health")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Cleanup(stop)
			return nil
		}
	}
	stop()
	return fmt.Errorf("the server does not answer: %s", s.output.String())
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func mkdir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Options returns how to reach the server, as its owner.
func (s *Server) Options() s3.Options {
	return s3.Options{
		Endpoint:    s.Endpoint,
		CAFile:      s.CAFile,
		Credentials: s3.Credentials{AccessKey: AccessKey, SecretKey: SecretKey},
	}
}

// Client returns a plain client of the server's owner.
func (s *Server) Client(t testing.TB) *minio.Client {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	o := &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Secure: s.o.TLS, Region: s.o.Region}
	transport := &http.Transport{}
	if s.o.TLS {
		client, err := trusting(s.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		transport = client.Transport.(*http.Transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	o.Transport = transport
	c, err := minio.New(u.Host, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(t testing.TB, bucket string) {
	t.Helper()
	if err := s.Client(t).MakeBucket(context.Background(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
}

// MakeLockBucket makes a bucket that keeps versions and can lock objects. It wants a
// server with Versioning.
func (s *Server) MakeLockBucket(t testing.TB, bucket string) {
	t.Helper()
	if err := s.Client(t).MakeBucket(context.Background(), bucket, minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
}

// AddUser makes another user, who may do what Allow allows. It wants a server with
// Users.
func (s *Server) AddUser(t testing.TB, access, secret string) s3.Credentials {
	t.Helper()
	args := []string{"admin"}
	if s.o.TLS {
		args = append(args, "--allow-insecure")
	}
	args = append(args, "--access", AccessKey, "--secret", SecretKey, "--endpoint-url", s.Endpoint,
		"create-user", "--access", access, "--secret", secret, "--role", "user")
	if out, err := exec.Command(s.binary, args...).CombinedOutput(); err != nil {
		t.Fatalf("create user: %v\n%s", err, out)
	}
	return s3.Credentials{AccessKey: access, SecretKey: secret}
}

// Allow lets a user do the actions ("s3:GetObject") in a bucket, and nothing else.
func (s *Server) Allow(t testing.TB, bucket, user string, actions ...string) {
	t.Helper()
	quoted := ""
	for i, a := range actions {
		if i > 0 {
			quoted += ","
		}
		quoted += fmt.Sprintf("%q", a)
	}
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":[%q]},"Action":[%s],"Resource":["arn:aws:s3:::%s","arn:aws:s3:::%s/*"]}]}`,
		user, quoted, bucket, bucket)
	if err := s.Client(t).SetBucketPolicy(context.Background(), bucket, policy); err != nil {
		t.Fatal(err)
	}
}

// certificates makes an authority and a certificate of it for 127.0.0.1.
func certificates(dir string) (caFile, certFile, keyFile string, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", "", err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return "", "", "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", "", err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test server"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	if err != nil {
		return "", "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", "", err
	}
	caFile, certFile, keyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{{caFile, "CERTIFICATE", caDER}, {certFile, "CERTIFICATE", certDER}, {keyFile, "PRIVATE KEY", keyDER}} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return "", "", "", err
		}
	}
	return caFile, certFile, keyFile, nil
}
