package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func open(t testing.TB, loc s3.Location, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), loc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestConformance: a store on a real server is a Backend as any other, in one
// request and in parts, with TLS, with versions, at the root of a bucket too.
func TestConformance(t *testing.T) {
	tests := []struct {
		name   string
		server s3test.Options
		prefix bool
		change func(*s3.Options)
	}{
		{"prefix", s3test.Options{}, true, func(o *s3.Options) {}},
		{"parts", s3test.Options{}, true, func(o *s3.Options) { o.MultipartThreshold, o.MaxConcurrency = s3.MinMultipartThreshold, 3 }},
		{"root, TLS", s3test.Options{TLS: true}, false, func(o *s3.Options) { o.PathStyle = s3.PathStyleOn }},
		{"versions", s3test.Options{Versioning: true, Region: "eu-west-1"}, true, func(o *s3.Options) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t, tt.server)
			var count atomic.Int64
			storagetest.Test(t, func(t *testing.T) storage.Backend {
				n := count.Add(1)
				loc := s3.Location{Bucket: fmt.Sprintf("bucket-%d", n)}
				if tt.server.Versioning {
					server.MakeLockBucket(t, loc.Bucket)
				} else {
					server.MakeBucket(t, loc.Bucket)
				}
				if tt.prefix {
					loc.Prefix = fmt.Sprintf("backup of/Höst %%41/%d", n)
				}
				o := server.Options()
				tt.change(&o)
				return storage.NewRemote(open(t, loc, o), storage.RemoteOptions{Patience: 20 * time.Second})
			})
		})
	}
}

