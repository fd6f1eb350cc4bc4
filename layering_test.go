// Package layering holds the one list of which package may import which.
package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/SP1R4/BackupHandler/v3/"

// groups are the layers of the program: a package imports only from earlier
// groups. Packages that do not exist yet have their place already.
var groups = [][]string{
	{"schedule", "sqlite"},
	{"durable", "chunk", "seal", "config", "command", "exclude", "keyring", "limit", "preflight", "tailscale"},
	{"storage", "sheet", "service"},
	{"httpstore", "parity"},
	{"sftp", "s3", "gcs", "azure"},
	{"location"},
	{"repo"},
	{"tree"},
	{"guard"},
	{"retention", "backup"},
	{"files", "dbdump", "inventory", "legacy"},
	{"restore", "verify", "journal"},
	{"notify", "metrics", "trace"},
	{"job", "bot"},
	{"web"},
	{"daemon"},
}

// only lists imports that one package keeps to itself.
var only = map[string]string{
	"crypto/aes":                       "seal",
	"crypto/cipher":                    "seal",
	"golang.org/x/crypto/argon2":       "seal",
	"github.com/gofrs/flock":           "durable",
	"github.com/spf13/cobra":           "",
	"github.com/vbauerster/mpb/v8":     "",
	"github.com/jedib0t/go-pretty":     "",
	"github.com/klauspost/compress":    "repo",
	"github.com/klauspost/reedsolomon": "parity",
	"github.com/piglig/go-qr":          "sheet",
	"github.com/zalando/go-keyring":    "keyring",
	"github.com/moby/sys/mountinfo":    "preflight",
	"modernc.org":                      "sqlite",
	"github.com/minio/minio-go":        "s3",
	"github.com/netresearch/go-cron":   "schedule",
	"tailscale.com":                    "tailscale",
	"gvisor.dev":                       "tailscale",
	"golang.org/x/oauth2":              "gcs",
	"github.com/Azure":                 "azure",
	"github.com/pkg/sftp":              "sftp",
	"golang.org/x/crypto/ssh":          "sftp",
	"github.com/wneessen/go-mail":      "notify",
	"github.com/go-telegram/bot":       "notify",
	"github.com/go-sql-driver/mysql":   "dbdump",
}

func TestLayering(t *testing.T) {
	layer := map[string]int{}
	for i, g := range groups {
		for _, p := range g {
			layer[p] = i
		}
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./internal/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module+"internal/")
		if strings.Contains(name, "/") {
			continue // test support beside a package: storagetest, filestest
		}
		seen++
		mine, known := layer[name]
		if !known {
			t.Errorf("package %s is in no group", name)
		}
		for _, imp := range p.Imports {
			for path, owner := range only {
				if (imp == path || strings.HasPrefix(imp, path+"/")) && owner != name {
					t.Errorf("%s imports %s, which is for %q only", name, imp, owner)
				}
			}
			dep, ours := strings.CutPrefix(imp, module+"internal/")
			if ours && layer[dep] >= mine {
				t.Errorf("%s imports %s, which is not in an earlier group", name, dep)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("only %d packages found", seen)
	}
}

// TestFsync: only package durable may flush to disk; restore flushes a whole file
// system on request, and sftp asks a server to.
func TestFsync(t *testing.T) {
	out, err := exec.Command("git", "grep", "-nE", `\.Sync\(\)|[Ff]sync\(|[Ff]datasync\(`, "--", "internal/*.go", "cmd/*.go",
		":!internal/durable/*", ":!internal/sftp/*", ":!*_test.go").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return // nothing found
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		_, code, _ := strings.Cut(line, ":")
		if !strings.Contains(strings.SplitN(code, "//", 2)[0], "ync(") {
			continue // in a comment
		}
		t.Errorf("outside package durable: %s", line)
	}
}
