package azure

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
)

// TestSignIn: what the sign-in service may answer.
func TestSignIn(t *testing.T) {
	client, err := httpstore.New(httpstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := &Store{client: client}
	for _, tt := range []struct {
		status    int
		body      string
		permanent bool
		words     string
	}{
		{401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Trace ID: 1\r\nCorrelation ID: 2"}`, true, "no token: AADSTS7000215: Invalid client secret provided"},
		{400, `s3cret`, true, "no token: 400 Bad Request"},
		{503, `s3cret`, false, "no token: 503 Service Unavailable"},
	} {
		resp := &http.Response{StatusCode: tt.status, Body: io.NopCloser(strings.NewReader(tt.body))}
		err := s.describe(t.Context(), actList, &tokenError{&azidentity.AuthenticationFailedError{RawResponse: resp}})
		httpstoretest.CheckError(t, err, nil, tt.permanent, tt.words)
	}
	httpstoretest.CheckError(t, s.describe(t.Context(), actList, &tokenError{errors.New("DefaultAzureCredential: failed\ns3cret")}), nil, true, "no credentials")
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		loc      Location
		o        Options
		endpoint string
		public   bool
	}{
		{Location{Account: "one"}, Options{Account: "two"}, "https://one.blob.core.windows.net", true},
		{Location{}, Options{Account: "two"}, "https://two.blob.core.windows.net", true},
		{Location{}, Options{Account: "two", Endpoint: "two.blob.core.chinacloudapi.cn/"}, "https://two.blob.core.chinacloudapi.cn", false},
		{Location{}, Options{Credentials: Credentials{ConnectionString: "AccountName=three;AccountKey=eA==;EndpointSuffix=core.usgovcloudapi.net"}}, "https://three.blob.core.usgovcloudapi.net", false},
		{Location{}, Options{Credentials: Credentials{ConnectionString: "DefaultEndpointsProtocol=https;AccountName=three;AccountKey=eA==;EndpointSuffix=core.windows.net;"}}, "https://three.blob.core.windows.net", true},
		{Location{}, Options{Credentials: Credentials{ConnectionString: "DefaultEndpointsProtocol=http;AccountName=three;AccountKey=eA=="}}, "http://three.blob.core.windows.net", false},
	} {
		tt.o.Getenv, tt.o.Now = func(string) string { return "" }, time.Now
		got, err := findTarget(tt.loc, tt.o)
		if err != nil || got.endpoint.String() != tt.endpoint || got.public != tt.public {
			t.Errorf("%+v: %v, public %t, %v", tt.loc, got.endpoint, got.public, err)
		}
	}
}

func FuzzConnectionString(f *testing.F) {
	f.Add("AccountName=x;AccountKey=eA==;EndpointSuffix=core.windows.net")
	f.Add("BlobEndpoint=https://x;SharedAccessSignature=sv=1&sig=2;")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseConnectionString(s)
		if err == nil && c.key == "" && c.sas == "" {
			t.Errorf("%q lets nobody in", s)
		}
		if err != nil && len(s) > 20 && strings.Contains(err.Error(), s) {
			t.Errorf("the error repeats %q", s)
		}
	})
}

func FuzzSAS(f *testing.F) {
	f.Add("?sv=2020-01-01&se=2030-01-01T00:00:00Z&sig=x")
	f.Fuzz(func(t *testing.T, s string) {
		query, _, err := parseSAS(s)
		if err == nil && !strings.Contains(query, "sig") {
			t.Errorf("%q has no signature", s)
		}
	})
}
