// Package s3 keeps objects in a bucket of Amazon S3, or of a server that speaks
// its protocol: MinIO, Ceph, SeaweedFS, Garage, Wasabi, Backblaze B2 and others.
//
// It does each request once and says what went wrong; retries, rate limits and
// resuming are those of [storage.NewRemote]. It knows nothing of what the objects
// mean: which of them may be colder, or stay unlocked, it is told by the first
// element of their names.
//
// Invariants: a name that is taken is never written to, as far as the server can
// promise that (see [Store.Put]); every object is sent with its SHA-256, which the
// server compares; no secret is in an error.
//
// Connections, time-outs and content on its way are [httpstore]'s.
//
// Files: s3.go opening, credentials.go whose requests they are, put.go writing in one
// request, multipart.go in several, get.go reading and ranges, list.go listing and
// deleting, errors.go what servers answer in words for people.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Bounds and defaults.
const (
	// DefaultMultipartThreshold is more than twice the size of a pack, so that
	// packs take one request each, the one that servers make conditional.
	DefaultMultipartThreshold = 80 << 20
	// MinMultipartThreshold and MaxMultipartThreshold are S3's bounds of a part,
	// and of an object that is stored by one request.
	MinMultipartThreshold = 5 << 20
	MaxMultipartThreshold = 5 << 30
	// DefaultMaxConcurrency is what BackupHandler 2.5 and boto3 use.
	DefaultMaxConcurrency = 10
	// MaxLockDays is a hundred years, S3's own bound.
	MaxLockDays = 36500

	defaultEndpoint = "https://s3.amazonaws.com"
	defaultRegion   = "us-east-1"
	maxPrefix       = 512 // bytes; leaves room for names in S3's 1,024
)

// PathStyle says where the bucket is in a request's URL.
type PathStyle string

// The styles: https://host/bucket/key is what most servers want, and
// https://bucket.host/key what Amazon and some large providers do.
const (
	PathStyleAuto PathStyle = ""    // by the endpoint
	PathStyleOn   PathStyle = "on"  // host/bucket
	PathStyleOff  PathStyle = "off" // bucket.host
)

// Encryption says how the server encrypts what it stores. Nobody needs that for
// confidentiality, since all that arrives is encrypted; some policies demand it.
type Encryption string

// The kinds of encryption by the server.
const (
	EncryptionDefault Encryption = ""        // as the bucket is configured
	EncryptionS3      Encryption = "AES256"  // SSE-S3: the server's own key
	EncryptionKMS     Encryption = "aws:kms" // SSE-KMS: a key of the key service
)

// LockMode is a mode of object lock.
type LockMode string

// The modes: a governance lock can be lifted by whoever has
// s3:BypassGovernanceRetention; a compliance lock by nobody, not even the owner of
// the account, before it ends.
const (
	LockNone       LockMode = ""
	LockGovernance LockMode = "GOVERNANCE"
	LockCompliance LockMode = "COMPLIANCE"
)

// Lock keeps new objects from being deleted for a time. The lock of an object
// begins when it is stored and is not renewed when a later snapshot uses it again.
type Lock struct {
	Mode LockMode
	Days int
	// Except lists first elements of names whose objects are not locked.
	Except []string
}

// Options say how a store is reached and how it keeps objects. The zero value is
// Amazon S3, with the credentials that Amazon's own tools would use.
type Options struct {
	// Endpoint is the URL of the server; "": Amazon. Without a scheme it is https:
	// http is used only if it is written out.
	Endpoint string
	// Region of the bucket; "": found out when the store is opened.
	Region      string
	PathStyle   PathStyle
	Credentials Credentials
	// CAFile holds the certificates (PEM) of the only authorities that are
	// trusted; "": those of the system.
	CAFile string
	// StorageClasses maps the first element of an object's name ("packs") to the
	// storage class of those objects; "" to that of all others. A kind that is
	// missing gets the bucket's default. Classes that have to be thawed before
	// reading are refused. Amazon's INTELLIGENT_TIERING is fine as long as its
	// archive tiers, which are off unless asked for, are not switched on.
	StorageClasses map[string]string
	Encryption     Encryption
	KMSKey         string // of EncryptionKMS; "": Amazon's default key
	Lock           Lock
	// MultipartThreshold is the size in bytes above which an object is sent in
	// parts; 0: DefaultMultipartThreshold. See Put.
	MultipartThreshold int64
	// MaxConcurrency is how many parts of an object are sent at a time; 0:
	// DefaultMaxConcurrency.
	MaxConcurrency int
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
	// Now tells the time; nil: time.Now. It decides until when objects are locked
	// and which abandoned uploads are old.
	Now func() time.Time
}

