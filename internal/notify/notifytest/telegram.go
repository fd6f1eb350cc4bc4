package notifytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
)

// A TelegramServer stands in for the Bot API as core.telegram.org/bots/api documents
// it: sendMessage, getMe and getUpdates of one bot, and their errors. Anything else is 404.
type TelegramServer struct {
	URL   string
	Token string

	mu sync.Mutex
	// Chats are those that the bot may write to, by number or @name.
	chats map[string]bool
	// moved are groups that have become others.
	moved map[string]int64
	// busy is how often the next calls are answered by 429, with retry_after.
	busy, retryAfter int
	said             []TelegramMessage
	calls            []string // methods

	refuses bool          // the token was revoked
	webhook bool          // one is set: getUpdates is a conflict
	broken  int           // how often the next calls are answered by a proxy's 502
	updates []update      // that are not confirmed
	last    int64         // number of the newest update
	offsets []int64       // that getUpdates was given
	wake    chan struct{} // closed when something changes for a poll
	poll    int           // number of the newest getUpdates; older ones end with 409
}

// Name is the bot's.
const Name = "backup_test_bot"

type update struct {
	ID      int64          `json:"update_id"`
	Message map[string]any `json:"message"`
}

// A TelegramMessage is one that the server has taken.
type TelegramMessage struct{ Chat, Text, ParseMode string }

// StartTelegram starts a server with a bot that may write to some chats.
func StartTelegram(t testing.TB, token string, chats ...string) *TelegramServer {
	s := &TelegramServer{Token: token, chats: map[string]bool{}, moved: map[string]int64{}, last: 7000, wake: make(chan struct{})}
	for _, c := range chats {
		s.chats[c] = true
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		server.CloseClientConnections() // polls
		server.Close()
	})
	s.URL = server.URL
	return s
}

// Busy lets the next n calls be answered by 429.
func (s *TelegramServer) Busy(n, retryAfter int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy, s.retryAfter = n, retryAfter
}

// Move makes a group another one.
func (s *TelegramServer) Move(from string, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved[from], s.chats[strconv.FormatInt(to, 10)] = to, true
}

// Write is a user who writes to the bot now, and WriteAt one who did at some time. more
// are further fields of the message, by name. The result is the number of the update.
func (s *TelegramServer) Write(chat, user int64, text string) int64 {
	return s.WriteAt(time.Now(), chat, user, text, nil)
}

func (s *TelegramServer) WriteAt(at time.Time, chat, user int64, text string, more map[string]any) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := "private"
	if chat < 0 {
		kind = "group"
	}
	s.last++
	m := map[string]any{
		"message_id": s.last, "date": at.Unix(), "text": text,
		"chat": map[string]any{"id": chat, "type": kind}, "from": map[string]any{"id": user, "is_bot": false, "first_name": "A"},
	}
	maps.Copy(m, more)
	s.updates = append(s.updates, update{s.last, m})
	s.changed()
	return s.last
}

// changed wakes polls.
func (s *TelegramServer) changed() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// Refuse revokes the token, or gives it back. Webhook sets a webhook, or takes it away.
// Break lets the next n calls be answered by 502, as by a proxy.
func (s *TelegramServer) Refuse(yes bool)  { s.set(func() { s.refuses = yes }) }
func (s *TelegramServer) Webhook(yes bool) { s.set(func() { s.webhook = yes }) }
func (s *TelegramServer) Break(n int)      { s.set(func() { s.broken = n }) }

func (s *TelegramServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.changed()
}

// Offsets are those that getUpdates was given, 0 for none, and Unread the number of
// updates that nobody has confirmed.
func (s *TelegramServer) Offsets() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.offsets)
}

func (s *TelegramServer) Unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.updates)
}

// Said is what was written, and Calls the methods that were called.
func (s *TelegramServer) Said() []TelegramMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.said)
}

func (s *TelegramServer) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *TelegramServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(code int, description string, parameters map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]any{"ok": false, "error_code": code, "description": description, "parameters": parameters})
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/bot")
	token, method, _ := strings.Cut(rest, "/")
	if !ok {
		answer(404, "Not Found", nil)
		return
	}
	if token != s.Token || s.refuses {
		answer(401, "Unauthorized", nil)
		return
	}
	s.calls = append(s.calls, method)
	if s.broken > 0 {
		s.broken--
		http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway)
		return
	}
	if s.busy > 0 {
		s.busy--
		answer(429, fmt.Sprintf("Too Many Requests: retry after %d", s.retryAfter), map[string]any{"retry_after": s.retryAfter})
		return
	}
	result := func(result any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": result})
	}
	switch method {
	case "sendMessage":
	case "getMe":
		result(map[string]any{"id": 1, "is_bot": true, "first_name": "B", "username": Name})
		return
	case "getUpdates":
		if found, conflict := s.getUpdates(r); conflict != "" {
			answer(409, "Conflict: "+conflict, nil)
		} else {
			result(found)
		}
		return
	default:
		answer(404, "Not Found: method not found", nil)
		return
	}
	chat, text := r.FormValue("chat_id"), r.FormValue("text")
	switch {
	case s.moved[chat] != 0:
		answer(400, "Bad Request: group chat was upgraded to a supergroup chat", map[string]any{"migrate_to_chat_id": s.moved[chat]})
	case !s.chats[chat]:
		answer(403, "Forbidden: bot was blocked by the user", nil)
	case text == "":
		answer(400, "Bad Request: message text is empty", nil)
	case len(utf16.Encode([]rune(text))) > 4096:
		answer(400, "Bad Request: message is too long", nil)
	default:
		s.said = append(s.said, TelegramMessage{chat, text, r.FormValue("parse_mode")})
		id, _ := strconv.ParseInt(chat, 10, 64)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": map[string]any{
			"message_id": len(s.said), "date": 1, "text": text, "chat": map[string]any{"id": id, "type": "private"}}})
	}
}

// getUpdates forgets what is before the offset, and waits until there is something, the
// time is over, or another poll has come. It is called with the lock, and gives it up
// while it waits.
func (s *TelegramServer) getUpdates(r *http.Request) (found []update, conflict string) {
	offset, _ := strconv.ParseInt(r.FormValue("offset"), 10, 64)
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	timeout, _ := strconv.Atoi(r.FormValue("timeout"))
	if limit < 1 || limit > 100 {
		limit = 100
	}
	s.offsets = append(s.offsets, offset)
	s.updates = slices.DeleteFunc(s.updates, func(u update) bool { return u.ID < offset })
	s.poll++
	mine := s.poll
	s.changed()
	for late := time.After(time.Duration(timeout) * time.Second); ; {
		switch {
		case s.webhook:
			return nil, "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
		case s.poll != mine:
			return nil, "terminated by other getUpdates request; make sure that only one bot instance is running"
		case s.refuses:
			return []update{}, ""
		case len(s.updates) > 0 || timeout == 0:
			return slices.Clone(s.updates[:min(limit, len(s.updates))]), ""
		}
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-wake:
		case <-r.Context().Done():
		case <-late:
			timeout = 0
		}
		s.mu.Lock()
		if r.Context().Err() != nil {
			if s.poll == mine {
				s.poll++
			}
			return nil, "gone"
		}
	}
}
