package gcs

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
)

// Credentials say whose requests they are. The zero value is Google's chain, the
// application default credentials:
//
//  1. the file that GOOGLE_APPLICATION_CREDENTIALS names
//  2. the file that "gcloud auth application-default login" writes
//  3. the service account of the machine, from the metadata server
type Credentials struct {
	// File holds credentials as Google issues them (JSON), instead of the chain:
	// the key of a service account, or a configuration of workload identity
	// federation. The latter may name addresses and a program to run, so the file
	// has to be one's own.
	File string
	// Anonymous sends no credentials, to an emulator.
	Anonymous bool
}

// credentialsVariable is read by the library.
const credentialsVariable = "GOOGLE_APPLICATION_CREDENTIALS"

// scope covers storing, reading, listing and deleting objects.
const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// findTimeout bounds the search for default credentials: off Google's machines the
// address of the metadata server leads nowhere.
const findTimeout = 10 * time.Second

// tokens hands out tokens for requests, one goroutine at a time: a token lasts an
// hour, and getting one takes a request.
type tokens struct {
	source oauth2.TokenSource
	turn   chan struct{} // holds a token while it is nobody's turn
}

// A tokenError is why there is no token.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "no token: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

func (c Credentials) tokens(ctx context.Context, client *httpstore.Client) (*tokens, error) {
	// The context of a source is that of all its requests.
	sourceCtx := context.WithValue(client.Closing(), oauth2.HTTPClient, client.Tokens())
	found, err := c.find(ctx, sourceCtx)
	if err != nil {
		return nil, err
	}
	t := &tokens{source: found.TokenSource, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t, nil
}

func (c Credentials) find(ctx, sourceCtx context.Context) (*google.Credentials, error) {
	if c.File == "" {
		return findDefault(ctx, sourceCtx)
	}
	data, err := os.ReadFile(c.File)
	if err != nil {
		// Not wrapped: it is not the store that does not exist.
		return nil, httpstore.Denied(fmt.Errorf("read the credentials: %v", err), "check the file's name and permissions")
	}
	var file struct {
		Type       google.CredentialsType `json:"type"`
		PrivateKey string                 `json:"private_key"`
	}
	const hint = "the file is the one that Google issues for a service account (JSON), or a configuration of workload identity federation"
	if json.Unmarshal(data, &file) != nil || file.Type == "" { // the error would repeat bytes of the file
		return nil, httpstore.Denied(fmt.Errorf("%s holds no credentials of Google's", c.File), hint)
	}
	if file.Type == google.ServiceAccount && !isPrivateKey(file.PrivateKey) {
		return nil, httpstore.Denied(fmt.Errorf("the private key in %s cannot be read", c.File), "download a key of the service account again, as JSON")
	}
	found, err := google.CredentialsFromJSONWithType(sourceCtx, data, file.Type, scope)
	if err != nil {
		return nil, httpstore.Denied(fmt.Errorf("%s holds no credentials of Google's: those of type %q are not known, or not complete", c.File, file.Type), hint)
	}
	return found, nil
}

// isPrivateKey says whether the library will be able to read a key; it does so only
// when it needs it.
func isPrivateKey(s string) bool {
	block, _ := pem.Decode([]byte(s))
	if block == nil {
		return false
	}
	_, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		_, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	return err == nil
}

func findDefault(ctx, sourceCtx context.Context) (*google.Credentials, error) {
	type result struct {
		found *google.Credentials
		err   error
	}
	done := make(chan result, 1)
	go func() { // it knows no context but that of the tokens
		found, err := google.FindDefaultCredentials(sourceCtx, scope)
		done <- result{found, err}
	}()
	const hint = "name the file of a service account's key, or run: gcloud auth application-default login"
	timer := time.NewTimer(findTimeout)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.err == nil {
			return r.found, nil
		}
		if words := r.err.Error(); strings.Contains(words, credentialsVariable) { // no more than words
			return nil, httpstore.Denied(fmt.Errorf("no credentials: %s", httpstore.OneLine(words)), "check "+credentialsVariable+", and the file that it names")
		}
		return nil, httpstore.Denied(errors.New("no credentials: none in the environment, none of gcloud, none of this machine"), hint)
	case <-timer.C:
		return nil, httpstore.Denied(errors.New("no credentials: the metadata server does not answer"), hint)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// get returns a token that is good for a while.
func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	select {
	case <-t.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type result struct {
		token *oauth2.Token
		err   error
	}
	done := make(chan result, 1)
	go func() { // the library's request does not know this context
		token, err := t.source.Token()
		if err == nil && token.AccessToken == "" {
			err = errors.New("the answer holds none")
		}
		t.turn <- struct{}{}
		done <- result{token, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, &tokenError{r.err}
		}
		return r.token, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
