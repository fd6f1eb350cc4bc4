package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// wantFailure checks an error: its words, whether trying again can mend it, and what
// every error has to be: one line, without secrets.
func wantFailure(t *testing.T, what string, err error, lasting bool, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	p, permanent := errors.AsType[*storage.PermanentError](err)
	if permanent != lasting {
		t.Errorf("%s: permanent: %t, want %t: %v", what, permanent, lasting, err)
	}
	text := err.Error()
	if permanent {
		text += " | " + p.Hint
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q, want %q in it", what, text, w)
		}
	}
	for _, secret := range []string{s3test.SecretKey, "session/token", "Signature="} {
		if strings.Contains(text, secret) {
			t.Errorf("%s: a secret is in the error: %s", what, text)
		}
	}
	if strings.ContainsAny(text, "\n\r\x1b") {
		t.Errorf("%s: not one line: %q", what, text)
	}
}

// TestOpenRefuses: what is wrong with address, credentials and bucket comes out at
// once, in words, from a real server.
func TestOpenRefuses(t *testing.T) {
	plain := s3test.Start(t, s3test.Options{Region: "eu-west-1"})
	plain.MakeBucket(t, "bucket")
	secure := s3test.Start(t, s3test.Options{TLS: true})
	noServer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	noServer.Close()
	tests := []struct {
		name    string
		server  *s3test.Server
		bucket  string
		change  func(*s3.Options)
		lasting bool
		words   []string
	}{
		{"no such bucket", plain, "other", nil, true, []string{"bucket other does not exist", "aws s3 mb s3://other --endpoint-url http://127.0.0.1:"}},
		{"unknown access key", plain, "bucket", func(o *s3.Options) { o.Credentials.AccessKey = "nobody" }, true, []string{"does not know the access key"}},
		{"wrong secret key", plain, "bucket", func(o *s3.Options) { o.Credentials.SecretKey = "wrong" }, true, []string{"secret key does not fit"}},
		{"wrong region", plain, "bucket", func(o *s3.Options) { o.Region = "us-west-2" }, true, []string{"eu-west-1, not us-west-2", "region = eu-west-1"}},
		{"no TLS", plain, "bucket", func(o *s3.Options) { o.Endpoint = strings.TrimPrefix(o.Endpoint, "http://") }, true, []string{"does not speak TLS", "http://"}},
		{"unknown authority", secure, "bucket", func(o *s3.Options) { o.CAFile = "" }, true, []string{"certificate is not trusted", "ca_file"}},
		{"other host's certificate", secure, "bucket", func(o *s3.Options) { o.Endpoint = strings.Replace(o.Endpoint, "127.0.0.1", "localhost", 1) }, true, []string{"certificate is not trusted"}},
		{"nobody there", plain, "bucket", func(o *s3.Options) { o.Endpoint = "http://" + noServer.Addr().String() }, false, []string{"cannot connect to 127.0.0.1:"}},
		{"host unknown", plain, "bucket", func(o *s3.Options) {
			o.Endpoint = "https://s3.example.invalid"
			o.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: "s3.example.invalid", Err: "no such host", IsNotFound: true}}
			}
		}, true, []string{"host s3.example.invalid does not exist"}},
		{"name server silent", plain, "bucket", func(o *s3.Options) {
			o.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: "s3.example.invalid", Err: "server misbehaving", IsTemporary: true}}
			}
		}, false, []string{"look up s3.example.invalid: server misbehaving"}},
		{"no object lock", plain, "bucket", func(o *s3.Options) { o.Lock = s3.Lock{Mode: s3.LockCompliance, Days: 1} }, true, []string{"has no object lock"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.server.Options()
			if tt.change != nil {
				tt.change(&o)
			}
			s, err := s3.Create(t.Context(), s3.Location{Bucket: tt.bucket}, o)
			if err == nil {
				s.Close()
			}
			wantFailure(t, "open", err, tt.lasting, append(tt.words, "open s3://"+tt.bucket+": ")...)
		})
	}
	// With no region given, the right one is found.
	open(t, s3.Location{Bucket: "bucket"}, plain.Options())
}

