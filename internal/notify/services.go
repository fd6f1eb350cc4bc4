package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// A Service is one that people use; docs/notifications.md says what each needs. Its
// requests follow the makers' documents, named at each function.
type Service struct {
	Kind         string // slack, discord, teams, ntfy, gotify, pushover, matrix, pagerduty
	URL          string // "": the public server, where there is one
	Token        string
	To           string
	AllowPrivate bool
	CAFile       string
}

// A protocol is how a kind of service is spoken to.
type protocol struct {
	public              string // server; "": none
	needsToken, needsTo bool
	requests            func(s *Service, m *message) ([]request, error)
	accepted            func(answer []byte) error // nil: every 2xx is
}

func protocolOf(kind string) (protocol, bool) {
	switch kind {
	case "slack":
		return protocol{requests: slack}, true
	case "discord":
		return protocol{requests: discord}, true
	case "teams":
		return protocol{requests: teams}, true
	case "ntfy":
		return protocol{public: "https://ntfy.sh", needsTo: true, requests: ntfy}, true
	case "gotify":
		return protocol{needsToken: true, requests: gotify}, true
	case "pushover":
		return protocol{public: "https://api.pushover.net", needsToken: true, needsTo: true, requests: pushover, accepted: pushoverAccepted}, true
	case "matrix":
		return protocol{needsToken: true, needsTo: true, requests: matrix}, true
	case "pagerduty":
		return protocol{public: "https://events.pagerduty.com", needsToken: true, requests: pagerduty}, true
	}
	return protocol{}, false
}

func (s *Service) kind() string   { return s.Kind }
func (s *Service) target() string { return hostOf(s.endpoint().url) }

func (s *Service) endpoint() endpoint {
	p, _ := protocolOf(s.Kind)
	address := s.URL
	if address == "" {
		address = p.public
	}
	return endpoint{url: address, allowPrivate: s.AllowPrivate, caFile: s.CAFile}
}

