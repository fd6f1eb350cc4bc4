// Package azure keeps objects in a container of Azure Blob Storage.
//
// It does each request once and says what went wrong; retries, rate limits and
// resuming are those of [storage.NewRemote]. It knows nothing of what the objects
// mean: which of them may be colder it is told by the first element of their names.
//
// Invariants: a name that is taken is never written to (If-None-Match: *); every
// object is sent with its CRC-64, which the server compares before the object
// exists; what gives access goes over TLS only, but to this machine itself, and no
// secret is in an error.
//
// Files: azure.go opening, credentials.go whose requests they are and where to,
// blob.go storing, reading, listing and deleting, errors.go what the server answers
// in words for people. The package azuretest starts an emulator for tests.
package azure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Options say how a store is reached and how it keeps objects. The zero value is the
// account and the credentials of the environment, as Azure's own tools read it.
type Options struct {
	// Account is the storage account, if the Location does not name it; "":
	// AZURE_STORAGE_ACCOUNT.
	Account string
	// Endpoint is the URL of the account's blob service, with the account in its
	// path where the server wants that (http://127.0.0.1:10000/devstoreaccount1);
	// "": that of the connection string, else https://ACCOUNT.blob.core.windows.net.
	// Of a sovereign cloud it is https://ACCOUNT.blob.core.chinacloudapi.cn or
	// https://ACCOUNT.blob.core.usgovcloudapi.net, and AZURE_AUTHORITY_HOST names
	// its sign-in service. http is used only if it is written out.
	Endpoint    string
	Credentials Credentials
	// CAFile holds the certificates (PEM) of the only authorities that are
	// trusted; "": those of the system.
	CAFile string
	// StorageClasses maps the first element of an object's name ("packs") to the
	// access tier of those objects: Hot, Cool or Cold; "" to that of all others. A
	// kind that is missing gets the account's default. Archive, from which nothing
	// can be read before it has been brought back for hours, is refused.
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
	// Getenv returns environment variables; nil: os.Getenv. What Azure's default
	// credentials read is not asked for here.
	Getenv func(string) string
	// Now tells the time; nil: time.Now. It decides whether a SAS has expired.
	Now func() time.Time
}

// A Location is where a store is: a container, and the directory in it.
type Location struct {
	Account   string // "" for that of the options
	Container string
	Prefix    httpstore.Prefix
}

// String returns the URL.
func (l Location) String() string {
	s := "azblob://" + l.Container
	if l.Account != "" {
		s += "@" + l.Account
	}
	if l.Prefix != "" {
		s += "/" + string(l.Prefix)
	}
	return s
}

const urlForm = "write azblob://container/prefix, or azblob://container@account/prefix"

// ParseURL reads the URL of a store:
//
//	azblob://container/prefix           the account is set elsewhere
//	azblob://container@account/prefix   as Azure's abfs and wasbs URLs name it
//
// The prefix, which may be missing, is taken as it is written; nothing is
// percent-decoded. Errors do not repeat the URL, which may hold a SAS by mistake.
func ParseURL(location string) (Location, error) {
	scheme, rest, ok := strings.Cut(location, "://")
	if !ok || !strings.EqualFold(scheme, "azblob") {
		return Location{}, errors.New("not an Azure Blob URL: " + urlForm)
	}
	if strings.ContainsAny(rest, "?#") {
		return Location{}, errors.New("azblob URL has a query or fragment: " + urlForm + ", and set a SAS in the configuration")
	}
	host, prefix, _ := strings.Cut(rest, "/")
	l := Location{Prefix: httpstore.Prefix(strings.TrimSuffix(prefix, "/"))}
	var named bool
	if l.Container, l.Account, named = strings.Cut(host, "@"); named && !accountName().MatchString(l.Account) {
		return Location{}, errors.New("azblob URL names no valid account after the @: " + urlForm)
	}
	if strings.Contains(l.Container, ":") {
		return Location{}, errors.New("azblob URL holds a password or a port: " + urlForm)
	}
	if err := l.check(); err != nil {
		return Location{}, err
	}
	return l, nil
}

