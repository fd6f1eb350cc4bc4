package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

const botToken = "123456:ABC-def_ghi"

var codeForm = regexp.MustCompile(`/confirm ([0-9]{6})`)

// commanded makes a configuration with a bot that takes commands, and a daemon of it.
func commanded(w *world, s *notifytest.TelegramServer, lines string) (config, dest string) {
	config, dest = scheduled(w, lines+"\n[TELEGRAM]\napi_token = ${BOT_TOKEN}\nchats = 42\non = failure\ncommands = True\nserver_url = "+s.URL+"\nallow_private = True\n")
	w.env = append(w.env, "BOT_TOKEN="+botToken)
	return config, dest
}

// ask writes to the bot, and returns the next thing that it says.
func ask(t *testing.T, s *notifytest.TelegramServer, chat, user int64, text string) string {
	t.Helper()
	before := len(s.Said())
	s.Write(chat, user, text)
	waitFor(t, "an answer to "+text, func() bool { return len(s.Said()) > before })
	return s.Said()[before].Text
}

// TestTelegramCommands: /backup with its code makes a snapshot, once, whatever is killed;
// strangers, other users and old codes make none; the end of a run is told.
func TestTelegramCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := notifytest.StartTelegram(t, botToken, "42", "666")
	config, dest := commanded(w, s, "backup = every 300d")
	s.WriteAt(time.Now().Add(-time.Minute), 42, 42, "/backup", nil)
	c, end := w.start("daemon", "--config", config, "--", "--tag", "asked")
	t.Cleanup(func() { c.Process.Kill() })
	log := func() string {
		data, _ := os.ReadFile(w.path("state", "Logs", "application.log"))
		return string(data)
	}
	// What is written earlier is not heard.
	hears := func(n int) { waitFor(t, "the bot", func() bool { return strings.Count(log(), "answers as @") == n }) }
	hears(1)

	if got := ask(t, s, 42, 42, "/status"); !strings.Contains(got, "no good backup is known") || !strings.Contains(got, "next backup: ") {
		t.Errorf("status %q", got)
	}
	s.Write(666, 666, "/backup")
	code := codeForm.FindStringSubmatch(ask(t, s, 42, 42, "/backup"))
	if code == nil {
		t.Fatal(s.Said())
	}
	s.Write(666, 666, "/confirm "+code[1])
	if got := ask(t, s, 42, 43, "/confirm "+code[1]); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("another user: %q", got)
	}
	if ids := w.snapshotIDs(dest); len(ids) != 0 {
		t.Fatalf("snapshots %q", ids)
	}
	if got := ask(t, s, 42, 42, code[1]); !strings.Contains(got, "a backup is in the queue") {
		t.Fatalf("the right code: %q", got)
	}
	waitFor(t, "its end to be told", func() bool {
		said := s.Said()
		return strings.Contains(said[len(said)-1].Text, ": backup is done, after ")
	})
	if ids := w.snapshotIDs(dest); len(ids) != 1 {
		t.Fatalf("snapshots %q", ids)
	}
	if r := w.want(ok, "snapshots", "--config", config, "--tag", "asked", "--json"); !strings.Contains(r.out, "asked") {
		t.Errorf("the flags of backups are lost: %v", r)
	}
	if r := w.want(ok, "runs", "show", "latest", "--config", config); !strings.Contains(r.out, "(telegram, process ") {
		t.Errorf("its trigger: %v", r)
	}
	if got := ask(t, s, 42, 42, "/confirm "+code[1]); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("once more: %q", got)
	}
	if got := ask(t, s, 42, 42, "/runs"); !strings.Contains(got, " backup: success, ") {
		t.Errorf("runs %q", got)
	}
	if got := ask(t, s, 42, 42, "/status"); !strings.Contains(got, "source "+w.path("src")+": ") || !strings.Contains(got, "destination "+dest+": ") {
		t.Errorf("status %q", got)
	}

	// A code lives through a new configuration, and not through the daemon.
	code = codeForm.FindStringSubmatch(ask(t, s, 42, 42, "/verify"))
	must(t, c.Process.Signal(syscall.SIGHUP))
	waitFor(t, "the new configuration", func() bool { return strings.Contains(log(), "the configuration was loaded anew") })
	if got := ask(t, s, 42, 42, code[1]); !strings.Contains(got, "a verify is in the queue") {
		t.Errorf("after a new configuration: %q", got)
	}
	waitFor(t, "its end to be told", func() bool {
		said := s.Said()
		return strings.Contains(said[len(said)-1].Text, ": verify is done, after ")
	})
	code = codeForm.FindStringSubmatch(ask(t, s, 42, 42, "/backup"))
	must(t, c.Process.Kill())
	r := end()
	c, end = w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	hears(2)
	if got := ask(t, s, 42, 42, code[1]); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("after the daemon: %q", got)
	}

	// The token is revoked: said once, until the configuration is loaded anew.
	s.Refuse(true)
	waitFor(t, "the refusal", func() bool { return strings.Contains(log(), "the token is refused: ") })
	s.Refuse(false)
	must(t, c.Process.Signal(syscall.SIGHUP))
	if got := ask(t, s, 42, 42, "/help"); !strings.Contains(got, "/status") {
		t.Errorf("help %q", got)
	}
	must(t, c.Process.Signal(syscall.SIGTERM))
	r2 := end()
	if r2.code != ok {
		t.Errorf("%v", r2)
	}
	if n := strings.Count(r2.errout, "the token is refused"); n != 1 {
		t.Errorf("%d refusals: %v", n, r2)
	}
	if ids := w.snapshotIDs(dest); len(ids) != 1 {
		t.Errorf("snapshots %q", ids)
	}
	if n := strings.Count(r.errout, "chat 666, which is not in the configuration"); n != 1 {
		t.Errorf("%d lines about a stranger: %v", n, r)
	}
	for _, m := range s.Said() {
		if m.Chat != "42" {
			t.Errorf("said %+v", m)
		}
	}
	audit, err := os.ReadFile(w.path("state", "Logs", "audit.log"))
	must(t, err)
	for event, want := range map[string]int{"telegram_asked": 3, "telegram_confirmed": 2} {
		if n := strings.Count(string(audit), `"audit.`+event+`"`); n != want {
			t.Errorf("%d records of %s, want %d", n, event, want)
		}
	}
	w.want(ok, "audit", "verify", "--config", config)
	for name, text := range map[string]string{"audit.log": string(audit), "the log": log(), "output": r.errout + r2.errout} {
		if strings.Contains(text, "ABC-def") {
			t.Errorf("the token is in %s", name)
		}
	}
}

