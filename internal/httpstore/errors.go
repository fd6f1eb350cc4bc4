package httpstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Permanent returns an error that trying again cannot mend.
func Permanent(err error, hint string) error {
	return &storage.PermanentError{Err: err, Hint: hint}
}

// Denied is Permanent for what has to do with who asks.
func Denied(err error, hint string) error {
	return &storage.PermanentError{Err: err, Hint: hint, Kind: storage.ErrDenied}
}

// Failure returns an error that has words of its own, and is one of the errors that
// callers branch on.
func Failure(words string, is error) error { return &failure{words, is} }

type failure struct {
	words string
	is    error
}

func (f *failure) Error() string { return f.words }
func (f *failure) Unwrap() error { return f.is }

// maxMessage bounds what is repeated of a server's answer, in bytes.
const maxMessage = 200

// OneLine shortens a foreign message, and takes from it what is not for a terminal.
func OneLine(message string) string {
	message = strings.Join(strings.FieldsFunc(message, func(r rune) bool {
		return r <= ' ' || 0x7f <= r && r < 0xa0 || r == 0x2028 || r == 0x2029
	}), " ")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return strings.TrimRight(message, ". ")
}

// errCut replaces io.EOF for an answer that does not come.
var errCut = errors.New("the server has cut the connection")

// Settled says whether an error is one that callers of a store know already, and
// needs no words. One of package http is none: it holds a URL, and is
// context.DeadlineExceeded when a server takes too long.
func Settled(err error) bool {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*storage.PermanentError](err); ok {
		return true
	}
	for _, e := range []error{fs.ErrExist, fs.ErrNotExist, storage.ErrFull, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Network describes an error that is not the server's, but of the way to it.
// unknownHint is for a host that does not exist.
func Network(host, unknownHint string, err error) error {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return Permanent(fmt.Errorf("host %s does not exist", dns.Name), unknownHint)
		}
		return fmt.Errorf("look up %s: %s", dns.Name, OneLine(dns.Err))
	}
	if e := certificateError(err); e != nil {
		hint := "if the server has an authority of its own, name the file with its certificate (ca_file)"
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](e); ok && invalid.Reason == x509.Expired {
			hint = "check this machine's clock; if it is right, the server needs a new certificate"
		}
		return Permanent(fmt.Errorf("%s: the certificate is not trusted: %s", host, OneLine(e.Error())), hint)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the URL
	}
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	if notTLS || errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return Permanent(fmt.Errorf("%s does not speak TLS", host), "if that is wanted, write the endpoint with http://")
	}
	switch {
	case errors.Is(err, errCut):
		return fmt.Errorf("%s: %w", host, errCut)
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return fmt.Errorf("%s does not answer", host)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return fmt.Errorf("cannot connect to %s: %w", host, op.Err)
	}
	return fmt.Errorf("%s: %w", host, err)
}

func certificateError(err error) error {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return e
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return e
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return e
	}
	return nil
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// maxSkew is how far apart clocks may be before servers refuse what is signed: the
// five minutes of Google; Microsoft allows fifteen.
const maxSkew = 5 * time.Minute

// ClockError returns an error that says how far this machine's clock is from the
// server's, if that is a reason to be refused, else nil. It judges by the last
// answer, unless the server has told that this is the reason.
func (c *Client) ClockError(told bool) error {
	clocks := c.clock.Load()
	if !told && (clocks == nil || clocks.here.Sub(clocks.there).Abs() < maxSkew) {
		return nil
	}
	err := errors.New("this machine's clock and the server's are too far apart")
	if clocks != nil {
		err = fmt.Errorf("this machine's clock says %s UTC, the server's %s UTC: too far apart",
			clocks.here.UTC().Format(time.DateTime), clocks.there.UTC().Format(time.DateTime))
	}
	return &storage.PermanentError{Err: err, Hint: "set this machine's clock, best by NTP", Kind: storage.ErrClock}
}
