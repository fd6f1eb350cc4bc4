package azure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
)

// Credentials say whose requests they are: one of these. The zero value is the first
// there is of
//
//  1. AZURE_STORAGE_CONNECTION_STRING
//  2. AZURE_STORAGE_KEY
//  3. AZURE_STORAGE_SAS_TOKEN
//  4. Azure's default credentials: a service principal in the environment
//     (AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET or
//     AZURE_CLIENT_CERTIFICATE_PATH), workload identity, the managed identity of the
//     machine, the login of az, azd or PowerShell
type Credentials struct {
	Key              string // of the account
	SAS              string // a shared access signature: sv=…&sig=…
	ConnectionString string // as the portal shows it; holds a key or a SAS
}

// Format implements fmt.Formatter: credentials are not for printing.
func (Credentials) Format(f fmt.State, _ rune) { f.Write([]byte("(credentials)")) }

// The variables that Azure's own tools read, and kopia too.
const (
	variableAccount          = "AZURE_STORAGE_ACCOUNT"
	variableKey              = "AZURE_STORAGE_KEY"
	variableSAS              = "AZURE_STORAGE_SAS_TOKEN"
	variableConnectionString = "AZURE_STORAGE_CONNECTION_STRING"
)

// publicSuffix ends the names of hosts of all clouds that are not a country's own.
const publicSuffix = "core.windows.net"

// A target is the blob service of an account, and how to get in.
type target struct {
	account  string
	endpoint *url.URL // without a slash at its end
	public   bool     // the endpoint is the one that the account's name leads to
	key, sas string   // at most one; neither: default credentials
	expiry   time.Time
}

// findTarget puts together what the URL, the options and the environment say. What
// comes first in this list wins.
func findTarget(loc Location, o Options) (target, error) {
	c := o.Credentials
	if c == (Credentials{}) {
		c = fromEnvironment(o.Getenv)
	}
	var parsed connectionString
	if c.ConnectionString != "" {
		if c.Key != "" || c.SAS != "" {
			return target{}, errors.New("a connection string and a key or SAS: give one of them")
		}
		var err error
		if parsed, err = parseConnectionString(c.ConnectionString); err != nil {
			return target{}, err
		}
		c.Key, c.SAS = parsed.key, parsed.sas
	}
	if c.Key != "" && c.SAS != "" {
		return target{}, errors.New("a key and a SAS: give one of them")
	}
	t := target{account: first(loc.Account, o.Account, parsed.account, o.Getenv(variableAccount)), key: c.Key}
	if parsed.account != "" && parsed.account != t.account {
		return target{}, fmt.Errorf("the URL or the options name the account %s, the connection string %s", t.account, parsed.account)
	}
	const accountHint = "write azblob://container@account/prefix, or set AZURE_STORAGE_ACCOUNT"
	endpoint := first(o.Endpoint, parsed.endpoint)
	switch {
	case t.account == "" && (endpoint == "" || t.key != ""):
		return target{}, httpstore.Permanent(errors.New("no storage account is named"), accountHint)
	case t.account != "" && !accountName().MatchString(t.account):
		return target{}, httpstore.Permanent(errors.New("the name of the storage account is not possible: it has 3 to 24 lower-case letters and digits"), accountHint)
	}
	if endpoint == "" {
		endpoint = "https://" + t.account + ".blob." + first(parsed.suffix, publicSuffix)
		t.public = first(parsed.suffix, publicSuffix) == publicSuffix
	}
	var err error
	if t.endpoint, err = parseEndpoint(endpoint); err != nil {
		return target{}, err
	}
	if c.SAS != "" {
		if t.sas, t.expiry, err = parseSAS(c.SAS); err != nil {
			return target{}, err
		}
		if err := t.expired(o.Now()); err != nil {
			return target{}, err
		}
	}
	if t.key == "" && t.endpoint.Scheme == "http" && (t.sas == "" || !isLoopback(t.endpoint.Hostname())) {
		return target{}, httpstore.Permanent(errors.New("credentials are sent over https only"), "write the endpoint with https://, or use the account's key, which is not sent")
	}
	return t, nil
}

