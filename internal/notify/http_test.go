package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// A call is one that a server has got.
type call struct {
	method, path string
	header       http.Header
	body         []byte
}

// A server records its calls and answers as it is told; nil answers 200.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	calls []call
}

func serve(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.calls = append(s.calls, call{r.Method, r.URL.RequestURI(), r.Header, body})
		n := len(s.calls)
		s.mu.Unlock()
		if answer != nil {
			answer(w, r, n)
		}
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *server) got() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func hook(url string) *Webhook { return &Webhook{URL: url, AllowPrivate: true} }

func TestAnswersOfServers(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, n int)
		calls  int
		waits  []time.Duration // only if the server asks for them
		err    string          // "": it was sent
	}{
		{"200", nil, 1, nil, ""},
		{"204", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(204) }, 1, nil, ""},
		{"500 twice", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n < 3 {
				w.WriteHeader(500)
			}
		}, 3, nil, ""},
		{"500 for ever", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(500) }, 4, nil, "HTTP 500 Internal Server Error"},
		{"429 in seconds", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(429)
			}
		}, 2, []time.Duration{7 * time.Second}, ""},
		{"429 as a date", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				w.Header().Set("Retry-After", at.Add(9*time.Second).UTC().Format(http.TimeFormat))
				w.WriteHeader(429)
			}
		}, 2, []time.Duration{9 * time.Second}, ""},
		{"429 of Discord", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				w.WriteHeader(429)
				io.WriteString(w, `{"message": "You are being rate limited.", "retry_after": 1.5, "global": false}`)
			}
		}, 2, []time.Duration{1500 * time.Millisecond}, ""},
		{"429 of Matrix", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				w.WriteHeader(429)
				io.WriteString(w, `{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000}`)
			}
		}, 2, []time.Duration{2 * time.Second}, ""},
		{"429 longer than there is time", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Retry-After", "1e300")
			w.WriteHeader(429)
		}, 1, nil, "HTTP 429 Too Many Requests"},
		{"400 with an answer", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(400)
			io.WriteString(w, "no such \x1b[31mchannel\n"+strings.Repeat("x", 1000))
		}, 1, nil, "HTTP 400 Bad Request: no such \uFFFD[31mchannel xxx"},
		{"401", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(401) }, 1, nil, "HTTP 401"},
		{"an answer without end", func(w http.ResponseWriter, r *http.Request, _ int) {
			w.WriteHeader(200)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, 1, nil, ""},
		{"a refusal without end", func(w http.ResponseWriter, r *http.Request, _ int) {
			w.WriteHeader(403)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, 1, nil, "HTTP 403"},
		{"reset once", func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				c, _, _ := w.(http.Hijacker).Hijack()
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}, 2, nil, ""},
		{"redirect 302", redirect(302, "/new"), 1, nil, "the message would be lost"},
		{"redirect 307", func(w http.ResponseWriter, r *http.Request, n int) {
			if n <= 3 {
				http.Redirect(w, r, "/new", http.StatusTemporaryRedirect)
			}
		}, 4, nil, ""},
		{"redirect without end", redirect(308, "/new"), 4, nil, "more than 3 times"},
		{"redirect to file", redirect(307, "file:///etc/passwd"), 1, nil, "not https"},
		{"redirect to gopher", redirect(307, "gopher://127.0.0.1:70/x"), 1, nil, "not https"},
		{"redirect to another host", redirect(307, "https://other.example/x"), 1, nil, "to another host"},
		{"redirect to another port", redirect(307, "http://127.0.0.1:1/x"), 1, nil, "to another host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.answer)
			var p pause
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute) // shorter than what a server may ask for
			defer cancel()
			err := hook(s.URL+"/T0KEN12345").send(ctx, testEnv(&p), testMessage(t))
			switch {
			case c.err == "" && err != nil:
				t.Errorf("error %v", err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("error %v, want %s", err, c.err)
			case err != nil && len([]rune(err.Error())) > 400:
				t.Errorf("an error of %d characters", len([]rune(err.Error())))
			}
			if n := len(s.got()); n != c.calls {
				t.Errorf("%d calls, want %d", n, c.calls)
			}
			for _, got := range s.got() {
				if got.header.Get("Referer") != "" {
					t.Error("the address leaks into Referer")
				}
			}
			for i, w := range c.waits {
				if p.waited[i] != w {
					t.Errorf("waited %v, want %v", p.waited, c.waits)
				}
			}
		})
	}
}

