package notify

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

// at is when everything happens in tests, in a zone that is not UTC.
var at = time.Date(2026, 11, 26, 3, 0, 4, 0, time.FixedZone("here", 3600))

// A pause records waits between tries instead of waiting.
type pause struct {
	mu     sync.Mutex
	waited []time.Duration
	before func() // called at each wait
}

func (p *pause) sleep(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waited = append(p.waited, d)
	if p.before != nil {
		p.before()
	}
	return ctx.Err()
}

func (p *pause) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waited)
}

func testEnv(p *pause) *env {
	n, err := New(Options{Now: func() time.Time { return at }, Sleep: p.sleep, Proxy: noProxy})
	if err != nil {
		panic(err)
	}
	return &n.env
}

// testMessage has everything that must be escaped or encoded.
func testMessage(t *testing.T) *message {
	t.Helper()
	n := newNotifier(t, Options{Host: "wéb1"})
	m := n.newMessage(string(Failure), "backup on wéb1 has failed: <b>no</b> \r\nBcc: evil@example.org @everyone")
	m.bad = true
	n.paragraph(m, "<script>alert(1)</script> & *bold* [x](http://evil) <!channel>", ".", "ünïcode \x1b[31mred\u202e")
	n.list(m, "Destinations", []string{"/srv/backup: no space left", "sftp://ann@host/x: ok"})
	return m
}

func newNotifier(t *testing.T, o Options) *Notifier {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return at }
	}
	if o.Sleep == nil {
		o.Sleep = (&pause{}).sleep
	}
	if o.Proxy == nil {
		o.Proxy = noProxy
	}
	if o.Program == "" {
		o.Program = "backup-handler 3.0.0"
	}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mailTo(s *notifytest.MailServer, mode string, login bool, to ...string) *Mail {
	m := &Mail{Host: s.Host, Port: s.Port, TLS: mode, CAFile: s.CAFile, Timeout: 30 * time.Second, From: notifytest.User, To: to}
	if login {
		m.From, m.User, m.Password = "", notifytest.User, notifytest.Password
	}
	return m
}

func TestMailIsDelivered(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     notifytest.MailOptions
		mode  string
		login bool
	}{
		{"starttls and login", notifytest.MailOptions{StartTLS: true, Login: true}, TLSStart, true},
		{"tls and login", notifytest.MailOptions{TLS: true, Login: true}, TLSAlways, true},
		{"relay without either", notifytest.MailOptions{}, TLSNone, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := notifytest.StartMail(t, c.o)
			var p pause
			to := mailTo(s, c.mode, c.login, "ann@example.org", "Bob <bob@example.org>")
			if err := to.check(); err != nil {
				t.Fatal(err)
			}
			m := testMessage(t)
			if err := to.send(t.Context(), testEnv(&p), m); err != nil {
				t.Fatal(err)
			}
			mails := s.Mails(t)
			if len(mails) != 1 || p.times() != 0 {
				t.Fatalf("%d mails, %d more tries", len(mails), p.times())
			}
			got := mails[0]
			if got.Subject != m.subject || got.From != "backup-handler <"+notifytest.User+">" || strings.Join(got.To, " ") != "ann@example.org bob@example.org" {
				t.Errorf("subject %q, from %q, to %q", got.Subject, got.From, got.To)
			}
			if text := strings.ReplaceAll(got.Text, "\r\n", "\n"); text != m.text()+"\n" {
				t.Errorf("text %q, want %q", text, m.text())
			}
			if strings.Contains(got.HTML, "<script") || !strings.Contains(got.HTML, "&lt;script&gt;alert(1)&lt;/script&gt; &amp; *bold*") {
				t.Errorf("HTML %s", got.HTML)
			}
			head, _, _ := strings.Cut(strings.ReplaceAll(got.Raw, "\r\n", "\n"), "\n\n")
			for _, bad := range []string{"X-Mailer", "User-Agent", "\nBcc"} {
				if strings.Contains(head, bad) {
					t.Errorf("%s in the head:\n%s", bad, head)
				}
			}
			for _, want := range []string{"Auto-Submitted: auto-generated", "multipart/alternative", "Message-ID: <", "Date: Thu, 26 Nov 2026 03:00:04 +0100"} {
				if !strings.Contains(head, want) {
					t.Errorf("%s is not in the head:\n%s", want, head)
				}
			}
		})
	}
}

