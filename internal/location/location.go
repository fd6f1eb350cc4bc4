// Package location opens the store that a location names: a directory, or a
// directory of an SSH server or object store, by its URL.
//
// It knows every kind of store, and nothing of what is kept there, nor where the
// settings come from: they are asked for when a store of their kind is opened, so
// that a restore from one does not need the password of another.
package location

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/azure"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs"
	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Schemes lists the URLs that Open understands.
const Schemes = "sftp://user@host:port/path, s3://bucket/prefix, gs://bucket/prefix, azblob://container/prefix, file:///path"

// Transfers is how many packs are worth moving at a time over a network: while
// some wait for answers, others fill the line. As many more may wait in the spool.
const Transfers = 6

// Reads is how many parts of packs are worth asking for at a time over a network:
// one of 3 MiB takes two round trips of SFTP and the transfer, so that eight carry
// what the connections do, 160 MB/s at 50 ms (docs/adr/0014). Each takes some 5 MiB of
// memory.
const Reads = 8

// openPatience is how long a store that cannot be reached is tried again before it
// is open, unless the settings are less patient: enough for a connection that was
// cut, and not too long for somebody who mistyped a port. Operations of an open store
// have all of the settings' patience.
const openPatience = 20 * time.Second

// Settings say how stores are reached. Limits of one kind of store hold for each
// that is opened, beside those of Remote, which all have in common.
type Settings struct {
	SFTP  func() (sftp.Options, storage.Limits, error)
	S3    func() (s3.Options, storage.Limits, error)
	GCS   func() (gcs.Options, error)
	Azure func() (azure.Options, error)
	// Connect, if set, is called before a store on another machine is opened.
	Connect func(context.Context) error
	// Remote is how patient and how fast everything on other machines is. Its
	// limits hold for directories, too.
	Remote storage.RemoteOptions
}

// IsURL says whether a location is a URL, and no path.
func IsURL(location string) bool { return scheme(location) != "" }

// IsRemote says whether a location is on another machine.
func IsRemote(location string) bool {
	s := scheme(location)
	return s != "" && s != "file"
}

// scheme is that of a URL, in lower case; "" of a path. One letter is a Windows
// drive.
func scheme(location string) string {
	s, _, ok := strings.Cut(location, "://")
	if !ok || len(s) < 2 || strings.ContainsAny(s, `/\ `) {
		return ""
	}
	return strings.ToLower(s)
}

// Join returns the location of what name is in a place.
func Join(place, name string) string {
	if IsURL(place) {
		return strings.TrimRight(place, "/") + "/" + name
	}
	return filepath.Join(place, name)
}

// HasPassword says whether somebody has written a password into a URL, where
// process lists, shell histories and logs show it.
func HasPassword(location string) bool { return Redact(location) != location }

// Redact returns a location for messages: a password that somebody has written
// into a URL is not repeated.
func Redact(location string) string {
	if !IsURL(location) {
		return location
	}
	head, tail, _ := strings.Cut(location, "://")
	authority, rest := tail, ""
	if i := strings.IndexByte(tail, '/'); i >= 0 {
		authority, rest = tail[:i], tail[i:]
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 && !strings.Contains(authority, "@") && !hasPort(authority) {
		authority, rest = authority+rest[:at+1], rest[at+1:] // a slash in the password
	}
	user, host, ok := cutLast(authority, "@")
	if !ok {
		return location
	}
	name, _, ok := strings.Cut(user, ":")
	if !ok {
		return location
	}
	return head + "://" + name + ":xxxxx@" + host + rest
}

// hasPort says whether what may be the host of a URL is one: without a colon, or
// with a port after it.
func hasPort(host string) bool {
	i := strings.LastIndexByte(host, ':')
	return i < 0 || strings.HasSuffix(host, "]") || i+1 < len(host) && strings.Trim(host[i+1:], "0123456789") == ""
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// Open opens the store at a location. One that does not exist is fs.ErrNotExist, as
// far as that can be told before its objects are asked for.
func (s *Settings) Open(ctx context.Context, location string) (storage.Backend, error) {
	return s.open(ctx, location, false)
}

// Create makes the place of a store, where that is up to us, and opens it.
func (s *Settings) Create(ctx context.Context, location string) (storage.Backend, error) {
	return s.open(ctx, location, true)
}

func (s *Settings) open(ctx context.Context, location string, create bool) (storage.Backend, error) {
	o := s.Remote
	if s.Connect != nil && IsRemote(location) {
		if err := s.Connect(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", Redact(location), err)
		}
	}
	// prepare reads the address and the settings, the function it returns connects.
	var prepare func(location string, create bool, o *storage.RemoteOptions) (connect, error)
	switch scheme(location) {
	case "sftp":
		prepare = s.sftp
	case "s3":
		prepare = s.s3
	case "gs":
		prepare = s.gcs
	case "azblob":
		prepare = s.azure
	default:
		return s.local(ctx, location, create)
	}
	open, err := prepare(location, create, &o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Redact(location), err)
	}
	var objects storage.Objects
	first := o
	first.Patience = openPatience
	if o.Patience > 0 {
		first.Patience = min(o.Patience, openPatience)
	}
	err = storage.Retry(ctx, first, func() (err error) {
		objects, err = open(ctx)
		if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
			return &storage.PermanentError{Err: err, Hint: "check the host's name, and this machine's network"}
		}
		return err
	})
	if err != nil {
		return nil, err // it names the store
	}
	return storage.NewRemote(objects, o), nil
}

