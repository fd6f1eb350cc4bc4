package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

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
	prefix := s.loc.key("")
	if dir != "" {
		prefix = s.loc.key(dir) + "/"
	}
	for object := range s.core.ListObjectsIter(ctx, s.loc.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return object.Err
		}
		name, ok := strings.CutPrefix(object.Key, s.loc.key(""))
		if !ok || storage.CheckName(name) != nil {
			continue
		}
		if err := fn(storage.Info{Name: name, Size: object.Size}); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements storage.Objects. It takes two requests, because S3 answers the
// same whether there was an object or not: a HEAD, which also tells of a lock, and
// the DELETE. Of two that delete one object at a time, both may succeed.
//
// In a bucket that keeps versions, the object is gone from sight only: what it
// takes is freed by a lifecycle rule for noncurrent versions. That is also why a
// locked object would seem to be deleted, and why Delete refuses to, while the
// server protects the version.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	opCtx, done := s.client.Begin(ctx)
	defer done()
	bucket, key := s.loc.Bucket, s.loc.key(name)
	info, err := s.core.StatObject(opCtx, bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return s.describe(ctx, actGet, err)
	}
	if err := s.checkUnlocked(info.Headers); err != nil {
		return err
	}
	return s.describe(ctx, actDelete, s.core.RemoveObject(opCtx, bucket, key, minio.RemoveObjectOptions{}))
}

// checkUnlocked reads the lock in the headers of an object.
func (s *Store) checkUnlocked(h http.Header) error {
	if strings.EqualFold(h.Get("x-amz-object-lock-legal-hold"), "ON") {
		return httpstore.Permanent(httpstore.Failure("the object is under legal hold and cannot be deleted", fs.ErrPermission), "whoever has set the hold can lift it")
	}
	value := h.Get("x-amz-object-lock-retain-until-date")
	if value == "" {
		return nil
	}
	until, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return httpstore.Permanent(errors.New("the server says of the object that it is locked, but not until when"), lockHint)
	}
	if !s.o.Now().Before(until) {
		return nil
	}
	words := fmt.Sprintf("the object is locked until %s UTC and cannot be deleted", until.UTC().Format(time.DateTime))
	return httpstore.Permanent(httpstore.Failure(words, fs.ErrPermission), lockHint)
}