func (s *Service) check() error {
	p, ok := protocolOf(s.Kind)
	switch {
	case !ok:
		return errors.New("service: is not known")
	case s.URL == "" && p.public == "":
		return fmt.Errorf("url: %s needs it", s.Kind)
	case s.Token == "" && p.needsToken:
		return fmt.Errorf("token: %s needs it", s.Kind)
	case s.To == "" && p.needsTo:
		return fmt.Errorf("to: %s needs it", s.Kind)
	case strings.ContainsFunc(s.Token, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("token: must be one word")
	}
	return s.endpoint().check()
}

func (s *Service) secrets() []string { return append(urlSecrets(s.URL), s.Token, s.To) }

func (s *Service) send(ctx context.Context, e *env, m *message) error {
	p, _ := protocolOf(s.Kind)
	requests, err := p.requests(s, m)
	if err != nil {
		return err
	}
	for _, r := range requests {
		answer, err := s.endpoint().call(ctx, e, r)
		if err == nil && p.accepted != nil {
			err = p.accepted(answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// at is an address below the server's.
func (s *Service) at(path string) string { return strings.TrimRight(s.endpoint().url, "/") + path }

func one(r request, err error) ([]request, error) { return []request{r}, err }

func bearer(token string) http.Header {
	if token == "" {
		return nil
	}
	return http.Header{"Authorization": {"Bearer " + token}}
}

// slack is an incoming webhook: docs.slack.dev/messaging/sending-messages-using-incoming-webhooks.
// Three characters are escaped, which also disarms <!channel>; Slack cuts at 40,000.
func slack(_ *Service, m *message) ([]request, error) {
	text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(clip(m.whole(), 4000))
	return one(post("", map[string]any{"text": text, "mrkdwn": false}, nil))
}

// discord executes a webhook: discord.com/developers/docs/resources/webhook. content has
// at most 2,000 characters.
func discord(_ *Service, m *message) ([]request, error) {
	var text strings.Builder
	for _, r := range m.whole() {
		if strings.ContainsRune("\\`*_~|>#[]()-", r) {
			text.WriteByte('\\')
		}
		text.WriteRune(r)
	}
	return one(post("", map[string]any{
		"content":          clipUTF16(text.String(), 2000),
		"allowed_mentions": map[string]any{"parse": []string{}},
	}, nil))
}

// teams posts an Adaptive Card to a workflow: learn.microsoft.com, "Create incoming
// webhooks with Workflows"; messages have at most 28 KB. A RichTextBlock is not formatted.
func teams(_ *Service, m *message) ([]request, error) {
	type object = map[string]any
	line := func(text string, more object) object {
		run := object{"type": "TextRun", "text": text}
		for k, v := range more {
			run[k] = v
		}
		return object{"type": "RichTextBlock", "inlines": []object{run}}
	}
	mood := "Good"
	if m.bad {
		mood = "Attention"
	} else if m.look {
		mood = "Warning"
	}
	body := []object{line(m.subject, object{"weight": "Bolder", "size": "Medium", "color": mood})}
	for l := range strings.Lines(clipBytes(m.text(), 12000)) {
		if l = strings.TrimSpace(l); l != "" {
			body = append(body, line(l, nil))
		}
	}
	card := object{
		"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
		"body": body, "msteams": object{"width": "Full"},
	}
	return one(post("", object{
		"type":        "message",
		"attachments": []object{{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil, "content": card}},
	}, nil))
}

// ntfy publishes as JSON: docs.ntfy.sh/publish; a message of more than 4,096 bytes
// becomes an attachment.
func ntfy(s *Service, m *message) ([]request, error) {
	priority, tag := 3, "white_check_mark"
	if m.bad {
		priority, tag = 4, "rotating_light"
	} else if m.look {
		tag = "warning"
	}
	return one(post("", map[string]any{
		"topic": s.To, "title": m.subject, "message": clipBytes(m.text(), 4000), "priority": priority, "tags": []string{tag},
	}, bearer(s.Token)))
}

// gotify: gotify.net/api-docs, POST /message. From priority 8 on phones ring.
func gotify(s *Service, m *message) ([]request, error) {
	priority := 2
	if m.bad {
		priority = 8
	} else if m.look {
		priority = 5
	}
	return one(post(s.at("/message"), map[string]any{"title": m.subject, "message": m.text(), "priority": priority},
		http.Header{"X-Gotify-Key": {s.Token}}))
}

// pushover: pushover.net/api; message at most 1,024 characters, title 250.
func pushover(s *Service, m *message) ([]request, error) {
	priority := 0
	if m.bad {
		priority = 1
	} else if !m.look {
		priority = -1
	}
	return one(post(s.at("/1/messages.json"), map[string]any{
		"token": s.Token, "user": s.To, "title": m.subject, "message": clip(m.text(), 1024), "priority": priority, "timestamp": m.time.Unix(),
	}, nil))
}

func pushoverAccepted(answer []byte) error {
	var said struct{ Status int }
	if json.Unmarshal(answer, &said) != nil || said.Status != 1 {
		return errors.New("the server has answered, and not accepted the message")
	}
	return nil
}

// matrix sends an event: spec.matrix.org, client-server API,
// PUT /rooms/{roomId}/send/m.room.message/{txnId}. The server takes the same
// transaction once, so that a second try does not say it twice. With m.mentions,
// @room in a text calls nobody.
func matrix(s *Service, m *message) ([]request, error) {
	r, err := post("", map[string]any{"msgtype": "m.text", "body": m.whole(), "m.mentions": map[string]any{}}, bearer(s.Token))
	sum := sha256.Sum256(append([]byte(m.time.UTC().String()), r.body...))
	r.method = http.MethodPut
	r.url = s.at("/_matrix/client/v3/rooms/" + url.PathEscape(s.To) + "/send/m.room.message/" + hex.EncodeToString(sum[:16]))
	return one(r, err)
}

// pagerduty enqueues events: developer.pagerduty.com, Events API v2. Failures of one
// command and configuration are one incident, which the first good run resolves. A
// test opens one and resolves it. A digest that is all good opens none.
func pagerduty(s *Service, m *message) ([]request, error) {
	key := "backup-handler/" + m.host + "/" + m.event
	if m.run != nil {
		key = "backup-handler/" + m.host + "/" + m.run.Series() + "/" + m.run.Config
	}
	sum := sha256.Sum256([]byte(key))
	key = "backup-handler/" + hex.EncodeToString(sum[:16])
	event := func(action, severity string) (request, error) {
		return post(s.at("/v2/enqueue"), map[string]any{
			"routing_key": s.Token, "event_action": action, "dedup_key": key,
			"payload": map[string]any{
				"summary": m.subject, "source": m.host, "severity": severity, "timestamp": m.time,
				"custom_details": map[string]string{"text": m.text()},
			},
		}, nil)
	}
	switch {
	case m.event == eventTest:
		open, err := event("trigger", "info")
		if err != nil {
			return nil, err
		}
		resolve, err := event("resolve", "info")
		return []request{open, resolve}, err
	case m.bad:
		return one(event("trigger", "error"))
	case m.event == string(Recovered), m.event == string(Success):
		return one(event("resolve", "info"))
	case m.look:
		return one(event("trigger", "warning"))
	}
	return nil, nil
}