// TestCrashesAreTold: by the daemon as soon as its job is killed, by the daemon's start,
// and by the next run; each once.
func TestCrashesAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := notifytest.StartTelegram(t, botToken, "42")
	config, dest := commanded(w, s, "backup = every 3s\n[LIMITS]\nupload = 32K\n")
	bigSource(w, 2) // 8 MiB: four minutes; no run comes to its end
	crashes := func() (n int) {
		for _, m := range s.Said() {
			if strings.Contains(m.Text, "crashed") || strings.Contains(m.Text, "ended without a word") {
				n++
			}
		}
		return n
	}
	running := func() bool {
		data, _ := os.ReadFile(w.path("state", "Logs", "runs.jsonl"))
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		return strings.Contains(lines[len(lines)-1], `"status":"running"`) && len(objects(t, dest, "keys")) > 0
	}
	c, end := w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "a run", func() bool { return jobOf(c.Process.Pid) != 0 && running() })
	// No further run: the daemon itself has to tell.
	data, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(data), "every 3s", "every 300d", 1)), 0o600))
	must(t, c.Process.Signal(syscall.SIGHUP))
	waitFor(t, "the new configuration", func() bool {
		data, _ := os.ReadFile(w.path("state", "Logs", "application.log"))
		return strings.Contains(string(data), "the configuration was loaded anew")
	})
	child := jobOf(c.Process.Pid)
	if child == 0 {
		t.Fatal("the run has ended")
	}
	must(t, syscall.Kill(child, syscall.SIGKILL))
	waitFor(t, "the crash to be told", func() bool { return crashes() == 1 })
	waitFor(t, "its record", func() bool {
		return strings.Contains(w.want(ok, "runs", "show", "latest", "--config", config).out, "told         telegram\n")
	})
	must(t, c.Process.Signal(syscall.SIGTERM))
	end()

	// A run by hand is killed, and a daemon starts.
	crash := func() {
		t.Helper()
		c, end := w.start("backup", "--config", config)
		waitFor(t, "a run", running)
		must(t, c.Process.Kill())
		end()
	}
	crash()
	if r := w.want(ok, "runs", "--config", config, "--command", "backup"); strings.Count(r.out, "crashed") != 2 || crashes() != 1 {
		t.Fatalf("%d told: %v", crashes(), r)
	}
	// The same failure is not told again for a day: this time must be another's.
	must(t, os.Remove(w.path("state", "notify.json")))
	c, end = w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "the crash to be told at the start", func() bool { return crashes() == 2 })
	waitFor(t, "its record", func() bool {
		return strings.Contains(w.want(ok, "runs", "show", "latest", "--config", config).out, "told         telegram\n")
	})
	must(t, c.Process.Signal(syscall.SIGTERM))
	end()

	// The next run tells, another command's.
	crash()
	must(t, os.Remove(w.path("state", "notify.json")))
	w.want(failed, "verify", "--config", config) // there is no snapshot
	w.want(failed, "verify", "--config", config)
	if n := crashes(); n != 3 {
		t.Errorf("%d crashes were told:\n%+v", n, s.Said())
	}
}

