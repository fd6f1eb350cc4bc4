package sftp

import (
	"errors"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

func TestParseURL(t *testing.T) {
	tests := []struct {
		url    string
		want   Target
		text   string // of String, if not url
		remote string
	}{
		{"sftp://u@host:2222/srv/backup", Target{"u", "host", 2222, "/srv/backup"}, "", "/srv/backup"},
		{"sftp://host/srv", Target{"", "host", 0, "/srv"}, "", "/srv"},
		{"SFTP://host/srv/", Target{"", "host", 0, "/srv"}, "sftp://host/srv", "/srv"},
		{"sftp://host//srv//x/", Target{"", "host", 0, "/srv/x"}, "sftp://host/srv/x", "/srv/x"},
		{"sftp://host/", Target{"", "host", 0, "/"}, "", "/"},
		{"sftp://host/.", Target{"", "host", 0, "/."}, "", "."},
		{"sftp://host/./", Target{"", "host", 0, "/."}, "sftp://host/.", "."},
		{"sftp://host/~", Target{"", "host", 0, "/."}, "sftp://host/.", "."},
		{"sftp://host/~/", Target{"", "host", 0, "/."}, "sftp://host/.", "."},
		{"sftp://host/./a/b", Target{"", "host", 0, "/./a/b"}, "", "a/b"},
		{"sftp://host/~/a/b", Target{"", "host", 0, "/./a/b"}, "sftp://host/./a/b", "a/b"},
		{"sftp://host/~/../../etc", Target{"", "host", 0, "/./etc"}, "sftp://host/./etc", "etc"},
		{"sftp://host/../../etc", Target{"", "host", 0, "/etc"}, "sftp://host/etc", "/etc"},
		{"sftp://host/.hidden", Target{"", "host", 0, "/.hidden"}, "", "/.hidden"},
		{"sftp://host/a/~/b", Target{"", "host", 0, "/a/~/b"}, "", "/a/~/b"},
		{"sftp://host/with%20space%3F%23", Target{"", "host", 0, "/with space?#"}, "", "/with space?#"},
		{"sftp://[::1]:22/x", Target{"", "::1", 22, "/x"}, "", "/x"},
		{"sftp://u@[fe80::1]/x", Target{"u", "fe80::1", 0, "/x"}, "", "/x"},
		{"sftp://dom%5Cu@host/x", Target{`dom\u`, "host", 0, "/x"}, "", "/x"},
		{"sftp://h:65535/x", Target{"", "h", 65535, "/x"}, "", "/x"},
	}
	for _, tt := range tests {
		got, err := ParseURL(tt.url)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if tt.text == "" {
			tt.text = tt.url
		}
		if got != tt.want || got.String() != tt.text || got.remotePath() != tt.remote {
			t.Errorf("%s: %+v, %s, remote %q; want %+v, %s, %q", tt.url, got, got, got.remotePath(), tt.want, tt.text, tt.remote)
		}
		if again, err := ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%s: %s is read as %+v, %v", tt.url, got, again, err)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for url, text := range map[string]string{
		"":                                "not an sftp URL",
		"host:/srv":                       "not an sftp URL",
		"ssh://host/srv":                  "not an sftp URL",
		"sftp:host/srv":                   "query or a fragment",
		"sftp:///srv":                     "no valid host",
		"sftp://u@/srv":                   "no valid host",
		"sftp://host":                     "no valid path",
		"sftp://host/a%00b":               "no valid path",
		"sftp://host/a%0Ab":               "no valid path",
		"sftp://host/~other/x":            "home directory of a user",
		"sftp://u:SECRET@host/srv":        "holds a password",
		"sftp://u:@host/srv":              "holds a password",
		"sftp://@host/srv":                "no valid user",
		"sftp://-oProxyCommand=x/srv":     "no valid host",
		"sftp://-l@host/srv":              "no valid user",
		"sftp://a%20b@host/srv":           "no valid user",
		"sftp://[fe80::1%25eth0;x]/srv":   "no valid host",
		"sftp://host:0/srv":               "port",
		"sftp://host:65536/srv":           "port",
		"sftp://host:/srv":                "port",
		"sftp://host:x/SECRET":            "malformed",
		"sftp://host/srv?password=SECRET": "query",
		"sftp://host/srv#SECRET":          "query",
		"sftp://host/%zz/SECRET":          "malformed",
	} {
		got, err := ParseURL(url)
		if err == nil {
			t.Errorf("%q is read as %+v", url, got)
			continue
		}
		p, ok := errors.AsType[*storage.PermanentError](err)
		if !ok || p.Hint == "" {
			t.Errorf("%q: %v is not permanent, or without a hint", url, err)
			continue
		}
		if !strings.Contains(err.Error(), text) || strings.Contains(err.Error()+p.Hint, "SECRET") {
			t.Errorf("%q: %v (%s), want %q", url, err, p.Hint, text)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("sftp://u@host:2222/./srv/backup")
	f.Add("sftp://[::1]//x%20y")
	f.Add("sftp://host/~/..")
	f.Fuzz(func(t *testing.T, url string) {
		target, err := ParseURL(url)
		if err != nil {
			return
		}
		again, err := ParseURL(target.String())
		if err != nil || again != target {
			t.Errorf("%q is %+v, but its %q is %+v, %v", url, target, target, again, err)
		}
		if p := target.remotePath(); p == "" || strings.HasPrefix(p, "..") || strings.ContainsAny(p, "\x00\n") {
			t.Errorf("%q leads to %q", url, p)
		}
	})
}
