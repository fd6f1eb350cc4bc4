// Package trace sends a run to an OpenTelemetry collector: a span for the run, and below it
// one for each of its stages. It knows the record of a run and OTLP/HTTP in JSON
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding), nothing else.
//
// Invariants:
//
//   - it is called when the run is over and recorded, within a time limit, and what goes
//     wrong is an error that fails nothing;
//   - no secret is in a trace or an error: the record has none, and neither the URL nor
//     headers are quoted;
//   - IDs are made of the run's ID, so that a run has the same trace whoever asks:
//     [ID].
//
// trace.go: sending. span.go: what a run looks like as spans.
package trace

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

const (
	// Limit is how long it may take to send a trace.
	Limit = 10 * time.Second
	// maxAnswerBytes are read of an answer, and maxAnswerText shown of what it says.
	maxAnswerBytes = 64 << 10
	maxAnswerText  = 200
	maxCAFileBytes = 1 << 20
)

// A Collector is where traces are sent to. It may be anywhere: usually it is on this machine.
type Collector struct {
	Endpoint string // http or https; /v1/traces is added
	Headers  map[string]string
	CAFile   string // PEM; "" for the system's authorities
}

// Send sends the trace of a run that is over. It is tried once.
func (c *Collector) Send(ctx context.Context, run *journal.Run) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	if err := c.send(ctx, run); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", Limit)
		}
		return fmt.Errorf("the trace of the run was not sent: %w", err)
	}
	return nil
}

func (c *Collector) send(ctx context.Context, run *journal.Run) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(requestOf(run))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.Endpoint, "/")+"/v1/traces", bytes.NewReader(body))
	if err != nil {
		return errors.New("the address of the collector is not understood")
	}
	for name, value := range c.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "backup-handler/"+run.Version)
	res, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address
		}
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the collector says %s%s", res.Status, saying(text))
	}
	if err != nil {
		return fmt.Errorf("read the collector's answer: %w", err)
	}
	return refusals(text)
}

func (c *Collector) client() (*http.Client, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		f, err := os.Open(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("otlp_ca_file: %w", err)
		}
		defer f.Close()
		pem, err := io.ReadAll(io.LimitReader(f, maxCAFileBytes))
		if err != nil {
			return nil, fmt.Errorf("otlp_ca_file: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("otlp_ca_file: %s holds no certificate in PEM", c.CAFile)
		}
	}
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: tc, DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswerBytes},
		// A redirect would take the headers, which are secret, to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// refusals reads an answer that says OK, and perhaps that it does not mean it.
func refusals(text []byte) error {
	var answer struct {
		Partial struct {
			Rejected json.RawMessage `json:"rejectedSpans"` // a number, or one in quotes
			Message  string          `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if len(bytes.TrimSpace(text)) == 0 || json.Unmarshal(text, &answer) != nil {
		return nil // many answer with nothing
	}
	if n := strings.Trim(string(answer.Partial.Rejected), `"`); n != "" && n != "0" && n != "null" {
		return fmt.Errorf("the collector has refused %s spans%s", cut(n), saying([]byte(answer.Partial.Message)))
	}
	return nil
}

// saying is the beginning of what an answer says, behind a colon.
func saying(text []byte) string {
	var status struct{ Message string } // google.rpc.Status
	if json.Unmarshal(text, &status) == nil && status.Message != "" {
		text = []byte(status.Message)
	}
	s := cut(strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "\uFFFD")), " "))
	if s == "" {
		return ""
	}
	return ": " + s
}

func cut(s string) string {
	if r := []rune(s); len(r) > maxAnswerText {
		s = string(r[:maxAnswerText]) + "…"
	}
	return s
}
