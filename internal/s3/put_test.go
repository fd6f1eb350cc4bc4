package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// large is an object that is sent in parts when the threshold is the smallest.
const large = 33 << 20

// TestRace: of eight writers of one name one wins, and what is there is the
// winner's.
func TestRace(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	for _, size := range []int{10_000, 6 << 20} {
		for round := range 5 {
			name := fmt.Sprintf("race/%d-%d", size, round)
			errs := make([]error, 8)
			var wg sync.WaitGroup
			for i := range errs {
				o := server.Options()
				o.MultipartThreshold = s3.MinMultipartThreshold
				s := open(t, s3.Location{Bucket: "bucket"}, o) // a process each
				content := bytes.Repeat([]byte{byte(i)}, size)
				wg.Go(func() { errs[i] = s.Put(context.Background(), name, bytes.NewReader(content), int64(size)) })
			}
			wg.Wait()
			winner := -1
			for i, err := range errs {
				switch {
				case err == nil && winner >= 0:
					t.Errorf("%s: writers %d and %d have both won", name, winner, i)
				case err == nil:
					winner = i
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("%s: %v", name, err)
				}
			}
			s := open(t, s3.Location{Bucket: "bucket"}, server.Options())
			if got := get(t, s, name, 0, -1); winner < 0 || got != strings.Repeat(string([]byte{byte(winner)}), size) {
				t.Errorf("%s: %d bytes that are not those of the winner, %d", name, len(got), winner)
			}
		}
	}
	wantUploads(t, server)
}

// uploads returns the keys of the uploads in parts that are under way.
func uploads(t *testing.T, server *s3test.Server) (got []string) {
	t.Helper()
	for u := range server.Client(t).ListIncompleteUploads(t.Context(), "bucket", "", true) {
		if u.Err != nil {
			t.Error(u.Err)
		}
		got = append(got, u.Key)
	}
	slices.Sort(got)
	return got
}

func wantUploads(t *testing.T, server *s3test.Server, want ...string) {
	t.Helper()
	if got := uploads(t, server); !slices.Equal(got, want) {
		t.Errorf("uploads under way: %q, want %q", got, want)
	}
}

// TestDamagedOnTheWay: a server that gets other bytes than were sent stores nothing,
// whichever checksum it knows.
func TestDamagedOnTheWay(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	for _, old := range []bool{false, true} {
		for _, size := range []int{1, 100_000, large} {
			o := server.Options()
			o.MultipartThreshold = s3.MinMultipartThreshold
			damage := true
			var mu sync.Mutex
			o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
				if old && r.Header.Get("X-Amz-Checksum-Sha256") != "" {
					io.Copy(io.Discard, r.Body)
					xmlError(w, http.StatusBadRequest, "InvalidArgument", "Unsupported header 'x-amz-checksum-sha256' received for this API call.", "")
					return true
				}
				mu.Lock()
				defer mu.Unlock()
				if r.Method == http.MethodPut && !strings.HasSuffix(r.URL.Path, "/.write-once") && damage {
					r.Body = &damaged{r.Body, r.ContentLength - 1}
				}
				return false
			})
			s := open(t, s3.Location{Bucket: "bucket", Prefix: fmt.Sprintf("%t-%d", old, size)}, o)
			content := make([]byte, size)
			err := s.Put(t.Context(), "packs/one", bytes.NewReader(content), int64(size))
			wantFailure(t, fmt.Sprintf("%d bytes, old: %t", size, old), err, false, "not what was sent")
			if got := list(t, s, ""); len(got) != 0 {
				t.Errorf("%d bytes, old: %t: %q is stored", size, old, got)
			}
			mu.Lock()
			damage = false
			mu.Unlock()
			if err := s.Put(t.Context(), "packs/one", bytes.NewReader(content), int64(size)); err != nil {
				t.Errorf("%d bytes, old: %t, undamaged: %v", size, old, err)
			}
		}
	}
	wantUploads(t, server)
}

// damaged flips a bit of the byte at.
type damaged struct {
	io.ReadCloser
	at int64
}

func (d *damaged) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if 0 <= d.at && d.at < int64(n) {
		p[d.at] ^= 1
	}
	d.at -= int64(n)
	return n, err
}

