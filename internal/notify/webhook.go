package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A Webhook is an HTTP POST of JSON; docs/notifications.md has its fields.
type Webhook struct {
	URL          string
	Auth         string // value of the Authorization header; "": none
	Full         bool   // everything, instead of 2.5's text and content
	HMACSecret   string // signs each call; "": none
	AllowPrivate bool
	CAFile       string
}

// maxSimple is what Discord takes of content, in characters.
const maxSimple = 2000

func (w *Webhook) kind() string   { return "webhook" }
func (w *Webhook) target() string { return hostOf(w.URL) }

func (w *Webhook) endpoint() endpoint {
	return endpoint{url: w.URL, allowPrivate: w.AllowPrivate, allowHTTP: true, caFile: w.CAFile}
}

func (w *Webhook) check() error {
	if strings.ContainsFunc(w.Auth, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("auth_header: must be one line")
	}
	return w.endpoint().check()
}

func (w *Webhook) secrets() []string {
	all := append(urlSecrets(w.URL), w.Auth, w.HMACSecret)
	if _, token, ok := strings.Cut(w.Auth, " "); ok { // Bearer token
		all = append(all, token)
	}
	return all
}

// A payload is the JSON of format = full, version 1.
type payload struct {
	Version  int           `json:"version"`
	Event    string        `json:"event"`
	Time     time.Time     `json:"time"`
	Host     string        `json:"host"`
	Program  string        `json:"program"`
	Subject  string        `json:"subject"`
	Text     string        `json:"text"`
	Since    time.Time     `json:"since,omitzero"`
	InRow    int           `json:"in_row,omitempty"`
	LastGood time.Time     `json:"last_good,omitzero"`
	Run      *journal.Run  `json:"run,omitempty"`
	Runs     []journal.Run `json:"runs,omitempty"`
}

func (w *Webhook) send(ctx context.Context, e *env, m *message) error {
	r, err := w.request(m)
	if err == nil {
		_, err = w.endpoint().call(ctx, e, r)
	}
	return err
}

func (w *Webhook) request(m *message) (request, error) {
	var document any
	if w.Full {
		p := payload{1, m.event, m.time, m.host, m.program, m.subject, m.text(), m.since, m.inRow, m.lastGood, nil, m.runs}
		if m.run != nil {
			p.Run = m.run.Bounded()
		}
		document = p
	} else {
		text := clipUTF16(unmention(m.whole()), maxSimple)
		document = map[string]string{"text": text, "content": text}
	}
	body, err := json.Marshal(document)
	return request{method: http.MethodPost, body: body, header: func(at time.Time) http.Header {
		h := http.Header{"X-Backup-Handler-Event": {m.event}}
		if w.Auth != "" {
			h.Set("Authorization", w.Auth)
		}
		if w.HMACSecret != "" {
			stamp := strconv.FormatInt(at.Unix(), 10)
			h.Set("X-Backup-Handler-Timestamp", stamp)
			h.Set("X-Backup-Handler-Signature", sign(w.HMACSecret, stamp, body))
		}
		return h
	}}, err
}

// sign is the value of X-Backup-Handler-Signature: the time is signed too, so that
// a call cannot be made again later.
func sign(secret, stamp string, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(stamp + "."))
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// unmention keeps names of files from calling people, where it is not known who reads:
// a space of no width stands behind the @ of Discord and the <! of Slack.
func unmention(s string) string {
	return strings.NewReplacer("@everyone", "@\u200beveryone", "@here", "@\u200bhere", "<!", "<\u200b!", "<@", "<\u200b@").Replace(s)
}

// clipUTF16 cuts a text to so many UTF-16 units, as the makers of chat services count.
func clipUTF16(s string, units int) string {
	n, end := 0, 0
	for i, r := range s {
		if n < units {
			end = i // so that the ellipsis fits behind what is before
		}
		n++
		if r >= 0x10000 {
			n++
		}
	}
	if n <= units {
		return s
	}
	return s[:end] + "…"
}
