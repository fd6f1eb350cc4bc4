package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

// Channels are those of the configuration, and its heartbeat, nil if there is none.
// A channel whose settings cannot be read, for a variable that is not set, has its
// error: it must not keep the others from being used.
func Channels(c *config.Config) ([]notify.Channel, *notify.Heartbeat) {
	var all []notify.Channel
	add := func(name string, s notify.Sender, t config.Telling, err error) {
		ch := channel(name, t, err)
		if err == nil {
			ch.Sender = s
		}
		all = append(all, ch)
	}
	if c.IsSet("SMTP", "host") {
		s, err := c.SMTP()
		add("smtp", mailSender(s), s.Telling, err)
	}
	// Receivers without an account are a mistake, unless [SMTP] has taken its place.
	if c.IsSet("NOTIFICATIONS", "receiver_emails") && (c.IsSet("EMAIL", "sender_email") || !c.IsSet("SMTP", "host")) {
		s, err := c.Email()
		add("email", mailSender(s), s.Telling, err)
	}
	if c.IsSet("TELEGRAM", "api_token") {
		t, err := c.Telegram()
		add("telegram", &notify.Telegram{Token: t.Token.Reveal(), Chats: t.Chats, Server: t.Server, AllowPrivate: t.AllowPrivate}, t.Telling, err)
	}
	for _, section := range c.SectionsOf("WEBHOOK") {
		if c.IsSet(section, "url") {
			w, err := c.Webhook(section)
			add(channelName(section), &notify.Webhook{
				URL: w.URL.Reveal(), Auth: w.Auth.Reveal(), Full: w.Full, HMACSecret: w.HMAC.Reveal(), AllowPrivate: w.AllowPrivate, CAFile: w.CAFile,
			}, w.Telling, err)
		}
	}
	for _, section := range c.SectionsOf("NOTIFY") {
		if c.IsSet(section, "service") {
			s, err := c.Notify(section)
			add(channelName(section), &notify.Service{
				Kind: s.Service, URL: s.URL.Reveal(), Token: s.Token.Reveal(), To: s.To, AllowPrivate: s.AllowPrivate, CAFile: s.CAFile,
			}, s.Telling, err)
		}
	}
	if c.IsSet("PREFLIGHT", "local_mail_to") {
		to, err := c.LocalMailTo()
		add("local-mail", &notify.LocalMail{To: to}, config.Telling{On: []string{string(notify.Failure)}, Repeat: 23 * time.Hour}, err)
	}
	if !c.IsSet("HEARTBEAT", "url") {
		return all, nil
	}
	h, err := c.Heartbeat()
	return all, &notify.Heartbeat{
		URL: h.URL.Reveal(), Timeout: h.Timeout, Protocol: h.Protocol, AllowPrivate: h.AllowPrivate, CAFile: h.CAFile, Err: err,
	}
}

// Bot is the Telegram bot whose chats may give commands; nil: [TELEGRAM] does not say so.
func Bot(c *config.Config) (*notify.Telegram, error) {
	// The token is read only if it is needed: its variable may not be set.
	if yes, err := c.TelegramCommands(); err != nil || !yes {
		return nil, err
	}
	if !c.IsSet("TELEGRAM", "api_token") {
		return nil, errors.New("[TELEGRAM] commands = True needs api_token")
	}
	t, err := c.Telegram()
	if err != nil {
		return nil, err
	}
	b := &notify.Telegram{Token: t.Token.Reveal(), Chats: t.Chats, Server: t.Server, AllowPrivate: t.AllowPrivate}
	if len(b.Numbers()) == 0 {
		return nil, errors.New("[TELEGRAM] commands = True needs the number of a chat in chats")
	}
	return b, nil
}

// Receivers are mail addresses of one run, as a channel: from the account of [EMAIL],
// which BackupHandler 2.5 used, or else [SMTP]. Who is mailed from it anyway is left out;
// nil: nobody is left.
func Receivers(c *config.Config, addresses []string) (*notify.Channel, error) {
	var s config.SMTP
	var err error
	switch {
	case c.IsSet("EMAIL", "sender_email"):
		s, err = c.Email()
	case c.IsSet("SMTP", "host"):
		s, err = c.SMTP()
	default:
		return nil, errors.New("there is no account to mail from: set [EMAIL] sender_email and app_password, or [SMTP]")
	}
	if err != nil {
		return nil, err
	}
	known := s.To
	s.To = nil
	for _, a := range addresses {
		if !slices.Contains(known, a) && !slices.Contains(s.To, a) {
			s.To = append(s.To, a)
		}
	}
	if len(s.To) == 0 {
		return nil, nil
	}
	ch := channel("--receiver", s.Telling, nil)
	// For this run: there is nothing to be quiet about, and no digest.
	ch.Sender, ch.Repeat, ch.Digest = mailSender(s), 0, notify.Never
	return &ch, ch.Check()
}

// channelName is the word of a named section, or the section's own name.
func channelName(section string) string {
	if _, word, ok := strings.Cut(section, " "); ok {
		return word
	}
	return strings.ToLower(section)
}

func mailSender(s config.SMTP) *notify.Mail {
	return &notify.Mail{
		Host: s.Host, Port: s.Port, User: s.User, Password: s.Password.Reveal(), From: s.From, To: s.To,
		TLS: s.TLS, CAFile: s.CAFile, Timeout: s.Timeout,
	}
}

// channel begins one. If what it should tell cannot be read either, it tells failures.
func channel(name string, t config.Telling, err error) notify.Channel {
	ch := notify.Channel{Name: name, Repeat: t.Repeat, Err: err}
	for _, level := range t.On {
		ch.On = append(ch.On, notify.Level(level))
	}
	if len(t.On) == 0 {
		ch.On = []notify.Level{notify.Failure}
	}
	if t.Digest == "daily" || t.Digest == "weekly" {
		ch.Digest = notify.Period(t.Digest)
	}
	if at, err := time.Parse("15:04", t.DigestTime); err == nil {
		ch.DigestHour, ch.DigestMinute = at.Hour(), at.Minute()
	}
	return ch
}

// CheckChannels returns what is wrong with the channels, each as a line that names
// its channel.
func CheckChannels(c *config.Config) (errs []error) {
	channels, heartbeat := Channels(c)
	seen := map[string]bool{"heartbeat": heartbeat != nil}
	for _, ch := range channels {
		if err := ch.Check(); err != nil {
			errs = append(errs, fmt.Errorf("channel %s: %w", ch.Name, err))
		}
		if seen[ch.Name] {
			errs = append(errs, fmt.Errorf("channel %s: two channels are called so", ch.Name))
		}
		seen[ch.Name] = true
	}
	if _, err := Bot(c); err != nil && !slices.ContainsFunc(channels, func(ch notify.Channel) bool { return ch.Name == "telegram" && ch.Check() != nil }) {
		errs = append(errs, fmt.Errorf("channel telegram: %w", err))
	}
	if heartbeat != nil {
		if err := heartbeat.Check(); err != nil {
			errs = append(errs, fmt.Errorf("channel heartbeat: %w", err))
		}
	}
	return errs
}