func TestMailIsTriedAgain(t *testing.T) {
	s := notifytest.StartMail(t, notifytest.MailOptions{})
	to := mailTo(s, TLSNone, false, "ann@example.org")
	for _, stage := range []string{"Sender", "Recipient"} {
		s.Fail(t, stage, 451)
		before := len(s.Mails(t))
		p := pause{}
		p.before = func() {
			if len(p.waited) == 2 {
				s.Fail(t, stage, 0)
			}
		}
		if err := to.send(t.Context(), testEnv(&p), testMessage(t)); err != nil {
			t.Fatal(err)
		}
		if got := len(s.Mails(t)) - before; got != 1 || p.times() != 2 {
			t.Errorf("%s: %d mails after %d waits, want 1 after 2", stage, got, p.times())
		}
		if w := p.waited; w[0] < time.Second || w[0] > 1200*time.Millisecond || w[1] < 4*time.Second || w[1] > 4800*time.Millisecond {
			t.Errorf("waited %v", w)
		}
	}
	// It gives up after four tries.
	s.Fail(t, "Recipient", 451)
	var p pause
	if err := to.send(t.Context(), testEnv(&p), testMessage(t)); err == nil || !strings.Contains(err.Error(), "451") || p.times() != 3 {
		t.Errorf("error %v after %d waits", err, p.times())
	}
	// And does not try again what is refused for good.
	s.Fail(t, "Recipient", 550)
	p = pause{}
	before := s.Connections()
	if err := to.send(t.Context(), testEnv(&p), testMessage(t)); err == nil || p.times() != 0 || s.Connections() != before+1 {
		t.Errorf("error %v after %d waits and %d connections", err, p.times(), s.Connections()-before)
	}
}

func TestMailWrongPasswordIsTriedOnce(t *testing.T) {
	s := notifytest.StartMail(t, notifytest.MailOptions{StartTLS: true, Login: true})
	to := mailTo(s, TLSStart, true, "ann@example.org")
	to.Password = "wrong secret"
	var p pause
	err := to.send(t.Context(), testEnv(&p), testMessage(t))
	if err == nil || !strings.Contains(err.Error(), "535") || p.times() != 0 || s.Connections() != 1 {
		t.Errorf("error %v after %d waits and %d connections", err, p.times(), s.Connections())
	}
	if len(s.Mails(t)) > 0 {
		t.Error("a mail was taken without a login")
	}
}

func TestMailOneRefusedReceiverDoesNotKeepItFromOthers(t *testing.T) {
	s := notifytest.StartMail(t, notifytest.MailOptions{Allowed: `@example\.org$`})
	var p pause
	err := mailTo(s, TLSNone, false, "ann@example.org", "bob@elsewhere.example", "eve@example.org").send(t.Context(), testEnv(&p), testMessage(t))
	if err == nil || !strings.Contains(err.Error(), "bob@elsewhere.example: ") || strings.Contains(err.Error(), "ann@example.org: ") {
		t.Errorf("error %v", err)
	}
	if mails := s.Mails(t); len(mails) != 2 {
		t.Errorf("%d mails, want one for each of the others", len(mails))
	}
}

func TestMailTLSIsVerified(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       notifytest.MailOptions
		mode    string
		noCA    bool
		wanting string
	}{
		{"unknown authority", notifytest.MailOptions{StartTLS: true, Login: true}, TLSStart, true, "unknown authority"},
		{"unknown authority, tls", notifytest.MailOptions{TLS: true, Login: true}, TLSAlways, true, "unknown authority"},
		{"expired", notifytest.MailOptions{StartTLS: true, Login: true, Expired: true}, TLSStart, false, "expired"},
		{"another host's", notifytest.MailOptions{TLS: true, Login: true, OtherHost: true}, TLSAlways, false, "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := notifytest.StartMail(t, c.o)
			to := mailTo(s, c.mode, true, "ann@example.org")
			if c.noCA {
				to.CAFile = ""
			}
			var p pause
			err := to.send(t.Context(), testEnv(&p), testMessage(t))
			if err == nil || !strings.Contains(err.Error(), "no trusted TLS connection") || !strings.Contains(err.Error(), c.wanting) {
				t.Errorf("error %v", err)
			}
			if p.times() != 0 || len(s.Mails(t)) > 0 {
				t.Errorf("%d waits, %d mails", p.times(), len(s.Mails(t)))
			}
		})
	}
}

// A server that takes STARTTLS away, as somebody in the middle may, gets no password.
func TestMailWithoutStartTLSIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "220 mail.example ESMTP\r\n")
		buf := make([]byte, 1024)
		n, _ := c.Read(buf)
		io.WriteString(c, "250-mail.example\r\n250 AUTH PLAIN LOGIN\r\n")
		rest, _ := io.ReadAll(c)
		heard <- string(buf[:n]) + string(rest)
	}()
	t.Cleanup(func() { l.Close() })
	to := &Mail{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, TLS: TLSStart, User: "ann@example.org", Password: "secret", To: []string{"a@example.org"}, Timeout: 30 * time.Second}
	var p pause
	err = to.send(t.Context(), testEnv(&p), testMessage(t))
	if err == nil || !strings.Contains(err.Error(), "does not offer STARTTLS") || p.times() != 0 {
		t.Errorf("error %v, %d waits", err, p.times())
	}
	if h := <-heard; !strings.HasPrefix(h, "EHLO ") || strings.Contains(h, "AUTH") || strings.Contains(h, "MAIL") {
		t.Errorf("the server heard %q", h)
	}
}

