package trace

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// The messages of OTLP 1.x as a collector knows them, all fields of a span that we might
// send: anything else is refused, as is what has the wrong type.
type (
	wire struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []wireAttribute }
			ScopeSpans []struct {
				Scope struct{ Name, Version string }
				Spans []wireSpan
			}
		}
	}
	wireSpan struct {
		TraceID           string `json:"traceId"`
		SpanID            string `json:"spanId"`
		ParentSpanID      string `json:"parentSpanId"`
		Name              string
		Kind              int32
		StartTimeUnixNano string
		EndTimeUnixNano   string
		Attributes        []wireAttribute
		Status            struct {
			Message string
			Code    int32
		}
	}
	wireAttribute struct {
		Key   string
		Value wireValue
	}
	wireValue struct {
		StringValue *string
		IntValue    *string
		ArrayValue  *struct{ Values []wireValue }
	}
)

func decode(t *testing.T, body io.Reader) wire {
	t.Helper()
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	var w wire
	if err := dec.Decode(&w); err != nil {
		t.Errorf("a collector does not understand it: %v", err)
	}
	return w
}

func (v wireValue) String() string {
	switch {
	case v.StringValue != nil && v.IntValue == nil && v.ArrayValue == nil:
		return *v.StringValue
	case v.IntValue != nil && v.StringValue == nil && v.ArrayValue == nil:
		if _, err := strconv.ParseInt(*v.IntValue, 10, 64); err != nil {
			return err.Error()
		}
		return *v.IntValue
	case v.ArrayValue != nil && v.StringValue == nil && v.IntValue == nil:
		return fmt.Sprint(v.ArrayValue.Values)
	}
	return "not one value"
}

func attributes(t *testing.T, list []wireAttribute) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for _, a := range list {
		if _, twice := m[a.Key]; twice || a.Key == "" {
			t.Errorf("attribute %q is there twice, or has no name", a.Key)
		}
		m[a.Key] = a.Value.String()
	}
	return m
}

func some() *journal.Run {
	start := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	return &journal.Run{
		ID: "20261126T030000Z-1f2e3d", Command: "backup", Trigger: "schedule", Status: journal.Failed, Exit: 3, Start: start, End: start.Add(time.Minute),
		Host: "web", User: "root", PID: 4711, Version: "3.0.0", Config: "/etc/c.ini", Mode: "full", Snapshot: "abcd", Error: "b: no\nroute",
		Counts:       journal.Counts{Files: 5, Bytes: 1 << 40},
		Destinations: []journal.DestinationRun{{Location: "/a"}, {Location: "b", Error: "no route"}},
		Stages: []journal.Stage{
			{Name: "preflight", Start: start.Add(time.Second), Seconds: 1.5},
			{Name: "old", Seconds: 1},
			{Name: "backup", Start: start.Add(3 * time.Second), Seconds: 50, Error: "no route"},
		},
	}
}

// collect is a collector that answers with a status and a body.
func collect(t *testing.T, run *journal.Run, status int, answer string, headers map[string]string) (w wire, req *http.Request, err error) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		req, w = r, decode(t, r.Body)
		rw.Header().Set("Location", "/elsewhere")
		rw.WriteHeader(status)
		io.WriteString(rw, answer)
	}))
	defer s.Close()
	err = (&Collector{Endpoint: s.URL + "/otlp/", Headers: headers}).Send(t.Context(), run)
	return w, req, err
}

