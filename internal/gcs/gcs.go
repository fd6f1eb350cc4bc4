// Package gcs keeps objects in a bucket of Google Cloud Storage.
//
// It does each request once and says what went wrong; retries, rate limits and
// resuming are those of [storage.NewRemote]. It knows nothing of what the objects
// mean: which of them may be colder it is told by the first element of their names.
//
// It speaks the JSON API itself: the four requests that it needs are small, and
// Google's own library would more than double the program. Credentials are the
// business of golang.org/x/oauth2.
//
// Invariants: a name that is taken is never written to (ifGenerationMatch=0); every
// object is sent with its CRC-32C, which the server compares before the object
// exists; tokens go over TLS only, and no secret is in an error.
//
// Files: gcs.go opening, credentials.go whose requests they are, object.go storing,
// reading, listing and deleting, errors.go what the server answers in words for
// people. The package gcstest starts an emulator for tests.
package gcs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

const (
	defaultEndpoint = "https://storage.googleapis.com"
	// emulatorVariable is what Google's own libraries and tools read.
	emulatorVariable = "STORAGE_EMULATOR_HOST"
)

// Options say how a store is reached and how it keeps objects. The zero value is
// Google's service, with the credentials that Google's own tools would use.
type Options struct {
	// Endpoint is the URL of the server, such as a private or restricted endpoint
	// of Google's; "": STORAGE_EMULATOR_HOST if that is set, which is asked without
	// credentials, else Google. Without a scheme it is https: http is used only if
	// it is written out, and then without credentials.
	Endpoint    string
	Credentials Credentials
	// CAFile holds the certificates (PEM) of the only authorities that are
	// trusted; "": those of the system.
	CAFile string
	// StorageClasses maps the first element of an object's name ("packs") to the
	// storage class of those objects; "" to that of all others. A kind that is
	// missing gets the bucket's default. All of Google's classes are read at once,
	// ARCHIVE too; what is deleted early is paid for as if it were not (NEARLINE 30
	// days, COLDLINE 90, ARCHIVE 365).
	StorageClasses map[string]string
	// Dial makes connections; nil: TCP, through the proxy that the environment
	// names. With a Dial there is no proxy.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Stall is how long a connection may stand still; 0: storage.DefaultStall.
	Stall time.Duration
	// First is the directory that is listed when the store is opened; its first List soon
	// after takes no request. "": one object is asked for.
	First string
	// OnRequest, if set, is told of each request before it is sent: its HTTP
	// method, and what it does, such as "put object" or "list objects". Called
	// concurrently.
	OnRequest func(method, what string)
	// Getenv returns environment variables; nil: os.Getenv. What the default
	// credentials read is not asked for here.
	Getenv func(string) string
}

// A Location is where a store is: a bucket, and the directory in it.
type Location struct {
	Bucket string
	Prefix httpstore.Prefix
}

// String returns the URL.
func (l Location) String() string {
	if l.Prefix == "" {
		return "gs://" + l.Bucket
	}
	return "gs://" + l.Bucket + "/" + string(l.Prefix)
}

