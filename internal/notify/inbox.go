package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-telegram/bot"
)

// Bounds of reading what people write.
const (
	// maxLetters are read at once; each is far below 100 KiB, with what it answers to.
	maxLetters      = 20
	maxLettersBytes = 8 << 20
	// sayLimit is how long one answer may take, with all tries.
	sayLimit = time.Minute
)

// An Inbox reads what people write to a Telegram bot, and answers. Who may write is not
// its business. Errors of its methods are *BotError.
type Inbox struct {
	t *Telegram
	e env
}

// A BotError is why the Bot API could not be used, without secrets.
type BotError struct {
	// Refused: the token is, and will be. Conflict: a webhook, or another program, gets
	// what is written.
	Refused, Conflict bool
	// After is how long Telegram wants to be left alone; 0: it does not say.
	After time.Duration
	err   error
}

func (e *BotError) Error() string { return e.err.Error() }
func (e *BotError) Unwrap() error { return e.err }

// A Letter is something that was written to a bot: an update of the Bot API.
type Letter struct {
	Update int64     // its number; they grow
	Chat   int64     // 0: it is not a message that people write themselves
	User   int64     // who has written it
	Kind   string    // of the chat: private, group, supergroup, channel
	Time   time.Time // when it was sent, in seconds
	Text   string
}

// Inbox opens the inbox of a bot; nothing is called yet. proxy and sleep are as in
// [Options].
func (t *Telegram) Inbox(proxy func(*http.Request) (*url.URL, error), sleeper func(context.Context, time.Duration) error) (*Inbox, error) {
	if err := t.check(); err != nil {
		return nil, mask(err, t.secrets())
	}
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	if sleeper == nil {
		sleeper = sleep
	}
	return &Inbox{t, env{now: time.Now, sleep: sleeper, proxy: proxy}}, nil
}

// Numbers are the chats that are given by number.
func (t *Telegram) Numbers() (all []int64) {
	for _, c := range t.Chats {
		if n, err := strconv.ParseInt(c, 10, 64); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// Number is the bot's own, which is no secret.
func (t *Telegram) Number() string {
	number, _, _ := strings.Cut(t.Token, ":")
	return number
}

// Name asks for the bot's name, without the @.
func (i *Inbox) Name(ctx context.Context) (string, error) {
	var me struct {
		Username string `json:"username"`
	}
	err := i.call(ctx, "getMe", nil, tryTimeout, &me)
	return me.Username, err
}

// Read returns what was written, the oldest first, from the update with the number
// offset on; 0: all that Telegram has. What is before is confirmed: Telegram forgets it.
// If there is nothing it waits as long for something.
func (i *Inbox) Read(ctx context.Context, offset int64, wait time.Duration) ([]Letter, error) {
	p := url.Values{
		"timeout": {strconv.Itoa(int(wait / time.Second))}, "limit": {strconv.Itoa(maxLetters)},
		"allowed_updates": {`["message"]`}, // not what is edited, posted in channels or tapped
	}
	if offset > 0 {
		p.Set("offset", strconv.FormatInt(offset, 10))
	}
	var updates []struct {
		ID      int64 `json:"update_id"`
		Message *struct {
			Date int64  `json:"date"`
			Text string `json:"text"`
			Chat struct {
				ID   int64  `json:"id"`
				Type string `json:"type"`
			} `json:"chat"`
			From *struct {
				ID    int64 `json:"id"`
				IsBot bool  `json:"is_bot"`
			} `json:"from"`
			// Of messages that a user has not written, or not as themselves, or not here.
			SenderChat    json.RawMessage `json:"sender_chat"`
			ForwardOrigin json.RawMessage `json:"forward_origin"`
			ForwardDate   json.RawMessage `json:"forward_date"` // before Bot API 7.0
			ViaBot        json.RawMessage `json:"via_bot"`
		} `json:"message"`
	}
	if err := i.call(ctx, "getUpdates", p, wait+tryTimeout, &updates); err != nil {
		return nil, err
	}
	letters := make([]Letter, 0, len(updates))
	for _, u := range updates {
		l := Letter{Update: u.ID}
		if m := u.Message; m != nil && m.From != nil && !m.From.IsBot && m.SenderChat == nil && m.ForwardOrigin == nil && m.ForwardDate == nil && m.ViaBot == nil {
			l.Chat, l.User, l.Kind, l.Time, l.Text = m.Chat.ID, m.From.ID, m.Chat.Type, time.Unix(m.Date, 0), m.Text
		}
		letters = append(letters, l)
	}
	return letters, nil
}

// Say writes lines to a chat, each without what is no text in it, with as many tries as
// it takes and a minute allows.
func (i *Inbox) Say(ctx context.Context, chat int64, lines []string) error {
	ctx, cancel := context.WithTimeout(ctx, sayLimit)
	defer cancel()
	c, err := i.t.endpoint().client(&i.e)
	if err != nil {
		return i.problem(err)
	}
	defer c.CloseIdleConnections()
	b, err := i.t.bot(c)
	if err != nil {
		return i.problem(err)
	}
	clean := make([]string, len(lines))
	for n, l := range lines {
		clean[n] = oneLine(l)
	}
	text := clipUTF16(strings.Join(clean, "\n"), maxTelegram)
	return i.problem(retry(ctx, &i.e, func() error { return sendTo(ctx, b, strconv.FormatInt(chat, 10), text) }))
}

// call calls a method once.
func (i *Inbox) call(ctx context.Context, method string, p url.Values, limit time.Duration, result any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := i.t.endpoint().client(&i.e)
	if err != nil {
		return i.problem(err)
	}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.t.endpoint().url+"/bot"+i.t.Token+"/"+method, strings.NewReader(p.Encode()))
	if err != nil {
		return i.problem(errors.New("the address is wrong")) // the error holds it
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.Do(req)
	if err != nil {
		return i.problem(callError(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLettersBytes))
	if err != nil {
		return i.problem(callError(err))
	}
	var answer struct {
		OK          bool            `json:"ok"`
		Code        int             `json:"error_code"`
		Description string          `json:"description"`
		Result      json.RawMessage `json:"result"`
		Parameters  struct {
			RetryAfter float64 `json:"retry_after"`
		} `json:"parameters"`
	}
	switch err := json.Unmarshal(body, &answer); {
	case err == nil && answer.OK && resp.StatusCode/100 == 2:
		if err := json.Unmarshal(answer.Result, result); err != nil {
			return i.problem(fmt.Errorf("%s: the answer is not understood", method))
		}
		return nil
	case err != nil || answer.Code == 0: // not Telegram's words: of a proxy on the way
		return i.problem(fmt.Errorf("HTTP %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	}
	text := fmt.Errorf("%s: %d %s", method, answer.Code, clip(oneLine(answer.Description), maxAnswerText))
	return &BotError{
		// 404 is what a token gets that cannot be one.
		Refused: answer.Code == 401 || answer.Code == 404, Conflict: answer.Code == 409,
		After: min(seconds(answer.Parameters.RetryAfter), maxRetryAfter), err: mask(text, i.t.secrets()),
	}
}

// problem is any error as a BotError.
func (i *Inbox) problem(err error) error {
	if err == nil {
		return nil
	}
	e := &BotError{err: mask(err, i.t.secrets()), Refused: errors.Is(err, bot.ErrorUnauthorized), Conflict: errors.Is(err, bot.ErrorConflict)}
	if p, ok := errors.AsType[*passing](err); ok {
		e.After = p.after
	}
	return e
}
