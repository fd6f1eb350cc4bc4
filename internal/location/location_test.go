package location

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/azure"
	"github.com/SP1R4/BackupHandler/v3/internal/azure/azuretest"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs/gcstest"
	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		location      string
		isURL, remote bool
		redacted      string // "": as it is
		joined        string
	}{
		{"/srv/backup", false, false, "", filepath.FromSlash("/srv/backup/x")},
		{"backup", false, false, "", filepath.FromSlash("backup/x")},
		{"C://backup", false, false, "", filepath.FromSlash("C:/backup/x")},
		{"a b://c", false, false, "", filepath.FromSlash("a b:/c/x")},
		{"/mnt/x://y", false, false, "", filepath.FromSlash("/mnt/x:/y/x")},
		{"user:pw@host:/path", false, false, "", filepath.FromSlash("user:pw@host:/path/x")},
		{"file:///srv/backup", true, false, "", "file:///srv/backup/x"},
		{"FILE:///srv", true, false, "", "FILE:///srv/x"},
		{"sftp://host/p", true, true, "", "sftp://host/p/x"},
		{"sftp://host/p//", true, true, "", "sftp://host/p/x"},
		{"SFTP://ann@host:22/p", true, true, "", "SFTP://ann@host:22/p/x"},
		{"sftp://ann:hush@host:22/p@q:r", true, true, "sftp://ann:xxxxx@host:22/p@q:r", "sftp://ann:hush@host:22/p@q:r/x"},
		{"sftp://ann:@host/p", true, true, "sftp://ann:xxxxx@host/p", "sftp://ann:@host/p/x"},
		{"sftp://:hush@host/p", true, true, "sftp://:xxxxx@host/p", "sftp://:hush@host/p/x"},
		{"sftp://ann:hu@sh@host", true, true, "sftp://ann:xxxxx@host", "sftp://ann:hu@sh@host/x"},
		{"sftp://host:22/a@b:c", true, true, "", "sftp://host:22/a@b:c/x"},
		{"sftp://[::1]:22/a@b", true, true, "", "sftp://[::1]:22/a@b/x"},
		{"sftp://[::1]/a@b", true, true, "", "sftp://[::1]/a@b/x"},
		{"s3://bucket/a@b:c", true, true, "", "s3://bucket/a@b:c/x"},
		{"azblob://box@account/p", true, true, "", "azblob://box@account/p/x"},
		{"nothing://x", true, true, "", "nothing://x/x"},
	} {
		if got := IsURL(tt.location); got != tt.isURL {
			t.Errorf("IsURL(%q) = %t", tt.location, got)
		}
		if got := IsRemote(tt.location); got != tt.remote {
			t.Errorf("IsRemote(%q) = %t", tt.location, got)
		}
		want := tt.redacted
		if want == "" {
			want = tt.location
		}
		if got := Redact(tt.location); got != want {
			t.Errorf("Redact(%q) = %q", tt.location, got)
		}
		if got := HasPassword(tt.location); got != (tt.redacted != "") {
			t.Errorf("HasPassword(%q) = %t", tt.location, got)
		}
		if got := Join(tt.location, "x"); got != tt.joined {
			t.Errorf("Join(%q) = %q, want %q", tt.location, got, tt.joined)
		}
	}
}

// A password may hold a slash that is not escaped, as in a careless copy.
func TestRedactSlash(t *testing.T) {
	for _, l := range []string{"sftp://ann:hu/sh@host/p", "s3://key:hu/sh@bucket"} {
		if got := Redact(l); strings.Contains(got, "sh@") || !HasPassword(l) {
			t.Errorf("Redact(%q) = %q", l, got)
		}
	}
}

