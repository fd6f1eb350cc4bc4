package gcs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/gcs"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs/gcstest"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func open(t testing.TB, loc gcs.Location, o gcs.Options) *gcs.Store {
	t.Helper()
	s, err := gcs.Open(t.Context(), loc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestConformance: a store on an emulator is a Backend as any other, in a directory
// and at the root of a bucket.
func TestConformance(t *testing.T) {
	for _, prefix := range []string{"", "backup of/Höst %41"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			t.Parallel()
			server := gcstest.Start(t)
			var count atomic.Int64
			storagetest.Test(t, func(t *testing.T) storage.Backend {
				loc, err := gcs.ParseURL(fmt.Sprintf("gs://bucket-%d/%s", count.Add(1), prefix))
				if err != nil {
					t.Fatal(err)
				}
				server.MakeBucket(t, loc.Bucket)
				return storage.NewRemote(open(t, loc, server.Options()), storage.RemoteOptions{Patience: 20 * time.Second})
			})
		})
	}
}

var bucket = gcs.Location{Bucket: "bucket", Prefix: "pre"}

// start returns an emulator with the bucket.
func start(t testing.TB) *gcstest.Server {
	t.Helper()
	server := gcstest.Start(t)
	server.MakeBucket(t, bucket.Bucket)
	return server
}

func TestParseURL(t *testing.T) {
	for url, want := range map[string]gcs.Location{
		"gs://bucket":             {Bucket: "bucket"},
		"gs://bucket/":            {Bucket: "bucket"},
		"GS://my_bucket-1/a/b/":   {Bucket: "my_bucket-1", Prefix: "a/b"},
		"gs://my.domain.org/ö %2": {Bucket: "my.domain.org", Prefix: "ö %2"},
	} {
		got, err := gcs.ParseURL(url)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
		if again, err := gcs.ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%s: its own URL %s is %+v, %v", url, got, again, err)
		}
	}
	for _, url := range []string{
		"", "gs:", "gs://", "gs:///x", "s3://bucket", "gs:bucket:/x", "gs://b", "gs://Bucket/x", "gs://-bucket", "gs://" + strings.Repeat("b", 64),
		"gs://user:s3cret@bucket/x", "gs://bucket:443/x", "gs://bucket/x?key=s3cret", "gs://bucket/x#s3cret",
		"gs://bucket//x", "gs://bucket/a//b", "gs://bucket/../x", "gs://bucket/./x", "gs://bucket/a\nb", "gs://bucket/" + strings.Repeat("p", 513),
	} {
		if got, err := gcs.ParseURL(url); err == nil {
			t.Errorf("%.40s: %+v", url, got)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error repeats the URL: %v", url, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("gs://bucket/prefix")
	f.Add("gs://my_bucket.x/ä/%41/")
	f.Fuzz(func(t *testing.T, url string) {
		l, err := gcs.ParseURL(url)
		if err != nil {
			return
		}
		if again, err := gcs.ParseURL(l.String()); err != nil || again != l {
			t.Errorf("%q: %+v, then %+v, %v", url, l, again, err)
		}
	})
}

// TestRequests: what each operation costs.
func TestRequests(t *testing.T) {
	server := start(t)
	var c httpstoretest.Requests
	o := server.Options()
	o.OnRequest = c.Add
	s := open(t, bucket, o)
	c.Want(t, "open", "GET list objects")
	put(t, s, "packs/one", "content")
	c.Want(t, "put", "POST put object")
	if err := s.Put(t.Context(), "packs/one", strings.NewReader("other"), 5); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put again: %v", err)
	}
	c.Want(t, "put again", "POST put object")
	for _, r := range []struct {
		off, length int64
		want        string
	}{{0, -1, "content"}, {1, 3, "ont"}, {-3, -1, "ent"}, {-5, 2, "nt"}, {7, 1, ""}, {100, -1, ""}} {
		if got := get(t, s, "packs/one", r.off, r.length); got != r.want {
			t.Errorf("get %d, %d: %q, want %q", r.off, r.length, got, r.want)
		}
		c.Want(t, fmt.Sprint("get ", r.off), "GET get object")
	}
	get(t, s, "packs/one", 1, 0)
	c.Want(t, "get nothing", "GET head object")
	if err := s.Delete(t.Context(), "packs/one"); err != nil {
		t.Error(err)
	}
	c.Want(t, "delete", "DELETE delete object")
	for i := range 1001 {
		put(t, s, fmt.Sprintf("many/%d", i), "")
	}
	c.Reset()
	n := 0
	if err := s.List(t.Context(), "", func(storage.Info) error { n++; return nil }); err != nil || n != 1001 {
		t.Errorf("list: %d, %v", n, err)
	}
	c.Want(t, "list", "GET list objects", "GET list objects")
}