// TestDialects: servers that do not know conditional writes or the younger
// checksums, and one that ignores the condition in silence.
func TestDialects(t *testing.T) {
	const condition, sum = "If-None-Match", "X-Amz-Checksum-Sha256"
	tests := []struct {
		name    string
		refused []string
		status  int
		ignores bool
		first   int // requests of the first put ever
		later   int // of another one
	}{
		{"knows all", nil, 0, false, 3, 1},
		{"no checksum", []string{sum}, 400, false, 4, 1},
		{"no checksum, 501", []string{sum}, 501, false, 4, 1},
		{"no condition", []string{condition}, 501, false, 3 + 2, 2},
		{"neither", []string{condition, sum}, 400, false, 4 + 2, 2},
		{"ignores the condition", nil, 0, true, 2 + 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := s3test.Start(t, s3test.Options{})
			server.MakeBucket(t, "bucket")
			o := server.Options()
			o.MultipartThreshold = s3.MinMultipartThreshold
			o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
				for _, h := range tt.refused {
					if r.Header.Get(h) != "" {
						io.Copy(io.Discard, r.Body)
						xmlError(w, tt.status, map[int]string{400: "InvalidArgument", 501: "NotImplemented"}[tt.status],
							"A header you provided implies functionality that is not implemented.", "")
						return true
					}
				}
				if r.Method == http.MethodPut && tt.ignores {
					os.Remove(filepath.Join(server.Dir, r.URL.Path)) // what is there is replaced
				}
				return false
			})
			var mu sync.Mutex
			requests := 0
			o.OnRequest = func(method, what string) {
				mu.Lock()
				defer mu.Unlock()
				if what != "list uploads" {
					requests++
				}
			}
			s := open(t, s3.Location{Bucket: "bucket", Prefix: "p"}, o)
			count := func(what string, want int) {
				t.Helper()
				mu.Lock()
				defer mu.Unlock()
				if requests != want {
					t.Errorf("%s takes %d requests, want %d", what, requests, want)
				}
				requests = 0
			}
			count("open", 1)
			put(t, s, "packs/one", "first")
			count("the first put ever", tt.first)
			put(t, s, "packs/two", "first")
			count("a put", tt.later)
			err := s.Put(t.Context(), "packs/one", strings.NewReader("second"), 6)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("put over an object: %v", err)
			}
			if err := s.Put(t.Context(), "packs/large", bytes.NewReader(make([]byte, large)), large); err != nil {
				t.Error(err)
			}
			err = s.Put(t.Context(), "packs/large", bytes.NewReader(make([]byte, large)), large)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("put over a large object: %v", err)
			}
			if got := get(t, s, "packs/one", 0, -1); got != "first" {
				t.Errorf("the object is %q", got)
			}
			if got := list(t, s, ""); !slices.Equal(got, []string{"packs/large", "packs/one", "packs/two"}) {
				t.Errorf("listed: %q", got)
			}
		})
	}
}

// TestNothingLearned: a failure while learning the dialect is reported, and the next
// Put learns anew.
func TestNothingLearned(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var mu sync.Mutex
	busy := true
	o := server.Options()
	o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut && busy {
			xmlError(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.", "")
			return true
		}
		return false
	})
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	err := s.Put(t.Context(), "packs/one", strings.NewReader("x"), 1)
	wantFailure(t, "put", err, false, "busy or failing: SlowDown")
	mu.Lock()
	busy = false
	mu.Unlock()
	put(t, s, "packs/one", "x")
	if err := s.Put(t.Context(), "packs/one", strings.NewReader("y"), 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put over an object: %v", err)
	}
}

