package config

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNamedSections(t *testing.T) {
	c, warnings := mustRead(t, `[DEFAULT]
repeat = 1h
[WEBHOOK]
url = ${URL}
[WEBHOOK ops]
url = ${OPS}
format = full
hmac_secret = ${KEY}
on = Failure, recovered
[NOTIFY phone]
service = ntfy
to = topic
repeat = 2d
[NOTIFY a b]
[WEBHOOK  x]
[SMTP two]
`, envOf("URL", "https://one.example/a", "OPS", "https://two.example/b", "KEY", "k"))
	wantEqual(t, "webhooks", c.SectionsOf("WEBHOOK"), []string{"WEBHOOK", "WEBHOOK ops"})
	wantEqual(t, "services", c.SectionsOf("NOTIFY"), []string{"NOTIFY", "NOTIFY phone"})
	w := must[Webhook](t)(c.Webhook("WEBHOOK"))
	if w.URL.Reveal() != "https://one.example/a" || w.Full || !slices.Equal(w.Telling.On, []string{"failure", "warning", "recovered", "success"}) {
		t.Errorf("[WEBHOOK]: %+v", w)
	}
	ops := must[Webhook](t)(c.Webhook("WEBHOOK ops"))
	if ops.URL.Reveal() != "https://two.example/b" || !ops.Full || ops.HMAC.Reveal() != "k" || ops.Telling.Repeat != time.Hour ||
		!slices.Equal(ops.Telling.On, []string{"failure", "recovered"}) {
		t.Errorf("[WEBHOOK ops]: %+v", ops)
	}
	phone := must[Notify](t)(c.Notify("NOTIFY phone"))
	if phone.Service != "ntfy" || phone.To != "topic" || phone.Telling.Repeat != 48*time.Hour || slices.Contains(phone.Telling.On, "success") {
		t.Errorf("[NOTIFY phone]: %+v", phone)
	}
	var got []string
	for _, w := range warnings {
		if w.Kind == Unknown {
			got = append(got, w.String())
		}
	}
	wantEqual(t, "warnings", got, []string{
		"f.ini:14: [NOTIFY a b] is not a known section; a word of letters, digits, - and _ has to follow NOTIFY; it is ignored",
		"f.ini:15: [WEBHOOK  x] is not a known section; a word of letters, digits, - and _ has to follow WEBHOOK; it is ignored",
		"f.ini:16: [SMTP two] is not a known section; it is ignored",
	})
	// What is made for reading has them too, and their secrets are known.
	if text := c.Show().String(); !strings.Contains(text, "[WEBHOOK ops]\n# line 6\nurl = ***\n") {
		t.Errorf("show:\n%s", text)
	}
	secrets := 0
	for _, s := range c.Secrets() {
		if s.Reveal() == "https://two.example/b" || s.Reveal() == "k" {
			secrets++
		}
	}
	wantEqual(t, "secrets of named sections", secrets, 2)
}

func TestNamedSectionsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range maxNamed + 1 {
		text.WriteString("[WEBHOOK w" + strings.Repeat("x", i%20) + string(rune('a'+i/20)) + "]\n")
	}
	c, warnings := mustRead(t, text.String(), envOf())
	wantEqual(t, "sections", len(c.SectionsOf("WEBHOOK")), maxNamed+1)
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), "too many of them") {
		t.Errorf("warnings: %v", warnings)
	}
}

func TestSMTPSettings(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "starttls"}, {"port = 465\n", "tls"}, {"use_tls = False\n", "none"}, {"use_tls = False\ntls = starttls\n", "starttls"},
		{"port = 465\ntls = none\n", "none"},
	} {
		cfg, _ := mustRead(t, "[SMTP]\nhost = mail.example\n"+c.text, envOf())
		wantEqual(t, c.text, must[SMTP](t)(cfg.SMTP()).TLS, c.want)
	}
	cfg, _ := mustRead(t, "[SMTP]\nhost = mail.example\npassword = ${UNSET}\n", envOf())
	if _, err := cfg.SMTP(); err == nil || err.Error() != "f.ini:3: [SMTP] password: the environment variable UNSET is not set" {
		t.Errorf("a variable that is not set: %v", err)
	}
}

// Files that 2.5 kept beside its configuration count, below what that says itself.
func TestFilesBeside(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	main := write("config.ini", "[NOTIFICATIONS]\nreceiver_emails = a@example.org\n[TELEGRAM]\nchats = 7\n")
	bot := write("bot_config.ini", "[TELEGRAM]\napi_token = 1:abc\nchats = 9\n[USERS]\ninteracted_users = 12, -34\n[BACKUPS]\nbackup_dirs = /x\n")
	mail := write("email_config.ini", "[EMAIL]\nsender_email = s@example.org\napp_password = ${APP}\n")
	env := envOf("APP", "pw")
	load := func() (*Config, []Warning) {
		t.Helper()
		c, warnings, err := Load(main, env)
		if err != nil {
			t.Fatal(err)
		}
		return c, warnings
	}
	c, warnings := load()
	tg := must[Telegram](t)(c.Telegram())
	wantEqual(t, "chats", tg.Chats, []string{"7", "12", "-34"})
	wantEqual(t, "token", tg.Token.Reveal(), "1:abc")
	if dirs := must[[]string](t)(c.BackupDirs()); len(dirs) > 0 {
		t.Errorf("bot_config.ini sets backup_dirs: %v", dirs)
	}
	m := must[SMTP](t)(c.Email())
	if m.User != "s@example.org" || m.Password.Reveal() != "pw" || m.Host != "smtp.gmail.com" || m.Port != 465 || m.TLS != "tls" || !slices.Equal(m.To, []string{"a@example.org"}) {
		t.Errorf("mail: %+v", m)
	}
	if len(warnings) != 1 || warnings[0].Kind != PlaintextSecret || warnings[0].File != bot || warnings[0].Line != 2 {
		t.Errorf("warnings: %v", warnings)
	}
	if text := c.Show().String(); !strings.Contains(text, "# "+bot+", line 2\napi_token = ***\n") {
		t.Errorf("show does not say where it is from:\n%s", text)
	}

	// An error of a value has the right place.
	env = envOf()
	c, _ = load()
	if _, err := c.Email(); err == nil || err.Error() != mail+":3: [EMAIL] app_password: the environment variable APP is not set" {
		t.Errorf("error: %v", err)
	}
	// A file that is wrong must not stop a restore, nor count in part.
	write("email_config.ini", "[EMAIL]\nsender_email = s@example.org\nsmtp_port = many\n")
	write("bot_config.ini", "no section\n")
	c, warnings = load()
	var got []string
	for _, w := range warnings {
		got = append(got, string(w.Kind)+" "+w.File)
	}
	wantEqual(t, "warnings", got, []string{"beside " + bot, "beside " + mail})
	if c.IsSet("EMAIL", "sender_email") || c.IsSet("TELEGRAM", "api_token") {
		t.Error("half of a file was taken")
	}
	if runtime.GOOS != "windows" {
		write("bot_config.ini", "[TELEGRAM]\n")
		if err := os.Chmod(bot, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, warnings := load(); warnings[0].Kind != Permissions || warnings[0].File != bot {
			t.Errorf("warnings: %v", warnings)
		}
	}
}