// TestOpen opens a store of each kind, creates it where that is up to us, and stores
// an object in it. Settings of other kinds are not asked for.
func TestOpen(t *testing.T) {
	refuse := errors.New("settings of another kind were asked for")
	none := func() *Settings {
		return &Settings{
			SFTP:  func() (sftp.Options, storage.Limits, error) { return sftp.Options{}, storage.Limits{}, refuse },
			S3:    func() (s3.Options, storage.Limits, error) { return s3.Options{}, storage.Limits{}, refuse },
			GCS:   func() (gcs.Options, error) { return gcs.Options{}, refuse },
			Azure: func() (azure.Options, error) { return azure.Options{}, refuse },
		}
	}
	for name, start := range map[string]func(t *testing.T, s *Settings) string{
		"directory": func(t *testing.T, _ *Settings) string { return filepath.Join(t.TempDir(), "new") },
		"sftp": func(t *testing.T, s *Settings) string {
			server := sftptest.Start(t, sftptest.Config{})
			s.SFTP = func() (sftp.Options, storage.Limits, error) {
				return sftp.Options{KeyFile: server.KeyFile, KnownHosts: []string{server.KnownHosts}}, storage.Limits{}, nil
			}
			return server.URL(server.Dir + "/new")
		},
		"s3": func(t *testing.T, s *Settings) string {
			server := s3test.Start(t, s3test.Options{})
			server.MakeBucket(t, "bucket")
			s.S3 = func() (s3.Options, storage.Limits, error) { return server.Options(), storage.Limits{}, nil }
			return "s3://bucket/new"
		},
		"gcs": func(t *testing.T, s *Settings) string {
			server := gcstest.Start(t)
			server.MakeBucket(t, "bucket")
			s.GCS = func() (gcs.Options, error) { return server.Options(), nil }
			return "gs://bucket/new"
		},
		"azure": func(t *testing.T, s *Settings) string {
			server := azuretest.Start(t)
			server.MakeContainer(t, "box")
			s.Azure = func() (azure.Options, error) { return server.Options(), nil }
			return "azblob://box/new"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := none()
			place := start(t, s)
			if b, err := s.Open(t.Context(), place); err == nil {
				b.Close() // in a bucket, what is not there is as what is empty
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			b, err := s.Create(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			storagetest.Put(t, b, "packs/x", []byte("content"))
			b.Close()
			if b, err = s.Open(t.Context(), place); err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got := storagetest.Objects(t, b); string(got["packs/x"]) != "content" {
				t.Errorf("objects %v", got)
			}
		})
	}
	s := none()
	for _, place := range []string{"sftp://host/p", "s3://bucket/p", "gs://bucket/p", "azblob://box@account/p"} {
		if _, err := s.Open(t.Context(), place); !errors.Is(err, refuse) || !strings.HasPrefix(err.Error(), place+": ") {
			t.Errorf("%s: %v", place, err)
		}
	}
	if _, err := s.Open(t.Context(), "ftp://host/p"); !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("unknown scheme: %v", err)
	}
	for _, place := range []string{"sftp://", "s3:///x", "gs:///x", "azblob:///x"} {
		if _, err := s.Open(t.Context(), place); err == nil || errors.Is(err, refuse) || !strings.HasPrefix(err.Error(), place+": ") {
			t.Errorf("%s: %v", place, err)
		}
	}
}

// A connection that fails is tried again while the patience lasts; a name that does
// not exist is not.
func TestOpenRetries(t *testing.T) {
	server := sftptest.Start(t, sftptest.Config{})
	failures := 2
	var retries []string
	s := &Settings{
		SFTP: func() (sftp.Options, storage.Limits, error) {
			return sftp.Options{
				KeyFile: server.KeyFile, KnownHosts: []string{server.KnownHosts},
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					if failures--; failures >= 0 {
						return nil, errors.New("the line is down")
					}
					return new(net.Dialer).DialContext(ctx, network, address)
				},
			}, storage.Limits{}, nil
		},
		Remote: storage.RemoteOptions{Patience: time.Hour, OnRetry: func(what string, err error, _ time.Duration) {
			retries = append(retries, what+err.Error())
		}},
	}
	b, err := s.Open(t.Context(), server.URL(server.Dir))
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if len(retries) != 2 || strings.Count(retries[0], "open sftp://") != 1 {
		t.Errorf("retries %q", retries)
	}
	s.Remote.Patience = time.Nanosecond
	failures = 1000
	_, err = s.Open(t.Context(), server.URL(server.Dir))
	if _, ok := errors.AsType[*storage.UnreachableError](err); !ok || failures != 999 {
		t.Errorf("without patience: %v after %d attempts", err, 1000-failures)
	}
}
