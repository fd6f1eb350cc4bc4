package bot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
	"github.com/SP1R4/BackupHandler/v3/internal/notify/notifytest"
)

const token = "123456:ABC-def_ghi"

// A world is a bot that runs, and what came of it.
type world struct {
	*testing.T
	server *notifytest.TelegramServer
	o      Options
	stop   func() error // ends the bot, and returns its error

	mu      sync.Mutex
	started []string
	ended   func(string)
	busy    error // of the next start
	events  []string
	log     []string
	slept   []time.Duration
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, server: notifytest.StartTelegram(t, token, "42", "43", "-1007", "666")}
	add := func(list *[]string, line string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		*list = append(*list, line)
	}
	w.o = Options{
		Bot:      &notify.Telegram{Token: token, Chats: []string{"42", "43", "-1007", "@channel"}, Server: w.server.URL, AllowPrivate: true},
		StateDir: t.TempDir(), Host: "host", Started: time.Now(), Now: time.Now, Rand: rand.Reader,
		Sleep: func(ctx context.Context, d time.Duration) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.slept = append(w.slept, d)
			return ctx.Err()
		},
		Redact: func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") },
		Facts: func() (Facts, error) {
			return Facts{Runs: []journal.Run{{Command: "backup", Status: journal.Failed, Start: time.Now(), Error: "password hunter2\x1b[31m\nsecond line"}}}, nil
		},
		Start: func(kind string, ended func(string)) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.started, w.ended = append(w.started, kind), ended
			return w.busy
		},
		Record: func(event string, fields ...slog.Attr) { add(&w.events, fmt.Sprint(event, fields)) },
		Note:   func(line string) { add(&w.log, line) },
		Warn:   func(line string) { add(&w.log, "warning: "+line) },
	}
	return w
}

// run starts the bot.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- Run(ctx, w.o) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-over
	})
	w.Cleanup(func() { w.stop() })
}

func (w *world) await(what string, cond func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waited in vain: %s\nlog %q\nsaid %+v", what, w.lines(&w.log), w.server.Said())
		}
	}
}

func (w *world) lines(list *[]string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(*list)
}

