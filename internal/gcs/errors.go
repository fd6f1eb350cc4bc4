package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"golang.org/x/oauth2"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// An action is what a request wanted, hence what a refusal refuses.
type action int

const (
	actGet action = iota
	actPut
	actDelete
	actList
)

// words returns what is refused, and the name of the permission for it.
func (a action) words() (what, permission string) {
	switch a {
	case actGet:
		return "read objects", "storage.objects.get"
	case actPut:
		return "store objects", "storage.objects.create"
	case actDelete:
		return "delete objects", "storage.objects.delete"
	}
	return "list objects", "storage.objects.list"
}

// A refusal is an answer that is not the one that was wanted.
type refusal struct {
	status  int
	reason  string // one word; "" if there is none
	message string
}

func (r *refusal) Error() string { return "the server refuses the request" + r.said() }

// said returns ": " and what the server said, on one line.
func (r *refusal) said() string {
	if r.message == "" {
		return fmt.Sprintf(": %d %s", r.status, http.StatusText(r.status))
	}
	return ": " + r.message
}

// maxRefusal bounds what is read of an error, in bytes.
const maxRefusal = 64 << 10

func newRefusal(resp *http.Response) *refusal {
	r := &refusal{status: resp.StatusCode}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return r
	}
	r.reason, r.message = parseRefusal(resp.Header.Get("Content-Type"), data)
	return r
}

// parseRefusal reads an error of the API. For a request for content that may be a
// line of plain text; what is neither is left out: a page of a proxy may repeat the
// headers of a request.
func parseRefusal(contentType string, data []byte) (reason, message string) {
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Errors  []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
		} `json:"error"`
	}
	if json.Unmarshal(data, &answer) == nil {
		if len(answer.Error.Errors) > 0 {
			reason = httpstore.OneLine(answer.Error.Errors[0].Reason)
		}
		return reason, httpstore.OneLine(answer.Error.Message)
	}
	if strings.HasPrefix(contentType, "text/plain") {
		return "", httpstore.OneLine(string(data))
	}
	return "", ""
}

// describe turns what a request ended with into an error for people and for the
// callers of the package. It does not name the object: they do.
func (s *Store) describe(ctx context.Context, act action, err error) error {
	if err == nil {
		return nil
	}
	if ended := s.client.Usable(ctx); ended != nil {
		return ended
	}
	if httpstore.Settled(err) {
		return err
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return s.describeRefusal(act, r)
	}
	if t, ok := errors.AsType[*tokenError](err); ok {
		return s.describeToken(t)
	}
	return httpstore.Network(s.endpoint.Host, "check the endpoint, and that this machine can look up names", err)
}

// urlWords is how package http begins an error, with a URL.
var urlWords = lazyregexp.New(`[A-Z][a-z]+ "[^"]*": `)

// describeToken is describe for a service that hands out no token.
func (s *Store) describeToken(t *tokenError) error {
	e, ok := errors.AsType[*oauth2.RetrieveError](t)
	if cause := s.client.TokenError(); !ok && cause != nil {
		return httpstore.Network("the token service", "check that this machine can look up names", cause)
	}
	if !ok {
		words := strings.TrimPrefix(urlWords().ReplaceAllString(t.err.Error(), ""), "oauth2: cannot fetch token: ")
		return fmt.Errorf("no token: %s", httpstore.OneLine(words))
	}
	status := 0
	if e.Response != nil {
		status = e.Response.StatusCode
	}
	words := fmt.Sprintf("%d %s", status, http.StatusText(status))
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(e.Body, &answer) == nil && answer.Error != "" {
		words = httpstore.OneLine(answer.Error + " " + answer.Description)
	}
	err := fmt.Errorf("no token: %s", words)
	if status == http.StatusTooManyRequests || status >= 500 {
		return err
	}
	if clock := s.client.ClockError(false); clock != nil {
		return clock
	}
	return httpstore.Denied(err, "check that the service account and its key exist and are enabled; of a user, run again: gcloud auth application-default login")
}

// describeRefusal is describe for an answer of the server.
func (s *Store) describeRefusal(act action, r *refusal) error {
	bucket, said := s.loc.Bucket, r.said()
	switch r.reason {
	case "retentionPolicyNotMet", "objectUnderActiveHold":
		if act == actPut { // an object that is there is what is protected
			return httpstore.Failure("object exists", fs.ErrExist)
		}
		return httpstore.Permanent(httpstore.Failure("the object is locked and cannot be deleted"+said, fs.ErrPermission),
			"this is what a retention policy or a hold is for: wait until it ends")
	case "rateLimitExceeded", "userRateLimitExceeded":
		return errors.New("the server is busy" + said)
	case "quotaExceeded":
		if act == actPut {
			return httpstore.Failure("the quota is used up"+said, storage.ErrFull)
		}
		return errors.New("the quota is used up" + said)
	case "accountDisabled", "UserProjectAccountProblem":
		return httpstore.Permanent(fmt.Errorf("bucket %s is disabled%s", bucket, said), "check the project's billing account")
	case "accessNotConfigured":
		return httpstore.Permanent(errors.New("the project does not use Cloud Storage"+said), "switch it on: gcloud services enable storage.googleapis.com")
	}
	switch status := r.status; {
	case status == http.StatusPreconditionFailed && act == actPut:
		return httpstore.Failure("object exists", fs.ErrExist)
	case status == http.StatusNotFound:
		if act == actPut || act == actList || strings.Contains(strings.ToLower(r.message), "bucket does not exist") {
			return httpstore.Permanent(fmt.Errorf("bucket %s does not exist", bucket),
				"check the bucket's name, or create it: gcloud storage buckets create gs://"+bucket+" --uniform-bucket-level-access")
		}
		return httpstore.Failure("no such object", fs.ErrNotExist)
	case status == http.StatusUnauthorized:
		if clock := s.client.ClockError(false); clock != nil {
			return clock
		}
		return httpstore.Denied(errors.New("the server does not accept the credentials"+said), s.credentialsHint())
	case status == http.StatusForbidden && act == actPut && strings.Contains(r.message, "storage.objects.delete"):
		// Who may create objects needs that to replace one, and nothing else.
		return httpstore.Failure("object exists", fs.ErrExist)
	case status == http.StatusForbidden:
		return s.refused(act, said)
	case status == http.StatusBadRequest && act == actPut && strings.Contains(strings.ToLower(r.message), "crc32c"):
		return errors.New("the data that arrived is not what was sent: the server refused it")
	case status == http.StatusInsufficientStorage:
		return httpstore.Failure("the server has no room left"+said, storage.ErrFull)
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests,
		status >= 500 && status != http.StatusNotImplemented:
		return errors.New("the server is busy or failing" + said)
	}
	return httpstore.Permanent(r, "")
}

func (s *Store) credentialsHint() string {
	if s.tokens == nil {
		return "requests are sent without credentials: the bucket has to be public, or the server an emulator"
	}
	return "check that the account is enabled, and that the credentials are for this server"
}

func (s *Store) refused(act action, said string) error {
	what, permission := act.words()
	err := fmt.Errorf("bucket %s: not allowed to %s%s", s.loc.Bucket, what, said)
	if act == actPut || act == actDelete {
		err = httpstore.Failure(err.Error(), storage.ErrReadOnly)
	}
	return httpstore.Denied(err, fmt.Sprintf("give the account %s on gs://%s, which is part of roles/storage.objectUser", permission, s.loc.Bucket))
}
