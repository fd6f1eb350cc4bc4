package job

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

func channelsOf(t *testing.T, text string, env map[string]string) (*config.Config, []notify.Channel, *notify.Heartbeat) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.ini")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	channels, heartbeat := Channels(c)
	return c, channels, heartbeat
}

func TestChannels(t *testing.T) {
	_, channels, heartbeat := channelsOf(t, `[SMTP]
host = mail.example.org
port = 465
user = a@example.org
password = ${P}
to_addrs = b@example.org, c@example.org
timeout = 5s
[EMAIL]
sender_email = d@example.org
app_password = ${P}
[NOTIFICATIONS]
receiver_emails = e@example.org
[TELEGRAM]
api_token = ${T}
chats = 1
repeat = 1h
[USERS]
interacted_users = 2, 3
[WEBHOOK]
url = https://a.example/x
on = none
[WEBHOOK ops]
url = ${U}
auth_header = ${P}
format = full
hmac_secret = ${P}
digest = weekly
digest_time = 6:30
[NOTIFY Phone_2]
service = Pushover
token = ${P}
to = user
allow_private = yes
[PREFLIGHT]
local_mail_to = root
[HEARTBEAT]
url = ${U}
timeout = 7
protocol = plain
`, map[string]string{"P": "secret", "T": "1:abc", "U": "https://b.example/y"})
	old := []notify.Level{notify.Failure, notify.Warning, notify.Recovered, notify.Success}
	day := 23 * time.Hour
	want := []notify.Channel{
		{Name: "smtp", On: old, Repeat: day, DigestHour: 8, Sender: &notify.Mail{Host: "mail.example.org", Port: 465, User: "a@example.org", Password: "secret", To: []string{"b@example.org", "c@example.org"}, TLS: notify.TLSAlways, Timeout: 5 * time.Second}},
		{Name: "email", On: old, Repeat: day, DigestHour: 8, Sender: &notify.Mail{Host: "smtp.gmail.com", Port: 465, User: "d@example.org", Password: "secret", To: []string{"e@example.org"}, TLS: notify.TLSAlways, Timeout: 5 * time.Second}},
		{Name: "telegram", On: old, Repeat: time.Hour, DigestHour: 8, Sender: &notify.Telegram{Token: "1:abc", Chats: []string{"1", "2", "3"}, Server: "https://api.telegram.org"}},
		{Name: "webhook", On: []notify.Level{notify.None}, Repeat: day, DigestHour: 8, Sender: &notify.Webhook{URL: "https://a.example/x"}},
		{Name: "ops", On: old, Repeat: day, Digest: notify.Weekly, DigestHour: 6, DigestMinute: 30, Sender: &notify.Webhook{URL: "https://b.example/y", Auth: "secret", Full: true, HMACSecret: "secret"}},
		{Name: "Phone_2", On: old[:3], Repeat: day, DigestHour: 8, Sender: &notify.Service{Kind: "pushover", Token: "secret", To: "user", AllowPrivate: true}},
		{Name: "local-mail", On: old[:1], Repeat: day, Sender: &notify.LocalMail{To: "root"}},
	}
	for i := range want {
		if i >= len(channels) || !reflect.DeepEqual(channels[i], want[i]) {
			t.Errorf("%s: got %+v, want %+v", want[i].Name, channels[min(i, len(channels)-1)], want[i])
		} else if err := channels[i].Check(); err != nil {
			t.Errorf("%s: %v", want[i].Name, err)
		}
	}
	if len(channels) != len(want) {
		t.Errorf("%d channels, want %d", len(channels), len(want))
	}
	if !reflect.DeepEqual(heartbeat, &notify.Heartbeat{URL: "https://b.example/y", Timeout: 7 * time.Second, Protocol: "plain"}) {
		t.Errorf("heartbeat %+v", heartbeat)
	}
}

