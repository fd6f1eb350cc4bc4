package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

// TestNotifyTest: the program mails through a real server, and says what is wrong
// with one, without a secret.
func TestNotifyTest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := notifytest.StartMail(t, notifytest.MailOptions{StartTLS: true, Login: true})
	config := func(ca string) string {
		path := w.path("config.ini")
		must(t, os.WriteFile(path, fmt.Appendf(nil, `[SMTP]
host = 127.0.0.1
port = %d
user = %s
password = ${MAIL_PASSWORD}
to_addrs = ann@example.org, "Bob, the admin <bob@example.org>"
ca_file = %s
`, s.Port, notifytest.User, ca), 0o600))
		return path
	}
	base := w.env
	with := func(password string) { w.env = append(base[:len(base):len(base)], "MAIL_PASSWORD="+password) }

	with(notifytest.Password)
	r := w.want(failed, "notify", "test", "--config", config(s.CAFile))
	if !strings.Contains(r.out, "smtp: to_addrs: item 2: must be a mail address") {
		t.Errorf("an address that is none: %v", r)
	}
	path := config(s.CAFile)
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), `"Bob, the admin <bob@example.org>"`, "Bob <bob@example.org>", 1)), 0o600))
	r = w.want(ok, "notify", "test", "--config", path, "--json")
	var told []struct {
		Channel string
		OK      bool
	}
	if err := json.Unmarshal([]byte(r.out), &told); err != nil || len(told) != 1 || told[0].Channel != "smtp" || !told[0].OK {
		t.Errorf("%v: %v", err, r)
	}
	mails := s.Mails(t)
	if len(mails) != 1 || !strings.HasPrefix(mails[0].Subject, "test from ") || strings.Join(mails[0].To, " ") != "ann@example.org bob@example.org" {
		t.Fatalf("mails %+v", mails)
	}

	before := s.Connections()
	with("wr0ng-secret")
	r = w.want(partial, "notify", "test", "smtp", "--config", path)
	if !strings.Contains(r.out, "535") || strings.Contains(r.out+r.errout, "wr0ng-secret") || s.Connections() != before+1 {
		t.Errorf("a wrong password, %d connections: %v", s.Connections()-before, r)
	}

	with(notifytest.Password)
	must(t, os.WriteFile(path, []byte(strings.Replace(strings.Replace(string(text), "ca_file = "+s.CAFile, "", 1), `, "Bob, the admin <bob@example.org>"`, "", 1)), 0o600))
	r = w.want(partial, "notify", "test", "--config", path)
	if !strings.Contains(r.out, "no trusted TLS connection") || !strings.Contains(r.out, "ca_file") {
		t.Errorf("an authority that nobody knows: %v", r)
	}
	if n := len(s.Mails(t)); n != 1 {
		t.Errorf("%d mails", n)
	}
	log, err := os.ReadFile(w.path("state", "Logs", "application.log"))
	must(t, err)
	if strings.Contains(string(log), "secret") || !strings.Contains(string(log), "notification not sent") {
		t.Errorf("the log:\n%s", log)
	}
}

// TestNotifyTelegram: the bot of 2.5 tells the chats of 2.5, and nobody who wrote to it.
func TestNotifyTelegram(t *testing.T) {
	t.Parallel()
	const token = "123456:ABC-def_ghi"
	w := newWorld(t)
	s := notifytest.StartTelegram(t, token, "42", "-1007", "666")
	w.write([]byte("[TELEGRAM]\napi_token = "+token+"\n[USERS]\ninteracted_users = 42, -1007\n"), "config", "bot_config.ini")
	w.write([]byte(`{"user_ids": [666]}`), "config", ".bot_users.json")
	path := w.write([]byte("[TELEGRAM]\nserver_url = "+s.URL+"\nallow_private = True\n"), "config", "config.ini")
	s.Busy(1, 1)
	r := w.want(ok, "notify", "test", "telegram", "--config", path)
	if r.out != "telegram: ok\n" || strings.Contains(r.errout, token) {
		t.Errorf("%v", r)
	}
	said := s.Said()
	if len(said) != 2 || said[0].Chat != "42" || said[1].Chat != "-1007" || !strings.Contains(said[0].Text, "This is a test of the channel telegram") {
		t.Errorf("said %+v", said)
	}
	path = w.write([]byte("[TELEGRAM]\napi_token = 1:Wr0ngToken\nchats = 42\nserver_url = "+s.URL+"\nallow_private = True\n"), "config", "config.ini")
	r = w.want(partial, "notify", "test", "--config", path)
	if !strings.Contains(r.out, "unauthorized") || strings.Contains(r.out+r.errout, "Wr0ng") {
		t.Errorf("a wrong token: %v", r)
	}
}