func (w *world) logged(part string) int {
	n := 0
	for _, l := range w.lines(&w.log) {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// ask writes, and returns the next answer in that chat.
func (w *world) ask(chat, user int64, text string) string {
	w.Helper()
	before := len(w.server.Said())
	w.server.Write(chat, user, text)
	w.await("an answer to "+text, func() bool { return len(w.server.Said()) > before })
	said := w.server.Said()[before]
	if said.Chat != strconv.FormatInt(chat, 10) || said.ParseMode != "" {
		w.Errorf("said %+v", said)
	}
	return said.Text
}

func (w *world) code(chat, user int64, command string) string {
	w.Helper()
	_, code, ok := strings.Cut(w.ask(chat, user, command), "/confirm ")
	if !ok {
		w.Fatal("no code")
	}
	return code
}

// TestConversation: what a person sees, and what strangers do not.
func TestConversation(t *testing.T) {
	w := newWorld(t)
	w.server.WriteAt(time.Now().Add(-time.Minute), ann, ann, "/backup", nil) // before the start
	w.server.Write(eve, eve, "/backup")
	w.server.Write(eve, eve, "/help")
	w.server.WriteAt(time.Now(), ann, ann, "/backup", map[string]any{"forward_origin": map[string]any{"type": "user"}})
	w.server.WriteAt(time.Now(), group, 1087968824, "/backup", map[string]any{"sender_chat": map[string]any{"id": group}})
	w.server.WriteAt(time.Now(), group, 7, "/backup", map[string]any{"from": map[string]any{"id": 7, "is_bot": true}})
	w.run()
	if got := w.ask(ann, ann, "/help"); !strings.Contains(got, "/backup: start a backup") {
		t.Errorf("%q", got)
	}
	if got := w.ask(ann, ann, "/runs"); !strings.Contains(got, "(password *** [31m second line)") && !strings.Contains(got, "(password ***\uFFFD[31m second line)") || strings.Count(got, "\n") != 0 {
		t.Errorf("%q", got)
	}
	code := w.code(group, ann, "/backup@"+notifytest.Name)
	if got := w.ask(group, bob, "/confirm "+code); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("%q", got)
	}
	if got := w.ask(group, ann, "/confirm "+code); !strings.Contains(got, "a backup is in the queue") {
		t.Errorf("%q", got)
	}
	if got := w.ask(group, ann, "/confirm "+code); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("%q", got)
	}
	before := len(w.server.Said())
	w.ended("is done, after 3s")
	w.await("the end", func() bool { return len(w.server.Said()) > before })
	if said := w.server.Said()[before]; said.Chat != "-1007" || said.Text != "host: backup is done, after 3s." {
		t.Errorf("%+v", said)
	}
	w.busy = errors.New("a verify is running already")
	if got := w.ask(ann, ann, w.code(ann, ann, "/verify")); got != "No verify was started: a verify is running already." {
		t.Errorf("%q", got)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(w.started, []string{"backup", "verify"}) {
		t.Errorf("started %q", w.started)
	}
	want := []string{
		"telegram_asked[chat=-1007 user=42 command=backup]", "telegram_confirmed[chat=-1007 user=42 command=backup]",
		"telegram_asked[chat=42 user=42 command=verify]", "telegram_refused[chat=42 user=42 command=verify why=a verify is running already]",
	}
	if !slices.Equal(w.events, want) {
		t.Errorf("events\n%s", strings.Join(w.events, "\n"))
	}
	for _, s := range w.server.Said() {
		if s.Chat == "666" {
			t.Errorf("a stranger was answered: %+v", s)
		}
	}
	if n := w.logged("chat 666"); n != 1 {
		t.Errorf("%d lines about a stranger in %q", n, w.log)
	}
	if slices.ContainsFunc(w.log, func(l string) bool { return strings.Contains(l, "ABC") }) {
		t.Errorf("%q", w.log)
	}
}

// TestRestart: what was read is not read again, by this process or the next, even if
// Telegram has not heard that it was; and a code does not outlive its process.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.run()
	first := w.server.Write(ann, ann, "/help")
	w.await("an answer", func() bool { return len(w.server.Said()) == 1 })
	code := w.code(ann, ann, "/backup")
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	// The next has to know without Telegram: it sends the last updates once more.
	file := filepath.Join(w.o.StateDir, "telegram-123456.json")
	data, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(data), fmt.Sprintf(`"next_update":%d`, first+2)) || strings.Contains(string(data), "ABC") {
		t.Fatalf("%s, %v", data, err)
	}
	polls := len(w.server.Offsets())
	w.run()
	if got := w.ask(ann, ann, code); !strings.Contains(got, "Nothing of yours waits") {
		t.Errorf("%q", got)
	}
	if o := w.server.Offsets()[polls]; o != first+2 {
		t.Errorf("the first poll asks from %d on, want %d", o, first+2)
	}
	w.stop()
	if len(w.started) != 0 {
		t.Errorf("started %q", w.started)
	}

	// The memory is older than Telegram's: no number is good for long.
	m := openMemory(w.o.StateDir, "123456")
	if at := m.Time; m.offset(at.Add(offsetLife)) != first+3 || m.offset(at.Add(offsetLife+time.Second)) != 0 {
		t.Errorf("%+v", m.remembered)
	}
	if m := openMemory(w.o.StateDir, "99"); m.Next != 0 {
		t.Errorf("of another bot: %+v", m)
	}
}

// TestNothingTwice: an update that comes again, as after an answer that was lost, is
// not acted on; nor is any if it cannot be written down first.
func TestNothingTwice(t *testing.T) {
	w := newWorld(t)
	r := &reader{Options: w.o, talk: newTalk([]int64{ann}, w.o.Started, rand.Reader), mem: openMemory(w.o.StateDir, "1")}
	r.inbox, _ = w.o.Bot.Inbox(nil, w.o.Sleep)
	l := notify.Letter{Update: 5, Chat: ann, User: ann, Kind: "private", Time: time.Now(), Text: "/backup"}
	r.hear(t.Context(), l)
	r.hear(t.Context(), l)
	l.Update = 4
	r.hear(t.Context(), l)
	if said := w.server.Said(); len(said) != 1 || len(w.events) != 1 {
		t.Errorf("said %+v, events %q", said, w.events)
	}
	// A file in the place of the directory.
	r.mem.dir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(r.mem.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Update += 10
		r.hear(t.Context(), l)
	}
	if said := w.server.Said(); len(said) != 1 || w.logged("nothing is answered, as it could be answered twice") != 1 {
		t.Errorf("said %+v, log %q", said, w.log)
	}
}