func TestTrace(t *testing.T) {
	w, req, err := collect(t, some(), 200, "{}", map[string]string{"Authorization": "Bearer s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	if req.Method != "POST" || req.URL.Path != "/otlp/v1/traces" || req.Header.Get("Content-Type") != "application/json" || req.Header.Get("Authorization") != "Bearer s3cret" {
		t.Errorf("%s %s %v", req.Method, req.URL, req.Header)
	}
	resource := attributes(t, w.ResourceSpans[0].Resource.Attributes)
	if resource["service.name"] != "backup-handler" || resource["service.version"] != "3.0.0" || resource["host.name"] != "web" || resource["process.pid"] != "4711" {
		t.Errorf("resource %v", resource)
	}
	spans := w.ResourceSpans[0].ScopeSpans[0].Spans
	if len(spans) != 3 {
		t.Fatalf("spans %+v", spans)
	}
	ids := make(map[string]bool)
	for i, s := range spans {
		start, err1 := strconv.ParseInt(s.StartTimeUnixNano, 10, 64)
		end, err2 := strconv.ParseInt(s.EndTimeUnixNano, 10, 64)
		if len(s.TraceID) != 32 || len(s.SpanID) != 16 || ids[s.SpanID] || s.TraceID != ID(some()) || s.Kind != 1 || err1 != nil || err2 != nil || end < start {
			t.Errorf("span %+v", s)
		}
		if i > 0 && s.ParentSpanID != spans[0].SpanID || i == 0 && s.ParentSpanID != "" {
			t.Errorf("parent of %+v", s)
		}
		ids[s.SpanID] = true
	}
	root, pre, work := spans[0], spans[1], spans[2]
	if root.Name != "backup" || root.Status.Code != 2 || root.Status.Message != "b: no route" || root.StartTimeUnixNano != "1795662000000000000" || root.EndTimeUnixNano != "1795662060000000000" {
		t.Errorf("root %+v", root)
	}
	a := attributes(t, root.Attributes)
	for key, want := range map[string]string{
		"backup_handler.run.id": "20261126T030000Z-1f2e3d", "process.exit.code": "3", "error.type": "failure", "backup_handler.files": "5", "backup_handler.bytes": "1099511627776",
		"backup_handler.destinations": "[/a b]", "backup_handler.destinations.failed": "[b]", "backup_handler.status": "failure",
	} {
		if a[key] != want {
			t.Errorf("%s is %q", key, a[key])
		}
	}
	if pre.Name != "preflight" || pre.Status.Code != 0 || pre.EndTimeUnixNano != "1795662002500000000" || len(pre.Attributes) != 0 {
		t.Errorf("%+v", pre)
	}
	if work.Status.Code != 2 || work.Status.Message != "no route" {
		t.Errorf("%+v", work)
	}

	good := some()
	good.Status, good.Error = journal.Success, ""
	w, _, err = collect(t, good, 200, "", nil)
	if err != nil || w.ResourceSpans[0].ScopeSpans[0].Spans[0].Status.Code != 0 {
		t.Errorf("%v: %+v", err, w)
	}
}

// What a collector answers is said in one line; what it redirects to does not get our headers.
func TestAnswers(t *testing.T) {
	for _, x := range []struct {
		status       int
		answer, want string
	}{
		{200, `{"partialSuccess":{}}`, ""},
		{200, `{"partialSuccess":{"rejectedSpans":"0"}}`, ""},
		{200, `not json`, ""},
		{200, `{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too\nold"}}`, "the collector has refused 2 spans: too old"},
		{200, `{"partialSuccess":{"rejectedSpans":3}}`, "the collector has refused 3 spans"},
		{401, `{"code":16,"message":"who are you"}`, "the collector says 401 Unauthorized: who are you"},
		{503, "<html>\x1b[31m busy", "the collector says 503 Service Unavailable: <html>"},
		{307, "", "the collector says 307 Temporary Redirect"},
		{500, strings.Repeat("x", 100_000), "the collector says 500 Internal Server Error: " + strings.Repeat("x", maxAnswerText) + "…"},
	} {
		_, req, err := collect(t, some(), x.status, x.answer, map[string]string{"Authorization": "Bearer s3cret"})
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "the trace of the run was not sent: ")
		}
		if !strings.HasPrefix(got, x.want) || x.want == "" && got != "" || strings.Contains(got, "\n") || strings.Contains(got, "s3cret") {
			t.Errorf("%d %.40s: %q", x.status, x.answer, got)
		}
		if req.URL.Path != "/otlp/v1/traces" {
			t.Errorf("%d: called %s", x.status, req.URL.Path)
		}
	}
}

func TestFailures(t *testing.T) {
	s := httptest.NewServer(nil)
	gone := s.URL
	s.Close()
	for _, c := range []Collector{{Endpoint: gone + "/t0ken"}, {Endpoint: "http://a b/t0ken"}, {Endpoint: "http://127.0.0.1:1/t0ken", CAFile: filepath.Join(t.TempDir(), "none")}} {
		if err := c.Send(t.Context(), some()); err == nil || strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%s: %v", c.Endpoint, err)
		}
	}
	hang := make(chan struct{})
	s = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (&Collector{Endpoint: s.URL}).Send(ctx, some()); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a collector that hangs: %v", err)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { decode(t, r.Body) }))
	defer s.Close()
	if err := (&Collector{Endpoint: s.URL}).Send(t.Context(), some()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority that nobody knows: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Collector{Endpoint: s.URL, CAFile: ca}).Send(t.Context(), some()); err != nil {
		t.Error(err)
	}
}
