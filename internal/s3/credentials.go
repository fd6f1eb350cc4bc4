package s3

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
)

// Credentials say whose requests they are. The zero value is Amazon's chain:
//
//  1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
//  2. the profile AWS_PROFILE, or "default", of ~/.aws/config and
//     ~/.aws/credentials (static keys, SSO, credential_process)
//  3. a web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) or a container's
//     role (AWS_CONTAINER_CREDENTIALS_…)
//  4. the role of the EC2 instance, if the endpoint is Amazon's
//
// Profiles with role_arn and source_profile are not supported.
type Credentials struct {
	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary keys
	// Profile of Amazon's files, instead of the whole chain.
	Profile string
}

// Format implements fmt.Formatter: credentials are not for printing.
func (Credentials) Format(f fmt.State, _ rune) { f.Write([]byte("(credentials)")) }

func (c Credentials) check() error {
	if (c.AccessKey == "") != (c.SecretKey == "") {
		return errors.New("of access key and secret key, one is missing")
	}
	if c.SessionToken != "" && c.AccessKey == "" {
		return errors.New("a session token without an access key")
	}
	if c.AccessKey != "" && c.Profile != "" {
		return errors.New("an access key and a profile: give one of them")
	}
	return nil
}

// Patience with the services that hand out credentials. Off Amazon's machines the
// address of the metadata service leads nowhere, and all that happens is waiting.
const credentialsTimeout = 3 * time.Second

func (c Credentials) provider(amazon bool) *credentials.Credentials {
	if c.AccessKey != "" {
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	}
	files := source{"shared files", &credentials.FileAWSCredentials{Profile: c.Profile}}
	if c.Profile != "" {
		files.name = "profile " + c.Profile
		return credentials.New(&chain{sources: []source{files}})
	}
	sources := []source{{"environment", &credentials.EnvAWS{}}, files}
	if amazon && os.Getenv("AWS_EC2_METADATA_DISABLED") != "true" || inContainer() {
		// A client of its own: the authorities trusted for the store, and its
		// connections, are not for these services. They are at hand or nowhere, so
		// there is no proxy either, but for the token service of web identities.
		client := &http.Client{Timeout: credentialsTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
		if os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "" {
			client = &http.Client{Timeout: 10 * credentialsTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
		}
		sources = append(sources, source{"instance role", &credentials.IAM{Client: client}})
	}
	return credentials.New(&chain{sources: sources})
}

func inContainer() bool {
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

type source struct {
	name string
	credentials.Provider
}

// A chain is the first of several sources that has credentials. Unlike the
// library's it does not go on without any when none has, and says why none has. It
// is called by one goroutine at a time.
type chain struct {
	sources []source
	current credentials.Provider
	found   atomic.Bool
}

// A credentialsError says why there are no credentials.
type credentialsError struct {
	reasons string
	passing bool // there were some before
}

func (e *credentialsError) Error() string { return "no credentials: " + e.reasons }

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var reasons string
	for _, s := range c.sources {
		v, err := s.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current = s.Provider
			c.found.Store(true)
			return v, nil
		}
		reason := "nothing"
		if err != nil {
			reason = httpstore.OneLine(withoutURL(err).Error())
		}
		if reasons != "" {
			reasons += "; "
		}
		reasons += s.name + ": " + reason
	}
	return credentials.Value{}, &credentialsError{reasons, c.found.Load()}
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }
