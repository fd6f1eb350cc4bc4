package notify

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

// document decodes a JSON body.
func document(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return d
}

// at follows a path of keys and positions through a document.
func field(t *testing.T, d any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := d.(map[string]any)
			if !ok {
				t.Fatalf("no %v of %v", path, d)
			}
			d = m[p]
		case int:
			l, ok := d.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("no %v of %v", path, d)
			}
			d = l[p]
		}
	}
	return d
}

// Each service gets what its maker documents.
func TestServices(t *testing.T) {
	m := testMessage(t)
	for _, c := range []struct {
		s            Service
		answer       string
		method, path string
		header       http.Header
		want         func(t *testing.T, d map[string]any)
	}{
		{Service{Kind: "slack", URL: "/services/T/B/X"}, "ok", "POST", "/services/T/B/X", nil, func(t *testing.T, d map[string]any) {
			text := d["text"].(string)
			if strings.ContainsAny(text, "<>") || !strings.Contains(text, "&lt;!channel&gt;") || !strings.HasPrefix(text, "backup on wéb1 has failed") || d["mrkdwn"] != false {
				t.Errorf("%v", d)
			}
		}},
		{Service{Kind: "discord", URL: "/api/webhooks/1/x"}, "", "POST", "/api/webhooks/1/x", nil, func(t *testing.T, d map[string]any) {
			if got := field(t, d, "allowed_mentions", "parse"); !reflect.DeepEqual(got, []any{}) {
				t.Errorf("mentions: %v", got)
			}
			if text := d["content"].(string); !strings.Contains(text, `\*bold\*`) || !strings.Contains(text, `\[x\]\(http://evil\)`) {
				t.Errorf("content %q", text)
			}
		}},
		{Service{Kind: "teams", URL: "/flows/x?sig=y"}, "", "POST", "/flows/x?sig=y", nil, func(t *testing.T, d map[string]any) {
			if d["type"] != "message" || field(t, d, "attachments", 0, "contentType") != "application/vnd.microsoft.card.adaptive" {
				t.Errorf("%v", d)
			}
			card := field(t, d, "attachments", 0, "content").(map[string]any)
			if card["type"] != "AdaptiveCard" || field(t, card, "body", 0, "inlines", 0, "text") != m.subject || field(t, card, "body", 0, "inlines", 0, "color") != "Attention" {
				t.Errorf("card %v", card)
			}
			for _, b := range card["body"].([]any) { // a TextBlock would be read as Markdown
				if field(t, b, "type") != "RichTextBlock" || field(t, b, "inlines", 0, "type") != "TextRun" {
					t.Errorf("block %v", b)
				}
			}
		}},
		{Service{Kind: "ntfy", URL: "", To: "topic", Token: "tk_x"}, `{"id":"1"}`, "POST", "/", http.Header{"Authorization": {"Bearer tk_x"}}, func(t *testing.T, d map[string]any) {
			if d["topic"] != "topic" || d["title"] != m.subject || d["message"] != m.text() || d["priority"] != 4.0 {
				t.Errorf("%v", d)
			}
		}},
		{Service{Kind: "gotify", URL: "/sub/", Token: "Axxx"}, `{"id":1}`, "POST", "/sub/message", http.Header{"X-Gotify-Key": {"Axxx"}}, func(t *testing.T, d map[string]any) {
			if d["title"] != m.subject || d["message"] != m.text() || d["priority"] != 8.0 {
				t.Errorf("%v", d)
			}
		}},
		{Service{Kind: "pushover", Token: "app", To: "user"}, `{"status":1,"request":"x"}`, "POST", "/1/messages.json", nil, func(t *testing.T, d map[string]any) {
			if d["token"] != "app" || d["user"] != "user" || d["title"] != m.subject || d["message"] != m.text() || d["priority"] != 1.0 || d["timestamp"] != float64(at.Unix()) {
				t.Errorf("%v", d)
			}
		}},
		{Service{Kind: "matrix", Token: "syt", To: "!a/b:example.org"}, `{"event_id":"$1"}`, "PUT", "/_matrix/client/v3/rooms/%21a%2Fb:example.org/send/m.room.message/*", http.Header{"Authorization": {"Bearer syt"}}, func(t *testing.T, d map[string]any) {
			if d["msgtype"] != "m.text" || d["body"] != m.whole() || d["formatted_body"] != nil || !reflect.DeepEqual(d["m.mentions"], map[string]any{}) {
				t.Errorf("%v", d)
			}
		}},
		{Service{Kind: "pagerduty", Token: "routing"}, `{"status":"success"}`, "POST", "/v2/enqueue", nil, func(t *testing.T, d map[string]any) {
			if d["routing_key"] != "routing" || d["event_action"] != "trigger" || field(t, d, "payload", "severity") != "error" ||
				field(t, d, "payload", "summary") != m.subject || field(t, d, "payload", "source") != "wéb1" || d["dedup_key"] == "" {
				t.Errorf("%v", d)
			}
		}},
	} {
		t.Run(c.s.Kind, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
				w.WriteHeader(202)
				io.WriteString(w, c.answer)
			})
			s := c.s
			s.URL, s.AllowPrivate = srv.URL+s.URL, true
			if err := s.check(); err != nil {
				t.Fatal(err)
			}
			if err := s.send(t.Context(), testEnv(&pause{}), m); err != nil {
				t.Fatal(err)
			}
			calls := srv.got()
			if len(calls) != 1 {
				t.Fatalf("%d calls", len(calls))
			}
			got := calls[0]
			path := got.path
			if head, ok := strings.CutSuffix(c.path, "*"); ok && strings.HasPrefix(path, head) && len(path) == len(head)+32 {
				path = c.path
			}
			if got.method != c.method || path != c.path || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s %v", got.method, got.path, got.header)
			}
			for k := range c.header {
				if got.header.Get(k) != c.header.Get(k) {
					t.Errorf("%s: %q", k, got.header.Get(k))
				}
			}
			c.want(t, document(t, got.body))
		})
	}
}