func fromEnvironment(getenv func(string) string) Credentials {
	if s := getenv(variableConnectionString); s != "" {
		return Credentials{ConnectionString: s}
	}
	if key := getenv(variableKey); key != "" {
		return Credentials{Key: key}
	}
	return Credentials{SAS: getenv(variableSAS)}
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// parseEndpoint reads the URL of a blob service. Errors do not repeat it: it may hold
// a SAS by mistake.
func parseEndpoint(endpoint string) (*url.URL, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return nil, errors.New("endpoint is not a URL: write https://host or https://host:port")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("endpoint with the scheme %q: write https://host or https://host:port", u.Scheme)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("endpoint holds a user or a query: key and SAS are set by themselves")
	case u.Hostname() == "":
		return nil, errors.New("endpoint names no host: write https://host or https://host:port")
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// A connectionString is what there is in one.
type connectionString struct {
	account, key, sas, endpoint, suffix string
}

// parseConnectionString reads name=value;name=value. Errors do not repeat it.
func parseConnectionString(s string) (connectionString, error) {
	const hint = "copy it whole from the portal (Access keys, or Shared access signature), and put it in quotes in a shell"
	values := make(map[string]string)
	for part := range strings.SplitSeq(strings.Trim(strings.TrimSpace(s), ";"), ";") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return connectionString{}, httpstore.Denied(errors.New("the connection string is not one of Azure's"), hint)
		}
		values[strings.ToLower(strings.TrimSpace(name))] = value
	}
	c := connectionString{
		account:  values["accountname"],
		key:      values["accountkey"],
		sas:      values["sharedaccesssignature"],
		endpoint: values["blobendpoint"],
		suffix:   values["endpointsuffix"],
	}
	if c.key == "" && c.sas == "" {
		return connectionString{}, httpstore.Denied(errors.New("the connection string holds neither a key nor a SAS"), hint)
	}
	if c.endpoint == "" && c.account != "" && values["defaultendpointsprotocol"] == "http" {
		c.endpoint = "http://" + c.account + ".blob." + first(c.suffix, publicSuffix)
	}
	return c, nil
}

// parseSAS returns a shared access signature as a query, and when it expires; zero if
// it does not say: that is decided by a policy of the container.
func parseSAS(sas string) (query string, expiry time.Time, err error) {
	query = strings.TrimPrefix(strings.TrimSpace(sas), "?")
	values, err := url.ParseQuery(query)
	if err != nil || values.Get("sig") == "" {
		return "", time.Time{}, httpstore.Denied(errors.New("the SAS is not one of Azure's: it has no signature"),
			"copy the token whole, from sv= (or sp=) on, and put it in quotes in a shell, which takes & for its own")
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", time.DateOnly} {
		if expiry, err = time.Parse(layout, values.Get("se")); err == nil {
			break
		}
	}
	return query, expiry, nil
}

func (t target) expired(now time.Time) error {
	if t.expiry.IsZero() || now.Before(t.expiry) {
		return nil
	}
	return httpstore.Denied(fmt.Errorf("the SAS has expired, at %s UTC", t.expiry.UTC().Format(time.DateTime)), "make a new one, and set it")
}

// newClient returns the library's client.
func (t target) newClient(name string, o *container.ClientOptions, client *httpstore.Client) (*container.Client, error) {
	u := *t.endpoint
	u.Path += "/" + name
	switch {
	case t.key != "":
		key, err := container.NewSharedKeyCredential(t.account, strings.TrimSpace(t.key))
		if err != nil {
			return nil, httpstore.Denied(errors.New("the key of the account is not one of Azure's: it is not in base64"), "copy the key whole, with the == at its end")
		}
		return container.NewClientWithSharedKeyCredential(u.String(), key, o)
	case t.sas != "":
		u.RawQuery = t.sas
		return container.NewClientWithNoCredential(u.String(), o)
	}
	chain, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Transport: client.Tokens(),
			// One, for the metadata server, which may be busy; more are NewRemote's.
			Retry: policy.RetryOptions{MaxRetries: 1, RetryDelay: time.Second},
		},
	})
	if err != nil {
		return nil, httpstore.Denied(errors.New(httpstore.OneLine(err.Error())), credentialsHint)
	}
	return container.NewClient(u.String(), tokens{chain}, o)
}

// tokens marks the errors of a credential as its own.
type tokens struct{ azcore.TokenCredential }

// GetToken implements azcore.TokenCredential.
func (t tokens) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := t.TokenCredential.GetToken(ctx, o)
	if err != nil {
		err = &tokenError{err}
	}
	return token, err
}

// A tokenError is why there is no token.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "no token: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }
