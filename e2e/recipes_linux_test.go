package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// recipe reads a configuration that contrib has for file systems with snapshots, for
// other directories than those it names.
func recipe(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "contrib", "snapshots", name))
	must(t, err)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			t.Fatalf("%s does not say %q", name, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

// TestRecipeBtrfs: what is backed up is the moment of the hook, unchanged files are not
// read again, and no snapshot of the file system stays.
func TestRecipeBtrfs(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts a file system")
	w := newWorld(t)
	image, home := w.path("image"), w.mkdir("disk")
	f, err := os.Create(image)
	must(t, err)
	must(t, f.Truncate(200<<20))
	must(t, f.Close())
	tool(t, "", "mkfs.btrfs", "-q", image)
	mounted := t.Run("mounted", func(t *testing.T) {
		mount(t, home, "-o", "loop", image)
		w := *w
		w.t = t
		write := func(name, text string) { must(t, os.WriteFile(filepath.Join(home, name), []byte(text), 0o644)) }
		must(t, os.Mkdir(filepath.Join(home, ".backup"), 0o700))
		write("stays", "as it is")
		write("changes", "before")
		snapshot := filepath.Join(home, ".backup", "home")
		text := recipe(t, "btrfs.ini", "/home/.backup/home", snapshot, "/home", home, "/mnt/backup/repository", w.path("repo"))
		later := strings.Replace(text, "\npost_backup", " && echo after >"+home+"/changes\npost_backup", 1)
		config := w.write([]byte(later), "config.ini")
		must(t, os.Chmod(config, 0o600))

		if r := w.backup(ok, "--config", config); r.Details.Counts.Files != 2 {
			t.Errorf("%+v", r.Details.Counts)
		}
		got := w.restore(ok, w.path("repo"), "latest", snapshot)
		if text, err := os.ReadFile(filepath.Join(got, "changes")); err != nil || string(text) != "before" {
			t.Errorf("%q %v", text, err)
		}
		if _, err := os.Stat(snapshot); !os.IsNotExist(err) {
			t.Errorf("the snapshot is still there: %v", err)
		}
		// A crash has left one behind, which is not what is backed up.
		tool(t, "", "btrfs", "subvolume", "snapshot", "-r", home, snapshot)
		write("new", "came since")
		r := w.backup(ok, "--config", config)
		if c := r.Details.Counts; c.New != 1 || c.Changed != 1 || c.Unmodified != 1 {
			t.Errorf("%+v", c)
		}
		if _, err := os.Stat(snapshot); !os.IsNotExist(err) {
			t.Errorf("the snapshot is still there: %v", err)
		}
		// Where the hook makes none, nothing is backed up.
		must(t, os.Chmod(w.write([]byte(strings.Replace(later, "subvolume snapshot -r", "subvolume no-snapshot -r", 1)), "config.ini"), 0o600))
		w.want(refused, "backup", "--config", config).complaint(t, true, "the hook pre_backup failed")
		must(t, os.Chmod(w.write([]byte(strings.Replace(later, "pre_backup = ", "pre_backup = true # ", 1)), "config.ini"), 0o600))
		w.want(refused, "backup", "--config", config).complaint(t, true, "source "+snapshot)
	})
	if !mounted {
		t.FailNow()
	}
}

// TestRecipes: they are configurations without a fault.
func TestRecipes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"btrfs.ini", "zfs.ini", "lvm.ini"} {
		config := w.write([]byte(recipe(t, name)), name)
		must(t, os.Chmod(config, 0o600))
		w.want(ok, "config", "check", "--config", config)
		if out := w.want(ok, "config", "show", "--config", config).out; !strings.Contains(out, "post_backup") {
			t.Errorf("%s:\n%s", name, out)
		}
	}
}

// TestDocumentedSections: what documents say to write into a configuration can be written
// there.
func TestDocumentedSections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = append(w.env, "DB_PASSWORD=hush")
	block := regexp.MustCompile("(?m)^ {0,4}\\[DATABASE .*\\n(?: {0,4}[^\\s`].*\\n)+")
	for _, name := range []string{"README.md", "docs/databases.md", "docs/postgresql.md"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		must(t, err)
		all := block.FindAllString(string(text), -1)
		if len(all) == 0 {
			t.Errorf("%s has none", name)
		}
		for _, section := range all {
			config := w.write([]byte("[BACKUPS]\nbackup_dirs = /mnt/backup\n"+strings.ReplaceAll(section, "    ", "")), "config.ini")
			must(t, os.Chmod(config, 0o600))
			if r := w.run("config", "check", "--config", config); r.code != ok || !strings.Contains(r.out, "0 warnings") {
				t.Errorf("%s:\n%s%v", name, section, r)
			}
		}
	}
}