// Long texts keep the bounds of each service.
func TestServicesCut(t *testing.T) {
	n := newNotifier(t, Options{Host: "host"})
	m := n.newMessage(string(Failure), strings.Repeat("ö", 500))
	for range 60 {
		n.paragraph(m, strings.Repeat("𝄞*", 1000))
	}
	for kind, check := range map[string]func(d map[string]any, body []byte) int{
		"slack":   func(d map[string]any, _ []byte) int { return 4000 - len([]rune(d["text"].(string))) },
		"discord": func(d map[string]any, _ []byte) int { return 2000 - len(utf16.Encode([]rune(d["content"].(string)))) },
		"teams":   func(_ map[string]any, body []byte) int { return 28_000 - len(body) },
		"ntfy":    func(d map[string]any, _ []byte) int { return 4096 - len(d["message"].(string)) },
		"pushover": func(d map[string]any, _ []byte) int {
			return min(1024-len([]rune(d["message"].(string))), 250-len([]rune(d["title"].(string))))
		},
	} {
		s := &Service{Kind: kind, URL: "https://x.example", Token: "t", To: "to"}
		p, _ := protocolOf(kind)
		r, err := p.requests(s, m)
		if err != nil {
			t.Fatal(err)
		}
		if left := check(document(t, r[0].body), r[0].body); left < 0 {
			t.Errorf("%s: %d too long", kind, -left)
		}
	}
	w, err := hook("https://x.example").request(m)
	if err != nil || len(utf16.Encode([]rune(document(t, w.body)["content"].(string)))) > 2000 {
		t.Errorf("webhook: %v", err)
	}
}

func TestPushoverThatRefuses(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { io.WriteString(w, `{"status":0,"errors":["no"]}`) })
	s := &Service{Kind: "pushover", URL: srv.URL, Token: "t", To: "u", AllowPrivate: true}
	if err := s.send(t.Context(), testEnv(&pause{}), testMessage(t)); err == nil {
		t.Error("status 0 is taken for success")
	}
}