// TestHeaders: class, encryption and lock of each kind of object reach the server,
// in one request and in parts, and nothing of them the marker.
func TestHeaders(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	var mu sync.Mutex
	got := map[string]http.Header{}
	o := server.Options()
	o.MultipartThreshold = s3.MinMultipartThreshold
	o.StorageClasses = map[string]string{"packs": "GLACIER_IR", "": "STANDARD_IA"}
	o.Encryption, o.KMSKey = s3.EncryptionKMS, "key-1"
	now := time.Date(2026, 2, 28, 3, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Has("object-lock") {
			io.WriteString(w, "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>")
			return true
		}
		if r.Method == http.MethodPut || r.Method == http.MethodPost {
			mu.Lock()
			defer mu.Unlock()
			key := r.URL.Path
			if q := r.URL.Query(); len(q) > 0 {
				key += "?" + slices.Sorted(maps.Keys(q))[0]
			}
			got[key] = r.Header.Clone()
			io.Copy(io.Discard, r.Body)
			switch {
			case strings.HasSuffix(key, "/.write-once"):
				w.WriteHeader(http.StatusPreconditionFailed)
			case strings.HasSuffix(key, "?uploads"):
				io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
			case r.Method == http.MethodPost:
				io.WriteString(w, "<CompleteMultipartUploadResult><Bucket>bucket</Bucket></CompleteMultipartUploadResult>")
			}
			return true
		}
		return false
	})
	o.Lock = s3.Lock{Mode: s3.LockCompliance, Days: 30, Except: []string{"condemned"}}
	s := open(t, s3.Location{Bucket: "bucket"}, o)
	put(t, s, "packs/3f/one", "x")
	put(t, s, "config", "x")
	put(t, s, "condemned/x", "x")
	if err := s.Put(t.Context(), "packs/large", bytes.NewReader(make([]byte, large)), large); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ key, class, encryption, until, condition, checksum string }{
		{"/bucket/.write-once", "", "aws:kms", "", "*", "x"},
		{"/bucket/packs/3f/one", "GLACIER_IR", "aws:kms", "2026-03-30T03:00:00Z", "*", "x"},
		{"/bucket/config", "STANDARD_IA", "aws:kms", "2026-03-30T03:00:00Z", "*", "x"},
		{"/bucket/condemned/x", "STANDARD_IA", "aws:kms", "", "*", "x"},
		{"/bucket/packs/large?uploads", "GLACIER_IR", "aws:kms", "2026-03-30T03:00:00Z", "", ""},
		{"/bucket/packs/large?partNumber", "", "", "", "", "x"},
		{"/bucket/packs/large?uploadId", "", "", "", "*", ""},
	}
	for _, tt := range tests {
		h, ok := got[tt.key]
		if !ok {
			t.Errorf("no request for %s: %q", tt.key, slices.Collect(maps.Keys(got)))
			continue
		}
		mode := ""
		if tt.until != "" {
			mode = "COMPLIANCE"
		}
		for header, want := range map[string]string{
			"X-Amz-Storage-Class": tt.class, "X-Amz-Server-Side-Encryption": tt.encryption,
			"X-Amz-Object-Lock-Mode": mode, "X-Amz-Object-Lock-Retain-Until-Date": tt.until, "If-None-Match": tt.condition,
		} {
			if h.Get(header) != want {
				t.Errorf("%s: %s is %q, want %q", tt.key, header, h.Get(header), want)
			}
		}
		if (h.Get("X-Amz-Checksum-Sha256") != "") != (tt.checksum != "") {
			t.Errorf("%s: checksum %q", tt.key, h.Get("X-Amz-Checksum-Sha256"))
		}
		if h.Get("X-Amz-Content-Sha256") == "UNSIGNED-PAYLOAD" && tt.key != "/bucket/packs/large?uploads" {
			t.Errorf("%s: the content is not signed", tt.key)
		}
	}
}

// TestLock: a locked object is not deleted, the error says until when, and the
// server protects it from others, too.
func TestLock(t *testing.T) {
	server := s3test.Start(t, s3test.Options{Versioning: true})
	server.MakeLockBucket(t, "bucket")
	o := server.Options()
	o.MultipartThreshold = s3.MinMultipartThreshold
	o.Lock = s3.Lock{Mode: s3.LockCompliance, Days: 1, Except: []string{"condemned"}}
	loc := s3.Location{Bucket: "bucket", Prefix: "p"}
	s := open(t, loc, o)
	put(t, s, "packs/one", "content")
	put(t, s, "condemned/one", "content")
	if err := s.Put(t.Context(), "packs/large", bytes.NewReader(make([]byte, large)), large); err != nil {
		t.Fatal(err)
	}
	// Unlocked options do not unlock.
	o.Lock = s3.Lock{}
	plain := open(t, loc, o)
	client := server.Client(t)
	for _, name := range []string{"packs/one", "packs/large"} {
		info, err := client.StatObject(t.Context(), "bucket", "p/"+name, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		until, err := time.Parse(time.RFC3339, info.Headers.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil || time.Until(until) < 23*time.Hour || time.Until(until) > 24*time.Hour || info.Headers.Get("X-Amz-Object-Lock-Mode") != "COMPLIANCE" {
			t.Errorf("%s is locked until %s, %v: %v", name, until, err, info.Headers)
		}
		for _, s := range []*s3.Store{s, plain} {
			err := s.Delete(t.Context(), name)
			wantFailure(t, "delete "+name, err, true, "locked until "+until.UTC().Format(time.DateTime)+" UTC", "object lock")
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v is not ErrPermission", err)
			}
		}
		if err := client.RemoveObject(t.Context(), "bucket", "p/"+name, minio.RemoveObjectOptions{VersionID: info.VersionID}); err == nil {
			t.Errorf("the server let the version of %s be deleted", name)
		}
		if get(t, s, name, 0, 1) == "" {
			t.Errorf("%s is gone", name)
		}
	}
	if err := s.Delete(t.Context(), "condemned/one"); err != nil {
		t.Error(err)
	}
	// When the lock has ended, the object can go.
	o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	later := open(t, loc, o)
	if err := later.Delete(t.Context(), "packs/one"); err != nil {
		t.Errorf("after the lock: %v", err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"packs/large"}) {
		t.Errorf("listed: %q", got)
	}
	put(t, s, "packs/one", "again") // over the marker of the deletion
	if got := get(t, s, "packs/one", 0, -1); got != "again" {
		t.Errorf("%q, want again", got)
	}

	put(t, plain, "packs/held", "x")
	hold := minio.LegalHoldEnabled
	if err := client.PutObjectLegalHold(t.Context(), "bucket", "p/packs/held", minio.PutObjectLegalHoldOptions{Status: &hold}); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, "delete", plain.Delete(t.Context(), "packs/held"), true, "under legal hold")
}