// A Location is where a store is: a bucket, and the directory in it, without
// slashes around it.
type Location struct {
	Bucket, Prefix string
}

// String returns the URL.
func (l Location) String() string {
	if l.Prefix == "" {
		return "s3://" + l.Bucket
	}
	return "s3://" + l.Bucket + "/" + l.Prefix
}

// key returns the key of an object in the bucket.
func (l Location) key(name string) string {
	if l.Prefix == "" {
		return name
	}
	return l.Prefix + "/" + name
}

// ParseURL reads s3://bucket or s3://bucket/prefix. The prefix is taken as it is
// written; nothing is percent-decoded. Errors do not repeat the URL, which may hold
// a password by mistake.
func ParseURL(location string) (Location, error) {
	scheme, rest, ok := strings.Cut(location, "://")
	if !ok || !strings.EqualFold(scheme, "s3") {
		return Location{}, errors.New("not an S3 URL: write s3://bucket/prefix")
	}
	if strings.ContainsAny(rest, "?#") {
		return Location{}, errors.New("S3 URL has a query or fragment: write s3://bucket/prefix and set the rest in the configuration")
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if strings.Contains(bucket, "@") {
		return Location{}, errors.New("S3 URL holds a user: write s3://bucket/prefix and set the access key in the configuration")
	}
	if strings.Contains(bucket, ":") {
		return Location{}, errors.New("S3 URL names a port: write s3://bucket/prefix and set the endpoint in the configuration")
	}
	l := Location{Bucket: bucket, Prefix: strings.TrimSuffix(prefix, "/")}
	return l, l.check()
}

func (l Location) check() error {
	if err := s3utils.CheckValidBucketName(l.Bucket); err != nil {
		return fmt.Errorf("bucket name %q is not possible: it has 3 to 63 letters, digits, dots and hyphens", l.Bucket)
	}
	if l.Prefix == "" {
		return nil
	}
	if len(l.Prefix) > maxPrefix {
		return fmt.Errorf("S3 prefix of %d bytes, more than %d", len(l.Prefix), maxPrefix)
	}
	for element := range strings.SplitSeq(l.Prefix, "/") {
		if element == "" || element == "." || element == ".." {
			return fmt.Errorf("S3 prefix %q has an empty element, a dot or two as an element, or a slash at its start", l.Prefix)
		}
	}
	if !utf8.ValidString(l.Prefix) || strings.ContainsFunc(l.Prefix, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("S3 prefix %q has characters that servers do not keep apart", l.Prefix)
	}
	return nil
}

// A Store is a bucket, or a directory of one. It is a [storage.Objects].
type Store struct {
	loc      Location
	o        Options
	endpoint *url.URL
	amazon   bool
	region   string
	core     *minio.Core
	creds    *credentials.Credentials
	client   *httpstore.Client
	// sweeping is the search for abandoned uploads, once per store.
	sweep    sync.Once
	sweeping sync.WaitGroup

	learning chan struct{} // holds a token while nobody is learning
	dialect  *dialect      // guarded by learning; nil: not known yet
}

var _ storage.Objects = (*Store)(nil)

// Open opens the store at loc. It lists what the options say, and asks for the
// bucket's object lock if the options want one: what is wrong with the address, the
// credentials or the bucket comes out now.
func Open(ctx context.Context, loc Location, o Options) (*Store, error) {
	s, err := open(ctx, loc, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc, err)
	}
	return s, nil
}

// Create is Open: the bucket must exist, and a prefix needs no making. Buckets are
// not created, because who may, where, with which lock, versions and lifecycle is
// decided elsewhere; the error's hint has the command.
func Create(ctx context.Context, loc Location, o Options) (*Store, error) {
	return Open(ctx, loc, o)
}