// Azure's rules for names.
var (
	accountName   = lazyregexp.New(`^[a-z0-9]{3,24}$`)
	containerName = lazyregexp.New(`^[a-z0-9]+(-[a-z0-9]+)*$`)
)

func (l Location) check() error {
	if n := len(l.Container); n < 3 || n > 63 || !containerName().MatchString(l.Container) {
		return fmt.Errorf("container name %q is not possible: it has 3 to 63 lower-case letters, digits and single hyphens", l.Container)
	}
	return l.Prefix.Check()
}

// A Store is a container, or a directory of one. It is a [storage.Objects].
type Store struct {
	loc       Location
	o         Options
	target    target
	client    *httpstore.Client
	container *container.Client
}

var _ storage.Objects = (*Store)(nil)

// Open opens the store at loc. It asks for the first object there: what is wrong
// with the address, the credentials or the container comes out now. The credentials
// need to read, list, create and delete blobs: the role Storage Blob Data
// Contributor on the container, or a SAS with the permissions rcdl.
func Open(ctx context.Context, loc Location, o Options) (*Store, error) {
	s, err := open(ctx, loc, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc, err)
	}
	return s, nil
}

// Create is Open: the container must exist, and a prefix needs no making. Containers
// are not created, because who may, where, with which immutability is decided
// elsewhere; the error's hint has the command.
func Create(ctx context.Context, loc Location, o Options) (*Store, error) {
	return Open(ctx, loc, o)
}

func open(ctx context.Context, loc Location, o Options) (*Store, error) {
	if err := loc.check(); err != nil {
		return nil, err
	}
	if err := checkTiers(o.StorageClasses); err != nil {
		return nil, err
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	target, err := findTarget(loc, o)
	if err != nil {
		return nil, err
	}
	client, err := httpstore.New(httpstore.Options{
		CAFile: o.CAFile, Dial: o.Dial, Stall: o.Stall, OnRequest: o.OnRequest, Purpose: purpose,
	})
	if err != nil {
		return nil, err
	}
	loc.Account = target.account
	s := &Store{loc: loc, o: o, target: target, client: client}
	if err := s.connect(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) connect(ctx context.Context) error {
	o := &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{
			Transport: s.client,
			Retry:     policy.RetryOptions{MaxRetries: -1}, // none: retries are NewRemote's
			Telemetry: policy.TelemetryOptions{ApplicationID: "backup-handler"},
		},
		ExpectContinueBehavior: blob.ExpectContinueOptions{Mode: blob.ExpectContinueModeOff}, // httpstore's
	}
	var err error
	if s.container, err = s.target.newClient(s.loc.Container, o, s.client); err != nil {
		return err
	}
	return s.describe(ctx, actList, s.client.ListFirst(ctx, s.o.First, s.list))
}

// checkTiers finds mistakes before the first object of a kind is stored.
func checkTiers(tiers map[string]string) error {
	for kind, tier := range tiers {
		if kind == "" {
			kind = "objects"
		}
		switch blob.AccessTier(tier) {
		case blob.AccessTierHot, blob.AccessTierCool, blob.AccessTierCold:
		case blob.AccessTierArchive:
			return httpstore.Permanent(fmt.Errorf("access tier Archive for %s: objects in it cannot be read before they have been brought back, for hours", kind),
				"use Cool or Cold, which are read at once; an archive belongs behind a copy of the container")
		default:
			return httpstore.Permanent(fmt.Errorf("access tier %q for %s is none of Azure's", tier, kind), "use Hot, Cool or Cold")
		}
	}
	return nil
}

// purpose says what a request does.
func purpose(req *http.Request) string {
	switch req.Method {
	case http.MethodPut:
		return "put object"
	case http.MethodDelete:
		return "delete object"
	case http.MethodHead:
		return "head object"
	}
	if req.URL.Query().Get("comp") == "list" {
		return "list objects"
	}
	return "get object"
}

// String implements storage.Objects.
func (s *Store) String() string {
	if s.target.public {
		return s.loc.String()
	}
	return s.loc.String() + " at " + s.target.endpoint.Host
}

// Close implements storage.Objects. It ends what is under way.
func (s *Store) Close() error {
	s.client.Close()
	return nil
}