// TestTrouble: a busy Telegram is left alone as long as it says, one that is away less
// and less often asked; each is told once.
func TestTrouble(t *testing.T) {
	w := newWorld(t)
	w.server.Busy(2, 17)
	w.run()
	w.ask(ann, ann, "/help")
	if s := w.slept; len(s) != 2 || s[0] != 17*time.Second || s[1] != 17*time.Second {
		t.Errorf("slept %v", s)
	}
	if w.logged("goes on trying") != 1 || w.logged("again") != 1 {
		t.Errorf("log %q", w.log)
	}
	w.stop()

	w = newWorld(t)
	w.server.Break(9)
	w.run()
	w.ask(ann, ann, "/help")
	want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}
	if len(w.slept) != len(want) || w.logged("goes on trying: HTTP 502") != 1 || w.logged("again") != 1 {
		t.Fatalf("slept %v, log %q", w.slept, w.log)
	}
	for i := range want {
		if w.slept[i] != want[i]*time.Second {
			t.Errorf("slept %v", w.slept)
		}
	}
	w.stop()

	w = newWorld(t)
	w.server.Webhook(true)
	w.run()
	w.await("the second try", func() bool { return len(w.lines(&w.log)) > 0 && len(w.server.Offsets()) > 1 })
	w.server.Webhook(false)
	w.ask(ann, ann, "/help")
	if w.slept[0] != conflictPause || w.logged("409") != 1 {
		t.Errorf("slept %v, log %q", w.slept, w.log)
	}
	w.stop()

	// Nobody listens there.
	w = newWorld(t)
	w.o.Bot.Server = "http://127.0.0.1:1"
	w.run()
	w.await("tries", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.slept) > 2 })
	w.stop()
	if w.logged("goes on trying") != 1 || slices.ContainsFunc(w.log, func(l string) bool { return strings.Contains(l, "ABC") || strings.Contains(l, "bot123") }) {
		t.Errorf("log %q", w.log)
	}
}

// TestAnswersAreTriedAgain: Telegram is busy just when something is to be said.
func TestAnswersAreTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.ask(ann, ann, "/help")
	w.await("a poll", func() bool { return len(w.server.Offsets()) > 1 })
	w.server.Busy(1, 5)
	w.ask(ann, ann, "/help")
	if !slices.Contains(w.slept, 5*time.Second) {
		t.Errorf("slept %v", w.slept)
	}
}

// TestTokenRefused: at the start, and after a while; it ends the bot, without the token
// in the error.
func TestTokenRefused(t *testing.T) {
	w := newWorld(t)
	w.server.Refuse(true)
	if err := Run(t.Context(), w.o); err == nil || !strings.HasPrefix(err.Error(), "the token is refused: ") || strings.Contains(err.Error(), "ABC") {
		t.Errorf("%v", err)
	}
	w.server.Refuse(false)
	over := make(chan error, 1)
	go func() { over <- Run(t.Context(), w.o) }()
	w.ask(ann, ann, "/help")
	w.server.Refuse(true)
	select {
	case err := <-over:
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("goes on")
	}
	if len(w.slept) != 0 {
		t.Errorf("slept %v", w.slept)
	}
	for chats, want := range map[string]string{"@channel": "no chat is given by its number", "x y": "item 1"} {
		w.o.Bot.Chats = []string{chats}
		if err := Run(t.Context(), w.o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", chats, err)
		}
	}
}

// TestTwoBots: of two that read the same messages, Telegram ends the older poll.
func TestTwoBots(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.await("a poll", func() bool { return len(w.server.Offsets()) > 0 })
	inbox, err := w.o.Bot.Inbox(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inbox.Read(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	w.await("the conflict", func() bool { return w.logged("409 Conflict: terminated by other getUpdates request") == 1 })
	w.ask(ann, ann, "/help")
}
