package sheet

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

func example(repositories ...Repository) *Sheet {
	if len(repositories) == 0 {
		repositories = []Repository{{Address: "/mnt/disk/backup", ID: strings.Repeat("0a", 16), Slot: "5e1f0a77"}}
	}
	return &Sheet{
		Repositories: repositories, Host: "ann's laptop", Created: time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC),
		Program: "backup-handler 3.0.0", Key: seal.GenerateKeyFile(),
	}
}

// read decodes the code in a picture by somebody else's program (Debian: zbar-tools).
func read(t *testing.T, picture string) string {
	t.Helper()
	out, err := exec.Command("zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture).Output()
	if err != nil {
		t.Fatalf("zbarimg: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// TestCodeOfText reads the code as it is printed: each block character is two modules.
func TestCodeOfText(t *testing.T) {
	s := example()
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\n"); strings.Trim(line, " ▀▄█") == "" && strings.TrimSpace(line) != "" {
			rows = append(rows, line)
		}
	}
	const scale, margin = 4, 16
	img := image.NewGray(image.Rect(0, 0, 60*scale+2*margin, 2*len(rows)*scale+2*margin))
	for i := range img.Pix {
		img.Pix[i] = 0xff
	}
	for y, row := range rows {
		for x, r := range []rune(row) {
			for half, ink := range []bool{r == '▀' || r == '█', r == '▄' || r == '█'} {
				for i := range scale * scale {
					if ink {
						img.SetGray(margin+x*scale+i%scale, margin+(2*y+half)*scale+i/scale, color.Gray{})
					}
				}
			}
		}
	}
	name := filepath.Join(t.TempDir(), "code.png")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, img); err != nil {
		t.Fatal(err)
	}
	if read(t, name) != s.Key.Text() {
		t.Error("the code in the text is not the key")
	}
}

// TestCodeOfHTML has the picture drawn by librsvg, as a browser would.
func TestCodeOfHTML(t *testing.T) {
	s := example()
	page, err := s.HTML()
	if err != nil {
		t.Fatal(err)
	}
	svg := regexp.MustCompile(`(?s)<svg .*</svg>`).Find(page)
	name := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(name+".svg", svg, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("rsvg-convert", "-o", name+".png", name+".svg").CombinedOutput(); err != nil {
		t.Fatalf("rsvg-convert: %v: %s", err, out)
	}
	if read(t, name+".png") != s.Key.Text() {
		t.Error("the code in the page is not the key")
	}
}

// TestKeyInFile: the file of a sheet serves as a key file, and so does what somebody
// types from it.
func TestKeyInFile(t *testing.T) {
	s := example()
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for form, b := range map[string][]byte{"text": text, "HTML": page} {
		k, err := seal.ParsePaperKey(b)
		if err != nil {
			t.Errorf("%s: %v", form, err)
		} else if !bytes.Equal(k.Bytes(), s.Key.Bytes()) {
			t.Errorf("%s: another key", form)
		}
	}
}

func TestWords(t *testing.T) {
	for address, want := range map[string][]string{
		"/mnt/disk/backup":             {"Connect the disk", "--backup-dirs /mnt/disk/backup"},
		"/mnt/my disk/backup":          {`--backup-dirs "/mnt/my disk/backup"`},
		"/mnt/$HOME/it's":              {`--backup-dirs '/mnt/$HOME/it'\''s'`},
		`D:\my backup`:                 {`--backup-dirs "D:\my backup"`},
		"sftp://ann@nas.example.org/b": {"server nas.example.org", "known_hosts"},
		"s3://my-bucket/work":          {"bucket my-bucket", "AWS_SECRET_ACCESS_KEY", "[S3]", "endpoint = https://store.example.org"},
		"gs://my-bucket/work":          {"GOOGLE_APPLICATION_CREDENTIALS"},
		"azblob://box@acc/work":        {"container box of the account acc"},
		"azblob://box/work":            {"container box in Azure"},
	} {
		r := Repository{Address: address, ID: "id-of-it", Slot: "5e1f0a77"}
		if strings.HasPrefix(address, "s3:") {
			r.Endpoint = "https://store.example.org"
		}
		text, err := example(r).Text()
		if err != nil {
			t.Fatal(err)
		}
		joined := strings.Join(strings.Fields(string(text)), " ")
		for _, w := range append(want, address, "id-of-it", "2026-11-26", "backup-handler 3.0.0", `--host "ann's laptop"`, "key remove 5e1f0a77") {
			if !strings.Contains(joined, w) {
				t.Errorf("%s: the sheet does not say %q:\n%s", address, w, text)
			}
		}
	}
}

// TestForm: text fits on paper, a page needs nothing from elsewhere, and names do not
// become part of either.
func TestForm(t *testing.T) {
	s := example(
		Repository{Address: "/mnt/a", ID: "1", Slot: "aaaaaaaa"},
		Repository{Address: "s3://b/<script>alert(1)</script>", ID: "2", Slot: "bbbbbbbb"},
	)
	s.Host = "<b>evil</b>\n1: AAAA BBBB CCCC DDDD"
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if len([]rune(line)) > 80 && !strings.Contains(line, "--backup-dirs") {
			t.Errorf("a line of %d characters: %s", len([]rune(line)), line)
		}
		if line != strings.TrimRight(line, " ") {
			t.Errorf("spaces at the end of %q", line)
		}
	}
	page, err := s.HTML()
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?i)<script|<b>|src=|href=|url\(|@import`).Match(page) {
		t.Errorf("the page holds a name as it is, or refers to something:\n%s", page)
	}
	for form, b := range map[string][]byte{"text": text, "HTML": page} {
		if k, err := seal.ParsePaperKey(b); err != nil || !bytes.Equal(k.Bytes(), s.Key.Bytes()) {
			t.Errorf("%s: the name of the host is taken for a line of the key: %v", form, err)
		}
		for _, want := range []string{"aaaaaaaa", "bbbbbbbb", "/mnt/a"} {
			if !bytes.Contains(b, []byte(want)) {
				t.Errorf("%s: no %s", form, want)
			}
		}
	}
}
