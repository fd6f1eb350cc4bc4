package azure

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

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

// words returns what is refused, and the letter for it in a SAS.
func (a action) words() (what, permission string) {
	switch a {
	case actGet:
		return "read objects", "r"
	case actPut:
		return "store objects", "c"
	case actDelete:
		return "delete objects", "d"
	}
	return "list objects", "l"
}

// isCode says whether an error is the server's, with a code.
func isCode(err error, code string) bool {
	resp, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && resp.ErrorCode == code
}

// said returns ": " and what the server said, on one line. The library's own words
// have eight.
func said(resp *azcore.ResponseError) string {
	var answer struct {
		Message string `xml:"Message"`
	}
	if resp.RawResponse != nil {
		if body, err := runtime.Payload(resp.RawResponse); err == nil && xml.Unmarshal(body, &answer) == nil && answer.Message != "" {
			message, _, _ := strings.Cut(answer.Message, "\n") // the rest is numbers for the support
			return ": " + httpstore.OneLine(message)
		}
	}
	if resp.ErrorCode != "" {
		return ": " + httpstore.OneLine(resp.ErrorCode)
	}
	return fmt.Sprintf(": %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
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
	if t, ok := errors.AsType[*tokenError](err); ok {
		return s.describeToken(t)
	}
	if resp, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return s.describeAnswer(act, resp)
	}
	return httpstore.Network(s.target.endpoint.Host, "check the name of the account, which is part of the host's, and the endpoint", err)
}

const credentialsHint = "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING; or those of a service principal; or run: az login"

// aadCode is how Microsoft's sign-in service begins what it has to say.
var aadCode = lazyregexp.New(`AADSTS[0-9]+: [^"\\\r\n]*`)

// describeToken is describe for a service that hands out no token.
func (s *Store) describeToken(t *tokenError) error {
	failed, refused := errors.AsType[*azidentity.AuthenticationFailedError](t)
	if !refused {
		return httpstore.Denied(errors.New("no credentials: none in the environment, no managed identity, no login of az, azd or PowerShell"), credentialsHint)
	}
	if e := s.client.TokenError(); e != nil && failed.RawResponse == nil {
		return httpstore.Network("the sign-in service", "check that this machine can look up names, and AZURE_AUTHORITY_HOST", e)
	}
	status := 0
	if failed.RawResponse != nil {
		status = failed.RawResponse.StatusCode
	}
	words := aadCode().FindString(failed.Error())
	if words == "" {
		words = fmt.Sprintf("%d %s", status, http.StatusText(status))
	}
	err := fmt.Errorf("no token: %s", httpstore.OneLine(words))
	if status == http.StatusTooManyRequests || status >= 500 {
		return err
	}
	if clock := s.client.ClockError(false); clock != nil {
		return clock
	}
	return httpstore.Denied(err, "check tenant, client ID and secret of the service principal, and that the secret has not expired; of a user, run: az login")
}

// describeAnswer is describe for an error of the server.
func (s *Store) describeAnswer(act action, resp *azcore.ResponseError) error {
	said := said(resp)
	switch resp.ErrorCode {
	case "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled":
		return httpstore.Permanent(fmt.Errorf("container %s does not exist", s.loc.Container),
			fmt.Sprintf("check the container's name, or create it: az storage container create --account-name %s --name %s", s.loc.Account, s.loc.Container))
	case "BlobAlreadyExists", "UnauthorizedBlobOverwrite", "BlobImmutableDueToPolicy", "ConditionNotMet", "TargetConditionNotMet", "LeaseIdMissing":
		// What is protected is an object that is there.
		if act == actPut {
			return errExists()
		}
		if act == actDelete {
			return httpstore.Permanent(httpstore.Failure("the object is locked and cannot be deleted"+said, fs.ErrPermission),
				"this is what an immutability policy, a legal hold or a lease is for: wait until it ends")
		}
		return errors.New("the object was replaced while it was read" + said)
	case "SnapshotsPresent":
		return httpstore.Permanent(errors.New("the object has snapshots and cannot be deleted"), "delete the snapshots that were made of it in Azure")
	case "BlobArchived", "BlobBeingRehydrated":
		return httpstore.Permanent(errors.New("the object is in the tier Archive and cannot be read"),
			"bring it back (az storage blob set-tier --tier Cold …), and take the lifecycle rule that moved it off the container")
	case "Md5Mismatch", "Crc64Mismatch":
		return errors.New("the data that arrived is not what was sent: the server refused it")
	case "AccountIsDisabled":
		return httpstore.Permanent(fmt.Errorf("the storage account is disabled%s", said), "check the subscription")
	case "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "KeyBasedAuthenticationNotPermitted", "PublicAccessNotPermitted":
		return s.notAuthenticated(resp.ErrorCode, said)
	}
	switch status := resp.StatusCode; {
	case strings.HasPrefix(said, ": Server failed to authenticate"):
		return s.notAuthenticated(resp.ErrorCode, said)
	case status == http.StatusNotFound && act != actPut && act != actList:
		return httpstore.Failure("no such object", fs.ErrNotExist)
	case status == http.StatusUnauthorized:
		return s.notAuthenticated(resp.ErrorCode, said)
	case status == http.StatusForbidden:
		return s.refused(act, resp.ErrorCode, said)
	case status == http.StatusInsufficientStorage, strings.Contains(resp.ErrorCode, "QuotaExceeded"):
		return httpstore.Failure("the server has no room left"+said, storage.ErrFull)
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests,
		status >= 500 && status != http.StatusNotImplemented:
		return errors.New("the server is busy or failing" + said)
	}
	return httpstore.Permanent(errors.New("the server refuses the request"+said), "")
}

// notAuthenticated is about requests of nobody that the server knows. Whether it is
// the key or the clock it does not say.
func (s *Store) notAuthenticated(code, said string) error {
	if clock := s.client.ClockError(false); clock != nil {
		return clock
	}
	switch {
	case code == "KeyBasedAuthenticationNotPermitted":
		return httpstore.Denied(fmt.Errorf("the account %s does not permit keys", s.loc.Account),
			"leave the key out and use a service principal, a managed identity or az login")
	case s.target.key != "":
		return httpstore.Denied(fmt.Errorf("the key does not fit the account %s", s.loc.Account),
			"check the key (copied whole, with its / + and =), that it has not been rotated, and that it is this account's")
	case s.target.sas != "":
		if err := s.target.expired(s.o.Now()); err != nil {
			return err
		}
		return httpstore.Denied(errors.New("the server does not accept the SAS"+said),
			"check that it was copied whole, is for this container, has begun, and that its key or policy still exists")
	}
	return httpstore.Denied(errors.New("the server does not accept the credentials"+said), credentialsHint)
}

func (s *Store) refused(act action, code, said string) error {
	what, permission := act.words()
	err := fmt.Errorf("container %s: not allowed to %s%s", s.loc.Container, what, said)
	if act == actPut || act == actDelete {
		err = httpstore.Failure(err.Error(), storage.ErrReadOnly)
	}
	hint := fmt.Sprintf("give this identity the role Storage Blob Data Contributor on container %s (Owner alone does not do)", s.loc.Container)
	switch {
	case code == "AuthorizationSourceIPMismatch", code == "AuthorizationFailure" && s.target.sas == "":
		hint = "check the account's firewall (Networking), and the permissions of these credentials"
	case s.target.sas != "":
		hint = "make a SAS with the permissions rcdl; " + permission + " is missing, or it is for other addresses, services or kinds of resource"
	}
	return httpstore.Denied(err, hint)
}