// TestLockRefused: servers whose refusal is the first that is heard of a lock.
func TestLockRefused(t *testing.T) {
	for code, message := range map[string]string{
		"AccessDenied": "Access Denied because object protected by object lock.",
		"ObjectLocked": "",
		"MethodNotX":   "Object is WORM protected and cannot be overwritten",
	} {
		s := open(t, s3.Location{Bucket: "bucket"}, canned(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				return
			}
			xmlError(w, 403, code, message, "")
		}))
		err := s.Delete(t.Context(), "packs/one")
		wantFailure(t, "delete", err, true, "locked and cannot be deleted")
		if errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("%v: a locked object makes no store read-only", err)
		}
	}
}

// TestAbandonedUploads: what a crash left of uploads in parts is removed a day later,
// if it is ours.
func TestAbandonedUploads(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	core := minio.Core{Client: server.Client(t)}
	for _, key := range []string{"p/packs/one", "p/packs/two", "p/Not Ours", "p2/packs/one", "packs/one"} {
		id, err := core.NewMultipartUpload(t.Context(), "bucket", key, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutObjectPart(t.Context(), "bucket", key, id, 1, strings.NewReader("part"), 4, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, age := range []time.Duration{23 * time.Hour, 25 * time.Hour} {
		o := server.Options()
		o.Now = func() time.Time { return time.Now().Add(age) }
		looked := make(chan struct{}, 10)
		o.OnRequest = func(method, what string) {
			if what == "list uploads" || what == "abort upload" {
				looked <- struct{}{}
			}
		}
		s := open(t, s3.Location{Bucket: "bucket", Prefix: "p"}, o)
		wantUploads(t, server, "p/Not Ours", "p/packs/one", "p/packs/two", "p2/packs/one", "packs/one")
		put(t, s, "x/"+age.String(), "x")
		<-looked
		if age > 24*time.Hour {
			<-looked
			<-looked
		}
		for range 100 { // the last request is on its way
			time.Sleep(100 * time.Millisecond)
			if age < 24*time.Hour || len(uploads(t, server)) == 3 {
				break
			}
		}
		s.Close()
	}
	wantUploads(t, server, "p/Not Ours", "p2/packs/one", "packs/one")
}

// TestFailedParts: an upload in parts that fails, or is cancelled, leaves nothing.
func TestFailedParts(t *testing.T) {
	server := s3test.Start(t, s3test.Options{})
	server.MakeBucket(t, "bucket")
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := server.Options()
		o.MultipartThreshold, o.MaxConcurrency = s3.MinMultipartThreshold, 2
		o.Endpoint = server.Proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("partNumber") != "2" {
				return false
			}
			io.Copy(io.Discard, r.Body)
			if cancelled {
				cancel()
				<-r.Context().Done()
			}
			xmlError(w, http.StatusInternalServerError, "InternalError", "We encountered an internal error.", "")
			return true
		})
		s := open(t, s3.Location{Bucket: "bucket"}, o)
		err := s.Put(ctx, "packs/large", bytes.NewReader(make([]byte, large)), large)
		if cancelled {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		} else {
			wantFailure(t, "put", err, false, "InternalError")
		}
		wantUploads(t, server)
		if got := list(t, s, ""); len(got) != 0 {
			t.Errorf("listed: %q", got)
		}
	}
}