func put(t testing.TB, s *s3.Store, name, content string) {
	t.Helper()
	if err := s.Put(context.Background(), name, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func get(t testing.TB, s *s3.Store, name string, off, length int64) string {
	t.Helper()
	rc, err := s.Get(context.Background(), name, off, length)
	if err != nil {
		t.Errorf("get %s: %v", name, err)
		return ""
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Errorf("get %s: %v", name, err)
	}
	return string(data)
}

func list(t testing.TB, s *s3.Store, dir string) (names []string) {
	t.Helper()
	err := s.List(context.Background(), dir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(names)
	return names
}

// TestParseURL: locations, and what is none.
func TestParseURL(t *testing.T) {
	tests := []struct{ url, bucket, prefix, words string }{
		{"s3://bucket", "bucket", "", ""},
		{"s3://bucket/", "bucket", "", ""},
		{"S3://bucket/prefix", "bucket", "prefix", ""},
		{"s3://my.bucket-1/a/b c/Ü%20/", "my.bucket-1", "a/b c/Ü%20", ""},
		{"bucket/prefix", "", "", "not an S3 URL"},
		{"https://bucket", "", "", "not an S3 URL"},
		{"s3:bucket", "", "", "not an S3 URL"},
		{"s3://", "", "", "not possible"},
		{"s3:///prefix", "", "", "not possible"},
		{"s3://ab", "", "", "not possible"},
		{"s3://" + strings.Repeat("b", 64), "", "", "not possible"},
		{"s3://b_cket/../x", "", "", "S3 prefix"},
		{"s3://key:secret@bucket/x", "", "", "holds a user"},
		{"s3://host:9000/bucket", "", "", "names a port"},
		{"s3://bucket?region=x", "", "", "query"},
		{"s3://bucket/a#b", "", "", "query or fragment"},
		{"s3://bucket//a", "", "", "empty element"},
		{"s3://bucket/a/./b", "", "", "empty element"},
		{"s3://bucket/a\nb", "", "", "characters"},
		{"s3://bucket/a\\b", "", "", "characters"},
		{"s3://bucket/" + strings.Repeat("p", 513), "", "", "513 bytes"},
	}
	for _, tt := range tests {
		l, err := s3.ParseURL(tt.url)
		if tt.words == "" {
			if err != nil || l.Bucket != tt.bucket || l.Prefix != tt.prefix {
				t.Errorf("%q: %+v, %v", tt.url, l, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.words) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %+v, %v, want %q", tt.url, l, err, tt.words)
		}
	}
}

// TestOptions: what cannot work is refused before a request is made.
func TestOptions(t *testing.T) {
	tests := []struct {
		words  string
		change func(*s3.Options)
	}{
		{"secret key, one is missing", func(o *s3.Options) { o.Credentials.AccessKey = "a" }},
		{"secret key, one is missing", func(o *s3.Options) { o.Credentials.SecretKey = "hidden" }},
		{"session token", func(o *s3.Options) { o.Credentials.SessionToken = "hidden" }},
		{"an access key and a profile", func(o *s3.Options) {
			o.Credentials = s3.Credentials{AccessKey: "a", SecretKey: "hidden", Profile: "p"}
		}},
		{"endpoint is more than a host", func(o *s3.Options) { o.Endpoint = "https://host/bucket" }},
		{"endpoint holds a user", func(o *s3.Options) { o.Endpoint = "https://key:hidden@host" }},
		{"not a URL", func(o *s3.Options) { o.Endpoint = "https://hidden:host" }},
		{"scheme", func(o *s3.Options) { o.Endpoint = "ftp://host" }},
		{"path style", func(o *s3.Options) { o.PathStyle = "yes" }},
		{"multipart threshold", func(o *s3.Options) { o.MultipartThreshold = s3.MinMultipartThreshold - 1 }},
		{"multipart threshold", func(o *s3.Options) { o.MultipartThreshold = s3.MaxMultipartThreshold + 1 }},
		{"concurrency", func(o *s3.Options) { o.MaxConcurrency = -1 }},
		{"encryption", func(o *s3.Options) { o.Encryption = "yes" }},
		{"KMS key", func(o *s3.Options) { o.Encryption, o.KMSKey = s3.EncryptionS3, "k" }},
		{"lock mode", func(o *s3.Options) { o.Lock = s3.Lock{Mode: "yes", Days: 1} }},
		{"days of object lock without a mode", func(o *s3.Options) { o.Lock.Days = 1 }},
		{"object lock of 0 days", func(o *s3.Options) { o.Lock.Mode = s3.LockGovernance }},
		{"object lock of 36501 days", func(o *s3.Options) { o.Lock = s3.Lock{Mode: s3.LockGovernance, Days: 36501} }},
		{"GLACIER for packs: objects in an archive", func(o *s3.Options) { o.StorageClasses = map[string]string{"packs": "GLACIER"} }},
		{"DEEP_ARCHIVE for objects: objects in an archive", func(o *s3.Options) { o.StorageClasses = map[string]string{"": "DEEP_ARCHIVE"} }},
		{"classes are written like", func(o *s3.Options) { o.StorageClasses = map[string]string{"packs": "standard_ia"} }},
		{"classes are written like", func(o *s3.Options) { o.StorageClasses = map[string]string{"packs": ""} }},
		{"trusted certificates", func(o *s3.Options) { o.CAFile = "/nowhere" }},
		{"no certificate", func(o *s3.Options) { o.CAFile = "s3_test.go" }},
	}
	for _, tt := range tests {
		o := s3.Options{OnRequest: func(method, what string) { t.Errorf("%s: a request", tt.words) }}
		tt.change(&o)
		_, err := s3.Open(t.Context(), s3.Location{Bucket: "bucket"}, o)
		if err == nil || !strings.Contains(err.Error(), tt.words) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%v, want %q", err, tt.words)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if got := fmt.Sprintf(verb, o.Credentials); strings.Contains(got, "hidden") {
				t.Errorf("%s prints a secret: %s", verb, got)
			}
		}
		if got := fmt.Sprintf("%+v", o.Credentials); got != "(credentials)" {
			t.Errorf("credentials are printed as %s", got)
		}
	}
	if _, err := s3.Open(t.Context(), s3.Location{Bucket: "bucket", Prefix: "/a"}, s3.Options{}); err == nil {
		t.Error("a location that is none was opened")
	}
}

// TestRequests: how many requests each operation takes.
func TestRequests(t *testing.T) {
	server := s3test.Start(t, s3test.Options{Versioning: true})
	server.MakeLockBucket(t, "bucket")
	var mu sync.Mutex
	var got []string
	o := server.Options()
	o.MultipartThreshold, o.MaxConcurrency = s3.MinMultipartThreshold, 2
	o.OnRequest = func(method, what string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, method+" "+what)
	}
	want := func(operation string, requests ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(got, requests) {
			t.Errorf("%s takes %q, want %q", operation, got, requests)
		}
		got = nil
	}
	background := func() { // wait for the search for abandoned uploads
		t.Helper()
		const sweep = "GET list uploads"
		for range 1000 {
			mu.Lock()
			if i := slices.Index(got, sweep); i >= 0 {
				got = slices.Delete(got, i, i+1)
				mu.Unlock()
				return
			}
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
		t.Error("abandoned uploads are not looked for")
	}
	loc := s3.Location{Bucket: "bucket", Prefix: "p"}
	s := open(t, loc, o)
	want("open", "GET list objects")
	put(t, s, "packs/1", "content")
	background()
	want("the first put ever", "PUT put object", "PUT put object", "PUT put object")
	put(t, s, "packs/2", "content")
	want("put", "PUT put object")
	if err := s.Put(t.Context(), "packs/2", strings.NewReader("x"), 1); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	want("put over an object", "PUT put object", "HEAD head object")
	get(t, s, "packs/1", 0, -1)
	get(t, s, "packs/1", 1, 3)
	get(t, s, "packs/1", -3, -1)
	get(t, s, "packs/1", 100, 1)
	want("four gets", "GET get object", "GET get object", "GET get object", "GET get object")
	get(t, s, "packs/1", 0, 0)
	want("get of nothing", "HEAD head object")
	list(t, s, "")
	want("list", "GET list objects")
	if err := s.Delete(t.Context(), "packs/1"); err != nil {
		t.Error(err)
	}
	want("delete", "HEAD head object", "DELETE delete object")
	if err := s.Delete(t.Context(), "packs/1"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	want("delete of nothing", "HEAD head object")
	put(t, s, "packs/large", strings.Repeat("x", 33<<20))
	want("put in three parts", "HEAD head object", "POST create upload", "PUT put part", "PUT put part", "PUT put part",
		"HEAD head object", "POST complete upload")
	for i := range 1001 {
		if err := os.WriteFile(filepath.Join(mkdir(t, server.Dir, "bucket", "p", "many"), fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(list(t, s, "many")); n != 1001 {
		t.Errorf("%d objects listed, want 1001", n)
	}
	want("list of 1,001 objects", "GET list objects", "GET list objects")

	o.Lock = s3.Lock{Mode: s3.LockGovernance, Days: 1}
	s = open(t, loc, o)
	want("open with a lock", "GET list objects", "GET get lock")
	put(t, s, "packs/3", "content")
	background()
	want("first put", "PUT put object", "PUT put object")
}

func mkdir(t *testing.T, elements ...string) string {
	t.Helper()
	dir := filepath.Join(elements...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
