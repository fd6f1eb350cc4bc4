package gcs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// maxAnswer bounds what is read of an answer that is no object, in bytes: a page of
// a listing has a thousand names of up to a thousand bytes, and quotes.
const maxAnswer = 8 << 20

// resource is what the server says of an object; uint64 arrives in quotes.
type resource struct {
	Name         string `json:"name"`
	Size         int64  `json:"size,string,omitempty"`
	CRC32C       string `json:"crc32c,omitempty"`
	ContentType  string `json:"contentType,omitempty"`
	StorageClass string `json:"storageClass,omitempty"`
}

// url returns that of the bucket's objects (name ""), or of one.
func (s *Store) url(root, key string, query url.Values) string {
	u := s.endpoint.String() + root + "/storage/v1/b/" + url.PathEscape(s.loc.Bucket) + "/o"
	if key != "" {
		u += "/" + url.PathEscape(key) // slashes too
	}
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// do sends a request, and returns the answer if its status is one that is wanted,
// else a *refusal.
func (s *Store) do(req *http.Request, want ...int) (*http.Response, error) {
	req.Header.Set("User-Agent", "backup-handler")
	if s.tokens != nil {
		token, err := s.tokens.get(req.Context())
		if err != nil {
			return nil, err
		}
		token.SetAuthHeader(req)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	for _, status := range want {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	return nil, newRefusal(resp)
}

// decode reads an answer in JSON.
func decode(resp *http.Response, v any) error {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if json.Unmarshal(data, v) != nil {
		return errors.New("the server's answer makes no sense")
	}
	return nil
}

// Put implements storage.Objects. It takes one request, whatever the size: the
// object's properties with its checksum, then its content, in a multipart upload.
func (s *Store) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, done := s.client.Begin(ctx)
	defer done()
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if err := httpstore.Sum(ctx, crc, content, size); err != nil {
		return s.describe(ctx, actPut, err)
	}
	properties := resource{
		Name:         s.loc.Prefix.Key(name),
		CRC32C:       base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc.Sum32())),
		ContentType:  "application/octet-stream",
		StorageClass: s.class(name),
	}
	body := httpstore.NewBody(content, size)
	err := s.upload(ctx, properties, body, size)
	if cerr := body.Finish(); cerr != nil {
		err = cerr
	}
	return s.describe(ctx, actPut, err)
}

// class returns the storage class of an object, "" for the bucket's default.
func (s *Store) class(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	if class, ok := s.o.StorageClasses[kind]; ok {
		return class
	}
	return s.o.StorageClasses[""]
}

func (s *Store) upload(ctx context.Context, properties resource, body *httpstore.Body, size int64) error {
	head, tail, contentType, err := envelope(properties)
	if err != nil {
		return err
	}
	query := url.Values{"uploadType": {"multipart"}, "ifGenerationMatch": {"0"}, "fields": {"name,size,crc32c"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("/upload", "", query), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	req.ContentLength = int64(len(head)) + size + int64(len(tail))
	// The transport begins anew when it finds a kept connection closed.
	req.GetBody = func() (io.ReadCloser, error) {
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return io.NopCloser(io.MultiReader(bytes.NewReader(head), body, bytes.NewReader(tail))), nil
	}
	if req.Body, err = req.GetBody(); err != nil {
		return err
	}
	resp, err := s.do(req, http.StatusOK, http.StatusCreated)
	if err != nil {
		return err
	}
	var stored resource
	if err := decode(resp, &stored); err != nil {
		return err
	}
	if stored.Size != size || stored.CRC32C != properties.CRC32C {
		return httpstore.Permanent(fmt.Errorf("the server says it has stored %d bytes with the checksum %s, not %d with %s",
			stored.Size, httpstore.OneLine(stored.CRC32C), size, properties.CRC32C), "something between here and the server changes data")
	}
	return nil
}

// envelope returns what comes before and after the content of an object.
func envelope(properties resource) (head, tail []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json; charset=UTF-8"}})
	if err != nil {
		return nil, nil, "", err
	}
	if err := json.NewEncoder(part).Encode(properties); err != nil {
		return nil, nil, "", err
	}
	if _, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {properties.ContentType}}); err != nil {
		return nil, nil, "", err
	}
	n := b.Len()
	if err := w.Close(); err != nil {
		return nil, nil, "", err
	}
	return b.Bytes()[:n], b.Bytes()[n:], "multipart/related; boundary=" + w.Boundary(), nil
}

