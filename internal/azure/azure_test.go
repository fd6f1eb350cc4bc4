package azure_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"

	"github.com/SP1R4/BackupHandler/v3/internal/azure"
	"github.com/SP1R4/BackupHandler/v3/internal/azure/azuretest"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore"
	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func open(t testing.TB, loc azure.Location, o azure.Options) *azure.Store {
	t.Helper()
	s, err := azure.Open(t.Context(), loc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testConformance: a store on an emulator is a Backend as any other, in a directory
// and at the root of a container, with the account's key and with a SAS that may not
// replace anything.
func testConformance(t *testing.T, server *azuretest.Server) {
	tests := []struct {
		name   string
		prefix string
		change func(t *testing.T, container string, o *azure.Options)
	}{
		{"root", "", func(*testing.T, string, *azure.Options) {}},
		{"prefix", "backup of/Höst %41", func(*testing.T, string, *azure.Options) {}},
		{"sas", "x", func(t *testing.T, container string, o *azure.Options) {
			o.Credentials = azure.Credentials{SAS: server.SAS(t, container, "rcdl", time.Hour)}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var count atomic.Int64
			storagetest.Test(t, func(t *testing.T) storage.Backend {
				loc, err := azure.ParseURL(fmt.Sprintf("azblob://%s-%d/%s", tt.name, count.Add(1), tt.prefix))
				if err != nil {
					t.Fatal(err)
				}
				server.MakeContainer(t, loc.Container)
				o := server.Options()
				tt.change(t, loc.Container, &o)
				return storage.NewRemote(open(t, loc, o), storage.RemoteOptions{Patience: 20 * time.Second})
			})
		})
	}
}

// newBox returns a store's place in a fresh container.
func newBox(t testing.TB, server *azuretest.Server) azure.Location {
	t.Helper()
	loc := azure.Location{Container: strings.ToLower(rand.Text()), Prefix: "pre"}
	server.MakeContainer(t, loc.Container)
	return loc
}

// TestStore runs what needs an emulator, which takes seconds to start.
func TestStore(t *testing.T) {
	server := azuretest.Start(t)
	for name, test := range map[string]func(*testing.T, *azuretest.Server){
		"Conformance": testConformance, "Requests": testRequests, "Cuts": testCuts, "Checksum": testChecksum,
		"StorageClasses": testStorageClasses, "Foreign": testForeign, "Hierarchy": testHierarchy,
		"Answers": testAnswers, "Way": testWay, "Clock": testClock, "Unreadable": testUnreadable,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func TestParseURL(t *testing.T) {
	for url, want := range map[string]azure.Location{
		"azblob://box":                   {Container: "box"},
		"azblob://box/":                  {Container: "box"},
		"AZBLOB://my-box-1/a/b/":         {Container: "my-box-1", Prefix: "a/b"},
		"azblob://box@account1/ö %2":     {Container: "box", Account: "account1", Prefix: "ö %2"},
		"azblob://box@devstoreaccount1/": {Container: "box", Account: "devstoreaccount1"},
	} {
		got, err := azure.ParseURL(url)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
		if again, err := azure.ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%s: its own URL %s is %+v, %v", url, got, again, err)
		}
	}
	for _, url := range []string{
		"", "azblob:", "azblob://", "azblob:///x", "s3://box", "azure:box:/x", "azblob://b", "azblob://Box/x", "azblob://-box", "azblob://my--box",
		"azblob://" + strings.Repeat("b", 64), "azblob://box@/x", "azblob://box@Account/x", "azblob://box@account.blob.core.windows.net/x",
		"azblob://box:s3cret@account/x", "azblob://box:443/x", "azblob://box/x?sig=s3cret", "azblob://box/x#s3cret", "azblob://box@s3cret-key==/x",
		"azblob://box//x", "azblob://box/a//b", "azblob://box/../x", "azblob://box/a./x", "azblob://box/a\nb", "azblob://box/" + strings.Repeat("p", 513),
	} {
		if got, err := azure.ParseURL(url); err == nil {
			t.Errorf("%.40s: %+v", url, got)
		} else if strings.Contains(err.Error(), httpstoretest.Secret) {
			t.Errorf("%s: error repeats the URL: %v", url, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("azblob://box/prefix")
	f.Add("azblob://box@account/ä/%41/")
	f.Fuzz(func(t *testing.T, url string) {
		l, err := azure.ParseURL(url)
		if err != nil {
			return
		}
		if again, err := azure.ParseURL(l.String()); err != nil || again != l {
			t.Errorf("%q: %+v, then %+v, %v", url, l, again, err)
		}
	})
}

// testRequests: what each operation costs.
func testRequests(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	var c httpstoretest.Requests
	o := server.Options()
	o.OnRequest = c.Add
	s := open(t, box, o)
	c.Want(t, "open", "GET list objects")
	put(t, s, "packs/one", "content")
	c.Want(t, "put", "PUT put object")
	if err := s.Put(t.Context(), "packs/one", strings.NewReader("other"), 5); !errors.Is(err, fs.ErrExist) {
		t.Errorf("put again: %v", err)
	}
	c.Want(t, "put again", "PUT put object")
	for _, r := range []struct {
		off, length int64
		want        string
	}{{0, -1, "content"}, {1, 3, "ont"}, {7, 1, ""}, {100, -1, ""}} {
		if got := get(t, s, "packs/one", r.off, r.length); got != r.want {
			t.Errorf("get %d, %d: %q, want %q", r.off, r.length, got, r.want)
		}
		c.Want(t, fmt.Sprint("get ", r.off), "GET get object")
	}
	for _, r := range []struct {
		off, length int64
		want        string
	}{{-3, -1, "ent"}, {-5, 2, "nt"}, {-100, -1, "content"}} {
		if got := get(t, s, "packs/one", r.off, r.length); got != r.want {
			t.Errorf("get %d, %d: %q, want %q", r.off, r.length, got, r.want)
		}
		c.Want(t, fmt.Sprint("get ", r.off), "HEAD head object", "GET get object")
	}
	get(t, s, "packs/one", 1, 0)
	c.Want(t, "get nothing", "HEAD head object")
	if err := s.Delete(t.Context(), "packs/one"); err != nil {
		t.Error(err)
	}
	c.Want(t, "delete", "DELETE delete object")
	if err := s.List(t.Context(), "", func(storage.Info) error { return nil }); err != nil {
		t.Error(err)
	}
	c.Want(t, "list", "GET list objects")
}

func put(t testing.TB, s *azure.Store, name, content string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *azure.Store, name string, off, length int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, off, length)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func testCuts(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	var count atomic.Int64
	httpstoretest.TestCuts(t, server.Addr, func(t *testing.T, d *httpstoretest.Dialer) storage.Objects {
		o := server.Options()
		o.Dial, o.Stall = d.Dial, httpstoretest.FaultStall
		loc := azure.Location{Container: box.Container, Prefix: httpstore.Prefix(fmt.Sprint("cut", count.Add(1)))}
		return open(t, loc, o)
	})
}

// testChecksum: the server refuses what was changed on its way, and nothing of it is
// an object.
func testChecksum(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	var flip atomic.Bool
	o := server.Options()
	o.Endpoint = azuretest.Endpoint(httpstoretest.Proxy(t, server.Addr, func(_ http.ResponseWriter, r *http.Request) bool {
		if flip.Load() && r.Method == http.MethodPut {
			r.Body = httpstoretest.Flip(r.Body, 5000)
		}
		return false
	}))
	s := open(t, box, o)
	content := strings.Repeat("content", 1000)
	flip.Store(true)
	err := s.Put(t.Context(), "packs/one", strings.NewReader(content), int64(len(content)))
	httpstoretest.CheckError(t, err, nil, false, "not what was sent")
	flip.Store(false)
	if _, err := s.Get(t.Context(), "packs/one", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
	put(t, s, "packs/one", content)
	if got := get(t, s, "packs/one", 0, -1); got != content {
		t.Errorf("%d other bytes", len(got))
	}
}

// testStorageClasses: by the first element of the name.
func testStorageClasses(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	o := server.Options()
	o.StorageClasses = map[string]string{"packs": "Cold", "": "Cool"}
	s := open(t, box, o)
	put(t, s, "packs/one", "x")
	put(t, s, "config", "x")
	for key, want := range map[string]string{"pre/packs/one": "Cold", "pre/config": "Cool"} {
		p, err := server.Client(t, box.Container).NewBlobClient(key).GetProperties(t.Context(), nil)
		if err != nil || p.AccessTier == nil || *p.AccessTier != want {
			t.Errorf("%s: tier %v, %v", key, p.AccessTier, err)
		}
	}
	for tier, words := range map[string]string{"Archive": "brought back", "cool": "none of Azure's", "": "none of Azure's"} {
		o.StorageClasses = map[string]string{"packs": tier}
		_, err := azure.Open(t.Context(), box, o)
		httpstoretest.CheckError(t, err, nil, true, words)
	}
}

// testForeign: what is no object of ours is not listed.
func testForeign(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	s := open(t, box, server.Options())
	put(t, s, "packs/one", "x")
	for _, key := range []string{"pre/README", "pre/.hidden", "prefix", "other/x"} {
		body := streaming.NopCloser(strings.NewReader("x"))
		if _, err := server.Client(t, box.Container).NewBlockBlobClient(key).Upload(t.Context(), body, nil); err != nil {
			t.Fatal(err)
		}
	}
	if names := list(t, s); !slices.Equal(names, []string{"packs/one"}) {
		t.Errorf("listed %q", names)
	}
}

func list(t testing.TB, s *azure.Store) (names []string) {
	t.Helper()
	if err := s.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

// cannedProxy is in front of the server, and answers itself while an answer is set.
type cannedProxy struct {
	url    string
	answer atomic.Pointer[http.HandlerFunc]
}

func newCannedProxy(t *testing.T, server *azuretest.Server) *cannedProxy {
	c := new(cannedProxy)
	c.url = httpstoretest.Proxy(t, server.Addr, func(w http.ResponseWriter, r *http.Request) bool {
		f := c.answer.Load()
		if f == nil {
			return false
		}
		io.Copy(io.Discard, r.Body)
		(*f)(w, r)
		return true
	})
	return c
}

func (c *cannedProxy) set(f http.HandlerFunc) { c.answer.Store(&f) }
func (c *cannedProxy) clear()                 { c.answer.Store(nil) }

// testHierarchy: an account with a hierarchical namespace lists directories, which
// are no objects, and pages may be empty.
func testHierarchy(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	proxy := newCannedProxy(t, server)
	o := server.Options()
	o.Endpoint = azuretest.Endpoint(proxy.url)
	s := open(t, box, o)
	blob := func(name, kind string) string {
		return `<Blob><Name>pre/` + name + `</Name><Properties><Content-Length>5</Content-Length><ResourceType>` + kind + `</ResourceType></Properties></Blob>`
	}
	pages := map[string]string{
		"":  `<Blobs>` + blob("packs", "directory") + blob("packs/one", "file") + `</Blobs><NextMarker>a</NextMarker>`,
		"a": `<Blobs/><NextMarker>b</NextMarker>`,
		"b": `<Blobs>` + blob("packs/two", "file") + `</Blobs><NextMarker/>`,
	}
	proxy.set(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="box">`+pages[r.URL.Query().Get("marker")]+`</EnumerationResults>`)
	})
	if names := list(t, s); !slices.Equal(names, []string{"packs/one", "packs/two"}) {
		t.Errorf("listed %q", names)
	}
}

// testAnswers: what the server may answer, and what becomes of it.
func testAnswers(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	proxy := newCannedProxy(t, server)
	o := server.Options()
	o.Endpoint = azuretest.Endpoint(proxy.url)
	s := open(t, box, o)
	put(t, s, "packs/one", "content")
	const (
		passing   = false
		permanent = true
	)
	tests := []struct {
		status  int
		code    string
		message string
		op      string // of get, put, delete, list
		is      error
		kind    bool
		words   string
	}{
		{409, "BlobAlreadyExists", "The specified blob already exists.", "put", fs.ErrExist, passing, "exists"},
		{412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.", "put", fs.ErrExist, passing, "exists"},
		{403, "UnauthorizedBlobOverwrite", "This request is not authorized to perform blob overwrites.", "put", fs.ErrExist, passing, "exists"},
		{409, "BlobImmutableDueToPolicy", "This operation is not permitted as the blob is immutable due to a policy.", "put", fs.ErrExist, passing, "exists"},
		{409, "BlobImmutableDueToPolicy", "This operation is not permitted as the blob is immutable due to a policy.", "delete", fs.ErrPermission, permanent, "locked and cannot be deleted: This operation is not permitted as the blob is immutable due to a policy"},
		{412, "LeaseIdMissing", "There is currently a lease on the blob and no lease ID was specified in the request.", "delete", fs.ErrPermission, permanent, "lease"},
		{409, "SnapshotsPresent", "This operation is not permitted because the blob has snapshots.", "delete", nil, permanent, "snapshots"},
		{404, "BlobNotFound", "The specified blob does not exist.", "get", fs.ErrNotExist, passing, "no such object"},
		{404, "BlobNotFound", "The specified blob does not exist.", "delete", fs.ErrNotExist, passing, "no such object"},
		{404, "ContainerNotFound", "The specified container does not exist.", "get", nil, permanent, "container " + box.Container + " does not exist"},
		{404, "ContainerNotFound", "The specified container does not exist.", "list", nil, permanent, "container " + box.Container + " does not exist"},
		{409, "ContainerBeingDeleted", "The specified container is being deleted.", "put", nil, permanent, "container " + box.Container + " does not exist"},
		{404, "", "", "put", nil, permanent, "404"},
		{412, "ConditionNotMet", "x", "get", nil, passing, "replaced while it was read"},
		{409, "BlobArchived", "This operation is not permitted on an archived blob.", "get", nil, permanent, "Archive"},
		{409, "BlobBeingRehydrated", "x", "get", nil, permanent, "Archive"},
		{400, "Md5Mismatch", "x", "put", nil, passing, "not what was sent"},
		{400, "Crc64Mismatch", "x", "put", nil, passing, "not what was sent"},
		{403, "AccountIsDisabled", "The specified account is disabled.", "put", nil, permanent, "account is disabled"},
		{403, "AuthenticationFailed", "Server failed to authenticate the request.\nRequestId:1\nTime:2", "get", nil, permanent, "the key does not fit the account devstoreaccount1"},
		{403, "KeyBasedAuthenticationNotPermitted", "Key based authentication is not permitted on this storage account.", "get", nil, permanent, "does not permit keys"},
		{401, "NoAuthenticationInformation", "x", "get", nil, permanent, "the key does not fit"},
		{403, "AuthorizationFailure", "This request is not authorized to perform this operation.\nRequestId:1", "put", storage.ErrReadOnly, permanent, "not allowed to store objects: This request is not authorized to perform this operation"},
		{403, "InsufficientAccountPermissions", "x", "delete", storage.ErrReadOnly, permanent, "not allowed to delete objects"},
		{403, "AuthorizationPermissionMismatch", "x", "list", nil, permanent, "not allowed to list objects"},
		{507, "", "", "put", storage.ErrFull, passing, "no room"},
		{503, "ServerBusy", "The server is busy.", "put", nil, passing, "The server is busy"},
		{500, "OperationTimedOut", "Operation could not be completed within the permitted time.", "list", nil, passing, "Operation could not"},
		{429, "", "", "get", nil, passing, "429 Too Many Requests"},
		{501, "", "", "get", nil, permanent, "501"},
		{400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.", "put", nil, permanent, "HTTP headers"},
		{302, "", "<html>s3cret", "get", nil, permanent, "302 Found"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.op, tt.status, tt.code), func(t *testing.T) {
			proxy.set(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/xml")
				w.Header().Set("Location", "http://portal.example/")
				if tt.code != "" {
					w.Header().Set("x-ms-error-code", tt.code)
				}
				w.WriteHeader(tt.status)
				fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, tt.code, tt.message)
			})
			defer proxy.clear()
			httpstoretest.CheckError(t, do(t.Context(), s, tt.op), tt.is, tt.kind, tt.words)
		})
	}
	proxy.set(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>s3cret</html>") })
	httpstoretest.CheckError(t, do(t.Context(), s, "list"), nil, passing, "listing makes no sense")
	_, err := azure.Open(t.Context(), box, o)
	httpstoretest.CheckError(t, err, nil, passing, "listing makes no sense")
	proxy.clear()
	if got := get(t, s, "packs/one", 0, -1); got != "content" {
		t.Errorf("afterwards: %q", got)
	}
}

// do runs an operation on packs/one.
func do(ctx context.Context, s *azure.Store, op string) error {
	switch op {
	case "put":
		return s.Put(ctx, "packs/one", strings.NewReader("content"), 7)
	case "delete":
		return s.Delete(ctx, "packs/one")
	case "list":
		return s.List(ctx, "", func(storage.Info) error { return nil })
	}
	r, err := s.Get(ctx, "packs/one", 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// testWay: what may be wrong with the credentials, or on the way to the server, comes
// out when the store is opened.
func testWay(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	tlsURL, caFile := httpstoretest.TLSProxy(t, server.Addr, func(http.ResponseWriter, *http.Request) bool { return false })
	goodSAS, wrongSAS := server.SAS(t, box.Container, "rcdl", time.Hour), server.SAS(t, "other", "rcdl", time.Hour)
	environment := func(o *azure.Options, pairs ...string) {
		o.Account, o.Credentials = "", azure.Credentials{}
		o.Getenv = func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	const wrongKey = "c2VjcmV0"
	connection := "DefaultEndpointsProtocol=http;AccountName=" + azuretest.Account + ";AccountKey=" + azuretest.Key + ";BlobEndpoint=http://" + server.Addr + "/" + azuretest.Account + ";"
	dns := func(notFound bool) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x.blob.example", IsNotFound: notFound}}
		}
	}
	tests := []struct {
		name      string
		change    func(o *azure.Options)
		permanent bool
		words     string // "": it opens
	}{
		{"key", func(*azure.Options) {}, false, ""},
		{"SAS", func(o *azure.Options) { o.Credentials = azure.Credentials{SAS: goodSAS} }, false, ""},
		{"SAS with question mark", func(o *azure.Options) { o.Credentials = azure.Credentials{SAS: "?" + goodSAS} }, false, ""},
		{"connection string", func(o *azure.Options) {
			*o = azure.Options{Credentials: azure.Credentials{ConnectionString: connection}, Getenv: o.Getenv}
		}, false, ""},
		{"connection string with SAS", func(o *azure.Options) {
			o.Credentials = azure.Credentials{ConnectionString: "BlobEndpoint=http://" + server.Addr + "/" + azuretest.Account + ";SharedAccessSignature=" + goodSAS}
			o.Endpoint = ""
		}, false, ""},
		{"environment: key", func(o *azure.Options) {
			environment(o, "AZURE_STORAGE_ACCOUNT", azuretest.Account, "AZURE_STORAGE_KEY", azuretest.Key)
		}, false, ""},
		{"environment: SAS", func(o *azure.Options) {
			environment(o, "AZURE_STORAGE_ACCOUNT", azuretest.Account, "AZURE_STORAGE_SAS_TOKEN", goodSAS)
		}, false, ""},
		{"environment: connection string", func(o *azure.Options) {
			environment(o, "AZURE_STORAGE_CONNECTION_STRING", connection, "AZURE_STORAGE_KEY", wrongKey)
			o.Endpoint = ""
		}, false, ""},
		{"TLS", func(o *azure.Options) { o.Endpoint, o.CAFile = azuretest.Endpoint(tlsURL), caFile }, false, ""},

		{"wrong key", func(o *azure.Options) { o.Credentials.Key = wrongKey }, true, "the key does not fit"},
		{"no key", func(o *azure.Options) { o.Credentials.Key = "s3cret!" }, true, "not in base64"},
		{"SAS of another container", func(o *azure.Options) { o.Credentials = azure.Credentials{SAS: wrongSAS} }, true, "does not accept the SAS"},
		{"SAS without list", func(o *azure.Options) {
			o.Credentials = azure.Credentials{SAS: server.SAS(t, box.Container, "r", time.Hour)}
		}, true, "not allowed to list objects"},
		{"expired SAS", func(o *azure.Options) {
			o.Credentials = azure.Credentials{SAS: server.SAS(t, box.Container, "rcdl", -time.Hour)}
		}, true, "the SAS has expired, at 2"},
		{"cut SAS", func(o *azure.Options) { o.Credentials = azure.Credentials{SAS: "sv=2020-01-01"} }, true, "no signature"},
		{"SAS without TLS", func(o *azure.Options) {
			o.Endpoint, o.Credentials = "http://storage.example", azure.Credentials{SAS: "sv=1&sig=s3cret"}
		}, true, "over https only"},
		{"login without TLS", func(o *azure.Options) { o.Credentials = azure.Credentials{} }, true, "over https only"},
		{"two credentials", func(o *azure.Options) { o.Credentials.SAS = goodSAS }, false, "give one of them"},
		{"two more", func(o *azure.Options) { o.Credentials.ConnectionString = connection }, false, "give one of them"},
		{"two accounts", func(o *azure.Options) {
			o.Account, o.Credentials = "other", azure.Credentials{ConnectionString: connection}
		}, false, "account other, the connection string devstoreaccount1"},
		{"bad connection string", func(o *azure.Options) { o.Credentials = azure.Credentials{ConnectionString: "s3cret"} }, true, "not one of Azure's"},
		{"empty connection string", func(o *azure.Options) {
			o.Credentials = azure.Credentials{ConnectionString: "AccountName=s3cret"}
		}, true, "neither a key nor a SAS"},
		{"no account", func(o *azure.Options) { o.Account = "" }, true, "no storage account is named"},
		{"bad account", func(o *azure.Options) { o.Account = "s3cret=" }, true, "name of the storage account"},

		{"authority", func(o *azure.Options) { o.Endpoint = azuretest.Endpoint(tlsURL) }, true, "certificate is not trusted"},
		{"no TLS", func(o *azure.Options) { o.Endpoint = "https://" + server.Addr }, true, "does not speak TLS"},
		{"no file", func(o *azure.Options) { o.CAFile = caFile + "x" }, true, "read the trusted certificates"},
		{"host", func(o *azure.Options) { o.Dial = dns(true) }, true, "host x.blob.example does not exist"},
		{"name service", func(o *azure.Options) { o.Dial = dns(false) }, false, "look up x.blob.example"},
		{"nobody there", func(o *azure.Options) { o.Endpoint = "http://127.0.0.1:1/x" }, false, "cannot connect to 127.0.0.1:1"},
		{"endpoint with password", func(o *azure.Options) { o.Endpoint = "https://user:s3cret@host" }, false, "holds a user"},
		{"endpoint with SAS", func(o *azure.Options) { o.Endpoint = "https://host/?sig=s3cret" }, false, "holds a user or a query"},
		{"endpoint with scheme", func(o *azure.Options) { o.Endpoint = "ftp://s3cret" }, false, "scheme"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := server.Options()
			tt.change(&o)
			s, err := azure.Open(t.Context(), box, o)
			if tt.words != "" {
				httpstoretest.CheckError(t, err, nil, tt.permanent, tt.words)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if name := s.String(); !strings.HasPrefix(name, "azblob://"+box.Container) || !strings.Contains(name, "/pre at 127.0.0.1:") {
				t.Errorf("the store calls itself %s", name)
			}
			httpstoretest.CheckError(t, do(t.Context(), s, "get"), nil, false, fs.ErrClosed.Error())
		})
	}
	_, err := azure.Open(t.Context(), azure.Location{Container: "missing"}, server.Options())
	httpstoretest.CheckError(t, err, nil, true, "container missing does not exist")
	if out := fmt.Sprintf("%v %+v %s", server.Options().Credentials, server.Options(), server.Options().Credentials); strings.Contains(out, azuretest.Key) {
		t.Error("credentials can be printed")
	}
}

// testClock: a refusal by a server whose clock is far from ours is about clocks.
func testClock(t *testing.T, server *azuretest.Server) {
	box := newBox(t, server)
	proxy := newCannedProxy(t, server)
	proxy.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
		w.Header().Set("x-ms-error-code", "AuthenticationFailed")
		w.WriteHeader(http.StatusForbidden)
	})
	o := server.Options()
	o.Endpoint = azuretest.Endpoint(proxy.url)
	_, err := azure.Open(t.Context(), box, o)
	httpstoretest.CheckError(t, err, nil, true, "too far apart")
}

// testUnreadable: what cannot be read is not the server's fault, and stores nothing.
func testUnreadable(t *testing.T, server *azuretest.Server) {
	s := open(t, newBox(t, server), server.Options())
	for _, have := range []int{0, 10} {
		err := s.Put(t.Context(), "packs/one", bytes.NewReader(make([]byte, have)), 20)
		httpstoretest.CheckError(t, err, nil, true, "read what is to be stored")
	}
	if _, err := s.Get(t.Context(), "packs/one", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
}

// TestDefaultCredentials: why there is no token is told in one line.
func TestDefaultCredentials(t *testing.T) {
	signIn, _ := httpstoretest.TLSProxy(t, "127.0.0.1:1", func(http.ResponseWriter, *http.Request) bool { return false })
	for _, name := range []string{"AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"} {
		t.Setenv(name, "")
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	t.Setenv("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000001")
	t.Setenv("AZURE_CLIENT_ID", "x")
	tests := []struct {
		name, secret string
		dial         func(context.Context, string, string) (net.Conn, error)
		permanent    bool
		words        string
	}{
		{"none", "", nil, true, "no credentials: none in the environment"},
		{"host", httpstoretest.Secret, func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "login.example", IsNotFound: true}}
		}, true, "host login.example does not exist"},
		{"authority", httpstoretest.Secret, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(signIn, "https://"))
		}, true, "certificate is not trusted"},
		{"nobody there", httpstoretest.Secret, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:1")
		}, false, "cannot connect"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("AZURE_CLIENT_SECRET", tt.secret)
			_, err := azure.Open(t.Context(), azure.Location{Account: "account", Container: "box"}, azure.Options{Dial: tt.dial, Getenv: func(string) string { return "" }})
			httpstoretest.CheckError(t, err, nil, tt.permanent, tt.words)
		})
	}
}