// TestReadOnlyUser: who may only read is told which action is refused.
func TestReadOnlyUser(t *testing.T) {
	server := s3test.Start(t, s3test.Options{Users: true})
	server.MakeBucket(t, "bucket")
	loc := s3.Location{Bucket: "bucket", Prefix: "host"}
	owner := open(t, loc, server.Options())
	put(t, owner, "packs/one", "content")

	o := server.Options()
	o.Credentials = server.AddUser(t, "reader", "readersecret")
	server.Allow(t, "bucket", "reader", "s3:GetObject", "s3:ListBucket")
	reader := open(t, loc, o)
	if got := get(t, reader, "packs/one", 0, -1); got != "content" {
		t.Errorf("the reader gets %q", got)
	}
	err := reader.Put(t.Context(), "packs/two", strings.NewReader("x"), 1)
	wantFailure(t, "put", err, true, "not allowed to store objects", "s3:PutObject on arn:aws:s3:::bucket/host/*")
	if !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("put: %v is not ErrReadOnly", err)
	}
	err = reader.Delete(t.Context(), "packs/one")
	wantFailure(t, "delete", err, true, "not allowed to delete objects", "s3:DeleteObject")
	if !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("delete: %v is not ErrReadOnly", err)
	}

	o.Credentials = server.AddUser(t, "lister", "listersecret")
	server.Allow(t, "bucket", "lister", "s3:ListBucket")
	lister := open(t, loc, o)
	_, err = lister.Get(t.Context(), "packs/one", 0, -1)
	wantFailure(t, "get", err, true, "not allowed to read objects", "s3:GetObject")
	if errors.Is(err, fs.ErrNotExist) {
		t.Error("an object that may not be read does not exist")
	}

	server.Allow(t, "bucket", "lister", "s3:GetObject")
	_, err = s3.Open(t.Context(), loc, o)
	wantFailure(t, "open", err, true, "not allowed to list objects", "s3:ListBucket on arn:aws:s3:::bucket to")
}

// TestReadOnlyServer: the same for all.
func TestReadOnlyServer(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	readOnly := server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return false
		}
		xmlError(w, http.StatusForbidden, "AccessDenied", "Access Denied", "")
		return true
	})
	o := server.Options()
	o.Endpoint = readOnly
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	err := s.Put(t.Context(), "x", strings.NewReader("x"), 1)
	wantFailure(t, "put", err, true, "not allowed to store objects: AccessDenied")
}

func xmlError(w http.ResponseWriter, status int, code, message, more string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<Error><Code>%s</Code><Message>%s</Message>%s<RequestId>R1</RequestId></Error>", code, message, more)
}

