package trace

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"strconv"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// The messages of opentelemetry/proto/collector/trace/v1 that are needed, in the JSON of
// OTLP: IDs in hex, 64-bit numbers in quotes.
type (
	request struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	span struct {
		TraceID    string      `json:"traceId"`
		SpanID     string      `json:"spanId"`
		Parent     string      `json:"parentSpanId,omitempty"`
		Name       string      `json:"name"`
		Kind       int         `json:"kind"`
		Start      string      `json:"startTimeUnixNano"`
		End        string      `json:"endTimeUnixNano"`
		Attributes []attribute `json:"attributes"`
		Status     *status     `json:"status,omitempty"`
	}
	status struct {
		Message string `json:"message,omitempty"`
		Code    int    `json:"code"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String *string     `json:"stringValue,omitempty"`
		Int    *string     `json:"intValue,omitempty"`
		Array  *arrayValue `json:"arrayValue,omitempty"`
	}
	arrayValue struct {
		Values []value `json:"values"`
	}
)

const (
	kindInternal = 1 // SPAN_KIND_INTERNAL
	statusError  = 2 // STATUS_CODE_ERROR; what has not failed has no status
)

// ID is the trace ID of a run, in hex: 16 bytes of the SHA-256 of its ID.
func ID(run *journal.Run) string { return digest(16, run.ID) }

// digest is in hex the first n bytes of the SHA-256 of some words.
func digest(n int, words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(w + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:n])
}

// requestOf is a run as spans. Names of attributes are those of OpenTelemetry's semantic
// conventions where they have one, and begin with backup_handler. where they do not.
func requestOf(full *journal.Run) *request {
	run := full.Bounded()
	root := span{
		TraceID: ID(run), SpanID: digest(8, run.ID, "run"), Name: run.Command, Kind: kindInternal, Start: nanos(run.Start), End: nanos(run.Start.Add(run.Took(run.Start))),
		Attributes: runAttributes(run),
	}
	if !run.Status.Good() {
		root.Status = &status{run.Error, statusError}
		root.Attributes = append(root.Attributes, text("error.type", string(run.Status)))
	}
	spans := []span{root}
	for i, stage := range run.Stages {
		if stage.Start.IsZero() {
			continue // of a version that did not note it
		}
		s := span{
			TraceID: root.TraceID, SpanID: digest(8, run.ID, "stage", strconv.Itoa(i)), Parent: root.SpanID, Name: stage.Name, Kind: kindInternal,
			Start: nanos(stage.Start), End: nanos(stage.Start.Add(time.Duration(stage.Seconds * float64(time.Second)))), Attributes: []attribute{},
		}
		if stage.Error != "" {
			s.Status = &status{stage.Error, statusError}
			s.Attributes = append(s.Attributes, text("error.type", "_OTHER")) // the convention's word for what is in no list
		}
		spans = append(spans, s)
	}
	return &request{[]resourceSpans{{
		Resource: resource{[]attribute{
			text("service.name", "backup-handler"), text("service.version", run.Version), text("host.name", run.Host), text("os.type", runtime.GOOS),
			number("process.pid", int64(run.PID)),
		}},
		ScopeSpans: []scopeSpans{{scope{"github.com/SP1R4/BackupHandler/v3", run.Version}, spans}},
	}}}
}

func runAttributes(run *journal.Run) []attribute {
	list := []attribute{
		text("backup_handler.run.id", run.ID), text("backup_handler.command", run.Command), text("backup_handler.trigger", run.Trigger),
		text("backup_handler.status", string(run.Status)), number("process.exit.code", int64(run.Exit)),
	}
	for _, x := range []struct{ key, value string }{
		{"backup_handler.config", run.Config}, {"backup_handler.mode", run.Mode}, {"backup_handler.snapshot", run.Snapshot}, {"user.name", run.User},
	} {
		if x.value != "" {
			list = append(list, text(x.key, x.value))
		}
	}
	c := run.Counts
	for _, x := range []struct {
		key string
		n   int64
	}{
		{"files", c.Files}, {"files.new", c.New}, {"files.changed", c.Changed}, {"bytes", c.Bytes}, {"bytes.read", c.Read}, {"bytes.stored", c.Stored},
		{"problems", c.Problems}, {"warnings", int64(len(run.Warnings))},
	} {
		list = append(list, number("backup_handler."+x.key, x.n))
	}
	var all, failed []string
	for _, d := range run.Destinations {
		all = append(all, d.Location)
		if d.Error != "" {
			failed = append(failed, d.Location)
		}
	}
	if len(all) > 0 {
		list = append(list, texts("backup_handler.destinations", all), texts("backup_handler.destinations.failed", failed))
	}
	return list
}

func text(key, s string) attribute { return attribute{key, value{String: &s}} }

func number(key string, n int64) attribute {
	s := strconv.FormatInt(n, 10)
	return attribute{key, value{Int: &s}}
}

func texts(key string, all []string) attribute {
	values := make([]value, len(all))
	for i := range all {
		values[i].String = &all[i]
	}
	return attribute{key, value{Array: &arrayValue{values}}}
}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
