//go:build unix

package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trusted loads a file and says why its commands must not be run.
func trusted(t *testing.T, path string, env Env) error {
	t.Helper()
	c, _, err := Load(path, env)
	if err != nil {
		t.Fatal(err)
	}
	return c.Trusted()
}

// A command in a file that others can change is theirs.
func TestTrusted(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: true, 0o644: true, 0o640: true, 0o620: false, 0o602: false, 0o666: false} {
		path := filepath.Join(t.TempDir(), "config.ini")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if err := trusted(t, path, envOf()); (err == nil) != want {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if err := trusted(t, path, envOf(TrustEnv, "1")); err != nil {
			t.Errorf("mode %04o, trusted all the same: %v", mode, err)
		}
		if err := trusted(t, path, envOf(TrustEnv, "0")); (err == nil) != want {
			t.Errorf("mode %04o, %s=0: %v", mode, TrustEnv, err)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if err := os.Chown(path, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if err := trusted(t, path, envOf()); err == nil {
			t.Errorf("mode %04o, somebody else's: trusted", mode)
		}
	}
	if err := Defaults(envOf()).Trusted(); err != nil {
		t.Errorf("what is no file: %v", err)
	}
}

// The way to a file counts as much as the file.
func TestTrustedWay(t *testing.T) {
	root := t.TempDir()
	mkdir := func(mode os.FileMode, names ...string) string {
		t.Helper()
		dir := filepath.Join(append([]string{root}, names...)...)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	file := func(dir string) string {
		t.Helper()
		path := filepath.Join(dir, "config.ini")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, name string) string {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(root, name)
	}
	good := file(mkdir(0o755, "good"))
	sticky := file(mkdir(0o777|os.ModeSticky, "sticky"))
	open := mkdir(0o777, "open")
	opened := file(mkdir(0o755, "open", "below"))
	group := file(mkdir(0o775, "group"))
	if err := os.Symlink(good, filepath.Join(open, "link.ini")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		bad  string // what is named; "": nothing
	}{
		"a directory of one's own":         {good, ""},
		"a sticky one":                     {sticky, ""},
		"one that the group can change":    {group, filepath.Dir(group)},
		"one above that others can change": {opened, open},
		"a link":                           {link(good, "to-good.ini"), ""},
		"a link to what is below":          {link("open/below", "to-open") + "/config.ini", open},
		"a link from there":                {filepath.Join(open, "link.ini"), open},
		"up again":                         {filepath.Join(root, "good") + "/../good/config.ini", ""},
		"a link up":                        {link("../"+filepath.Base(root)+"/open/below/config.ini", "up.ini"), open},
	} {
		err := trusted(t, c.path, envOf())
		if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.HasPrefix(err.Error(), c.bad+", on the way to ")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	foreign := link(good, "sticky/foreign.ini")
	if err := os.Lchown(foreign, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if err := trusted(t, foreign, envOf()); err == nil {
		t.Error("somebody else's link is trusted")
	}
}

func TestExposed(t *testing.T) {
	for _, c := range []struct {
		text string
		mode os.FileMode
		want bool
	}{
		{"[SSH]\npassword = secret\n", 0o600, false},
		{"[SSH]\npassword = secret\n", 0o640, true},
		{"[SSH]\npassword = secret\n", 0o604, true},
		{"[SSH]\npassword = secret\n", 0o622, false},
		{"[SSH]\npassword = ${SECRET}\n", 0o644, false},
		{"[SSH]\nusername = ann\n", 0o644, false},
	} {
		path := filepath.Join(t.TempDir(), "config.ini")
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := Load(path, envOf())
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Exposed() != c.want {
			t.Errorf("%q with mode %04o: %t", c.text, c.mode, !c.want)
		}
	}
}