func put(t testing.TB, s *gcs.Store, name, content string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *gcs.Store, name string, off, length int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, off, length)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCuts(t *testing.T) {
	server := start(t)
	var count atomic.Int64
	httpstoretest.TestCuts(t, server.Addr, func(t *testing.T, d *httpstoretest.Dialer) storage.Objects {
		o := server.Options()
		o.Dial, o.Stall = d.Dial, httpstoretest.FaultStall
		loc := gcs.Location{Bucket: bucket.Bucket, Prefix: httpstore.Prefix(fmt.Sprint("cut", count.Add(1)))}
		return open(t, loc, o)
	})
}

// TestChecksum: the server refuses what was changed on its way, and nothing of it is
// an object.
func TestChecksum(t *testing.T) {
	server := start(t)
	var flip atomic.Bool
	o := server.Options()
	o.Endpoint = httpstoretest.Proxy(t, server.Addr, func(_ http.ResponseWriter, r *http.Request) bool {
		if flip.Load() && r.Method == http.MethodPost {
			r.Body = httpstoretest.Flip(r.Body, 5000)
		}
		return false
	})
	s := open(t, bucket, o)
	content := strings.Repeat("content", 1000)
	flip.Store(true)
	err := s.Put(t.Context(), "packs/one", strings.NewReader(content), int64(len(content)))
	if err == nil || !strings.Contains(err.Error(), "not what was sent") {
		t.Errorf("put of changed data: %v", err)
	}
	if _, ok := errors.AsType[*storage.PermanentError](err); ok {
		t.Error("the error is permanent")
	}
	flip.Store(false)
	if _, err := s.Get(t.Context(), "packs/one", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
	put(t, s, "packs/one", content)
	if got := get(t, s, "packs/one", 0, -1); got != content {
		t.Errorf("%d other bytes", len(got))
	}
}

// TestStorageClasses: by the first element of the name.
func TestStorageClasses(t *testing.T) {
	server := start(t)
	o := server.Options()
	o.StorageClasses = map[string]string{"packs": "NEARLINE", "": "STANDARD"}
	s := open(t, bucket, o)
	put(t, s, "packs/one", "x")
	put(t, s, "config", "x")
	for key, want := range map[string]string{"pre%2Fpacks%2Fone": "NEARLINE", "pre%2Fconfig": "STANDARD"} {
		resp, err := http.Get("http://" + server.Addr + "/storage/v1/b/bucket/o/" + key)
		if err != nil {
			t.Fatal(err)
		}
		var object struct{ StorageClass string }
		err = json.NewDecoder(resp.Body).Decode(&object)
		resp.Body.Close()
		if err != nil || object.StorageClass != want {
			t.Errorf("%s: storage class %q, %v", key, object.StorageClass, err)
		}
	}
}

// TestForeign: what is no object of ours is not listed.
func TestForeign(t *testing.T) {
	server := start(t)
	s := open(t, bucket, server.Options())
	put(t, s, "packs/one", "x")
	for _, key := range []string{"pre/", "pre/packs/", "pre/README", "pre/.hidden", "prefix", "other/x"} {
		resp, err := http.Post("http://"+server.Addr+"/upload/storage/v1/b/bucket/o?uploadType=media&name="+key, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", key, resp.Status)
		}
	}
	var names []string
	if err := s.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, []string{"packs/one"}) {
		t.Errorf("listed %q", names)
	}
}

// answer is an error as Google's server words it.
func answer(status int, reason, message string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":%q,"errors":[{"message":%q,"domain":"global","reason":%q}]}}`, status, message, message, reason)
}