// Get implements storage.Objects. It takes one request: for the content, or for the
// object's size if no bytes are wanted.
func (s *Store) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := s.check(ctx, name); err != nil {
		return nil, err
	}
	opCtx, done := s.client.Begin(ctx)
	body, err := s.open(opCtx, s.loc.Prefix.Key(name), off, length)
	if err != nil {
		defer done()
		return nil, s.describe(opCtx, actGet, err)
	}
	return s.client.NewReader(ctx, done, body, length, func(err error) error { return s.describe(ctx, actGet, err) }), nil
}

// open returns what the server sends from offset off on; nil if there is nothing.
func (s *Store) open(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	query := url.Values{"alt": {"media"}}
	if length == 0 || off > httpstore.MaxObject {
		query = url.Values{"fields": {"size"}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("", key, query), nil)
	if err != nil {
		return nil, err
	}
	asked := byteRange(off, length)
	if query.Has("fields") {
		resp, err := s.do(req, http.StatusOK)
		if err == nil {
			err = decode(resp, new(resource))
		}
		return nil, err
	}
	if asked != "" {
		req.Header.Set("Range", asked)
	}
	resp, err := s.do(req, http.StatusOK, http.StatusPartialContent)
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusRequestedRangeNotSatisfiable {
		return nil, nil // the object has no such bytes
	}
	if err != nil {
		return nil, err
	}
	if asked != "" {
		if err := httpstore.SkipTo(resp.Body, resp.Header.Get("Content-Range"), resp.ContentLength, off); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp.Body, nil
}

// byteRange returns the header for a part of an object; "" for all of it.
func byteRange(off, length int64) string {
	switch {
	case off < -httpstore.MaxObject, off == 0 && length < 0:
		return "" // all that any object has
	case off < 0:
		return "bytes=" + strconv.FormatInt(off, 10)
	case length < 0, length > math.MaxInt64-off, off+length > httpstore.MaxObject:
		return "bytes=" + strconv.FormatInt(off, 10) + "-"
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+length-1)
}

// A page of a listing.
type page struct {
	Items []resource `json:"items"`
	Next  string     `json:"nextPageToken"`
}

func (s *Store) listPage(ctx context.Context, dir, token string) (*page, error) {
	query := url.Values{
		"prefix":     {s.loc.Prefix.Dir(dir)},
		"maxResults": {strconv.Itoa(pageSize)},
		"fields":     {"items(name,size),nextPageToken"},
	}
	if token != "" {
		query.Set("pageToken", token)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("", "", query), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.do(req, http.StatusOK)
	if err != nil {
		return nil, err
	}
	p := new(page)
	return p, decode(resp, p)
}

// pageSize is the most that the server sends.
const pageSize = 1000

// List implements storage.Objects. It takes one request for each thousand objects.
// Keys that no object of ours can have are left out.
func (s *Store) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	if dir != "" {
		if err := s.check(ctx, dir); err != nil {
			return err
		}
	}
	return s.client.List(ctx, dir, s.list, func(err error) error { return s.describe(ctx, actList, err) }, fn)
}

// list is an [httpstore.Lister].
func (s *Store) list(ctx context.Context, dir string, fn func(storage.Info) error) error {
	for token := ""; ; {
		p, err := s.listPage(ctx, dir, token)
		if err != nil {
			return err
		}
		for _, object := range p.Items {
			name, ok := s.loc.Prefix.Name(object.Name)
			if !ok {
				continue
			}
			if err := fn(storage.Info{Name: name, Size: object.Size}); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		if p.Next == token {
			return errEndless
		}
		token = p.Next
	}
}

var errEndless = errors.New("the server's listing does not go on")

// Delete implements storage.Objects. It takes one request. In a bucket that keeps
// versions, or what is deleted for a while (soft delete, a week by default), the
// object is gone from sight only, and is paid for until the bucket's rules end that.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, done := s.client.Begin(ctx)
	defer done()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, s.url("", s.loc.Prefix.Key(name), nil), nil)
	if err != nil {
		return err
	}
	resp, err := s.do(req, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return s.describe(ctx, actDelete, err)
	}
	return resp.Body.Close()
}

// check refuses what needs no server to be refused.
func (s *Store) check(ctx context.Context, name string) error {
	if err := s.loc.Prefix.CheckName(name); err != nil {
		return err
	}
	return s.client.Usable(ctx)
}
