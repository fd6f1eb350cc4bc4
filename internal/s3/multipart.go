package s3

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Bounds of uploads in parts.
const (
	// partBytes of all parts but the last, or more if that would be too many.
	partBytes = 16 << 20
	maxParts  = 10000
	// abortTimeout bounds the clean-up after a failure, which the failed call
	// waits for; what it leaves is swept later.
	abortTimeout = 5 * time.Second
	abortPause   = 200 * time.Millisecond
	// staleUpload is the age from which an upload in parts is taken for abandoned.
	// BackupHandler 2.5 does so, too.
	staleUpload = 24 * time.Hour
	// sweepTimeout bounds the search for them.
	sweepTimeout = 2 * time.Minute
)

// putParts stores an object in parts, several at a time. It looks first whether the
// name is free, which is cheaper than to find out at the end. The request that makes
// an object of the parts carries the condition, too, but only of Amazon is it known
// to be honoured there: for other servers Put looks once more right before it.
func (s *Store) putParts(ctx context.Context, d dialect, name string, content io.ReaderAt, size int64) (err error) {
	if err := s.mustBeFree(ctx, name); err != nil {
		return err
	}
	bucket, key := s.loc.Bucket, s.loc.key(name)
	o := s.putOptions(name)
	if d.sha256 {
		o.UserMetadata[headerAlgorithm] = "SHA256"
	}
	id, err := s.core.NewMultipartUpload(ctx, bucket, key, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.abort(context.WithoutCancel(ctx), key, id)
		}
	}()

	each := max(partBytes, (size+maxParts-1)/maxParts)
	parts := make([]minio.CompletePart, (size+each-1)/each)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.o.MaxConcurrency)
	for i := range parts {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			off := int64(i) * each
			var err error
			parts[i], err = s.putPart(gctx, d, key, id, i+1, content, off, min(each, size-off))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}

	if !s.amazon {
		if err := s.mustBeFree(ctx, name); err != nil {
			return err
		}
	}
	return s.unlessTaken(ctx, d, name, func(d dialect) error {
		var o minio.PutObjectOptions
		if d.conditional {
			// The library's own upload in parts does not send this.
			o.SetMatchETagExcept("*")
		}
		_, err := s.core.CompleteMultipartUpload(ctx, bucket, key, id, parts, o)
		return err
	})
}

// abort ends an upload. A part that was under way may arrive after that, and keep the
// upload alive: so it looks a moment later, and ends it again, as Amazon advises. What
// is left even so is swept later.
func (s *Store) abort(ctx context.Context, key, id string) {
	ctx, cancel := context.WithTimeout(ctx, abortTimeout)
	defer cancel()
	for ctx.Err() == nil {
		s.core.AbortMultipartUpload(ctx, s.loc.Bucket, key, id)
		select {
		case <-ctx.Done():
		case <-time.After(abortPause):
		}
		if _, err := s.core.ListObjectParts(ctx, s.loc.Bucket, key, id, 0, 1); err != nil {
			return // there is no such upload
		}
	}
}

func (s *Store) putPart(ctx context.Context, d dialect, key, id string, number int, content io.ReaderAt, off, size int64) (minio.CompletePart, error) {
	sum, err := d.checksum(ctx, content, off, size)
	if err != nil {
		return minio.CompletePart{}, err
	}
	o := minio.PutObjectPartOptions{Md5Base64: sum.md5Base64, Sha256Hex: sum.sha256Hex(), DisableContentSha256: true}
	done := minio.CompletePart{PartNumber: number}
	if d.sha256 {
		done.ChecksumSHA256 = sum.sha256Base64()
		o.CustomHeader = map[string][]string{headerSHA256: {done.ChecksumSHA256}}
	}
	body := httpstore.NewBody(io.NewSectionReader(content, off, size), size)
	defer body.Finish()
	part, err := s.core.PutObjectPart(ctx, s.loc.Bucket, key, id, number, body, size, o)
	done.ETag = part.ETag
	return done, err
}

// sweepOnce looks, in the background and once per store, for uploads in parts that
// were abandoned a day or more ago: their parts are paid for, and are in no listing.
// It fails in silence: some keys may not look, and some servers cannot.
func (s *Store) sweepOnce() {
	s.sweep.Do(func() {
		s.sweeping.Go(func() {
			ctx, cancel := context.WithTimeout(s.client.Closing(), sweepTimeout)
			defer cancel()
			s.abortStale(ctx)
		})
	})
}

// abortStale ends the uploads below our prefix, of names that could be ours, that
// began more than staleUpload ago.
func (s *Store) abortStale(ctx context.Context) {
	limit := s.o.Now().Add(-staleUpload)
	prefix := s.loc.key("")
	var keyMarker, idMarker string
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.loc.Bucket, prefix, keyMarker, idMarker, "", 0)
		if err != nil {
			return
		}
		for _, u := range page.Uploads {
			name, ours := strings.CutPrefix(u.Key, prefix)
			if ours && storage.CheckName(name) == nil && !u.Initiated.IsZero() && u.Initiated.Before(limit) {
				s.core.AbortMultipartUpload(ctx, s.loc.Bucket, u.Key, u.UploadID)
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker {
			return
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