// TestAnswers: what the server may answer, and what becomes of it.
func TestAnswers(t *testing.T) {
	server := start(t)
	var canned atomic.Pointer[func(w http.ResponseWriter)]
	o := server.Options()
	o.Endpoint = httpstoretest.Proxy(t, server.Addr, func(w http.ResponseWriter, r *http.Request) bool {
		if f := canned.Load(); f != nil {
			io.Copy(io.Discard, r.Body)
			(*f)(w)
			return true
		}
		return false
	})
	s := open(t, bucket, o)
	put(t, s, "packs/one", "content")
	const (
		passing   = false
		permanent = true
	)
	tests := []struct {
		name   string
		status int
		body   string
		op     string // of get, put, delete, list
		is     error
		kind   bool
		words  string
	}{
		{"exists", 412, answer(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."), "put", fs.ErrExist, passing, "exists"},
		{"exists, may only create", 403, answer(403, "forbidden", "x@y does not have storage.objects.delete access to the object."), "put", fs.ErrExist, passing, "exists"},
		{"exists, under retention", 403, answer(403, "retentionPolicyNotMet", "Object is subject to bucket's retention policy"), "put", fs.ErrExist, passing, "exists"},
		{"missing", 404, "No such object: bucket/pre/packs/one", "get", fs.ErrNotExist, passing, "no such object"},
		{"missing", 404, answer(404, "notFound", "No such object: bucket/pre/packs/one"), "delete", fs.ErrNotExist, passing, "no such object"},
		{"no bucket", 404, answer(404, "notFound", "The specified bucket does not exist."), "get", nil, permanent, "bucket bucket does not exist"},
		{"no bucket", 404, answer(404, "notFound", "The specified bucket does not exist."), "put", nil, permanent, "bucket bucket does not exist"},
		{"no bucket", 404, "", "list", nil, permanent, "bucket bucket does not exist"},
		{"retention", 403, answer(403, "retentionPolicyNotMet", "Object 'x' is subject to bucket's retention policy and cannot be deleted or overwritten until 2027-01-01"), "delete", fs.ErrPermission, permanent, "until 2027-01-01"},
		{"hold", 403, answer(403, "objectUnderActiveHold", "Object 'x' is under active Temporary hold"), "delete", fs.ErrPermission, permanent, "locked"},
		{"read only", 403, answer(403, "forbidden", "x@y does not have storage.objects.create access"), "put", storage.ErrReadOnly, permanent, "not allowed to store objects"},
		{"read only", 403, answer(403, "forbidden", "x@y does not have storage.objects.delete access"), "delete", storage.ErrReadOnly, permanent, "not allowed to delete objects"},
		{"forbidden", 403, answer(403, "forbidden", "x@y does not have storage.objects.get access"), "get", nil, permanent, "not allowed to read objects"},
		{"nobody", 401, answer(401, "authError", "Invalid Credentials"), "get", nil, permanent, "does not accept the credentials: Invalid Credentials"},
		{"billing", 403, answer(403, "accountDisabled", "The billing account for the owning project is disabled in state absent"), "put", nil, permanent, "disabled"},
		{"quota", 403, answer(403, "quotaExceeded", "The quota has been exceeded."), "put", storage.ErrFull, passing, "quota"},
		{"full", 507, "", "put", storage.ErrFull, passing, "no room"},
		{"too fast", 403, answer(403, "rateLimitExceeded", "slow down"), "put", nil, passing, "busy"},
		{"too fast", 429, answer(429, "rateLimitExceeded", "slow down"), "put", nil, passing, "busy"},
		{"failing", 503, answer(503, "backendError", "Backend Error"), "list", nil, passing, "Backend Error"},
		{"failing", 500, "<html>x-secret: s3cret</html>", "get", nil, passing, "500 Internal Server Error"},
		{"portal", 302, "", "get", nil, permanent, "302 Found"},
		{"unknown request", 400, answer(400, "invalid", "Unknown thing"), "put", nil, permanent, "Unknown thing"},
		{"not implemented", 501, "", "put", nil, permanent, "501"},
		{"nonsense", 200, "<html>hello</html>", "list", nil, passing, "makes no sense"},
		{"another checksum", 200, `{"name":"x","size":"7","crc32c":"AAAAAA=="}`, "put", nil, permanent, "checksum AAAAAA=="},
	}
	for _, tt := range tests {
		t.Run(tt.op+" "+tt.name, func(t *testing.T) {
			f := func(w http.ResponseWriter) {
				if strings.HasPrefix(tt.body, "{") {
					w.Header().Set("Content-Type", "application/json; charset=UTF-8")
				} else if !strings.HasPrefix(tt.body, "<") {
					w.Header().Set("Content-Type", "text/plain")
				}
				w.Header().Set("Location", "http://portal.example/")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}
			canned.Store(&f)
			defer canned.Store(nil)
			httpstoretest.CheckError(t, do(t.Context(), s, tt.op), tt.is, tt.kind, tt.words)
		})
	}
	if got := get(t, s, "packs/one", 0, -1); got != "content" {
		t.Errorf("afterwards: %q", got)
	}
}

// do runs an operation on packs/one.
func do(ctx context.Context, s *gcs.Store, op string) error {
	switch op {
	case "put":
		return s.Put(ctx, "packs/one", strings.NewReader("content"), 7)
	case "delete":
		return s.Delete(ctx, "packs/one")
	case "list":
		return s.List(ctx, "", func(storage.Info) error { return nil })
	}
	r, err := s.Get(ctx, "packs/one", 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// TestWay: what may be wrong on the way to the server comes out when the store is
// opened.
func TestWay(t *testing.T) {
	server := start(t)
	tlsURL, caFile := httpstoretest.TLSProxy(t, server.Addr, func(http.ResponseWriter, *http.Request) bool { return false })
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dns := func(notFound bool) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "storage.example", IsNotFound: notFound}}
		}
	}
	tests := []struct {
		name      string
		change    func(o *gcs.Options)
		permanent bool
		words     string // "": it opens
	}{
		{"plain", func(*gcs.Options) {}, false, ""},
		{"TLS", func(o *gcs.Options) { o.Endpoint, o.CAFile = tlsURL, caFile }, false, ""},
		{"authority", func(o *gcs.Options) { o.Endpoint = tlsURL }, true, "certificate is not trusted"},
		{"no TLS", func(o *gcs.Options) { o.Endpoint = "https://" + server.Addr }, true, "does not speak TLS"},
		{"no PEM", func(o *gcs.Options) { o.CAFile = notPEM }, true, "no certificate"},
		{"no file", func(o *gcs.Options) { o.CAFile = notPEM + "x" }, true, "read the trusted certificates"},
		{"host", func(o *gcs.Options) { o.Dial = dns(true) }, true, "host storage.example does not exist"},
		{"name service", func(o *gcs.Options) { o.Dial = dns(false) }, false, "look up storage.example"},
		{"nobody there", func(o *gcs.Options) { o.Endpoint = "http://127.0.0.1:1" }, false, "cannot connect to 127.0.0.1:1"},
		{"credentials without TLS", func(o *gcs.Options) { o.Credentials.Anonymous = false }, true, "over https only"},
		{"endpoint with password", func(o *gcs.Options) { o.Endpoint = "https://user:s3cret@host" }, false, "holds a user"},
		{"endpoint with path", func(o *gcs.Options) { o.Endpoint = "https://host/s3cret" }, false, "more than a host"},
		{"endpoint with scheme", func(o *gcs.Options) { o.Endpoint = "ftp://s3cret" }, false, "scheme"},
		{"class", func(o *gcs.Options) { o.StorageClasses = map[string]string{"packs": "Coldline"} }, true, "none of Google's"},
		{"emulator", func(o *gcs.Options) {
			*o = gcs.Options{Getenv: func(name string) string { return map[string]string{"STORAGE_EMULATOR_HOST": server.Addr}[name] }}
		}, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := server.Options()
			tt.change(&o)
			s, err := gcs.Open(t.Context(), bucket, o)
			if tt.words != "" {
				httpstoretest.CheckError(t, err, nil, tt.permanent, tt.words)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if name := s.String(); !strings.HasPrefix(name, "gs://bucket/pre at 127.0.0.1:") {
				t.Errorf("the store calls itself %s", name)
			}
			httpstoretest.CheckError(t, do(t.Context(), s, "get"), nil, false, fs.ErrClosed.Error())
		})
	}
}