func open(ctx context.Context, loc Location, o Options) (*Store, error) {
	if err := loc.check(); err != nil {
		return nil, err
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	endpoint, err := parseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	client, err := httpstore.New(httpstore.Options{
		CAFile: o.CAFile, Dial: o.Dial, Stall: o.Stall, OnRequest: o.OnRequest, Purpose: purpose, IdleConns: 2 * o.MaxConcurrency,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{loc: loc, o: o, endpoint: endpoint, client: client, learning: make(chan struct{}, 1)}
	s.learning <- struct{}{}
	s.amazon = s3utils.IsAmazonEndpoint(*endpoint)
	s.creds = o.Credentials.provider(s.amazon)
	if err := s.connect(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// complete fills in defaults and refuses what cannot work.
func (o *Options) complete() error {
	if o.MultipartThreshold == 0 {
		o.MultipartThreshold = DefaultMultipartThreshold
	}
	if o.MaxConcurrency == 0 {
		o.MaxConcurrency = DefaultMaxConcurrency
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if t := o.MultipartThreshold; t < MinMultipartThreshold || t > MaxMultipartThreshold {
		return fmt.Errorf("multipart threshold of %d bytes, not %d to %d (5 MiB to 5 GiB)", t, MinMultipartThreshold, MaxMultipartThreshold)
	}
	if c := o.MaxConcurrency; c < 1 || c > 1000 {
		return fmt.Errorf("concurrency of %d, not 1 to 1000", c)
	}
	switch o.PathStyle {
	case PathStyleAuto, PathStyleOn, PathStyleOff:
	default:
		return fmt.Errorf("path style %q, not on, off or empty", string(o.PathStyle))
	}
	switch o.Encryption {
	case EncryptionDefault, EncryptionS3:
		if o.KMSKey != "" {
			return fmt.Errorf("a KMS key is given, but the encryption is not %s", EncryptionKMS)
		}
	case EncryptionKMS:
	default:
		return fmt.Errorf("server-side encryption %q, not %s, %s or empty", string(o.Encryption), EncryptionS3, EncryptionKMS)
	}
	switch o.Lock.Mode {
	case LockNone:
		if o.Lock.Days != 0 {
			return errors.New("days of object lock without a mode: governance or compliance")
		}
	case LockGovernance, LockCompliance:
		if o.Lock.Days < 1 || o.Lock.Days > MaxLockDays {
			return fmt.Errorf("object lock of %d days, not 1 to %d", o.Lock.Days, MaxLockDays)
		}
	default:
		return fmt.Errorf("object lock mode %q, not %s or %s", string(o.Lock.Mode), LockGovernance, LockCompliance)
	}
	for kind, class := range o.StorageClasses {
		if err := checkClass(kind, class); err != nil {
			return err
		}
	}
	return o.Credentials.check()
}

// checkClass refuses classes from which nothing can be read at once. Even packs
// must be readable: pruning, verifying and rebuilding an index read them, and a
// restore that first waits twelve hours per request is none.
func checkClass(kind, class string) error {
	what := "objects"
	if kind != "" {
		what = kind
	}
	valid := class != "" && !strings.ContainsFunc(class, func(r rune) bool {
		return !('A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-')
	})
	if !valid {
		return fmt.Errorf("storage class %q for %s: classes are written like STANDARD_IA", class, what)
	}
	archive := strings.Contains(class, "GLACIER") && class != "GLACIER_IR" || strings.Contains(class, "ARCHIVE")
	if archive {
		return &storage.PermanentError{
			Err:  fmt.Errorf("storage class %s for %s: objects in an archive cannot be read before they have been thawed, for hours", class, what),
			Hint: "use STANDARD_IA or GLACIER_IR, which are read at once; an archive belongs behind a copy of the bucket",
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
		return nil, errors.New("endpoint holds a user: set the access key by itself")
	case u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("endpoint is more than a host: write https://host or https://host:port")
	}
	u.Path = ""
	return u, nil
}

// connect makes the client, in the right region, and tries it.
func (s *Store) connect(ctx context.Context) error {
	s.region = s.o.Region
	if s.region == "" {
		s.region = s3utils.GetRegionFromURL(*s.endpoint)
	}
	if s.region == "" {
		s.region = defaultRegion
	}
	err := s.tryRegion(ctx)
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok && s.o.Region == "" && resp.Region != "" && resp.Region != s.region {
		s.region = resp.Region
		err = s.tryRegion(ctx)
	}
	if err != nil {
		return s.describe(ctx, actList, err)
	}
	if s.o.Lock.Mode != LockNone {
		return s.checkLock(ctx)
	}
	return nil
}

// tryRegion makes a client for the region, and lists something: unlike a HEAD of
// the bucket, that brings an error that can be read, for the same permission.
func (s *Store) tryRegion(ctx context.Context) error {
	o := &minio.Options{
		Creds:      s.creds,
		Secure:     s.endpoint.Scheme == "https",
		Transport:  s.client.Transport(),
		Region:     s.region,
		MaxRetries: 1, // none: retries are NewRemote's
	}
	switch s.o.PathStyle {
	case PathStyleOn:
		o.BucketLookup = minio.BucketLookupPath
	case PathStyleOff:
		o.BucketLookup = minio.BucketLookupDNS
	}
	core, err := minio.NewCore(s.endpoint.Host, o)
	if err != nil {
		return err
	}
	s.core = core
	return s.client.ListFirst(ctx, s.o.First, s.list)
}

// checkLock refuses a bucket that cannot lock objects: a server may ignore the lock
// of a single object in silence.
func (s *Store) checkLock(ctx context.Context) error {
	ctx, done := s.client.Begin(ctx)
	defer done()
	enabled, _, _, _, err := s.core.GetObjectLockConfig(ctx, s.loc.Bucket)
	resp, _ := errors.AsType[minio.ErrorResponse](err)
	switch {
	case err == nil && enabled == "Enabled":
		return nil
	case err == nil, resp.Code == "ObjectLockConfigurationNotFoundError", resp.Code == "InvalidBucketState", resp.StatusCode == http.StatusNotImplemented:
		return &storage.PermanentError{
			Err:  fmt.Errorf("bucket %s has no object lock, but the configuration asks for one", s.loc.Bucket),
			Hint: "create a bucket with object lock (aws s3api create-bucket --object-lock-enabled-for-bucket …), or switch the lock off",
		}
	}
	return s.describe(ctx, actLock, err)
}

// check refuses what needs no server to be refused.
func (s *Store) check(ctx context.Context, name string) error {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	if n := len(s.loc.key(name)); n > storage.MaxName {
		return fmt.Errorf("object name of %d bytes with its prefix, more than %d: %w", n, storage.MaxName, fs.ErrInvalid)
	}
	return s.client.Usable(ctx)
}

// String implements storage.Objects.
func (s *Store) String() string {
	if s.amazon {
		return s.loc.String()
	}
	return s.loc.String() + " at " + s.endpoint.Host
}

// Close implements storage.Objects. It ends what is under way.
func (s *Store) Close() error {
	s.client.Close()
	s.sweep.Do(func() {}) // none begins from now on
	s.sweeping.Wait()
	return nil
}

// putOptions are the headers with which an object is created.
func (s *Store) putOptions(name string) minio.PutObjectOptions {
	kind, _, _ := strings.Cut(name, "/")
	o := minio.PutObjectOptions{
		ContentType:          "application/octet-stream",
		ServerSideEncryption: s.encryption(),
		DisableContentSha256: true, // not of each piece: of the whole
		UserMetadata:         map[string]string{},
	}
	class, ok := s.o.StorageClasses[kind]
	if !ok {
		class = s.o.StorageClasses[""]
	}
	o.StorageClass = class
	if s.o.Lock.Mode == LockNone {
		return o
	}
	for _, except := range s.o.Lock.Except {
		if kind == except {
			return o
		}
	}
	o.Mode = minio.RetentionMode(s.o.Lock.Mode)
	o.RetainUntilDate = s.o.Now().AddDate(0, 0, s.o.Lock.Days)
	return o
}

func (s *Store) encryption() encrypt.ServerSide {
	switch s.o.Encryption {
	case EncryptionS3:
		return encrypt.NewSSE()
	case EncryptionKMS:
		// An error is possible only for an encryption context, which there is not.
		sse, _ := encrypt.NewSSEKMS(s.o.KMSKey, nil)
		return sse
	}
	return nil
}

// purpose says what a request does.
func purpose(req *http.Request) string {
	q := req.URL.Query()
	switch {
	case q.Has("list-type"):
		return "list objects"
	case q.Has("object-lock"):
		return "get lock"
	case q.Has("uploads") && req.Method == http.MethodGet:
		return "list uploads"
	case q.Has("uploads"):
		return "create upload"
	case q.Has("partNumber"):
		return "put part"
	case q.Has("uploadId") && req.Method == http.MethodDelete:
		return "abort upload"
	case q.Has("uploadId") && req.Method == http.MethodGet:
		return "list parts"
	case q.Has("uploadId"):
		return "complete upload"
	}
	switch req.Method {
	case http.MethodGet:
		return "get object"
	case http.MethodHead:
		return "head object"
	case http.MethodPut:
		return "put object"
	case http.MethodDelete:
		return "delete object"
	}
	return "other"
}
