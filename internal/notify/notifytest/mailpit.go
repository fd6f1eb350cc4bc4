// Package notifytest starts what notifications are sent to in tests: mailpit, a real
// mail server, on loopback (scripts/tools installs it at the first use, which takes a
// minute or two and the network), and a stand-in for Telegram's Bot API.
//
// It knows how these are set up, and nothing of runs.
package notifytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
)

// What every mail server with a login takes.
const (
	User     = "backup@example.org"
	Password = "c0rrect-horse/batt€ry"

	// startTimeout is a hundred times what it takes: the machine may be busy.
	startTimeout = 30 * time.Second
	// startAttempts, because somebody else may take a free port.
	startAttempts = 5
)

// MailOptions say what a mail server offers.
type MailOptions struct {
	StartTLS bool // offers and wants it
	TLS      bool // encrypted from the first byte
	Login    bool // wants User and Password
	// Allowed is a regular expression of the receivers it takes; "" for all.
	Allowed string
	// Expired and OtherHost make its certificate wrong.
	Expired, OtherHost bool
}

// A MailServer is a running mailpit.
type MailServer struct {
	Host   string
	Port   int
	CAFile string // authority of its certificate
	api    string
	// connections that went through Port.
	connections atomic.Int64
}

// StartMail starts a server, and ends it with the test.
func StartMail(t testing.TB, o MailOptions) *MailServer {
	t.Helper()
	binary := httpstoretest.Tool(t, "mailpit")
	var err error
	for range startAttempts {
		s := &MailServer{}
		if err = s.start(t, binary, o); err == nil {
			return s
		}
	}
	t.Fatalf("start mailpit: %v", err)
	return nil
}

func (s *MailServer) start(t testing.TB, binary string, o MailOptions) error {
	dir := t.TempDir()
	smtp, err := freeAddr()
	if err != nil {
		return err
	}
	web, err := freeAddr()
	if err != nil {
		return err
	}
	args := []string{"--smtp", smtp, "--listen", web, "--database", filepath.Join(dir, "mail.db"), "--enable-chaos",
		"--disable-version-check", "--smtp-disable-rdns", "--quiet"}
	if o.StartTLS || o.TLS {
		certs := Certificates(t, CertificateOptions{Expired: o.Expired, OtherHost: o.OtherHost})
		s.CAFile = certs.CAFile
		args = append(args, "--smtp-tls-cert", certs.CertFile, "--smtp-tls-key", certs.KeyFile)
		if o.TLS {
			args = append(args, "--smtp-require-tls")
		} else {
			args = append(args, "--smtp-require-starttls")
		}
	}
	if o.Login {
		file := filepath.Join(dir, "users")
		if err := os.WriteFile(file, []byte(User+":"+Password+"\n"), 0o600); err != nil {
			return err
		}
		args = append(args, "--smtp-auth-file", file)
		if !o.StartTLS && !o.TLS {
			args = append(args, "--smtp-auth-allow-insecure")
		}
	}
	if o.Allowed != "" {
		args = append(args, "--smtp-allowed-recipients", o.Allowed)
	}
	var output bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	stop := func() {
		cmd.Process.Kill()
		<-ended
	}
	s.api = "http://" + web + "/api/v1"
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return fmt.Errorf("mailpit has ended: %s", output.String())
		default:
		}
		if _, err := s.get("/messages"); err != nil {
			continue
		}
		c, err := net.Dial("tcp", smtp)
		if err != nil {
			continue
		}
		c.Close()
		t.Cleanup(stop)
		return s.listen(t, smtp)
	}
	stop()
	return errors.New("mailpit does not answer")
}

// listen counts the connections on their way to the server.
func (s *MailServer) listen(t testing.TB, smtp string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	s.Host, s.Port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", smtp)
				if err != nil {
					return
				}
				defer server.Close()
				done := make(chan struct{}, 2)
				go func() { io.Copy(server, client); done <- struct{}{} }()
				go func() { io.Copy(client, server); done <- struct{}{} }()
				<-done
			}()
		}
	}()
	return nil
}

// Connections is how many there have been.
func (s *MailServer) Connections() int { return int(s.connections.Load()) }

func (s *MailServer) get(path string) ([]byte, error) {
	resp, err := http.Get(s.api + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// A Mail is one that the server has taken.
type Mail struct {
	Subject, Text, HTML string
	From                string
	To                  []string
	Raw                 string
}

// Mails are those that the server has, the oldest first.
func (s *MailServer) Mails(t testing.TB) []Mail {
	t.Helper()
	must := func(data []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var list struct {
		Messages []struct{ ID string } `json:"messages"`
	}
	if err := json.Unmarshal(must(s.get("/messages")), &list); err != nil {
		t.Fatal(err)
	}
	var all []Mail
	for i := len(list.Messages) - 1; i >= 0; i-- {
		id := list.Messages[i].ID
		var m struct {
			Subject, Text, HTML string
			From                struct{ Name, Address string }
			To                  []struct{ Address string }
		}
		if err := json.Unmarshal(must(s.get("/message/"+id)), &m); err != nil {
			t.Fatal(err)
		}
		mail := Mail{Subject: m.Subject, Text: m.Text, HTML: m.HTML, From: m.From.Name + " <" + m.From.Address + ">", Raw: string(must(s.get("/message/" + id + "/raw")))}
		for _, to := range m.To {
			mail.To = append(mail.To, to.Address)
		}
		all = append(all, mail)
	}
	return all
}

// Fail lets a stage (Sender, Recipient, Authentication) fail with a code from now on; code 0 ends it.
func (s *MailServer) Fail(t testing.TB, stage string, code int) {
	t.Helper()
	trigger := map[string]map[string]int{stage: {"ErrorCode": 451, "Probability": 0}}
	if code > 0 {
		trigger[stage] = map[string]int{"ErrorCode": code, "Probability": 100}
	}
	body, err := json.Marshal(trigger)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPut, s.api+"/chaos", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("chaos: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
