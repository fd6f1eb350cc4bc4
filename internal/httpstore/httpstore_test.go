package httpstore

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

func TestBody(t *testing.T) {
	data := []byte("0123456789")
	for size := range len(data) + 1 {
		b := NewBody(bytes.NewReader(data), int64(size))
		if err := iotest.TestReader(b, data[:size]); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if _, err := b.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if end, err := b.Seek(0, io.SeekEnd); err != nil || end != int64(size) {
			t.Errorf("end: %d, %v", end, err)
		}
		if _, err := b.Seek(-1, io.SeekStart); err == nil {
			t.Error("seek before the start succeeded")
		}
		if err := b.Finish(); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != errFinished {
			t.Errorf("read after the end: %d, %v", n, err)
		}
	}
	b := NewBody(bytes.NewReader(data), 11)
	if _, err := io.ReadAll(b); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("too short: %v", err)
	}
	if err := b.Finish(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("finish: %v", err)
	}
}

// TestBodyFinish: Finish waits for the read under way.
func TestBodyFinish(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	b := NewBody(readerAt(func(p []byte, _ int64) (int, error) {
		close(began)
		<-goOn
		return len(p), nil
	}), 1)
	read := make(chan error, 1)
	go func() {
		_, err := b.Read(make([]byte, 1))
		read <- err
	}()
	<-began
	finished := make(chan struct{})
	go func() {
		b.Finish()
		close(finished)
	}()
	select {
	case <-finished:
		t.Error("finished while the content is read")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	<-finished
	if err := <-read; err != nil {
		t.Error(err)
	}
}

type readerAt func(p []byte, off int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestSum(t *testing.T) {
	for _, size := range []int{0, 1, sumBytes - 1, sumBytes, sumBytes + 1, 3*sumBytes + 5} {
		data := bytes.Repeat([]byte("abc"), size/3+1)[:size]
		h := crc32.NewIEEE()
		if err := Sum(t.Context(), h, bytes.NewReader(data), int64(size)); err != nil || h.Sum32() != crc32.ChecksumIEEE(data) {
			t.Errorf("%d bytes: %x, %v", size, h.Sum32(), err)
		}
		err := Sum(t.Context(), h, bytes.NewReader(data), int64(size)+1)
		if _, ok := errors.AsType[*storage.PermanentError](err); !ok {
			t.Errorf("%d bytes, one more wanted: %v", size, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Sum(ctx, crc32.NewIEEE(), bytes.NewReader(make([]byte, 5)), 5); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPrefix(t *testing.T) {
	for _, p := range []Prefix{"", "a", "a/b", "ö %/-", Prefix(strings.Repeat("p", maxPrefix))} {
		if err := p.Check(); err != nil {
			t.Errorf("%q: %v", p, err)
		}
		if name, ok := p.Name(p.Key("packs/one")); !ok || name != "packs/one" {
			t.Errorf("%q: %q, %t", p, name, ok)
		}
		for _, foreign := range []string{"", "A", ".x", "packs/", "/packs"} {
			if name, ok := p.Name(p.Key(foreign)); ok {
				t.Errorf("%q: %q is an object", p, name)
			}
		}
		if !strings.HasPrefix(p.Key("packs/one"), p.Dir("packs")) || !strings.HasPrefix(p.Dir("packs"), p.Dir("")) || strings.HasPrefix(p.Key("packs2"), p.Dir("packs")) {
			t.Errorf("%q: directories %q and %q", p, p.Dir(""), p.Dir("packs"))
		}
	}
	if _, ok := Prefix("a").Name("ab/x"); ok {
		t.Error("a key outside the prefix is an object")
	}
	for _, p := range []Prefix{"/", "/a", "a/", "a//b", ".", "..", "a/..", "a./b", "a\nb", "a\\b", "\xff", Prefix(strings.Repeat("p", maxPrefix+1))} {
		if p.Check() == nil {
			t.Errorf("%.20q is accepted", p)
		}
	}
	long := Prefix(strings.Repeat("p/", maxPrefix/2-1) + "p")
	name := strings.Repeat("n/", (storage.MaxName-len(long)-1)/2-1) + "nn"
	if err := long.CheckName(name); err != nil {
		t.Errorf("key of %d bytes: %v", len(long.Key(name)), err)
	}
	if err := long.CheckName(name + "n"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("key of %d bytes: %v", len(long.Key(name))+1, err)
	}
	if err := Prefix("").CheckName("A"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("name A: %v", err)
	}
}

func TestSkipTo(t *testing.T) {
	tests := []struct {
		contentRange string
		size, off    int64
		want         string // of 0123456789
		ok           bool
	}{
		{"", 10, 0, "0123456789", true},
		{"", 10, 4, "456789", true},
		{"", -1, 4, "456789", true},
		{"", 10, 20, "", true},
		{"", 10, -3, "789", true},
		{"", 10, -30, "0123456789", true},
		{"", -1, -3, "", false},
		{"bytes 4-9/10", 6, 4, "0123456789", true},
		{"Bytes 7-9/10", 3, -3, "0123456789", true},
		{"bytes 0-9/10", 10, -30, "0123456789", true},
		{"bytes 3-9/10", 7, 4, "", false},
		{"bytes 4-9/10", 6, -3, "", false},
		{"bytes 4-9/*", 6, 4, "", false},
		{"nonsense", 6, 4, "", false},
	}
	for _, tt := range tests {
		body := strings.NewReader("0123456789")
		err := SkipTo(body, tt.contentRange, tt.size, tt.off)
		rest, _ := io.ReadAll(body)
		if (err == nil) != tt.ok || err == nil && string(rest) != tt.want {
			t.Errorf("%q of %d, to %d: %q, %v", tt.contentRange, tt.size, tt.off, rest, err)
		}
	}
}

func FuzzAnswered(f *testing.F) {
	f.Add("bytes 4-9/10", int64(6), int64(4))
	f.Add("", int64(6), int64(-4))
	f.Add("bytes 4-9/10", int64(6), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, contentRange string, size, off int64) {
		skip, err := answered(contentRange, size, off)
		if err == nil && (skip < 0 || contentRange != "" && skip != 0) {
			t.Errorf("skip %d", skip)
		}
	})
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a.": "a", " a \n\t b\x1b[1m.\u2028. ": "a b [1m", "x\u0085y": "x y", strings.Repeat("é", 200): strings.Repeat("é", 100) + "…",
		"a" + strings.Repeat("é", 200): "a" + strings.Repeat("é", 99) + "…",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestAsks: a large body is not sent to a server that does not want it; a small one
// is sent at once.
func TestAsks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusPreconditionFailed)
	}))
	defer server.Close()
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 2 * continueBytes
	var read atomic.Int64
	body := NewBody(readerAt(func(p []byte, _ int64) (int, error) { read.Add(int64(len(p))); return len(p), nil }), size)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := body.Finish(); err != nil || resp.StatusCode != http.StatusPreconditionFailed {
		t.Errorf("%s, %v", resp.Status, err)
	}
	if n := read.Load(); n != 0 {
		t.Errorf("%d bytes were sent", n)
	}
}

// TestClose ends what is under way.
func TestClose(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, done := c.Begin(t.Context())
	defer done()
	c.Close()
	<-ctx.Done()
	if err := c.Usable(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("usable: %v", err)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, fs.ErrClosed) {
		t.Errorf("cause: %v", cause)
	}
}

// TestListFirst: who asks for what was listed first gets that, once, unless something was
// written or time has passed.
func TestListFirst(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	var asked []string
	failing := errors.New("no")
	var fail bool
	list := func(_ context.Context, dir string, fn func(storage.Info) error) error {
		asked = append(asked, dir)
		if fail {
			return failing
		}
		for _, name := range []string{"a", "b", "c"} {
			if err := fn(storage.Info{Name: dir + "/" + name}); err != nil {
				return err
			}
		}
		return nil
	}
	open := func() *Client {
		c, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		asked, fail = nil, false
		if err := c.ListFirst(t.Context(), "keys", list); err != nil {
			t.Fatal(err)
		}
		return c
	}
	described := errors.New("described")
	names := func(c *Client, dir string) (names []string, err error) {
		err = c.List(t.Context(), dir, list, func(error) error { return described }, func(info storage.Info) error {
			names = append(names, info.Name)
			return nil
		})
		return names, err
	}
	all := []string{"keys/a", "keys/b", "keys/c"}
	requests := func(what string, c *Client, want ...string) {
		t.Helper()
		got, err := names(c, "keys")
		if err != nil || !slices.Equal(got, all) || !slices.Equal(asked, want) {
			t.Errorf("%s: %v, %v, after requests for %v", what, got, err, asked)
		}
	}

	c := open()
	if got, err := names(c, "packs"); err != nil || len(got) != 3 || got[0] != "packs/a" {
		t.Errorf("another directory: %v, %v", got, err)
	}
	requests("first", c, "keys", "packs")
	requests("second", c, "keys", "packs", "keys")

	n := 0
	err := c.ListFirst(t.Context(), "", func(_ context.Context, _ string, fn func(storage.Info) error) error {
		for range 3 {
			n++
			if err := fn(storage.Info{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("any object: %d were looked at, %v", n, err)
	}

	c = open()
	c.first.until = time.Now()
	requests("late", c, "keys", "keys")

	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete} {
		c = open()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if method == http.MethodGet || method == http.MethodHead {
			requests("after "+method, c, "keys")
		} else {
			requests("after "+method, c, "keys", "keys")
		}
	}

	c = open()
	fail = true
	if _, err := names(c, "packs"); !errors.Is(err, described) {
		t.Errorf("failure: %v", err)
	}
	for range 2 { // what was kept, and what was not
		fail = false
		n := 0
		stop := errors.New("stop")
		err := c.List(t.Context(), "keys", list, func(error) error { return described }, func(storage.Info) error {
			n++
			return stop
		})
		if !errors.Is(err, stop) || n != 1 {
			t.Errorf("stopped: %v after %d", err, n)
		}
	}
	c.Close()
	if _, err := names(c, "keys"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed: %v", err)
	}

	asked, fail = nil, true
	if c, err := New(Options{}); err != nil || !errors.Is(c.ListFirst(t.Context(), "keys", list), failing) {
		t.Errorf("the failure of the first is not told")
	} else if fail = false; true {
		requests("after a failure", c, "keys", "keys")
		c.Close()
	}
}
