// Package layering holds the one list of which package may import which.
package layering

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/SP1R4/BackupHandler/v3/"

// groups are the layers of the program: a package imports only from earlier
// groups. Packages that do not exist yet have their place already.
var groups = [][]string{
	{"schedule", "sqlite", "lazyregexp"},
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

// sources calls f for each file of the program that is no test, of all platforms. They are
// read here and not by another program: 'go test' knows then that a result of before a
// change says nothing, and does not give it once more.
func sources(t *testing.T, f func(file string, parsed *ast.File, positions *token.FileSet)) {
	t.Helper()
	for _, root := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			positions := token.NewFileSet()
			parsed, err := parser.ParseFile(positions, file, nil, parser.SkipObjectResolution)
			if err == nil {
				f(filepath.ToSlash(file), parsed, positions)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLayering(t *testing.T) {
	layer := map[string]int{}
	for i, g := range groups {
		for _, p := range g {
			layer[p] = i
		}
	}
	seen := map[string]bool{}
	sources(t, func(file string, parsed *ast.File, _ *token.FileSet) {
		name, internal := strings.CutPrefix(path.Dir(file), "internal/")
		if !internal || strings.Contains(name, "/") {
			return // the program itself, or what packages have below them: storagetest, dbdump/mysql
		}
		mine, known := layer[name]
		if !known && !seen[name] {
			t.Errorf("package %s is in no group", name)
		}
		seen[name] = true
		for _, spec := range parsed.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for path, owner := range only {
				if (imp == path || strings.HasPrefix(imp, path+"/")) && owner != name {
					t.Errorf("%s imports %s, which is for %q only", file, imp, owner)
				}
			}
			dep, ours := strings.CutPrefix(imp, module+"internal/")
			if ours && layer[dep] >= mine {
				t.Errorf("%s imports %s, which is not in an earlier group", file, dep)
			}
		}
	})
	if len(seen) < 10 {
		t.Fatalf("only %d packages found", len(seen))
	}
}

// TestFsync: only package durable may flush to disk; restore flushes a whole file
// system on request, and sftp asks a server to.
func TestFsync(t *testing.T) {
	sources(t, func(file string, parsed *ast.File, positions *token.FileSet) {
		if dir := path.Dir(file); dir == "internal/durable" || dir == "internal/sftp" {
			return
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			var name string
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if l := strings.ToLower(name); name == "Sync" || strings.HasSuffix(l, "fsync") || strings.HasSuffix(l, "fdatasync") {
				t.Errorf("outside package durable: %s: %s", positions.Position(call.Pos()), name)
			}
			return true
		})
	})
}