// canned starts a server that answers the requests for objects by answer, and lists
// nothing.
func canned(t *testing.T, answer http.HandlerFunc) s3.Options {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("list-type") {
			io.WriteString(w, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
			return
		}
		io.Copy(io.Discard, r.Body)
		if strings.HasSuffix(r.URL.Path, "/.write-once") {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return s3.Options{
		Endpoint:    server.URL,
		Credentials: s3.Credentials{AccessKey: "access", SecretKey: s3test.SecretKey, SessionToken: "session/token"},
		Stall:       5 * time.Second,
	}
}

// TestAnswers: what servers answer, in words. The answers are Amazon's and those of
// other servers, as their documentation and sources have them.
func TestAnswers(t *testing.T) {
	tests := []struct {
		status        int
		code, message string
		more          string
		lasting       bool
		is            error
		words         string
	}{
		{403, "AccessDenied", "Access Denied", "", true, storage.ErrReadOnly, "not allowed to store objects: AccessDenied"},
		{403, "AccessDenied", "User: arn:aws:iam::1:user/b is not authorized to perform: s3:PutObject", "", true, storage.ErrReadOnly, "is not authorized"},
		{403, "AccessDenied", "Cannot upload files, storage cap exceeded.", "", true, storage.ErrFull, "no room left"},
		{403, "AllAccessDisabled", "All access to this object has been disabled", "", true, storage.ErrReadOnly, "AllAccessDisabled"},
		{403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist", "<AWSAccessKeyId>AK</AWSAccessKeyId>", true, nil, "does not know the access key"},
		{403, "SignatureDoesNotMatch", "The request signature we calculated…", "<StringToSign>AWS4</StringToSign>", true, nil, "secret key does not fit"},
		{403, "RequestTimeTooSkewed", "The difference is too large", "<ServerTime>x</ServerTime>", true, nil, "clock says"},
		{400, "ExpiredToken", "The provided token has expired.", "<Token-0>session/token</Token-0>", true, nil, "session token has expired"},
		{400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'", "<Region>eu-west-1</Region>", true, nil, "is in the region eu-west-1, not us-east-1"},
		{301, "PermanentRedirect", "must be addressed using the specified endpoint", "<Endpoint>b.s3.amazonaws.com</Endpoint>", true, nil, "not in the region us-east-1"},
		{404, "NoSuchBucket", "The specified bucket does not exist", "", true, nil, "bucket bucket does not exist"},
		{403, "QuotaExceeded", "", "", true, storage.ErrFull, "no room left: QuotaExceeded"},
		{507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold", "", true, storage.ErrFull, "no room left"},
		{507, "Whatever", "", "", true, storage.ErrFull, "no room left"},
		{503, "SlowDown", "Please reduce your request rate.", "", false, nil, "busy or failing: SlowDown: Please reduce your request rate"},
		{500, "InternalError", "We encountered an internal error. Please try again.", "", false, nil, "InternalError"},
		{429, "TooManyRequests", "", "", false, nil, "TooManyRequests"},
		{409, "ConditionalRequestConflict", "conflict", "", false, nil, "gave up the request"},
		{409, "OperationAborted", "A conflicting conditional operation is currently in progress", "", false, nil, "gave up the request"},
		{400, "RequestTimeout", "Your socket connection…", "", false, nil, "gave up"},
		{400, "BadDigest", "The sha256 you specified did not match", "", false, nil, "not what was sent"},
		{400, "XAmzContentSHA256Mismatch", "", "", false, nil, "not what was sent"},
		{400, "InvalidStorageClass", "The storage class you specified is not valid", "", true, nil, "storage class"},
		{400, "KMS.NotFoundException", "Invalid keyId", "", true, nil, "encryption key"},
		{400, "EntityTooLarge", "too large", "", true, nil, "refuses the request: EntityTooLarge: too large"},
		{412, "PreconditionFailed", "", "", false, fs.ErrExist, "object exists"},
	}
	for _, tt := range tests {
		t.Run(tt.code, func(t *testing.T) {
			o := canned(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead && tt.status == 412 {
					w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
					return
				}
				xmlError(w, tt.status, tt.code, tt.message, tt.more)
			})
			o.Region = "us-east-1"
			s := open(t, s3.Location{Bucket: "bucket"}, o)
			err := s.Put(t.Context(), "packs/one", strings.NewReader("x"), 1)
			lasting := tt.lasting && tt.is != storage.ErrFull
			wantFailure(t, "put", err, lasting, tt.words)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
		})
	}
}

// TestPages: what is no answer of S3 at all, but a page of a proxy, which may repeat
// the request.
func TestPages(t *testing.T) {
	for status, lasting := range map[int]bool{400: true, 403: true, 407: true, 500: false, 502: false, 503: false, 504: false} {
		o := canned(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, "<html>\n%v %s</html>", r.Header, s3test.SecretKey)
		})
		s := open(t, s3.Location{Bucket: "bucket"}, o)
		_, err := s.Get(t.Context(), "packs/one", 0, -1)
		want := ""
		if status != 403 { // the library has given that a code
			want = fmt.Sprint(status)
		}
		wantFailure(t, fmt.Sprint("get, ", status), err, lasting, want)
	}
	// An archived object.
	s := open(t, s3.Location{Bucket: "bucket"}, canned(t, func(w http.ResponseWriter, r *http.Request) {
		xmlError(w, 403, "InvalidObjectState", "not valid for the object's storage class", "<StorageClass>GLACIER</StorageClass>")
	}))
	_, err := s.Get(t.Context(), "packs/one", 0, -1)
	wantFailure(t, "get", err, true, "in an archive", "restore-object")
}

// TestRangesIgnored: servers that answer a range with all of the object, or with
// other bytes.
func TestRangesIgnored(t *testing.T) {
	const content = "0123456789"
	s := open(t, s3.Location{Bucket: "bucket"}, canned(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		if strings.HasSuffix(r.URL.Path, "wrong") {
			w.Header().Set("Content-Range", "bytes 0-4/10")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, content[:5])
			return
		}
		io.WriteString(w, content)
	}))
	tests := []struct {
		off, length int64
		want        string
	}{{0, -1, content}, {3, -1, "3456789"}, {3, 2, "34"}, {-4, -1, "6789"}, {-4, 2, "67"}, {-40, 3, "012"}, {10, 1, ""}, {11, -1, ""}}
	for _, tt := range tests {
		if got := get(t, s, "all", tt.off, tt.length); got != tt.want {
			t.Errorf("off %d, length %d: %q, want %q", tt.off, tt.length, got, tt.want)
		}
	}
	if _, err := s.Get(t.Context(), "wrong", -5, -1); err == nil {
		t.Error("bytes other than those asked for were delivered")
	}
}
