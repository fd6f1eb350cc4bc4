package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-telegram/bot"
	"github.com/go-telegram/bot/models"

	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A Telegram is a bot and the chats it tells. It never reads what people write to
// the bot, which [Inbox] does: nobody becomes a receiver but by the configuration.
type Telegram struct {
	Token        string
	Chats        []string // numbers, or @names of channels
	Server       string   // "": Telegram's own
	AllowPrivate bool
	CAFile       string
}

const (
	telegramServer = "https://api.telegram.org"
	// maxTelegram is the longest text, in UTF-16 units: core.telegram.org/bots/api#sendmessage.
	maxTelegram = 4096
	maxChats    = 50
)

var (
	// The token is a part of the path: nothing else may be in it.
	tokenForm = lazyregexp.New(`^[0-9]{1,20}:[A-Za-z0-9_-]{3,100}$`)
	chatForm  = lazyregexp.New(`^(-?[0-9]{1,19}|@[A-Za-z0-9_]{4,64})$`)
)

func (t *Telegram) kind() string   { return "telegram" }
func (t *Telegram) target() string { return hostOf(t.endpoint().url) }

func (t *Telegram) endpoint() endpoint {
	server := strings.TrimRight(t.Server, "/")
	if server == "" {
		server = telegramServer
	}
	return endpoint{url: server, allowPrivate: t.AllowPrivate, caFile: t.CAFile}
}

func (t *Telegram) check() error {
	switch {
	case !tokenForm().MatchString(t.Token):
		return errors.New("api_token: must be as @BotFather gave it, such as 123456:ABC-def")
	case len(t.Chats) == 0:
		return errors.New("chats: nobody is there to be told")
	case len(t.Chats) > maxChats:
		return fmt.Errorf("chats: must be %d at most", maxChats)
	}
	for i, c := range t.Chats {
		if !chatForm().MatchString(c) {
			return fmt.Errorf("chats: item %d: must be the number of a chat or the @name of a channel", i+1)
		}
	}
	return t.endpoint().check()
}

// secrets are the token and its second half; the first is the bot's public number.
func (t *Telegram) secrets() []string {
	_, secret, _ := strings.Cut(t.Token, ":")
	return []string{t.Token, secret}
}

// send tells every chat. One that cannot be told does not keep the others from it.
func (t *Telegram) send(ctx context.Context, e *env, m *message) error {
	p := t.endpoint()
	c, err := p.client(e)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	b, err := t.bot(c)
	if err != nil {
		return err
	}
	text := clipUTF16(m.whole(), maxTelegram)
	var errs []error
	for _, chat := range t.Chats {
		err := retry(ctx, e, func() error { return sendTo(ctx, b, chat, text) })
		if err != nil && len(t.Chats) > 1 {
			err = fmt.Errorf("chat %s: %w", chat, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bot makes one that sends.
func (t *Telegram) bot(c *http.Client) (*bot.Bot, error) {
	return bot.New(t.Token, bot.WithSkipGetMe(), bot.WithServerURL(t.endpoint().url), bot.WithHTTPClient(0, boundedClient{c}),
		bot.WithErrorsHandler(func(error) {}))
}

// sendTo makes one try. There is no parse mode: a text is a text.
func sendTo(ctx context.Context, b *bot.Bot, chat, text string) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var id any = chat
	if n, err := strconv.ParseInt(chat, 10, 64); err == nil {
		id = n
	}
	disabled := true
	send := func(id any) error {
		_, err := b.SendMessage(ctx, &bot.SendMessageParams{ChatID: id, Text: text, LinkPreviewOptions: &models.LinkPreviewOptions{IsDisabled: &disabled}})
		return err
	}
	err := send(id)
	if moved, ok := errors.AsType[*bot.MigrateError](err); ok { // a group became a supergroup
		err = send(int64(moved.MigrateToChatID))
	}
	if err == nil {
		return nil
	}
	if busy, ok := errors.AsType[*bot.TooManyRequestsError](err); ok {
		return &passing{err, min(time.Duration(max(busy.RetryAfter, 0))*time.Second, maxRetryAfter)}
	}
	for _, final := range []error{bot.ErrorForbidden, bot.ErrorBadRequest, bot.ErrorUnauthorized, bot.ErrorNotFound, bot.ErrorConflict} {
		if errors.Is(err, final) {
			return err
		}
	}
	return callError(err)
}

// A boundedClient reads no more of an answer than an answer can have.
type boundedClient struct{ c *http.Client }

func (b boundedClient) Do(r *http.Request) (*http.Response, error) {
	resp, err := b.c.Do(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswerBytes), resp.Body}
	}
	return resp, err
}
