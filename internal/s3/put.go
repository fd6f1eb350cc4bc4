package s3

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Put implements storage.Objects.
//
// An object of up to MultipartThreshold bytes takes one request, which the server
// refuses if the name is taken (If-None-Match: *). Amazon does that, and so do
// MinIO, Ceph, versitygw and others; what another server makes of it is found out
// before the first Put, by a small object of ours, see learn. Where the condition is
// not supported, or ignored, Put looks whether the name is free (HEAD) and then
// writes: two writers of one name within that moment would both succeed, and the
// later would replace the earlier. A repository survives that, because names are
// random or derived from the content.
//
// A larger object is sent in parts, see putParts.
func (s *Store) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, done := s.client.Begin(ctx)
	defer done()
	s.sweepOnce()
	d, err := s.learn(ctx)
	if err == nil {
		if size > s.o.MultipartThreshold {
			err = s.putParts(ctx, d, name, content, size)
		} else {
			err = s.putWhole(ctx, d, name, content, size)
		}
	}
	return s.describe(ctx, actPut, err)
}

func (s *Store) putWhole(ctx context.Context, d dialect, name string, content io.ReaderAt, size int64) error {
	if !d.conditional {
		if err := s.mustBeFree(ctx, name); err != nil {
			return err
		}
	}
	sum, err := d.checksum(ctx, content, 0, size)
	if err != nil {
		return err
	}
	return s.unlessTaken(ctx, d, name, func(d dialect) error {
		return s.putObject(ctx, d, s.loc.key(name), content, size, sum, s.putOptions(name))
	})
}

// unlessTaken makes a conditional request. A server may refuse it because of an
// object that was deleted in a bucket that keeps versions (versitygw does, Amazon
// does not): then the request is made without the condition.
func (s *Store) unlessTaken(ctx context.Context, d dialect, name string, request func(dialect) error) error {
	err := request(d)
	if resp, _ := errors.AsType[minio.ErrorResponse](err); resp.Code != "PreconditionFailed" || s.amazon {
		return err
	}
	if err := s.mustBeFree(ctx, name); err != nil {
		return err
	}
	d.conditional = false
	return request(d)
}

func (s *Store) putObject(ctx context.Context, d dialect, key string, content io.ReaderAt, size int64, sum checksum, o minio.PutObjectOptions) error {
	if d.conditional {
		o.SetMatchETagExcept("*")
	}
	if d.sha256 {
		o.UserMetadata[headerSHA256] = sum.sha256Base64()
	}
	body := httpstore.NewBody(content, size)
	defer body.Finish()
	_, err := s.core.PutObject(ctx, s.loc.Bucket, key, body, size, sum.md5Base64, sum.sha256Hex(), o)
	return err
}

// mustBeFree is fs.ErrExist if there is an object.
func (s *Store) mustBeFree(ctx context.Context, name string) error {
	_, err := s.core.StatObject(ctx, s.loc.Bucket, s.loc.key(name), minio.StatObjectOptions{})
	if err == nil {
		return httpstore.Failure("object exists", fs.ErrExist)
	}
	if errors.Is(s.describe(ctx, actGet, err), fs.ErrNotExist) {
		return nil
	}
	return err
}

// A dialect is what a server makes of the younger parts of the protocol.
type dialect struct {
	// conditional: If-None-Match: * is honoured.
	conditional bool
	// sha256: the header x-amz-checksum-sha256 is accepted. Else Content-MD5 is
	// sent, which is as old as the protocol. Either only adds to the hash that is
	// part of each request's signature, but some servers ask for it with object
	// lock, and some keep it with the object.
	sha256 bool
}

const (
	headerSHA256    = "x-amz-checksum-sha256"
	headerAlgorithm = "x-amz-checksum-algorithm"
	// markerName is no name of an object (they do not begin with a dot), so that
	// it is in no listing.
	markerName = ".write-once"
	markerText = "This object is not part of a backup. BackupHandler tries to write it again before it writes\n" +
		"anything else, and so learns whether the server refuses to replace what exists.\n"
)

// learn finds out the server's dialect, once per store, by writing an object that
// exists (from the second time on): that must be refused with 412. It costs one
// request; none at Amazon, whose answer is known.
func (s *Store) learn(ctx context.Context) (dialect, error) {
	if s.amazon {
		return dialect{conditional: true, sha256: true}, nil
	}
	select {
	case <-s.learning:
	case <-ctx.Done():
		return dialect{}, ctx.Err()
	}
	defer func() { s.learning <- struct{}{} }()
	if s.dialect != nil {
		return *s.dialect, nil
	}
	var err error
	for _, d := range []dialect{{true, true}, {true, false}, {false, true}, {false, false}} {
		if err = s.putMarker(ctx, d); err == nil && d.conditional {
			// It was not there, or the condition was ignored.
			if err = s.putMarker(ctx, d); err == nil {
				d.conditional = false
			}
		}
		resp, _ := errors.AsType[minio.ErrorResponse](err)
		if resp.Code == "PreconditionFailed" {
			err = nil
		}
		if err == nil {
			s.dialect = &d
			return d, nil
		}
		if !notUnderstood(resp) {
			break
		}
	}
	return dialect{}, err
}

func (s *Store) putMarker(ctx context.Context, d dialect) error {
	content := strings.NewReader(markerText)
	sum, err := d.checksum(ctx, content, 0, content.Size())
	if err != nil {
		return err
	}
	o := minio.PutObjectOptions{
		ContentType:          "text/plain; charset=utf-8",
		ServerSideEncryption: s.encryption(),
		DisableContentSha256: true,
		UserMetadata:         map[string]string{},
	}
	return s.putObject(ctx, d, s.loc.key(markerName), content, content.Size(), sum, o)
}

// notUnderstood says whether a server has stumbled over a header that it does not
// know.
func notUnderstood(resp minio.ErrorResponse) bool {
	switch resp.StatusCode {
	case http.StatusNotImplemented:
		return true
	case http.StatusBadRequest:
		switch resp.Code {
		case "NotImplemented", "InvalidArgument", "InvalidRequest", "UnsupportedHeader", "UnsupportedArgument", "400 Bad Request":
			return true
		}
	}
	return false
}

// A checksum of content: of what is sent, for the server to compare.
type checksum struct {
	sha256    []byte
	md5Base64 string // "" unless the dialect needs it
}

func (c checksum) sha256Hex() string    { return hex.EncodeToString(c.sha256) }
func (c checksum) sha256Base64() string { return base64.StdEncoding.EncodeToString(c.sha256) }

// checksum reads size bytes from off, without their counting as sent.
func (d dialect) checksum(ctx context.Context, content io.ReaderAt, off, size int64) (checksum, error) {
	sha := sha256.New()
	var to io.Writer = sha
	var md hash.Hash
	if !d.sha256 {
		md = md5.New()
		to = io.MultiWriter(sha, md)
	}
	if err := httpstore.Sum(ctx, to, io.NewSectionReader(storage.Unpaced(content), off, size), size); err != nil {
		return checksum{}, err
	}
	sum := checksum{sha256: sha.Sum(nil)}
	if md != nil {
		sum.md5Base64 = base64.StdEncoding.EncodeToString(md.Sum(nil))
	}
	return sum, nil
}
