package notify

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

const pingID = "/ping/5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278"

func beatOf(t *testing.T, h *Heartbeat) *Notifier {
	t.Helper()
	return newNotifier(t, Options{Heartbeat: h, Host: "web1"})
}

func TestHealthchecks(t *testing.T) {
	s := serve(t, nil)
	n := beatOf(t, &Heartbeat{URL: s.URL + pingID + "?create=1", Protocol: "auto", AllowPrivate: true})
	last := func(what string, told []journal.Told) call {
		t.Helper()
		if len(told) != 1 || told[0].Channel != "heartbeat" || told[0].Error != "" {
			t.Fatalf("%s: %v", what, told)
		}
		all := s.got()
		return all[len(all)-1]
	}
	run := testRun("20261126T020004Z-abcdef", journal.Running)
	start := last("start", n.Started(t.Context(), run))
	rid := runUUID(run.ID)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(rid) {
		t.Errorf("%s is no UUID", rid)
	}
	query := "?create=1&rid=" + rid
	if start.method != "POST" || start.path != pingID+"/start"+query {
		t.Errorf("start: %s %s", start.method, start.path)
	}
	for _, c := range []struct {
		status journal.Status
		exit   int
		path   string
	}{
		{journal.Success, 0, ""}, {journal.Warning, 0, ""}, {journal.Failed, 3, "/3"}, {journal.Refused, 2, "/2"},
		{journal.Interrupted, 130, "/fail"}, {journal.Crashed, 0, "/fail"}, {journal.Failed, 0, "/fail"}, {journal.Failed, 256, "/fail"},
	} {
		r := *run
		r.Status, r.Exit = c.status, c.exit
		if !c.status.Good() {
			r.Error = "no space left on device"
		}
		got := last(string(c.status), n.Ended(t.Context(), &r, nil))
		if got.method != "POST" || got.path != pingID+c.path+query {
			t.Errorf("%s: %s %s, want %s", c.status, got.method, got.path, pingID+c.path+query)
		}
		if body := string(got.body); !strings.HasPrefix(body, "backup on web1") || strings.Contains(body, "took 1 h 0 min") == (c.status == journal.Crashed) || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") ||
			!c.status.Good() && !strings.Contains(body, "no space left") {
			t.Errorf("%s: body %q", c.status, body)
		}
	}
	told, err := n.Test(t.Context(), "")
	if got := last("test", told); err != nil || got.path != pingID+"/log?create=1" {
		t.Errorf("test: %s %v", got.path, err)
	}
	// Another command, and a dry run, are none of its business.
	before := len(s.got())
	other := testRun("x", journal.Failed)
	other.Command = "verify"
	dry := testRun("y", journal.Success)
	dry.DryRun = true
	for _, r := range []*journal.Run{other, dry} {
		if told := append(n.Started(t.Context(), r), n.Ended(t.Context(), r, nil)...); len(told) > 0 || len(s.got()) > before {
			t.Errorf("%s: %v", r.ID, told)
		}
	}
}

func TestPlainHeartbeat(t *testing.T) {
	s := serve(t, nil)
	n := beatOf(t, &Heartbeat{URL: s.URL + "/api/push/T0KEN?status=up", Protocol: "auto", AllowPrivate: true})
	run := testRun("1", journal.Running)
	n.Started(t.Context(), run)
	for _, st := range []journal.Status{journal.Failed, journal.Refused, journal.Interrupted, journal.Crashed} {
		n.Ended(t.Context(), testRun("1", st), nil)
	}
	if _, err := n.Test(t.Context(), ""); err != nil || len(s.got()) > 0 {
		t.Fatalf("%d calls for runs that are not good: %v", len(s.got()), err)
	}
	for _, st := range []journal.Status{journal.Success, journal.Warning} {
		n.Ended(t.Context(), testRun("1", st), nil)
	}
	n.Test(t.Context(), "heartbeat")
	calls := s.got()
	if len(calls) != 3 {
		t.Fatalf("%d calls", len(calls))
	}
	for _, c := range calls {
		if c.method != "GET" || c.path != "/api/push/T0KEN?status=up" || len(c.body) > 0 {
			t.Errorf("%s %s %q", c.method, c.path, c.body)
		}
	}
}

func TestHeartbeatProtocols(t *testing.T) {
	for _, c := range []struct{ url, set, want string }{
		{"https://hc-ping.com/5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278", "auto", healthchecks}, {"https://hc-ping.com/key/slug", "auto", healthchecks},
		{"https://checks.example.org" + pingID, "auto", healthchecks}, {"https://checks.example.org/sub" + pingID + "/", "", healthchecks},
		{"https://kuma.example.org/api/push/x", "auto", plain}, {"https://nosnch.in/x", "auto", plain}, {"https://hc-ping.com.evil.example/x", "auto", plain},
		{"https://x.example/" + pingID[6:], "auto", plain}, {"https://hc-ping.com/x", plain, plain}, {"https://kuma.example.org/x", healthchecks, healthchecks},
	} {
		if got := (&Heartbeat{URL: c.url, Protocol: c.set}).protocol(); got != c.want {
			t.Errorf("%s, %s: %s", c.url, c.set, got)
		}
	}
}

// A heartbeat that fails is told by the channels, and by nothing else.
func TestHeartbeatThatFails(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if strings.HasPrefix(r.URL.Path, "/ping") {
			w.WriteHeader(404)
		}
	})
	n := newNotifier(t, Options{Host: "web1", Heartbeat: &Heartbeat{URL: s.URL + pingID, AllowPrivate: true},
		Channels: []Channel{{Name: "a", On: []Level{Failure}, Sender: &Webhook{URL: s.URL + "/a", Full: true, AllowPrivate: true}}}})
	told := n.Ended(t.Context(), testRun("1", journal.Success), nil)
	if len(told) != 1 || told[0].Channel != "heartbeat" || told[0].Error != "HTTP 404 Not Found" {
		t.Errorf("told %v", told)
	}
	calls := s.got()
	if len(calls) != 2 || calls[1].header.Get("X-Backup-Handler-Event") != "channel" || !strings.Contains(string(calls[1].body), "heartbeat on web1 could not be told") {
		t.Errorf("%d calls", len(calls))
	}
}

// Redirects of a GET are followed to other hosts too, but never to a clear connection.
func TestPlainHeartbeatRedirects(t *testing.T) {
	goal := serve(t, nil)
	for _, c := range []struct {
		to string
		ok bool
	}{{goal.URL + "/x", true}, {"file:///etc/passwd", false}} {
		s := serve(t, redirect(302, c.to))
		told, err := beatOf(t, &Heartbeat{URL: s.URL + "/T0KEN", Protocol: plain, AllowPrivate: true}).Test(t.Context(), "heartbeat")
		if err != nil || (told[0].Error == "") != c.ok {
			t.Errorf("%s: %v %v", c.to, told, err)
		}
	}
	if calls := goal.got(); len(calls) != 1 || calls[0].header.Get("Referer") != "" {
		t.Errorf("%d calls", len(calls))
	}
}