// talk starts a server that speaks SMTP as it is told: for each connection, what it
// answers to the beginning of a line; "" ends the connection. It returns its port and
// how often it took a mail.
func talk(t *testing.T, answers map[string]string) (port int, taken *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	taken = new(atomic.Int64)
	answer := func(line string) string {
		for begin, a := range answers {
			if strings.HasPrefix(line, begin) {
				return a
			}
		}
		return "250 ok"
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "220 mail.example ESMTP\r\n")
				in, data := bufio.NewScanner(c), false
				for in.Scan() {
					line := in.Text()
					switch {
					case data && line != ".":
						continue
					case data:
						data = false
						taken.Add(1)
						line = "END"
					case line == "DATA":
						data = true
						io.WriteString(c, "354 go on\r\n")
						continue
					}
					a := answer(line)
					if a == "" {
						return
					}
					io.WriteString(c, a+"\r\n")
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, taken
}

// What fails after the server has taken a mail does not make a second one; what it
// did not take is sent again.
func TestMailIsNotSentTwice(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]string
		taken   int64
		ok      bool
	}{
		"all is well":             {map[string]string{}, 1, true},
		"gone after the mail":     {map[string]string{"RSET": "", "QUIT": ""}, 1, true},
		"an error after the mail": {map[string]string{"RSET": "500 what?", "QUIT": "500 what?"}, 1, true},
		"gone with the mail":      {map[string]string{"END": ""}, 4, false},
		"not now":                 {map[string]string{"END": "452 no space"}, 4, false},
		"never":                   {map[string]string{"END": "554 spam"}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			port, taken := talk(t, c.answers)
			to := &Mail{Host: "127.0.0.1", Port: port, TLS: TLSNone, From: "a@example.org", To: []string{"b@example.org"}, Timeout: 30 * time.Second}
			err := to.send(t.Context(), testEnv(&pause{}), testMessage(t))
			if (err == nil) != c.ok || taken.Load() != c.taken {
				t.Errorf("error %v, taken %d times, want %d", err, taken.Load(), c.taken)
			}
		})
	}
}

// The two ways of TLS that are easily mixed up say so.
func TestMailTLSFromTheFirstByteToAServerThatSwitches(t *testing.T) {
	port, _ := talk(t, nil)
	to := &Mail{Host: "127.0.0.1", Port: port, TLS: TLSAlways, From: "a@example.org", To: []string{"b@example.org"}, Timeout: 30 * time.Second}
	var p pause
	if err := to.send(t.Context(), testEnv(&p), testMessage(t)); err == nil || !strings.Contains(err.Error(), "tls = starttls") || p.times() > 0 {
		t.Errorf("error %v after %d waits", err, p.times())
	}
}

// A server that says nothing any more does not hold up longer than it may.
func TestMailServerThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "220 mail.example ESMTP\r\n")
		bufio.NewReader(c).ReadString('\n')
		cancel() // in the middle of the conversation the time is over
		io.Copy(io.Discard, c)
	}()
	to := &Mail{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, TLS: TLSNone, From: "a@example.org", To: []string{"a@example.org"}, Timeout: time.Hour}
	if err := to.send(ctx, testEnv(&pause{}), testMessage(t)); err == nil {
		t.Error("it was sent")
	}
}

// A receiver whose mail is put off does not keep the others waiting.
func TestMailOneReceiverThatIsPutOff(t *testing.T) {
	port, taken := talk(t, map[string]string{"RCPT TO:<later@": "450 greylisted"})
	to := &Mail{Host: "127.0.0.1", Port: port, TLS: TLSNone, From: "a@example.org", To: []string{"b@example.org", "later@example.org", "c@example.org"}, Timeout: 30 * time.Second}
	err := to.send(t.Context(), testEnv(&pause{}), testMessage(t))
	if err == nil || !strings.Contains(err.Error(), "later@example.org: ") || taken.Load() != 2 {
		t.Errorf("error %v, %d mails taken, want 2", err, taken.Load())
	}
}

func TestMailSettings(t *testing.T) {
	good := func() *Mail {
		return &Mail{Host: "mail.example", Port: 587, User: "ann@example.org", Password: "secret", To: []string{"a@example.org"}, TLS: TLSStart}
	}
	if err := good().check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Mail){
		"host":           func(m *Mail) { m.Host = "" },
		"host: ":         func(m *Mail) { m.Host = "smtp://mail.example" },
		"port":           func(m *Mail) { m.Port = 0 },
		"to_addrs":       func(m *Mail) { m.To = nil },
		"item 2":         func(m *Mail) { m.To = []string{"a@example.org", "b@example.org\r\nRCPT TO:<c@example.org>"} },
		"from_addr":      func(m *Mail) { m.User = "ann" },
		"in the clear":   func(m *Mail) { m.TLS = TLSNone },
		"a password":     func(m *Mail) { m.User, m.From = "", "ann@example.org" },
		"no certificate": func(m *Mail) { m.CAFile = writeFile(t, "not PEM") },
		"ca_file":        func(m *Mail) { m.CAFile = "nowhere" },
	} {
		m := good()
		change(m)
		if err := m.check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
