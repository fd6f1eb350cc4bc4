package config

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// metricsSections are about what monitoring gets. docs/monitoring.md says more.
func metricsSections() []Section {
	return []Section{
		{Name: "METRICS", Doc: "What monitoring gets to know of runs, beside 'backup-handler status --check'; docs/monitoring.md says more.", Keys: []Key{
			{Name: "textfile", Type: Path, Example: "/var/lib/node_exporter/backup_handler.prom",
				Doc: "File for the textfile collector of Prometheus' node_exporter, written after each run, for everybody to read; each configuration needs one of its own. Its name ends in .prom."},
			{Name: "listen", Type: String, Check: checkListen, Example: "127.0.0.1:9821",
				Doc: "Address and port at which the daemon answers GET /metrics, to anyone who can reach it; a port alone is one of 127.0.0.1."},
			{Name: "otlp_endpoint", Type: URL, Example: "http://localhost:4318",
				Doc: "OpenTelemetry collector that gets a trace of each run, by OTLP over HTTP in JSON; /v1/traces is added to it."},
			{Name: "otlp_headers", Type: String, Secret: true, Example: "${OTEL_EXPORTER_OTLP_HEADERS}",
				Doc: "Headers for the collector, as NAME=VALUE separated by commas, in URL encoding."},
			{Name: "otlp_ca_file", Type: Path, Doc: "Certificates (PEM) of the only authorities to trust; unset means the system's."},
		}},
	}
}

// Metrics says what monitoring gets to know; "" is nothing.
type Metrics struct {
	Textfile string // absolute
	Listen   string // host:port
	Endpoint string // of a collector, without /v1/traces
	CAFile   string // absolute
	// Headers are for whoever calls the collector.
	Headers Lazy[SecretString]
}

// Metrics returns the section [METRICS].
func (c *Config) Metrics() (Metrics, error) {
	var r reader
	m := Metrics{
		Textfile: get(&r, c.Value("METRICS", "textfile"), Value.Path),
		Listen:   get(&r, c.Value("METRICS", "listen"), Value.Text),
		Endpoint: get(&r, c.Value("METRICS", "otlp_endpoint"), Value.Text),
		CAFile:   get(&r, c.Value("METRICS", "otlp_ca_file"), Value.Path),
		Headers:  Lazy[SecretString]{c.Value("METRICS", "otlp_headers"), Value.Secret},
	}
	if r.err != nil {
		return Metrics{}, r.err
	}
	if m.Textfile != "" {
		if err := checkTextfile(m.Textfile); err != nil {
			return Metrics{}, c.Value("METRICS", "textfile").errorf("%v", err)
		}
	}
	if m.Listen != "" {
		var err error
		if m.Listen, err = parseListen(m.Listen); err != nil {
			return Metrics{}, c.Value("METRICS", "listen").errorf("%v", err)
		}
	}
	return m, nil
}

func checkTextfile(text string) error {
	if !strings.HasSuffix(text, ".prom") {
		return errors.New("must end in .prom: node_exporter reads no other files")
	}
	return nil
}

func checkListen(text string) error {
	_, err := parseListen(text)
	return err
}

// parseListen reads an address to listen at. One without a host is of loopback: who wants
// others to get at it writes which address they use.
func parseListen(text string) (string, error) {
	wrong := errors.New("must be an address and a port such as 127.0.0.1:9821, or a port")
	if !strings.Contains(text, ":") {
		text = ":" + text
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsAny(host, " /") {
		return "", wrong
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", wrong
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// ParseHeaders reads NAME=VALUE,NAME=VALUE in URL encoding, as OpenTelemetry writes
// headers. The error holds none of it.
func ParseHeaders(text string) (map[string]string, error) {
	headers := make(map[string]string)
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, value, ok := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || !isWord(name) || err != nil || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, errors.New("must be NAME=VALUE, separated by commas, in URL encoding")
		}
		headers[name] = value
	}
	return headers, nil
}

// An Age is how old the last good run of a kind may be.
type Age struct {
	Interval time.Duration // the longest time between two that the schedule has
	Max      time.Duration // Interval, [PREFLIGHT] staleness_factor times
}

// Ages says how old the last good run of each kind that is scheduled may be.
func (c *Config) Ages() (map[schedule.Kind]Age, error) {
	p, err := c.Preflight()
	if err != nil {
		return nil, err
	}
	plan, err := c.Schedule()
	if err != nil {
		return nil, err
	}
	ages := make(map[schedule.Kind]Age)
	for _, kind := range schedule.Kinds() {
		interval := longestGap(plan.Jobs[kind])
		if kind == schedule.Backup {
			interval = p.Interval // interval_minutes of 2.5 counts, too
		}
		if interval > 0 {
			ages[kind] = Age{interval, time.Duration(float64(interval) * p.StalenessFactor)}
		}
	}
	return ages, nil
}
