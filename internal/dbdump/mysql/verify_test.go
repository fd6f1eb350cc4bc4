package mysql

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

func TestVerify(t *testing.T) {
	s := mysqltest.Start(t, mysqltest.Config{})
	s.Exec("CREATE DATABASE shop", "CREATE DATABASE other", "CREATE TABLE other.t (x int, KEY (x))", "INSERT INTO other.t VALUES (1), (2)")
	s.Shell("shop", awkward)
	dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"shop", "other"}, Exclude: []string{"shop.log"}})
	temp := t.TempDir()
	os.Chmod(temp, 0o755)
	for up := filepath.Dir(temp); up != os.TempDir() && len(up) > 1; up = filepath.Dir(up) {
		os.Chmod(up, 0o755) // for the server's user
	}
	left := func() {
		t.Helper()
		entries, err := os.ReadDir(temp)
		if err != nil || len(entries) > 0 {
			t.Errorf("left over: %v, %v", entries, err)
		}
	}
	var w warnings
	report, err := Verify(t.Context(), os.DirFS(dir), VerifyOptions{TempDir: temp, Warn: w.add})
	if err != nil {
		t.Fatalf("%v (%s)", err, dbdump.Hint(err))
	}
	left()
	if len(report.Tables) != 18 || report.Failed() != 0 || !strings.HasPrefix(report.Server, "MariaDB") {
		t.Errorf("%+v", report)
	}

	// A changed value.
	path := filepath.Join(dir, "other", "t.sql")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte("(1)"), []byte("(7)"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	report, err = Verify(t.Context(), os.DirFS(dir), VerifyOptions{TempDir: temp})
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed() != 1 || !slices.ContainsFunc(report.Tables, func(c TableCheck) bool {
		return c.Database == "other" && c.Table == "t" && strings.Contains(c.Problem, "differ")
	}) {
		t.Errorf("%+v", report)
	}
	left()

	// One that cannot be loaded.
	if err := os.WriteFile(path, append(text, "INSERT INTO t VALUES ("...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = Verify(t.Context(), os.DirFS(dir), VerifyOptions{TempDir: temp}); err == nil || !strings.Contains(err.Error(), "other.t") {
		t.Error(err)
	}
	left()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, os.DirFS(dir), VerifyOptions{TempDir: temp}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	left()
	t.Setenv("PATH", t.TempDir())
	if _, err := Verify(t.Context(), os.DirFS(dir), VerifyOptions{TempDir: temp}); !errors.Is(err, dbdump.ErrNoProgram) || !strings.Contains(dbdump.Hint(err), "mariadb-server") {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
}

// A restore that fails half way leaves nothing that looks whole, and names the table.
func TestRestoreFailures(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	fill(s, "shop", "a", "b", "c")
	s.Exec("CREATE VIEW shop.v AS SELECT * FROM shop.a")
	dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"shop"}})

	t.Run("disk full", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can make a small file system")
		}
		// The data directory of a server alone has some 90 MB.
		mount := t.TempDir()
		for up := filepath.Dir(mount); up != os.TempDir() && len(up) > 1; up = filepath.Dir(up) {
			os.Chmod(up, 0o755)
		}
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=110m,mode=777", "tmpfs", mount).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		defer exec.Command("umount", "-l", mount).Run()
		small := mysqltest.Start(t, mysqltest.Config{DataDir: mount, NoLog: true})
		defer small.Kill()
		filler := filepath.Join(mount, "filler")
		var stat string
		if out, err := exec.Command("sh", "-c", "df --output=avail -k '"+mount+"' | tail -1").Output(); err == nil {
			stat = strings.TrimSpace(string(out))
		}
		// All but 20 MB.
		if out, err := exec.Command("sh", "-c", "head -c $((("+stat+" - 20000) * 1024)) /dev/zero >'"+filler+"'").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		err := Restore(t.Context(), root(small), os.DirFS(dir), RestoreOptions{Parallel: 1})
		if err == nil || !strings.Contains(err.Error(), "shop.") || !strings.Contains(dbdump.Hint(err), "disk of the server is full") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
		if got := small.Query("SHOW DATABASES LIKE 'shop%'"); len(got) > 0 {
			t.Errorf("left over: %q", got)
		}
	})

	t.Run("server killed", func(t *testing.T) {
		other := mysqltest.Start(t, mysqltest.Config{NoLog: true})
		p := &killing{at: "shop.b", then: other.Kill}
		err := Restore(t.Context(), root(other), os.DirFS(dir), RestoreOptions{Parallel: 1, Progress: p})
		if err == nil || !strings.Contains(err.Error(), "shop.b") || !strings.Contains(err.Error(), "__restoring_") || !strings.Contains(dbdump.Hint(err), "not whole: DROP DATABASE `shop__restoring_") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
		other.Restart()
		if got := other.Query("SHOW DATABASES LIKE 'shop%'"); len(got) != 1 || !strings.HasPrefix(got[0], "shop__restoring_") {
			t.Errorf("after the restart: %q", got)
		}
		other.Stop()
	})

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := Restore(ctx, root(s), os.DirFS(dir), RestoreOptions{Into: "copy", Parallel: 1, Progress: &killing{at: "shop.b", then: cancel}})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := s.Query("SHOW DATABASES LIKE 'copy%'"); len(got) > 0 {
			t.Errorf("left over: %q", got)
		}
	})

	t.Run("no right", func(t *testing.T) {
		err := Restore(t.Context(), account(s, "reader", "SELECT ON *.*"), os.DirFS(dir), RestoreOptions{Into: "copy"})
		if err == nil || !strings.Contains(err.Error(), "Access denied") || !strings.Contains(dbdump.Hint(err), "account") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
	})

	for name, c := range map[string]struct {
		o    RestoreOptions
		want string
	}{
		"system":   {RestoreOptions{Into: "MySQL"}, "server's own database"},
		"long":     {RestoreOptions{Into: strings.Repeat("x", 65)}, "1 to 64 characters"},
		"database": {RestoreOptions{Database: "nosuch"}, "no database nosuch"},
	} {
		if err := Restore(t.Context(), root(s), os.DirFS(dir), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Restore(t.Context(), root(s), os.DirFS(t.TempDir()), RestoreOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// killing does something when a table is begun.
type killing struct {
	at   string
	then func()
}

func (k *killing) Add(int64) {}
func (k *killing) Table(name string, done bool) {
	if name == k.at && !done {
		k.then()
	}
}