// TestServiceAccount: the key of a service account is turned into tokens, which are
// sent over TLS, and appear nowhere.
func TestServiceAccount(t *testing.T) {
	server := start(t)
	const token = "s3cret-token"
	tlsURL, caFile := httpstoretest.TLSProxy(t, server.Addr, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	var tokenAnswer atomic.Pointer[string]
	var tokenStatus atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(tokenStatus.Load()))
		io.WriteString(w, *tokenAnswer.Load())
	}))
	t.Cleanup(tokens.Close)
	file := filepath.Join(t.TempDir(), "key.json")
	writeKey(t, file, tokens.URL)

	tests := []struct {
		status    int
		answer    string
		permanent bool
		words     string
	}{
		{200, `{"access_token":"` + token + `","token_type":"Bearer","expires_in":3600}`, false, ""},
		{200, `{"access_token":"s3cret-other","token_type":"Bearer","expires_in":3600}`, true, "does not accept the credentials"},
		{400, `{"error":"invalid_grant","error_description":"Invalid grant: account not found"}`, true, "invalid_grant Invalid grant: account not found"},
		{401, `<html>s3cret</html>`, true, "no token: 401"},
		{503, `{"error":"unavailable"}`, false, "no token: unavailable"},
		{200, `{"nothing":"s3cret"}`, false, "no token"},
	}
	for _, tt := range tests {
		tokenStatus.Store(int64(tt.status))
		tokenAnswer.Store(&tt.answer)
		var c httpstoretest.Requests
		o := gcs.Options{Endpoint: tlsURL, CAFile: caFile, OnRequest: c.Add, Credentials: gcs.Credentials{File: file}, Getenv: func(string) string { return "" }}
		s, err := gcs.Open(t.Context(), bucket, o)
		if tt.words != "" {
			httpstoretest.CheckError(t, err, nil, tt.permanent, tt.words)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "packs/one", "content")
		c.Want(t, "open and put", "POST get token", "GET list objects", "POST put object")
		s.Close()
	}

	tokens.Close()
	_, err := gcs.Open(t.Context(), bucket, gcs.Options{Endpoint: tlsURL, CAFile: caFile, Credentials: gcs.Credentials{File: file}})
	httpstoretest.CheckError(t, err, nil, false, "cannot connect to the token service")

	// A token service that does not answer holds nobody up.
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }))
	t.Cleanup(hanging.Close)
	t.Cleanup(hanging.CloseClientConnections)
	writeKey(t, file, hanging.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := gcs.Open(ctx, bucket, gcs.Options{Endpoint: tlsURL, CAFile: caFile, Credentials: gcs.Credentials{File: file}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer for a token: %v", err)
	}

	for _, content := range []string{"", "{}", "s3cret", `{"type":"unknown"}`, `{"type":"service_account","private_key":"s3cret"}`} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := gcs.Open(t.Context(), bucket, gcs.Options{Endpoint: tlsURL, CAFile: caFile, Credentials: gcs.Credentials{File: file}})
		httpstoretest.CheckError(t, err, nil, true, file)
	}
	_, err = gcs.Open(t.Context(), bucket, gcs.Options{Credentials: gcs.Credentials{File: file + "x"}, Getenv: func(string) string { return "" }})
	httpstoretest.CheckError(t, err, nil, true, "read the credentials")
}

