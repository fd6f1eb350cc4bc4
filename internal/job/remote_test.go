package job

import (
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
)

func TestServerLocation(t *testing.T) {
	for _, tt := range []struct{ server, dir, want string }{
		{"host", "backup-handler", "sftp://host/./backup-handler"},
		{"host", "/srv/a b", "sftp://host/srv/a%20b"},
		{"host:2222", "/srv", "sftp://host:2222/srv"},
		{"ann@host", "x/../y", "sftp://ann@host/./x/../y"},
		{"ann@host:2222", "/srv", "sftp://ann@host:2222/srv"},
		{"DOMAIN\\ann@host", "/srv", `sftp://DOMAIN%5Cann@host/srv`},
		{"192.0.2.1", "/srv", "sftp://192.0.2.1/srv"},
		{"::1", "/srv", "sftp://[::1]/srv"},
		{"ann@[::1]:22", "/srv", "sftp://ann@[::1]:22/srv"},
		{"sftp://other/place", "/srv", "sftp://other/place"},
		{"s3://bucket/place", "/srv", "s3://bucket/place"},
		{"", "/srv", ""},
		{"host:port", "/srv", ""},
		{"host:0", "/srv", ""},
		{"@host", "/srv", ""},
		{"host/path", "/srv", ""},
		{"a host", "/srv", ""},
		{"-oProxyCommand=x", "/srv", ""},
		{"ann:hush@host", "/srv", ""},
		{"ann:hu@sh@host", "/srv", ""},
	} {
		got, err := ServerLocation(tt.server, config.SSH{RemoteDir: tt.dir})
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q in %q: %q, %v; want %q", tt.server, tt.dir, got, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hu") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v", tt.server, err)
		}
	}
}

func TestBucketLocation(t *testing.T) {
	for _, tt := range []struct{ bucket, prefix, want string }{
		{"bucket", "", "s3://bucket/backup-handler.repo"},
		{"bucket", "/", "s3://bucket/backup-handler.repo"},
		{"bucket", "old/mirror/", "s3://bucket/old/mirror/backup-handler.repo"},
		{"bucket", "//a//b//", "s3://bucket/a/b/backup-handler.repo"},
		{"", "p", ""},
		{"Not A Bucket", "p", ""},
	} {
		got, err := BucketLocation(config.S3{Bucket: tt.bucket, Prefix: tt.prefix})
		if err == nil && got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q, %q: %q, %v; want %q", tt.bucket, tt.prefix, got, err, tt.want)
		}
	}
}