// ParseURL reads gs://bucket or gs://bucket/prefix, as Google's tools write it. The
// prefix is taken as it is written; nothing is percent-decoded. Errors do not repeat
// the URL, which may hold a password by mistake.
func ParseURL(location string) (Location, error) {
	scheme, rest, ok := strings.Cut(location, "://")
	if !ok || !strings.EqualFold(scheme, "gs") {
		return Location{}, errors.New("not a Google Cloud Storage URL: write gs://bucket/prefix")
	}
	if strings.ContainsAny(rest, "?#") {
		return Location{}, errors.New("gs URL has a query or fragment: write gs://bucket/prefix and set the rest in the configuration")
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(bucket, "@:") {
		return Location{}, errors.New("gs URL holds a user or a port: write gs://bucket/prefix")
	}
	l := Location{Bucket: bucket, Prefix: httpstore.Prefix(strings.TrimSuffix(prefix, "/"))}
	if err := l.check(); err != nil {
		return Location{}, err
	}
	return l, nil
}

// bucketName is Google's rule: with dots, which make a domain, up to 222 characters.
var bucketName = lazyregexp.New(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

func (l Location) check() error {
	if !bucketName().MatchString(l.Bucket) || len(l.Bucket) > 63 && !strings.Contains(l.Bucket, ".") {
		return fmt.Errorf("bucket name %q is not possible: it has 3 to 63 lower-case letters, digits, hyphens and underscores", l.Bucket)
	}
	return l.Prefix.Check()
}

// A Store is a bucket, or a directory of one. It is a [storage.Objects].
type Store struct {
	loc      Location
	o        Options
	endpoint *url.URL
	client   *httpstore.Client
	tokens   *tokens // nil: requests go without
}

var _ storage.Objects = (*Store)(nil)

// Open opens the store at loc. It lists what the options say: what is wrong
// with the address, the credentials or the bucket comes out now. The credentials
// need roles/storage.objectUser on the bucket, and no more.
func Open(ctx context.Context, loc Location, o Options) (*Store, error) {
	s, err := open(ctx, loc, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc, err)
	}
	return s, nil
}

// Create is Open: the bucket must exist, and a prefix needs no making. Buckets are
// not created, because who may, where, with which retention and lifecycle is decided
// elsewhere; the error's hint has the command.
func Create(ctx context.Context, loc Location, o Options) (*Store, error) {
	return Open(ctx, loc, o)
}

func open(ctx context.Context, loc Location, o Options) (*Store, error) {
	if err := loc.check(); err != nil {
		return nil, err
	}
	if err := checkClasses(o.StorageClasses); err != nil {
		return nil, err
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if emulator := o.Getenv(emulatorVariable); o.Endpoint == "" && emulator != "" {
		o.Endpoint, o.Credentials = emulator, Credentials{Anonymous: true}
		if !strings.Contains(emulator, "://") {
			o.Endpoint = "http://" + emulator
		}
	}
	endpoint, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	client, err := httpstore.New(httpstore.Options{
		CAFile: o.CAFile, Dial: o.Dial, Stall: o.Stall, OnRequest: o.OnRequest, Purpose: purpose,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{loc: loc, o: o, endpoint: endpoint, client: client}
	if err := s.connect(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) connect(ctx context.Context) error {
	if !s.o.Credentials.Anonymous {
		if s.endpoint.Scheme != "https" {
			return httpstore.Permanent(errors.New("credentials are sent over https only"),
				"write the endpoint with https://, or do without credentials (an emulator, a public bucket)")
		}
		var err error
		if s.tokens, err = s.o.Credentials.tokens(ctx, s.client); err != nil {
			return err
		}
	}
	return s.describe(ctx, actList, s.client.ListFirst(ctx, s.o.First, s.list))
}

// checkClasses finds mistakes before the first object of a kind is stored.
func checkClasses(classes map[string]string) error {
	for kind, class := range classes {
		switch class {
		case "STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE":
		default:
			if kind == "" {
				kind = "objects"
			}
			return httpstore.Permanent(fmt.Errorf("storage class %q for %s is none of Google's", class, kind),
				"use STANDARD, NEARLINE, COLDLINE or ARCHIVE")
		}
	}
	return nil
}

// parseEndpoint reads the URL of a server. Errors do not repeat it: it may hold a
// password by mistake.
func parseEndpoint(endpoint string) (*url.URL, error) {
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return nil, errors.New("endpoint is not a URL: write https://host or https://host:port")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("endpoint with the scheme %q: write https://host or https://host:port", u.Scheme)
	case u.User != nil:
		return nil, errors.New("endpoint holds a user: credentials are set by themselves")
	case u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("endpoint is more than a host: write https://host or https://host:port")
	}
	u.Path = ""
	return u, nil
}

// purpose says what a request does.
func purpose(req *http.Request) string {
	switch req.Method {
	case http.MethodPost:
		return "put object"
	case http.MethodDelete:
		return "delete object"
	}
	switch {
	case strings.HasSuffix(req.URL.EscapedPath(), "/o"):
		return "list objects"
	case req.URL.Query().Get("alt") == "media":
		return "get object"
	}
	return "head object"
}

// String implements storage.Objects.
func (s *Store) String() string {
	if s.endpoint.String() == defaultEndpoint {
		return s.loc.String()
	}
	return s.loc.String() + " at " + s.endpoint.Host
}

// Close implements storage.Objects. It ends what is under way.
func (s *Store) Close() error {
	s.client.Close()
	return nil
}