// Matrix gets the same transaction at each try, so that nothing is said twice.
func TestMatrixTransaction(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n < 3 {
			w.WriteHeader(502)
		}
	})
	s := &Service{Kind: "matrix", URL: srv.URL, Token: "t", To: "!r:x", AllowPrivate: true}
	if err := s.send(t.Context(), testEnv(&pause{}), testMessage(t)); err != nil {
		t.Fatal(err)
	}
	calls := srv.got()
	if len(calls) != 3 || calls[0].path != calls[1].path || calls[1].path != calls[2].path {
		t.Errorf("%d calls", len(calls))
	}
}

// The incident of a command is resolved by its first good run; a test resolves its own.
func TestPagerDutyIncidents(t *testing.T) {
	s := &Service{Kind: "pagerduty", Token: "t"}
	n := newNotifier(t, Options{Host: "h"})
	events := func(m *message) (out []string) {
		t.Helper()
		rs, err := pagerduty(s, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			d := document(t, r.body)
			out = append(out, d["event_action"].(string)+" "+d["dedup_key"].(string))
		}
		return out
	}
	failed := events(n.runText(newStory(testRun("1", journal.Failed), nil)))
	good := events(n.runText(newStory(testRun("2", journal.Success), []journal.Run{*testRun("1", journal.Failed)})))
	if len(failed) != 1 || len(good) != 1 || strings.Replace(failed[0], "trigger", "resolve", 1) != good[0] {
		t.Errorf("failed %v, good %v", failed, good)
	}
	other := testRun("3", journal.Failed)
	other.Command = "verify"
	if e := events(n.runText(newStory(other, nil))); e[0] == failed[0] {
		t.Error("two commands share an incident")
	}
	if e := events(n.testText("x")); len(e) != 2 || !strings.HasPrefix(e[0], "trigger ") || e[1] != strings.Replace(e[0], "trigger", "resolve", 1) {
		t.Errorf("test: %v", e)
	}
	if e := events(n.digestText(withRun(testRun("4", journal.Success), nil), at.AddDate(0, 0, -1), at)); len(e) != 0 {
		t.Errorf("a good digest: %v", e)
	}
}