func redirect(code int, to string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
	}
}

// A server that says nothing is left when the time is over.
func TestServerThatHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, func(_ http.ResponseWriter, r *http.Request, _ int) {
		cancel()
		<-r.Context().Done()
	})
	if err := hook(s.URL).send(ctx, testEnv(&pause{}), testMessage(t)); err == nil {
		t.Error("it was sent")
	}
}

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "93.184.216.34": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "127.8.8.8": false, "10.1.2.3": false, "172.31.0.1": false, "192.168.1.5": false, "169.254.169.254": false,
		"100.100.100.200": false, "0.0.0.0": false, "0.1.2.3": false, "255.255.255.255": false, "224.0.0.1": false, "192.0.0.170": false, "198.18.0.1": false,
		"::1": false, "::": false, "fe80::1": false, "fe80::1%eth0": false, "fd00::1": false, "ff02::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false,
		"64:ff9b::7f00:1": false, "2002:7f00:1::": false, "::127.0.0.1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// What counts is the address that is connected to, whatever its name says.
func TestPrivateAddressesNeedPermission(t *testing.T) {
	s := serve(t, nil)
	byName := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	for _, address := range []string{s.URL, byName, strings.Replace(s.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		var p pause
		w := &Webhook{URL: address}
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
		err := w.send(t.Context(), testEnv(&p), testMessage(t))
		if err == nil || !strings.Contains(err.Error(), "allow_private = True") || p.times() > 0 {
			t.Errorf("%s: error %v after %d waits", address, err, p.times())
		}
	}
	if len(s.got()) > 0 {
		t.Fatal("the server was called")
	}
	if err := hook(byName).send(t.Context(), testEnv(&pause{}), testMessage(t)); err != nil || len(s.got()) != 1 {
		t.Errorf("with allow_private: %v", err)
	}
	// Not by a redirect either: the first server is allowed to be a private one only as itself.
	mail := serve(t, redirect(307, "http://127.0.0.1:1/x"))
	if err := (&Heartbeat{URL: mail.URL, Protocol: plain}).test(t.Context(), testEnv(&pause{}), ""); err == nil || len(mail.got()) > 0 {
		t.Errorf("a private heartbeat: %v", err)
	}
}

// A proxy may be anywhere; a private address behind it may not be written down.
func TestProxy(t *testing.T) {
	var seen []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = append(seen, r.URL.String()) }))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	e := testEnv(&pause{})
	e.proxy = func(*http.Request) (*url.URL, error) { return at, nil }
	if err := (&Webhook{URL: "http://hooks.example/x"}).send(t.Context(), e, testMessage(t)); err != nil || len(seen) != 1 || seen[0] != "http://hooks.example/x" {
		t.Errorf("error %v, the proxy saw %v", err, seen)
	}
	if err := (&Webhook{URL: "http://169.254.169.254/latest/meta-data"}).send(t.Context(), e, testMessage(t)); err == nil || !strings.Contains(err.Error(), "allow_private") || len(seen) != 1 {
		t.Errorf("error %v, the proxy saw %v", err, seen)
	}
}