// connect connects to a store.
type connect func(context.Context) (storage.Objects, error)

func (s *Settings) local(ctx context.Context, location string, create bool) (b storage.Backend, err error) {
	if create {
		b, err = storage.Create(ctx, location)
	} else {
		b, err = storage.Open(ctx, location)
	}
	if err != nil {
		return nil, err
	}
	if p := limit.Of(ctx); s.Remote.Limits == (storage.Limits{}) && (p == nil || !p.Limited()) {
		return b, nil
	}
	return storage.Limit(b, s.Remote.Limits), nil
}

// narrow adds the limits of one store to those of all.
func narrow(o *storage.RemoteOptions, l storage.Limits) {
	o.Limits.Upload = o.Limits.Upload.And(l.Upload)
	o.Limits.Download = o.Limits.Download.And(l.Download)
}

func (s *Settings) sftp(location string, create bool, o *storage.RemoteOptions) (connect, error) {
	target, err := sftp.ParseURL(location)
	if err != nil {
		return nil, err
	}
	so, limits, err := s.SFTP()
	if err != nil {
		return nil, err
	}
	narrow(o, limits)
	if create {
		return func(ctx context.Context) (storage.Objects, error) { return asObjects(sftp.Create(ctx, target, so)) }, nil
	}
	return func(ctx context.Context) (storage.Objects, error) { return asObjects(sftp.Open(ctx, target, so)) }, nil
}

func (s *Settings) s3(location string, create bool, o *storage.RemoteOptions) (connect, error) {
	loc, err := s3.ParseURL(location)
	if err != nil {
		return nil, err
	}
	so, limits, err := s.S3()
	if err != nil {
		return nil, err
	}
	narrow(o, limits)
	if create {
		return func(ctx context.Context) (storage.Objects, error) { return asObjects(s3.Create(ctx, loc, so)) }, nil
	}
	return func(ctx context.Context) (storage.Objects, error) { return asObjects(s3.Open(ctx, loc, so)) }, nil
}

func (s *Settings) gcs(location string, create bool, _ *storage.RemoteOptions) (connect, error) {
	loc, err := gcs.ParseURL(location)
	if err != nil {
		return nil, err
	}
	o, err := s.GCS()
	if err != nil {
		return nil, err
	}
	if create {
		return func(ctx context.Context) (storage.Objects, error) { return asObjects(gcs.Create(ctx, loc, o)) }, nil
	}
	return func(ctx context.Context) (storage.Objects, error) { return asObjects(gcs.Open(ctx, loc, o)) }, nil
}

func (s *Settings) azure(location string, create bool, _ *storage.RemoteOptions) (connect, error) {
	loc, err := azure.ParseURL(location)
	if err != nil {
		return nil, err
	}
	o, err := s.Azure()
	if err != nil {
		return nil, err
	}
	if create {
		return func(ctx context.Context) (storage.Objects, error) { return asObjects(azure.Create(ctx, loc, o)) }, nil
	}
	return func(ctx context.Context) (storage.Objects, error) { return asObjects(azure.Open(ctx, loc, o)) }, nil
}

// asObjects keeps a nil pointer from becoming an interface that is not nil.
func asObjects[S storage.Objects](s S, err error) (storage.Objects, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