func TestServiceSettings(t *testing.T) {
	for _, c := range []struct {
		s    Service
		want string
	}{
		{Service{Kind: "carrier-pigeon"}, "service"}, {Service{Kind: "slack"}, "url: slack needs it"}, {Service{Kind: "ntfy"}, "to: ntfy needs it"},
		{Service{Kind: "gotify", URL: "https://x.example"}, "token: gotify needs it"}, {Service{Kind: "pushover", Token: "x"}, "to: pushover needs it"},
		{Service{Kind: "matrix", URL: "https://x.example", Token: "a b", To: "!r:x"}, "token: must be one word"},
		{Service{Kind: "pagerduty", Token: "x\n"}, "token: must be one word"},
	} {
		if err := c.s.check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
}

func TestWebhookOf25(t *testing.T) {
	srv := serve(t, nil)
	w := hook(srv.URL + "/x?y=z")
	w.Auth = "Token abc"
	m := testMessage(t)
	if err := w.send(t.Context(), testEnv(&pause{}), m); err != nil {
		t.Fatal(err)
	}
	got := srv.got()[0]
	d := document(t, got.body)
	if len(d) != 2 || d["text"] != d["content"] || !strings.HasPrefix(d["text"].(string), m.subject[:20]) {
		t.Errorf("%s", got.body)
	}
	if strings.Contains(d["text"].(string), "@everyone") || strings.Contains(d["text"].(string), "<!channel") {
		t.Errorf("it calls people: %s", got.body)
	}
	if got.method != "POST" || got.path != "/x?y=z" || got.header.Get("Authorization") != "Token abc" || got.header.Get("Content-Type") != "application/json" ||
		got.header.Get("X-Backup-Handler-Event") != "failure" || got.header.Get("X-Backup-Handler-Signature") != "" {
		t.Errorf("%s %s %v", got.method, got.path, got.header)
	}
}

// A receiver that does what the document says can check a signature.
func TestWebhookSignature(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(500)
		}
	})
	w := hook(srv.URL)
	w.Full, w.HMACSecret = true, "k3y"
	now := at
	e := testEnv(&pause{before: func() { now = now.Add(400 * 1e9) }})
	e.now = func() time.Time { return now }
	run := testRun("20261126T020004Z-abcdef", journal.Failed)
	m := newNotifier(t, Options{Host: "web1"}).runText(newStory(run, nil))
	if err := w.send(t.Context(), e, m); err != nil {
		t.Fatal(err)
	}
	if openssl, err := exec.LookPath("openssl"); err == nil { // somebody else's HMAC
		got := srv.got()[1]
		cmd := exec.Command(openssl, "dgst", "-sha256", "-hmac", "k3y", "-r")
		cmd.Stdin = strings.NewReader(got.header.Get("X-Backup-Handler-Timestamp") + "." + string(got.body))
		out, err := cmd.Output()
		if err != nil || "sha256="+strings.Fields(string(out))[0] != got.header.Get("X-Backup-Handler-Signature") {
			t.Errorf("openssl says %s %v, the header %s", out, err, got.header.Get("X-Backup-Handler-Signature"))
		}
	}
	for i, got := range srv.got() { // each try has its own time
		stamp := got.header.Get("X-Backup-Handler-Timestamp")
		if want := strconv.FormatInt(at.Unix()+int64(400*i), 10); stamp != want {
			t.Errorf("try %d: timestamp %s, want %s", i, stamp, want)
		}
		if got.header.Get("X-Backup-Handler-Signature") != sign("k3y", stamp, got.body) {
			t.Errorf("try %d: signature", i)
		}
	}
	// The vector of the document: HMAC-SHA256("k3y", "1000.{}"), by openssl.
	if got := sign("k3y", "1000", []byte("{}")); got != signVector {
		t.Errorf("signature %s, want %s", got, signVector)
	}
	d := document(t, srv.got()[1].body)
	if d["version"] != 1.0 || d["event"] != "failure" || d["host"] != "web1" || d["in_row"] != 1.0 || field(t, d, "run", "run_id") != run.ID || field(t, d, "run", "status") != "failure" {
		t.Errorf("%v", d)
	}
}

func TestTelegram(t *testing.T) {
	const token = "123456:ABC-def_ghi"
	s := notifytest.StartTelegram(t, token, "42", "-1007", "@channel")
	tg := &Telegram{Token: token, Server: s.URL + "/", AllowPrivate: true, Chats: []string{"42", "@channel"}}
	if err := tg.check(); err != nil {
		t.Fatal(err)
	}
	m := testMessage(t)
	s.Busy(1, 3)
	var p pause
	if err := tg.send(t.Context(), testEnv(&p), m); err != nil {
		t.Fatal(err)
	}
	if p.times() != 1 || p.waited[0].Seconds() != 3 {
		t.Errorf("waited %v, and the server has asked for 3 s", p.waited)
	}
	said := s.Said()
	if len(said) != 2 || said[0].Chat != "42" || said[1].Chat != "@channel" || said[0].Text != m.whole() || said[0].ParseMode != "" {
		t.Errorf("said %+v", said)
	}
	// A chat that is gone does not keep the message from the others; a group that
	// has moved is found.
	s.Move("-55", -1007)
	tg.Chats = []string{"666", "-55", "42"}
	p = pause{}
	err := tg.send(t.Context(), testEnv(&p), m)
	if err == nil || !strings.Contains(err.Error(), "chat 666: ") || strings.Contains(err.Error(), "42") || p.times() > 0 {
		t.Errorf("error %v after %d waits", err, p.times())
	}
	if said := s.Said()[2:]; len(said) != 2 || said[0].Chat != "-1007" || said[1].Chat != "42" {
		t.Errorf("said %+v", said)
	}
	// Long texts are cut as Telegram counts.
	n := newNotifier(t, Options{})
	long := n.newMessage("failure", "x")
	for range 60 {
		n.paragraph(long, strings.Repeat("𝄞", 300))
	}
	tg.Chats = []string{"42"}
	if err := tg.send(t.Context(), testEnv(&p), long); err != nil {
		t.Error(err)
	}
	// A wrong token is not tried again, and not shown.
	tg.Token = "123456:WRONG-token"
	p = pause{}
	ch := Channel{Sender: tg}
	if err := tg.send(t.Context(), testEnv(&p), m); err == nil || p.times() > 0 || strings.Contains(ch.clean(err).Error(), "WRONG") {
		t.Errorf("error %v after %d waits", err, p.times())
	}
	// Nobody registers by writing to the bot: it never asks who has.
	for _, c := range s.Calls() {
		if c != "sendMessage" {
			t.Errorf("it calls %s", c)
		}
	}
}

