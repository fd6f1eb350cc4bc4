package notify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A Heartbeat is an address of a service that notices when no backup comes.
type Heartbeat struct {
	URL          string
	Timeout      time.Duration // longest wait for an answer; 0: as other calls
	Protocol     string        // "healthchecks", "plain", or "auto"
	AllowPrivate bool
	CAFile       string
	// Err is why it cannot be used: its settings cannot be read.
	Err error
}

const (
	heartbeatName = "heartbeat"
	// heartbeatCommand is the series that it hears of: a check watches one thing.
	heartbeatCommand = "backup"
	// maxHeartbeatBody is what healthchecks.io keeps of a body.
	maxHeartbeatBody = 100_000

	healthchecks = "healthchecks"
	plain        = "plain"
)

var pingPath = lazyregexp.New(`/ping/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/?$`)

// protocol is what is spoken.
func (h *Heartbeat) protocol() string {
	if h.Protocol == healthchecks || h.Protocol == plain {
		return h.Protocol
	}
	u, err := url.Parse(h.URL)
	if err == nil && (strings.EqualFold(u.Hostname(), "hc-ping.com") || pingPath().MatchString(u.Path)) {
		return healthchecks
	}
	return plain
}

// testable says whether a test does not look like a good backup.
func (h *Heartbeat) testable() bool { return h.protocol() == healthchecks }

func (h *Heartbeat) endpoint() endpoint {
	return endpoint{url: h.URL, allowPrivate: h.AllowPrivate, allowHTTP: true, caFile: h.CAFile}
}

// Check says what is wrong with the settings; nil if nothing is.
func (h *Heartbeat) Check() error {
	if h.Err != nil {
		return h.Err
	}
	return h.endpoint().check()
}

func (h *Heartbeat) secrets() []string { return urlSecrets(h.URL) }

func (h *Heartbeat) start(ctx context.Context, e *env, runID string) error {
	if h.protocol() == plain {
		return h.Check()
	}
	return h.ping(ctx, e, "/start", runID, "")
}

// end tells how a run has ended: with or without warnings, a good one is a success.
func (h *Heartbeat) end(ctx context.Context, e *env, run *journal.Run, text string) error {
	if h.protocol() == plain {
		if !run.Status.Good() {
			return h.Check()
		}
		return h.ping(ctx, e, "", "", "")
	}
	switch {
	case run.Status.Good():
		return h.ping(ctx, e, "", run.ID, text)
	case (run.Status == journal.Failed || run.Status == journal.Refused) && run.Exit > 0 && run.Exit < 256:
		return h.ping(ctx, e, "/"+strconv.Itoa(run.Exit), run.ID, text)
	}
	return h.ping(ctx, e, "/fail", run.ID, text)
}

// test calls healthchecks' log, which changes nothing, or a plain one as a good
// backup does.
func (h *Heartbeat) test(ctx context.Context, e *env, text string) error {
	if h.protocol() == plain {
		return h.ping(ctx, e, "", "", "")
	}
	return h.ping(ctx, e, "/log", "", text)
}

// ping makes one call; a run's ID lets the service find its start.
func (h *Heartbeat) ping(ctx context.Context, e *env, path, runID, text string) error {
	if err := h.Check(); err != nil {
		return err
	}
	u, err := url.Parse(h.URL)
	if err != nil {
		return err
	}
	r := request{method: http.MethodPost, body: []byte(clipBytes(text, maxHeartbeatBody)), text: true}
	if h.protocol() == plain {
		r = request{method: http.MethodGet}
	} else {
		u.Path = strings.TrimRight(u.Path, "/") + path
		u.RawPath = ""
	}
	if runID != "" {
		q := u.Query()
		q.Set("rid", runUUID(runID))
		u.RawQuery = q.Encode()
	}
	r.url = u.String()
	p := h.endpoint()
	p.timeout = h.Timeout
	_, err = p.call(ctx, e, r)
	return err
}

// runUUID makes a UUID (version 8, RFC 9562) of a run's ID: the same at its start
// and at its end.
func runUUID(runID string) string {
	b := sha256.Sum256([]byte(runID))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
