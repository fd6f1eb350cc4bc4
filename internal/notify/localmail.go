package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"os/exec"
	"strings"
	"time"
)

// A LocalMail goes to a user of this machine, by its sendmail.
type LocalMail struct {
	To string
}

// localMailTimeout is how long sendmail may take to take a mail.
const localMailTimeout = 15 * time.Second

func (l *LocalMail) kind() string      { return "sendmail" }
func (l *LocalMail) target() string    { return l.To }
func (l *LocalMail) secrets() []string { return nil }

func (l *LocalMail) check() error {
	if l.To == "" || l.To[0] == '-' || strings.ContainsFunc(l.To, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`,;:<>()[]"\`, r) }) {
		return errors.New("local_mail_to: must be one user or address")
	}
	return nil
}

func (l *LocalMail) send(ctx context.Context, e *env, m *message) error {
	program, err := findSendmail(e.sendmail)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, localMailTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-t", "-oi")
	cmd.Stdin = bytes.NewReader(l.compose(m))
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("sendmail: %w: %s", err, clip(oneLine(out.String()), maxAnswerText))
	}
	return nil
}

// findSendmail looks where systems have it, which is not always in the path of a service.
func findSendmail(given string) (string, error) {
	names := []string{"sendmail", "/usr/sbin/sendmail", "/usr/lib/sendmail"}
	if given != "" {
		names = []string{given}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no sendmail on this machine")
}

// compose is the mail as sendmail -t wants it; it ends lines by itself.
func (l *LocalMail) compose(m *message) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "To: %s\nSubject: %s\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n", l.To, mime.QEncoding.Encode("utf-8", m.subject))
	out.WriteString("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n")
	body := quotedprintable.NewWriter(&out)
	body.Write([]byte(m.text() + "\n")) // a bytes.Buffer takes everything
	body.Close()
	return bytes.ReplaceAll(out.Bytes(), []byte("\r\n"), []byte("\n"))
}