func TestTLSOfServersIsVerified(t *testing.T) {
	for _, expired := range []bool{false, true} {
		certs := notifytest.Certificates(t, notifytest.CertificateOptions{Expired: expired})
		calls := 0
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
		s.TLS = certs.Config(t)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		defer s.Close()
		var p pause
		w := hook(s.URL)
		if err := w.send(t.Context(), testEnv(&p), testMessage(t)); err == nil || !strings.Contains(err.Error(), "no trusted TLS connection") || p.times() > 0 {
			t.Errorf("unknown authority: %v after %d waits", err, p.times())
		}
		w.CAFile = certs.CAFile
		err := w.send(t.Context(), testEnv(&p), testMessage(t))
		if expired && (err == nil || !strings.Contains(err.Error(), "expired")) || !expired && err != nil {
			t.Errorf("expired %v: %v", expired, err)
		}
		if want := map[bool]int{false: 1}[expired]; calls != want {
			t.Errorf("expired %v: %d calls, want %d", expired, calls, want)
		}
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	for _, address := range []string{"", "hunter2", "ftp://hunter2.example", "file:///hunter2", "http://", "https://%zzhunter2", "javascript:hunter2"} {
		if err := (&Webhook{URL: address}).check(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, kind := range []string{"slack", "discord", "teams"} {
		s := &Service{Kind: kind, URL: "http://hooks.example/x"}
		if err := s.check(); err == nil || !strings.Contains(err.Error(), "https://") {
			t.Errorf("%s over http: %v", kind, err)
		}
		s.AllowPrivate = true
		if err := s.check(); err != nil {
			t.Errorf("%s of one's own: %v", kind, err)
		}
	}
	if err := (&Webhook{URL: "https://x.example", Auth: "Bearer a\r\nX: y"}).check(); err == nil {
		t.Error("a header of two lines")
	}
}

// No error of any channel holds a secret, whatever the server answers.
func TestSecretsAreMasked(t *testing.T) {
	const token, path, auth, password = "12345:hunter2-AAAA", "hunter2path", "hunter2auth", "hunter2 pass/word"
	echo := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		w.WriteHeader(400)
		fmt.Fprintf(w, "%s %s %v", r.URL.RequestURI(), url.QueryEscape(r.URL.String()), r.Header)
	})
	gone := "http://127.0.0.1:1/" // nobody listens there
	var channels []Channel
	for i, base := range []string{echo.URL + "/", gone, "http://hunter2host.invalid/"} {
		senders := []Sender{
			&Webhook{URL: base + path + "?key=" + path, Auth: "Bearer " + auth, HMACSecret: password, AllowPrivate: true},
			&Service{Kind: "gotify", URL: base + path, Token: auth, AllowPrivate: true},
			&Service{Kind: "matrix", URL: base, Token: auth, To: "!hunter2room:x", AllowPrivate: true},
			&Service{Kind: "slack", URL: strings.Replace(base, "://", "://ann:"+auth+"@", 1) + path, AllowPrivate: true},
			&Telegram{Token: token, Chats: []string{"1"}, Server: base, AllowPrivate: true},
			&Mail{Host: "127.0.0.1", Port: 1, User: "a@example.org", Password: password, To: []string{"a@example.org"}, TLS: TLSStart, Timeout: time.Minute},
		}
		for j, s := range senders {
			channels = append(channels, Channel{Name: fmt.Sprintf("c%d.%d", i, j), Sender: s, On: []Level{Failure}})
		}
	}
	n := newNotifier(t, Options{Channels: channels, Heartbeat: &Heartbeat{URL: echo.URL + "/ping/" + path, Protocol: healthchecks, AllowPrivate: true}})
	told, err := n.Test(t.Context(), "")
	if err != nil || len(told) != len(channels)+1 {
		t.Fatalf("%d answers, %v", len(told), err)
	}
	for _, x := range told {
		if x.Error == "" {
			t.Errorf("%s: no error", x.Channel)
		}
		if strings.Contains(strings.ReplaceAll(x.Error, "hunter2host", ""), "hunter2") || strings.HasPrefix(x.Error, "Post ") {
			t.Errorf("%s: %s", x.Channel, x.Error)
		}
	}
	list, err := json.Marshal(n.List())
	if err != nil || strings.Contains(strings.ReplaceAll(string(list), "hunter2host", ""), "hunter2") {
		t.Errorf("the list shows a secret: %s %v", list, err)
	}
}