// TestDaemonSendsDigests: when they are due, without a run.
func TestDaemonSendsDigests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := notifytest.StartTelegram(t, botToken, "42")
	config, _ := commanded(w, s, "backup = every 300d")
	data, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(data), "on = failure", "on = failure\ndigest = daily\ndigest_time = 00:00", 1)), 0o600))
	// The last one was two days ago.
	w.write(fmt.Appendf(nil, `{"version":1,"channels":{"telegram":{"digest":%q}}}`, time.Now().Add(-48*time.Hour).Format(time.RFC3339)), "state", "notify.json")
	c, end := w.start("daemon", "--config", config)
	t.Cleanup(func() { c.Process.Kill() })
	waitFor(t, "the digest", func() bool { return len(s.Said()) == 1 })
	if got := s.Said()[0].Text; !strings.Contains(got, "nothing has run") {
		t.Errorf("%q", got)
	}
	waitFor(t, "that it is remembered", func() bool {
		data, _ := os.ReadFile(w.path("state", "notify.json"))
		return strings.Contains(string(data), time.Now().Format("2006-01-02"))
	})
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end(); r.code != ok || len(s.Said()) != 1 {
		t.Errorf("said %+v: %v", s.Said(), r)
	}
}

// TestReceiver: --receiver of 2.5 mails who is not in the configuration, about one run.
func TestReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := notifytest.StartMail(t, notifytest.MailOptions{StartTLS: true, Login: true})
	w.write([]byte("hello"), "src", "file")
	config := w.write(fmt.Appendf(nil, "[SMTP]\nhost = 127.0.0.1\nport = %d\nuser = %s\npassword = ${MAIL_PASSWORD}\nto_addrs = ann@example.org\nca_file = %s\n",
		s.Port, notifytest.User, s.CAFile), "config.ini")
	must(t, os.Chmod(config, 0o600))
	w.env = append(w.env, "MAIL_PASSWORD="+notifytest.Password)
	args := []string{"--config", config, "--source-dir", w.path("src"), "--backup-dirs", w.path("repo")}
	w.want(ok, append(args, "--receiver", "bob@example.org", "ann@example.org", "eve@example.org")...)
	var to []string
	for _, m := range s.Mails(t) {
		to = append(to, strings.Join(m.To, " "))
	}
	if len(to) != 2 || !(to[0] == "ann@example.org" && to[1] == "bob@example.org eve@example.org" || to[1] == "ann@example.org" && to[0] == "bob@example.org eve@example.org") {
		t.Errorf("mails to %q", to)
	}
	w.want(ok, args...)
	if mails := s.Mails(t); len(mails) != 3 {
		t.Errorf("%d mails", len(mails))
	}
	if r := w.want(ok, "runs", "show", "latest", "--config", config); strings.Contains(r.out, "receiver") {
		t.Errorf("%v", r)
	}
}
