package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// An action is what a request wanted, hence what a refusal refuses.
type action int

const (
	actGet action = iota
	actPut
	actDelete
	actList
	actLock
)

// words returns what is refused, and the name of the permission for it at Amazon,
// which most servers have taken over.
func (a action) words() (what, permission string) {
	switch a {
	case actGet:
		return "read objects", "s3:GetObject"
	case actPut:
		return "store objects", "s3:PutObject"
	case actDelete:
		return "delete objects", "s3:DeleteObject"
	case actLock:
		return "tell whether it locks objects", "s3:GetBucketObjectLockConfiguration"
	}
	return "list objects", "s3:ListBucket"
}

// describe turns what a request ended with into an error for people and for the
// callers of the package. It does not name the object: they do.
func (s *Store) describe(ctx context.Context, act action, err error) error {
	if err == nil {
		return nil
	}
	if s.client.Closing().Err() != nil {
		return fs.ErrClosed
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := errors.AsType[*storage.PermanentError](err); ok || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e, ok := errors.AsType[*credentialsError](err); ok {
		if e.passing {
			return e
		}
		return httpstore.Denied(e, "set the access key and secret key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials")
	}
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return s.describeAnswer(act, resp)
	}
	return httpstore.Network(s.endpoint.Host,
		"check the endpoint, the region, and the bucket's name, which may be part of the host's; path_style = on takes it out", err)
}

// describeAnswer is describe for an error of the server.
func (s *Store) describeAnswer(act action, resp minio.ErrorResponse) error {
	bucket := s.loc.Bucket
	said := answer(resp)
	switch resp.Code {
	case "NoSuchKey":
		return httpstore.Failure("no such object", fs.ErrNotExist)
	case "PreconditionFailed":
		return httpstore.Failure("object exists", fs.ErrExist)
	case "NoSuchBucket":
		return httpstore.Permanent(fmt.Errorf("bucket %s does not exist", bucket), s.makeBucketHint())
	case "InvalidAccessKeyId", "XAdminUserNotFound": // the latter is what versitygw says
		return httpstore.Denied(errors.New("the server does not know the access key"), "check the access key, and that it is one of this server")
	case "SignatureDoesNotMatch":
		return httpstore.Denied(errors.New("the secret key does not fit the access key"),
			"check the secret key (copied whole, with its / and +), and that no proxy changes requests on their way")
	case "RequestTimeTooSkewed":
		return s.client.ClockError(true)
	case "InvalidToken", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		if s.o.Credentials.AccessKey == "" {
			s.creds.Expire() // the next attempt brings new ones
			return fmt.Errorf("the session token has expired or is not valid%s", said)
		}
		return httpstore.Denied(fmt.Errorf("the session token has expired or is not valid%s", said), "get new temporary keys, or use keys that last")
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "InvalidRegion":
		return s.wrongRegion(resp)
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "InsufficientCapacity":
		return httpstore.Failure("the server has no room left"+said, storage.ErrFull)
	case "InvalidObjectState":
		return httpstore.Permanent(errors.New("the object is in an archive and cannot be read"),
			"restore it from the archive (aws s3api restore-object …), and take the lifecycle rule that moved it off the bucket")
	case "InvalidStorageClass":
		return httpstore.Permanent(fmt.Errorf("the server does not know the storage class%s", said), "leave the storage class out, or name one that this server has")
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest":
		return errors.New("the data that arrived is not what was sent: the server refused it")
	case "RequestTimeout", "IncompleteBody", "NoSuchUpload", "InvalidPart", "OperationAborted", "ConditionalRequestConflict", "TemporaryRedirect":
		return errors.New("the server gave up the request" + said)
	case "ObjectLocked":
		return s.locked(said)
	}
	if strings.HasPrefix(resp.Code, "KMS.") {
		return httpstore.Permanent(fmt.Errorf("the server cannot use the encryption key%s", said), "check the KMS key's ID, its state, and that these credentials may use it (kms:GenerateDataKey, kms:Decrypt)")
	}
	if act == actDelete && isWORM(resp.Message) {
		return s.locked(said)
	}
	switch status := resp.StatusCode; {
	case status == http.StatusInsufficientStorage, strings.Contains(resp.Message, "cap exceeded"): // Backblaze's words
		return httpstore.Failure("the server has no room left"+said, storage.ErrFull)
	case status == http.StatusMovedPermanently:
		return s.wrongRegion(resp)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return s.refused(act, said)
	case status == http.StatusNotFound && act == actGet:
		return httpstore.Failure("no such object", fs.ErrNotExist)
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests, status >= 500 && status != http.StatusNotImplemented:
		return errors.New("the server is busy or failing" + said)
	case status >= 300:
		return httpstore.Permanent(errors.New("the server refuses the request"+said), "")
	}
	return errors.New("the server's answer makes no sense" + said)
}

func (s *Store) refused(act action, said string) error {
	what, permission := act.words()
	err := fmt.Errorf("bucket %s: not allowed to %s%s", s.loc.Bucket, what, said)
	resource := "arn:aws:s3:::" + s.loc.Bucket
	if act == actGet || act == actPut || act == actDelete {
		resource += "/" + s.loc.key("*")
	}
	if act == actPut || act == actDelete {
		err = httpstore.Failure(err.Error(), storage.ErrReadOnly)
	}
	return httpstore.Denied(err, fmt.Sprintf("allow %s on %s to these credentials", permission, resource))
}

func (s *Store) wrongRegion(resp minio.ErrorResponse) error {
	if resp.Region == "" || resp.Region == s.region {
		return httpstore.Permanent(fmt.Errorf("bucket %s is not in the region %s%s", s.loc.Bucket, s.region, answer(resp)), "set the region, and the endpoint, of the bucket")
	}
	return httpstore.Permanent(fmt.Errorf("bucket %s is in the region %s, not %s", s.loc.Bucket, resp.Region, s.region), "set region = "+resp.Region)
}

func (s *Store) makeBucketHint() string {
	hint := "check the bucket's name, or create it: aws s3 mb s3://" + s.loc.Bucket
	if s.amazon {
		return hint + " --region " + s.region
	}
	return hint + " --endpoint-url " + s.endpoint.String()
}

// locked is about an object whose end of lock is not known.
func (s *Store) locked(said string) error {
	return httpstore.Permanent(httpstore.Failure("the object is locked and cannot be deleted"+said, fs.ErrPermission), lockHint)
}

const lockHint = "this is what object lock is for: wait until it ends"

// isWORM recognizes how servers without a code of their own for it say that an
// object is locked.
func isWORM(message string) bool {
	message = strings.ToLower(message)
	return strings.Contains(message, "object lock") || strings.Contains(message, "worm protected")
}

// answer returns ": " and what the server said. It leaves out what is no message of
// S3 but a page of a proxy: that may repeat the headers of a request.
func answer(resp minio.ErrorResponse) string {
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode == 0 {
		status = ""
	}
	if resp.Code == "" || strings.Contains(resp.Code, " ") {
		if status == "" {
			return ""
		}
		return ": " + status
	}
	message := httpstore.OneLine(resp.Message)
	if message == "" || strings.EqualFold(strings.Trim(strings.ReplaceAll(message, " ", ""), "."), resp.Code) {
		return ": " + resp.Code
	}
	return ": " + resp.Code + ": " + message
}

// withoutURL takes the URL off an error of package http: it says nothing that the
// name of the store does not.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
