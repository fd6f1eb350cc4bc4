package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/minio/minio-go/v7"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
)

// Get implements storage.Objects. It takes one request: a GET with a range, or a
// HEAD if no bytes are wanted.
func (s *Store) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := s.check(ctx, name); err != nil {
		return nil, err
	}
	opCtx, done := s.client.Begin(ctx)
	describe := func(err error) error { return s.describe(ctx, actGet, err) }
	body, err := s.get(opCtx, s.loc.key(name), off, length)
	if err != nil {
		done()
		return nil, describe(err)
	}
	return s.client.NewReader(ctx, done, body, length, describe), nil
}

// get returns what begins with the bytes that are wanted; nil: there are none.
func (s *Store) get(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	if length == 0 {
		_, err := s.core.StatObject(ctx, s.loc.Bucket, key, minio.StatObjectOptions{})
		return nil, err
	}
	var o minio.GetObjectOptions
	asked := byteRange(off, length)
	if asked != "" {
		o.Set("Range", asked)
	}
	body, info, header, err := s.core.GetObject(ctx, s.loc.Bucket, key, o)
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok && resp.Code == "InvalidRange" {
		return nil, nil // the object has no such bytes
	}
	if err != nil || asked == "" {
		return body, err
	}
	if err := httpstore.SkipTo(body, header.Get("Content-Range"), info.Size, off); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// byteRange returns the header for a part of an object; "" for all of it.
func byteRange(off, length int64) string {
	switch {
	case off == math.MinInt64, off == 0 && length < 0:
		return "" // more than any object has
	case off < 0:
		return "bytes=" + strconv.FormatInt(off, 10)
	case length < 0, length > math.MaxInt64-off:
		return "bytes=" + strconv.FormatInt(off, 10) + "-"
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+length-1)
}
