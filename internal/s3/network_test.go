package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// soon is much longer than any operation here takes, and much shorter than a test
// that hangs.
const soon = 20 * time.Second

// within runs f and reports it if it takes too long.
func within(t *testing.T, what string, f func() error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(soon):
		t.Fatalf("%s still has not ended", what)
		return nil
	}
}

// TestCuts: connections that break off or stand still, in either direction, end an
// operation soon, with an error that may pass.
func TestCuts(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var count atomic.Int64
	httpstoretest.TestCuts(t, server.Address(), func(t *testing.T, d *httpstoretest.Dialer) storage.Objects {
		o := server.Options()
		o.Dial, o.Stall = d.Dial, httpstoretest.FaultStall
		return open(t, s3.Location{Bucket: "bucket", Prefix: fmt.Sprint("cut", count.Add(1))}, o)
	})
}

// TestCancel: a context that ends stops what waits for the network, with its error.
func TestCancel(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var hang atomic.Bool
	waiting := make(chan struct{}, 1)
	o := server.Options()
	o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if hang.Load() {
			io.Copy(io.Discard, r.Body)
			waiting <- struct{}{}
			<-r.Context().Done()
			return true
		}
		return false
	})
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	put(t, s, "one", "content")
	hang.Store(true)
	operations := map[string]func(context.Context) error{
		"open":   func(ctx context.Context) error { _, err := s3.Open(ctx, s3.Location{Bucket: "bucket"}, o); return err },
		"put":    func(ctx context.Context) error { return s.Put(ctx, "two", strings.NewReader("x"), 1) },
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "one", 0, -1); return err },
		"list":   func(ctx context.Context) error { return s.List(ctx, "", func(storage.Info) error { return nil }) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "one") },
	}
	for name, operation := range operations {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-waiting
			cancel()
		}()
		if err := within(t, name, func() error { return operation(ctx) }); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := within(t, name, func() error { return operation(ctx) }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		select {
		case <-waiting:
		default:
		}
	}
	// So does Close.
	for name, operation := range operations {
		if name == "open" {
			continue
		}
		hang.Store(false)
		s = open(t, s3.Location{Bucket: "bucket"}, o)
		put(t, s, "closing/"+name, "x")
		hang.Store(true)
		go func() {
			<-waiting
			s.Close()
		}()
		if err := within(t, name, func() error { return operation(t.Context()) }); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
}

// TestCloseEndsAll: nothing of a store outlives it.
func TestCloseEndsAll(t *testing.T) {
	server := s3test.Start(t, s3test.Options{TLS: true})
	server.MakeBucket(t, "bucket")
	before := goleak.IgnoreCurrent()
	s, err := s3.Open(t.Context(), s3.Location{Bucket: "bucket"}, server.Options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "one", strings.Repeat("x", 1<<20))
	rc, err := s.Get(t.Context(), "one", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(rc); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if err := rc.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, before)
}

// TestReuse: one operation after the other uses one connection.
func TestReuse(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var dials atomic.Int64
	o := server.Options()
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	const names = "abcdefghijkl"
	for _, name := range strings.Split(names, "") {
		put(t, s, name, strings.Repeat(name, 100_000))
		if err := s.Put(t.Context(), name, strings.NewReader(name), 1); !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
		get(t, s, name, 0, -1)
		get(t, s, name, 5, 10)
		list(t, s, "")
		if err := s.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	// The search for abandoned uploads may have its own, and a connection may become free
	// a moment too late. A call that never uses one again has one for each name.
	if n := int(dials.Load()); n > len(names)*2/3 {
		t.Errorf("%d connections", n)
	}
}

// TestNotSent: what the server refuses by the name alone is not sent first.
func TestNotSent(t *testing.T) {
	const size = 32 << 20
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var sent atomic.Int64
	o := server.Options()
	o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.ContentLength == size {
			xmlError(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.", "")
			return true
		}
		return false
	})
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	put(t, s, "one", "x")
	err := s.Put(t.Context(), "packs/one", countingReaderAt{&sent}, size)
	wantFailure(t, "put", err, false, "SlowDown")
	if n := sent.Load(); n > size+1<<20 { // once for the checksum
		t.Errorf("%d bytes were read, of which %d for sending", n, n-size)
	}
}

