package notifytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"
)

// A TelegramServer stands in for the Bot API as core.telegram.org/bots/api documents
// it: sendMessage of one bot, and the errors of it. Anything else is 404.
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
}

// A TelegramMessage is one that the server has taken.
type TelegramMessage struct{ Chat, Text, ParseMode string }

// StartTelegram starts a server with a bot that may write to some chats.
func StartTelegram(t testing.TB, token string, chats ...string) *TelegramServer {
	s := &TelegramServer{Token: token, chats: map[string]bool{}, moved: map[string]int64{}}
	for _, c := range chats {
		s.chats[c] = true
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
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

// Said is what was written, and Calls the methods that were called.
func (s *TelegramServer) Said() []TelegramMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

func (s *TelegramServer) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
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
	if token != s.Token {
		answer(401, "Unauthorized", nil)
		return
	}
	s.calls = append(s.calls, method)
	if method != "sendMessage" {
		answer(404, "Not Found: method not found", nil)
		return
	}
	if s.busy > 0 {
		s.busy--
		answer(429, fmt.Sprintf("Too Many Requests: retry after %d", s.retryAfter), map[string]any{"retry_after": s.retryAfter})
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