// writeKey writes the key of a service account.
func writeKey(t *testing.T, file, tokenURL string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "x@y.example", "private_key_id": "1", "token_uri": tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestClock: a refusal by a server whose clock is far from ours is about clocks.
func TestClock(t *testing.T) {
	server := start(t)
	o := server.Options()
	o.Endpoint = httpstoretest.Proxy(t, server.Addr, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Date", time.Now().Add(-2*time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	_, err := gcs.Open(t.Context(), bucket, o)
	httpstoretest.CheckError(t, err, nil, true, "too far apart")
}

// TestUnreadable: what cannot be read is not the server's fault, and stores nothing.
func TestUnreadable(t *testing.T) {
	s := open(t, bucket, start(t).Options())
	for _, have := range []int{0, 10} {
		err := s.Put(t.Context(), "packs/one", bytes.NewReader(make([]byte, have)), 20)
		httpstoretest.CheckError(t, err, nil, true, "read what is to be stored")
	}
	if _, err := s.Get(t.Context(), "packs/one", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
}

// TestDefaultCredentials: the chain ends at the metadata server, whose tokens are
// used; and a file that is named and missing is an error, not a reason to go on.
func TestDefaultCredentials(t *testing.T) {
	server := start(t)
	const token = httpstoretest.Secret
	tlsURL, caFile := httpstoretest.TLSProxy(t, server.Addr, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	var status atomic.Int64
	status.Store(http.StatusOK)
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		w.WriteHeader(int(status.Load()))
		if strings.HasSuffix(r.URL.Path, "/token") {
			io.WriteString(w, `{"access_token":"`+token+`","token_type":"Bearer","expires_in":3600}`)
		}
	}))
	t.Cleanup(metadata.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())    // no login of gcloud
	t.Setenv("APPDATA", t.TempDir()) // on Windows
	o := gcs.Options{Endpoint: tlsURL, CAFile: caFile, Getenv: func(string) string { return "" }}
	s := open(t, bucket, o)
	put(t, s, "packs/one", "content")

	status.Store(http.StatusNotFound)
	_, err := gcs.Open(t.Context(), bucket, o)
	httpstoretest.CheckError(t, err, nil, false, "no token")

	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "missing"))
	_, err = gcs.Open(t.Context(), bucket, o)
	httpstoretest.CheckError(t, err, nil, true, "GOOGLE_APPLICATION_CREDENTIALS")
}