// A variable that is not set breaks the channel that needs it, which still says so.
func TestChannelsWithoutTheirVariables(t *testing.T) {
	c, channels, heartbeat := channelsOf(t, "[SMTP]\nhost = m.example\nto_addrs = a@example.org\nfrom_addr = a@example.org\npassword = ${UNSET}\non = warning\n"+
		"[WEBHOOK]\nurl = https://a.example\n[NOTIFY]\nservice = ntfy\nto = ${UNSET}\non = ${UNSET}\n[HEARTBEAT]\nurl = ${UNSET}\n", nil)
	if len(channels) != 3 || channels[0].Err == nil || channels[1].Err != nil || channels[2].Err == nil || heartbeat.Err == nil {
		t.Fatalf("%+v %+v", channels, heartbeat)
	}
	if !slices.Equal(channels[0].On, []notify.Level{notify.Warning}) || !slices.Equal(channels[2].On, []notify.Level{notify.Failure}) {
		t.Errorf("told on %v and %v", channels[0].On, channels[2].On)
	}
	errs := CheckChannels(c)
	if len(errs) != 3 || !strings.HasPrefix(errs[0].Error(), "channel smtp: ") || !strings.Contains(errs[0].Error(), "UNSET is not set") {
		t.Errorf("check: %v", errs)
	}
	// Receivers without an account are a mistake; beside [SMTP] they are left over.
	for text, n := range map[string]int{"": 1, "[SMTP]\nhost = m.example\nto_addrs = a@example.org\nfrom_addr = a@example.org\n": 0} {
		c, _, _ := channelsOf(t, "[NOTIFICATIONS]\nreceiver_emails = a@example.org\n"+text, nil)
		if errs := CheckChannels(c); len(errs) != n {
			t.Errorf("%q: %v", text, errs)
		}
	}
	if c, channels, heartbeat := channelsOf(t, "[SMTP]\nport = 25\n[WEBHOOK]\nformat = full\n[EMAIL]\nsender_email = a@example.org\n", nil); len(channels) > 0 || heartbeat != nil || CheckChannels(c) != nil {
		t.Errorf("channels that are not set up: %+v %+v", channels, heartbeat)
	}
}

func TestBot(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"api_token = ${UNSET}\nchats = 1\n", ""},
		{"api_token = ${T}\nchats = 1\ncommands = no\n", ""},
		{"api_token = ${T}\nchats = 1, @x_channel, -100\ncommands = yes\n", "bot"},
		{"chats = 1\ncommands = True\n", "needs api_token"},
		{"api_token = ${UNSET}\nchats = 1\ncommands = True\n", "UNSET is not set"},
		{"api_token = ${T}\nchats = @x_channel\ncommands = True\n", "needs the number of a chat"},
	} {
		cfg, _, _ := channelsOf(t, "[TELEGRAM]\n"+c.text, map[string]string{"T": "1:abc"})
		b, err := Bot(cfg)
		switch {
		case c.want == "bot":
			if err != nil || b == nil || !slices.Equal(b.Numbers(), []int64{1, -100}) || b.Number() != "1" {
				t.Errorf("%q: %+v, %v", c.text, b, err)
			}
		case b != nil || (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: %+v, %v", c.text, b, err)
		}
		if errs := CheckChannels(cfg); c.want != "" && c.want != "bot" && len(errs) != 1 {
			t.Errorf("%q: check %v", c.text, errs)
		}
	}
}

func TestReceivers(t *testing.T) {
	const smtp = "[SMTP]\nhost = m.example\nuser = s@example.org\nto_addrs = a@example.org\non = failure\nrepeat = 1h\ndigest = daily\n"
	const email = "[EMAIL]\nsender_email = e@example.org\napp_password = ${P}\n[NOTIFICATIONS]\nreceiver_emails = c@example.org\n"
	all := []string{"a@example.org", "b@example.org", "c@example.org", "b@example.org"}
	for _, c := range []struct{ text, host, to, problem string }{
		{"", "", "", "no account"},
		{"[NOTIFICATIONS]\nreceiver_emails = c@example.org\n", "", "", "no account"},
		{smtp, "m.example", "b@example.org c@example.org", ""},
		{email, "smtp.gmail.com", "a@example.org b@example.org", ""},
		{smtp + email, "smtp.gmail.com", "a@example.org b@example.org", ""}, // as 2.5
		{strings.ReplaceAll(smtp+email, "${P}", "${UNSET}"), "", "", "UNSET"},
	} {
		cfg, _, _ := channelsOf(t, c.text, map[string]string{"P": "secret"})
		ch, err := Receivers(cfg, all)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%q: %v", c.text, err)
			}
			continue
		}
		if err != nil || ch == nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		m := ch.Sender.(*notify.Mail)
		if m.Host != c.host || strings.Join(m.To, " ") != c.to || ch.Repeat != 0 || ch.Digest != notify.Never || (c.host == "m.example") != (len(ch.On) == 1) {
			t.Errorf("%q: %+v, %+v", c.text, ch, m)
		}
		if ch, err := Receivers(cfg, m.To[:0]); ch != nil || err != nil {
			t.Errorf("nobody: %+v, %v", ch, err)
		}
	}
}
