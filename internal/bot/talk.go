package bot

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

// Bounds of a conversation.
const (
	codeDigits = 6
	// codeLife, codeTries: one in 333,333 is guessed.
	codeLife  = 2 * time.Minute
	codeTries = 3
	// maxRequests of a chat in an hour, and maxAnswers in a minute: Telegram lets a bot
	// send 20 messages a minute to a group (core.telegram.org/bots/faq).
	maxRequests = 6
	maxAnswers  = 20
	// maxAge is how old a message may be that is heard.
	maxAge = 5 * time.Minute
	// quietTime is how soon the log has the same line on the same chat again.
	quietTime = time.Hour
	// maxStrangers are told apart; further ones share a line.
	maxStrangers = 100

	defaultRuns, maxRuns = 5, 20
)

// Events of the audit log.
const (
	eventAsked     = "telegram_asked"
	eventConfirmed = "telegram_confirmed"
	eventRefused   = "telegram_refused"
)

// A talk is what is remembered of all conversations.
type talk struct {
	name    string // of the bot
	chats   map[int64]bool
	started time.Time
	rand    io.Reader

	requests map[party]*request
	asked    map[int64][]time.Time // requests, by chat
	answered map[int64][]time.Time // answers, by chat
	noted    map[int64]time.Time   // when the log had a line on a chat
}

// A party is a user in a chat.
type party struct{ chat, user int64 }

// A request waits for its code.
type request struct {
	kind, code string
	until      time.Time
	wrong      int // codes
}

// An answer is what follows from a message; the zero value: nothing.
type answer struct {
	lines []string
	show  string // "status" or "runs": what is to be told; count of runs
	count int
	start string // the kind of run that was confirmed
	event string // for the audit log, unless start is set
	// command and why are for the audit log, too.
	command, why string
	note         string // for the log
}

func newTalk(chats []int64, started time.Time, random io.Reader) *talk {
	t := &talk{
		chats: map[int64]bool{}, started: started.Truncate(time.Second), rand: random,
		requests: map[party]*request{}, asked: map[int64][]time.Time{}, answered: map[int64][]time.Time{}, noted: map[int64]time.Time{},
	}
	for _, c := range chats {
		t.chats[c] = true
	}
	return t
}

// hear is one message.
func (t *talk) hear(l notify.Letter, now time.Time) answer {
	t.forget(now)
	switch {
	case l.Chat == 0 || l.User == 0:
		return answer{}
	case !t.chats[l.Chat]:
		return t.stranger(l, now)
	case l.Kind != "private" && l.Kind != "group" && l.Kind != "supergroup":
		return answer{}
	case l.Time.Before(t.started) || now.Sub(l.Time) > maxAge:
		return t.once(l.Chat, now, fmt.Sprintf("an old message of chat %d is ignored", l.Chat))
	}
	command, rest := t.command(l)
	if command == "" {
		return answer{}
	}
	if len(t.answered[l.Chat]) >= maxAnswers {
		return t.once(l.Chat, now, fmt.Sprintf("chat %d writes too much, and is not answered for a while", l.Chat))
	}
	a := t.answer(l, command, rest, now)
	if len(a.lines) > 0 || a.show != "" || a.start != "" {
		t.answered[l.Chat] = append(t.answered[l.Chat], now)
	}
	return a
}

// forget drops what does not count any more. A clock that was set back forgets nothing
// too early.
func (t *talk) forget(now time.Time) {
	recent(t.asked, now, time.Hour)
	recent(t.answered, now, time.Minute)
	for k, at := range t.noted {
		if now.Sub(at) >= quietTime {
			delete(t.noted, k)
		}
	}
	for who, r := range t.requests {
		if now.Sub(r.until) >= time.Hour { // until then it is said that it was too late
			delete(t.requests, who)
		}
	}
}

func recent(times map[int64][]time.Time, now time.Time, most time.Duration) {
	for chat, list := range times {
		for len(list) > 0 && now.Sub(list[0]) >= most {
			list = list[1:]
		}
		times[chat] = list
		if len(list) == 0 {
			delete(times, chat)
		}
	}
}

func (t *talk) stranger(l notify.Letter, now time.Time) answer {
	if len(t.noted) >= maxStrangers+len(t.chats) {
		return t.once(0, now, "more chats that are not in the configuration write to the bot; they are not answered")
	}
	return t.once(l.Chat, now, fmt.Sprintf("chat %d, which is not in the configuration, writes to the bot; it is not answered", l.Chat))
}