// TestNotReadAfterwards: content is not touched any more once Put has returned, even
// if the server answered before it had all.
func TestNotReadAfterwards(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	o := server.Options()
	o.MultipartThreshold = s3.MinMultipartThreshold
	o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.ContentLength > 1<<20 {
			xmlError(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.", "")
			return true
		}
		return false
	})
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	for _, size := range []int64{1<<20 + 1, 2<<20 - 1, 17 << 20} {
		for range 5 {
			var returned atomic.Bool
			err := s.Put(t.Context(), "packs/one", guardedReaderAt{t, &returned}, size)
			returned.Store(true)
			wantFailure(t, "put", err, false)
		}
	}
	time.Sleep(100 * time.Millisecond)
}

// guardedReaderAt has zeros without end, slowly, until returned.
type guardedReaderAt struct {
	t        *testing.T
	returned *atomic.Bool
}

func (g guardedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	time.Sleep(time.Millisecond)
	if g.returned.Load() {
		g.t.Error("content is read after Put")
	}
	return len(p), nil
}

// countingReaderAt has zeros without end.
type countingReaderAt struct{ n *atomic.Int64 }

func (c countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// TestCredentials: Amazon's chain, as far as it needs no service.
func TestCredentials(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	loc := s3.Location{Bucket: "bucket"}
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials")
	keys := "aws_access_key_id = " + s3test.AccessKey + "\naws_secret_access_key = " + s3test.SecretKey + "\n"
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n[work]\n"+keys), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "none"))
	o := server.Options()
	o.Credentials = s3.Credentials{}

	err := within(t, "open", func() error { _, err := s3.Open(t.Context(), loc, o); return err })
	wantFailure(t, "open without credentials", err, true, "no credentials: environment: nothing; shared files: ", "AWS_ACCESS_KEY_ID")

	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	_, err = s3.Open(t.Context(), loc, o)
	wantFailure(t, "open with the default profile", err, true, "does not know the access key")
	t.Setenv("AWS_PROFILE", "work")
	open(t, loc, o)

	t.Setenv("AWS_PROFILE", "")
	o.Credentials.Profile = "work"
	open(t, loc, o)
	o.Credentials.Profile = "missing"
	_, err = s3.Open(t.Context(), loc, o)
	wantFailure(t, "open with a missing profile", err, true, "no credentials: profile missing: ")

	o.Credentials.Profile = ""
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	open(t, loc, o)

	// A container's service.
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "none"))
	service := server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		io.WriteString(w, `{"AccessKeyId":"`+s3test.AccessKey+`","SecretAccessKey":"`+s3test.SecretKey+`","Expiration":"2099-01-01T00:00:00Z"}`)
		return true
	})
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service+"/role")
	open(t, loc, o)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/role")
	err = within(t, "open", func() error { _, err := s3.Open(t.Context(), loc, o); return err })
	wantFailure(t, "open with a dead service", err, true, "instance role: dial tcp 127.0.0.1:1")
}

// TestAmazon: requests to Amazon itself, as far as they can be seen without it.
func TestAmazon(t *testing.T) {
	tests := []struct {
		bucket, region string
		style          s3.PathStyle
		want           string
	}{
		{"bucket", "eu-west-1", s3.PathStyleAuto, "bucket.s3.dualstack.eu-west-1.amazonaws.com:443"},
		{"bucket", "eu-west-1", s3.PathStyleOn, "s3.dualstack.eu-west-1.amazonaws.com:443"},
		{"my.bucket", "eu-west-1", s3.PathStyleAuto, "s3.dualstack.eu-west-1.amazonaws.com:443"}, // no certificate fits two dots
		{"bucket", "", s3.PathStyleAuto, "bucket.s3.dualstack.us-east-1.amazonaws.com:443"},
	}
	for _, tt := range tests {
		var got string
		_, err := s3.Open(t.Context(), s3.Location{Bucket: tt.bucket}, s3.Options{
			Region: tt.region, PathStyle: tt.style, Credentials: s3.Credentials{AccessKey: "a", SecretKey: "s"},
			Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
				got = addr
				return nil, errors.New("no network here")
			},
		})
		if err == nil || got != tt.want {
			t.Errorf("%s in %q: connects to %s, want %s: %v", tt.bucket, tt.region, got, tt.want, err)
		}
	}
}