func TestTelegramServerInTrouble(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"HTML": func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(502)
			io.WriteString(w, "<html>bad gateway</html>")
		},
		"reset": func(w http.ResponseWriter, _ *http.Request, _ int) { c, _, _ := w.(http.Hijacker).Hijack(); c.Close() },
		"500": func(w http.ResponseWriter, _ *http.Request, _ int) {
			io.WriteString(w, `{"ok":false,"error_code":500,"description":"Internal"}`)
		},
		"no end": func(w http.ResponseWriter, r *http.Request, _ int) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	} {
		srv := serve(t, answer)
		tg := &Telegram{Token: "1:abcdef", Server: srv.URL, AllowPrivate: true, Chats: []string{"42"}}
		var p pause
		if err := tg.send(t.Context(), testEnv(&p), testMessage(t)); err == nil || p.times() != 3 {
			t.Errorf("%s: error %v after %d waits, want one after 3", name, err, p.times())
		}
	}
}

func TestTelegramSettings(t *testing.T) {
	for _, c := range []Telegram{
		{Token: "", Chats: []string{"1"}}, {Token: "1:abc/../x", Chats: []string{"1"}}, {Token: "hunter2", Chats: []string{"1"}}, {Token: "1:abc"},
		{Token: "1:abc", Chats: []string{"ann"}}, {Token: "1:abc", Chats: []string{"1&parse_mode=HTML"}}, {Token: "1:abc", Chats: make([]string, 51)},
		{Token: "1:abc", Chats: []string{"1"}, Server: "http://api.example"},
	} {
		if err := c.check(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestLocalMail(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no sendmail")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "sendmail")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" >\"$0.args\"\ncat >\"$0.mail\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	e := testEnv(&pause{})
	e.sendmail = script
	l := &LocalMail{To: "root"}
	m := testMessage(t)
	if err := l.send(t.Context(), e, m); err != nil {
		t.Fatal(err)
	}
	args, err := os.ReadFile(script + ".args")
	if err != nil || string(args) != "-t -oi\n" {
		t.Errorf("arguments %q %v", args, err)
	}
	raw, err := os.ReadFile(script + ".mail")
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(raw), "\n\n")
	if !strings.HasPrefix(head, "To: root\nSubject: =?utf-8?q?backup_on_w=C3=A9b1_") || strings.Contains(head, "\nBcc") || strings.Contains(string(raw), "\r") {
		t.Errorf("head %q", head)
	}
	if !strings.Contains(body, "=C3=BCn=C3=AFcode") || strings.Contains(body, "\x1b") {
		t.Errorf("body %q", body)
	}
	// What it says counts, and one that fails is an error.
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no queue >&2\nexit 75\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.send(t.Context(), e, m); err == nil || !strings.Contains(err.Error(), "no queue") {
		t.Errorf("error %v", err)
	}
	e.sendmail = filepath.Join(dir, "none")
	if err := l.send(t.Context(), e, m); err == nil || !strings.Contains(err.Error(), "no sendmail") {
		t.Errorf("error %v", err)
	}
	for _, to := range []string{"", "-oQ/x", "a b", "a\nBcc: c", "a,b", "<a>"} {
		if (&LocalMail{To: to}).check() == nil {
			t.Errorf("%q is taken", to)
		}
	}
}

const signVector = "sha256=1745eb743a553a59c0eb46b7ce1ba94470ad59efed69b3b0615ec42b0776630c"