// once is a line for the log that an hour has once.
func (t *talk) once(chat int64, now time.Time, line string) answer {
	if _, ok := t.noted[chat]; ok {
		return answer{}
	}
	t.noted[chat] = now
	return answer{note: line}
}

// command takes a message apart; "" if it is not for the bot.
func (t *talk) command(l notify.Letter) (command, rest string) {
	words := strings.Fields(l.Text)
	if len(words) == 0 {
		return "", ""
	}
	private := l.Kind == "private"
	if isCode(words[0]) && len(words) == 1 && (private || t.requests[party{l.Chat, l.User}] != nil) {
		return "confirm", words[0]
	}
	name, ok := strings.CutPrefix(words[0], "/")
	if !ok {
		return "", ""
	}
	name, to, addressed := strings.Cut(name, "@")
	if addressed && !strings.EqualFold(to, t.name) {
		return "", ""
	}
	rest = strings.Join(words[1:], " ")
	switch name = strings.ToLower(name); name {
	case "help", "start", "status", "runs", "backup", "verify", "confirm", "cancel":
		return name, rest
	}
	if private || addressed { // in a group it may be another bot's
		return "unknown", ""
	}
	return "", ""
}

func isCode(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) == codeDigits
}

func (t *talk) answer(l notify.Letter, command, rest string, now time.Time) answer {
	switch command {
	case "help", "start":
		return answer{lines: helpText()}
	case "status":
		return answer{show: "status"}
	case "runs":
		n := defaultRuns
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil || n < 1 || n > maxRuns {
				return answer{lines: []string{fmt.Sprintf("/runs N: N is a number from 1 to %d.", maxRuns)}}
			}
		}
		return answer{show: "runs", count: n}
	case "backup", "verify":
		return t.ask(l, command, now)
	case "confirm":
		return t.confirm(l, rest, now)
	case "cancel":
		if r := t.requests[party{l.Chat, l.User}]; r != nil {
			delete(t.requests, party{l.Chat, l.User})
			return answer{lines: []string{"The " + r.kind + " that you asked for is off."}, event: eventRefused, command: r.kind, why: "cancelled"}
		}
		return answer{lines: []string{"Nothing waits to be confirmed."}}
	}
	return answer{lines: []string{"That is no command. /help lists them."}}
}

// ask makes a code.
func (t *talk) ask(l notify.Letter, kind string, now time.Time) answer {
	if len(t.asked[l.Chat]) >= maxRequests {
		return answer{lines: []string{fmt.Sprintf("No: this chat has asked %d times within an hour.", maxRequests)}, event: eventRefused, command: kind, why: "too many requests"}
	}
	n, err := rand.Int(t.rand, big.NewInt(1_000_000))
	if err != nil {
		return answer{lines: []string{"No code can be made now."}, event: eventRefused, command: kind, why: "no random numbers"}
	}
	code := fmt.Sprintf("%0*d", codeDigits, n)
	t.asked[l.Chat] = append(t.asked[l.Chat], now)
	t.requests[party{l.Chat, l.User}] = &request{kind: kind, code: code, until: now.Add(codeLife)}
	return answer{
		lines: []string{fmt.Sprintf("To start a %s, send within %d minutes:", kind, int(codeLife.Minutes())), "/confirm " + code},
		event: eventAsked, command: kind,
	}
}

// confirm compares a code with that of the user's request in this chat.
func (t *talk) confirm(l notify.Letter, code string, now time.Time) answer {
	who := party{l.Chat, l.User}
	r := t.requests[who]
	refuse := func(why, line string) answer {
		return answer{lines: []string{line}, event: eventRefused, command: r.kind, why: why}
	}
	switch {
	case r == nil:
		return answer{lines: []string{"Nothing of yours waits to be confirmed."}}
	case now.After(r.until):
		delete(t.requests, who)
		return refuse("code expired", "This code is too old. Ask once more: /"+r.kind)
	case subtle.ConstantTimeCompare([]byte(code), []byte(r.code)) == 1:
		delete(t.requests, who)
		return answer{start: r.kind, command: r.kind}
	}
	if r.wrong++; r.wrong >= codeTries {
		delete(t.requests, who)
		return refuse("wrong code, the last try", fmt.Sprintf("Wrong, and no try is left. No %s is started.", r.kind))
	}
	return refuse("wrong code", "That is not the code.")
}
