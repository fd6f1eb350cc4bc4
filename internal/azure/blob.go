package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/minio/crc64nvme"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// maxPut is the most that one request may store: 5,000 MiB.
const maxPut = 5000 << 20

// Put implements storage.Objects. It takes one request, up to 5,000 MiB: far more
// than a pack has. Credentials that may create and not replace, as they should, are
// refused when the name is taken; then a HEAD finds that out.
func (s *Store) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	if size > maxPut {
		return httpstore.Permanent(fmt.Errorf("an object of %d bytes, more than the %d that Azure stores at once", size, int64(maxPut)), "")
	}
	ctx, done := s.client.Begin(ctx)
	defer done()
	crc := crc64nvme.New() // Azure's is the CRC-64 of NVMe
	if err := httpstore.Sum(ctx, crc, content, size); err != nil {
		return s.describe(ctx, actPut, err)
	}
	none, contentType := azcore.ETagAny, "application/octet-stream"
	body := httpstore.NewBody(content, size)
	_, err := s.container.NewBlockBlobClient(s.loc.Prefix.Key(name)).Upload(ctx, body, &blockblob.UploadOptions{
		TransactionalValidation: blob.TransferValidationTypeCRC64(crc.Sum64()),
		AccessConditions:        &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &none}},
		HTTPHeaders:             &blob.HTTPHeaders{BlobContentType: &contentType},
		Tier:                    s.tier(name),
	})
	if cerr := body.Finish(); cerr != nil {
		err = cerr
	}
	if isCode(err, "AuthorizationPermissionMismatch") {
		if _, herr := s.container.NewBlobClient(s.loc.Prefix.Key(name)).GetProperties(ctx, nil); herr == nil {
			err = errExists()
		}
	}
	return s.describe(ctx, actPut, err)
}

func errExists() error { return httpstore.Failure("object exists", fs.ErrExist) }

// tier returns the access tier of an object, nil for the account's default.
func (s *Store) tier(name string) *blob.AccessTier {
	kind, _, _ := strings.Cut(name, "/")
	tier, ok := s.o.StorageClasses[kind]
	if !ok {
		tier, ok = s.o.StorageClasses[""]
	}
	if !ok {
		return nil
	}
	return (*blob.AccessTier)(&tier)
}

// Get implements storage.Objects. It takes one request: a GET with a range, or a HEAD
// if no bytes are wanted. An offset from the end takes both, since Azure knows no
// such ranges.
func (s *Store) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := s.check(ctx, name); err != nil {
		return nil, err
	}
	opCtx, done := s.client.Begin(ctx)
	body, err := s.open(opCtx, s.container.NewBlobClient(s.loc.Prefix.Key(name)), off, length)
	if err != nil {
		defer done()
		return nil, s.describe(opCtx, actGet, err)
	}
	return s.client.NewReader(ctx, done, body, length, func(err error) error { return s.describe(ctx, actGet, err) }), nil
}

// open returns what the server sends from offset off on; nil if there is nothing.
func (s *Store) open(ctx context.Context, b *blob.Client, off, length int64) (io.ReadCloser, error) {
	var same *blob.AccessConditions
	if off < 0 && off > -httpstore.MaxObject || length == 0 || off > httpstore.MaxObject {
		p, err := b.GetProperties(ctx, nil)
		if err != nil {
			return nil, err
		}
		if length == 0 || off > httpstore.MaxObject {
			return nil, nil
		}
		if p.ContentLength == nil {
			return nil, errors.New("the server does not tell the size of the object")
		}
		if *p.ContentLength == 0 {
			return nil, nil
		}
		off = max(0, *p.ContentLength+off)
		same = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: p.ETag}}
	}
	off = max(0, off) // before the start is the start
	asked := blob.HTTPRange{Offset: off}
	if length > 0 && length <= httpstore.MaxObject {
		asked.Count = length
	}
	resp, err := b.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: asked, AccessConditions: same})
	if isCode(err, "InvalidRange") {
		return nil, nil // the object has no such bytes
	}
	if err != nil {
		return nil, err
	}
	if asked != (blob.HTTPRange{}) {
		contentRange, size := "", int64(-1)
		if resp.ContentRange != nil {
			contentRange = *resp.ContentRange
		}
		if resp.ContentLength != nil {
			size = *resp.ContentLength
		}
		if err := httpstore.SkipTo(resp.Body, contentRange, size, off); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp.Body, nil
}

// pageSize is the most that the server sends.
const pageSize = 5000

func (s *Store) listOptions(dir string) *container.ListBlobsFlatOptions {
	most := int32(pageSize)
	prefix := s.loc.Prefix.Dir(dir)
	return &container.ListBlobsFlatOptions{Prefix: &prefix, MaxResults: &most, ResponseFormat: container.StorageResponseFormatXML}
}

var errNoListing = errors.New("the server's listing makes no sense")

// nextPage refuses what the library takes for an empty listing: any XML does, that of
// a proxy's page too.
func nextPage(ctx context.Context, pager *runtime.Pager[container.ListBlobsFlatResponse]) (page container.ListBlobsFlatResponse, err error) {
	page, err = pager.NextPage(ctx)
	if err == nil && page.ContainerName == nil {
		err = errNoListing
	}
	return page, err
}

// List implements storage.Objects. It takes one request for each five thousand
// objects. Keys that no object of ours can have are left out, and so are the
// directories of an account with a hierarchical namespace.
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
	for pager := s.container.NewListBlobsFlatPager(s.listOptions(dir)); pager.More(); {
		page, err := nextPage(ctx, pager)
		if err != nil {
			return err
		}
		if page.Segment == nil {
			continue
		}
		for _, item := range page.Segment.BlobItems {
			if item == nil || item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil {
				return errNoListing
			}
			name, ok := s.loc.Prefix.Name(*item.Name)
			if kind := item.Properties.ResourceType; !ok || kind != nil && *kind == "directory" {
				continue
			}
			if err := fn(storage.Info{Name: name, Size: *item.Properties.ContentLength}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete implements storage.Objects. It takes one request. In an account that keeps
// versions, or what is deleted for a while (soft delete), the object is gone from
// sight only, and is paid for until the account's rules end that.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, done := s.client.Begin(ctx)
	defer done()
	_, err := s.container.NewBlobClient(s.loc.Prefix.Key(name)).Delete(ctx, nil)
	return s.describe(ctx, actDelete, err)
}

// check refuses what needs no server to be refused.
func (s *Store) check(ctx context.Context, name string) error {
	if err := s.loc.Prefix.CheckName(name); err != nil {
		return err
	}
	return s.client.Usable(ctx)
}
