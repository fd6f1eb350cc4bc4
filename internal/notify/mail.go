package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
)

// How a connection to a mail server is protected.
const (
	TLSStart  = "starttls" // begins in the clear, and switches or fails
	TLSAlways = "tls"      // from the first byte
	TLSNone   = "none"     // not at all; without login only
)

// A Mail goes through a mail server, which may be anywhere: relays on this machine
// and in its network are what it is for.
type Mail struct {
	Host     string
	Port     int // 1 to 65535
	User     string
	Password string
	From     string // "": User
	To       []string
	TLS      string // TLSStart, TLSAlways or TLSNone
	CAFile   string // PEM; "" for the system's authorities
	Timeout  time.Duration
}

// maxReceivers bounds To.
const maxReceivers = 100

func (s *Mail) kind() string   { return "smtp" }
func (s *Mail) target() string { return strings.Join(s.To, ", ") + " by " + s.address() }

func (s *Mail) address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

func (s *Mail) from() string {
	if s.From != "" {
		return s.From
	}
	return s.User
}

func (s *Mail) check() error {
	switch {
	case s.Host == "" || strings.ContainsAny(s.Host, " /@\r\n"):
		return errors.New("host: must be the name or the address of a mail server")
	case s.Port < 1 || s.Port > 65535:
		return errors.New("port: must be from 1 to 65535")
	case len(s.To) == 0:
		return errors.New("to_addrs: nobody is there to be told")
	case len(s.To) > maxReceivers:
		return fmt.Errorf("to_addrs: must be %d at most", maxReceivers)
	case s.TLS != TLSStart && s.TLS != TLSAlways && s.TLS != TLSNone:
		return errors.New("tls: must be starttls, tls or none")
	case s.TLS == TLSNone && s.Password != "":
		return errors.New("tls: a password is not sent in the clear: set tls = starttls or tls, or leave user and password out")
	case s.Password != "" && s.User == "":
		return errors.New("user: a password needs one")
	}
	if _, err := netmail.ParseAddress(s.from()); err != nil {
		return errors.New("from_addr: must be a mail address, or user must be one")
	}
	for i, to := range s.To {
		if _, err := netmail.ParseAddress(to); err != nil {
			return fmt.Errorf("to_addrs: item %d: must be a mail address", i+1)
		}
	}
	if s.CAFile != "" {
		_, err := authorities(s.CAFile)
		return err
	}
	return nil
}

func (s *Mail) secrets() []string { return []string{s.Password} }

// send sends one mail to all receivers. If the server refuses one of them, each
// gets a mail of its own: go-mail sends to all or to none.
func (s *Mail) send(ctx context.Context, e *env, m *message) error {
	err := s.sendTo(ctx, e, m, s.To)
	refused, ok := errors.AsType[*mail.SendError](err)
	if !ok || refused.Reason != mail.ErrSMTPRcptTo || len(s.To) == 1 {
		return err
	}
	var errs []error
	for _, to := range s.To {
		if err := s.sendTo(ctx, e, m, []string{to}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", to, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Mail) sendTo(ctx context.Context, e *env, m *message, to []string) error {
	msg, err := s.compose(e, m, to)
	if err != nil {
		return err
	}
	return retry(ctx, e, func() error {
		if err := s.try(ctx, msg); err != nil {
			return mailError(err)
		}
		return nil
	})
}

// compose writes the mail: text, and HTML beside it.
func (s *Mail) compose(e *env, m *message, to []string) (*mail.Msg, error) {
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	from, err := netmail.ParseAddress(s.from())
	if err != nil {
		return nil, err
	}
	if from.Name == "" {
		from.Name = "backup-handler"
	}
	msg.FromMailAddress(from)
	if err := msg.To(to...); err != nil {
		return nil, err
	}
	msg.Subject(m.subject)
	msg.SetDateWithValue(e.now())
	msg.SetMessageID()
	// RFC 3834: nobody's holiday answers this.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	if m.bad {
		msg.SetImportance(mail.ImportanceHigh)
	}
	msg.SetBodyString(mail.TypeTextPlain, m.text()+"\n")
	msg.AddAlternativeString(mail.TypeTextHTML, m.html())
	return msg, nil
}

// try makes one connection and sends the mail.
func (s *Mail) try(ctx context.Context, msg *mail.Msg) error {
	timeout := s.Timeout
	if end, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(end))
	}
	if timeout <= 0 {
		return errTime
	}
	tc, err := tlsConfig(s.Host, s.CAFile)
	if err != nil {
		return err
	}
	// go-mail leaves a connection open whose greeting or login fails, and heeds ctx only until there is one.
	done := func() {}
	defer func() { done() }()
	options := []mail.Option{
		mail.WithPort(s.Port), mail.WithTimeout(timeout), mail.WithTLSConfig(tc), mail.WithoutNoop(),
		mail.WithDialContextFunc(func(dialCtx context.Context, network, _ string) (net.Conn, error) {
			dial := (&net.Dialer{}).DialContext
			if s.TLS == TLSAlways {
				dial = (&tls.Dialer{Config: tc}).DialContext
			}
			conn, err := dial(dialCtx, network, s.address()) // go-mail's is not one for IPv6
			if err != nil {
				return nil, err
			}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			done = func() {
				stop()
				conn.Close()
			}
			return conn, nil
		}),
	}
	switch s.TLS {
	case TLSStart:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	case TLSAlways:
		options = append(options, mail.WithSSL())
	default:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if s.User != "" && s.Password != "" {
		options = append(options, mail.WithUsername(s.User), mail.WithPassword(s.Password),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthPlain, mail.SMTPAuthLogin, mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthCramMD5))
	}
	c, err := mail.NewClient(s.Host, options...)
	if err != nil {
		return err
	}
	if err := c.DialAndSendWithContext(ctx, msg); err != nil && !msg.IsDelivered() {
		return err
	}
	return nil // what fails after the server has taken the mail does not matter
}

// mailError makes an error passing unless the same must happen again: SMTP 5xx,
// logins among them, and certificates that are not trusted.
func mailError(err error) error {
	var reply *textproto.Error
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var sent *mail.SendError
	switch {
	case errors.Is(err, errTime):
		return err
	case errors.As(err, &cert):
		return fmt.Errorf("no trusted TLS connection: %w; ca_file names an authority of your own", cert.Err)
	case errors.As(err, &record):
		return errors.New("the server does not speak TLS from the first byte; tls = starttls is for those that switch to it")
	case strings.Contains(err.Error(), "does not support STARTTLS"):
		return errors.New("the server does not offer STARTTLS; tls = tls is for servers that are encrypted from the first byte")
	case errors.As(err, &sent) && sent.ErrorCode() >= 400:
		if sent.IsTemp() {
			return &passing{err: sent}
		}
		return err
	case errors.As(err, &reply) && reply.Code >= 500:
		return err
	case strings.Contains(err.Error(), "AUTH"):
		return err // no way to log in: a second try would be one more towards a locked account
	}
	return &passing{err: err}
}
