package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
)

// appendEnv makes the test binary append records to the log of the directory it
// names, and exit: another process for TestProcessesAppend.
const appendEnv = "JOURNAL_TEST_APPEND"

// recordsPerWriter is how many records each concurrent writer appends.
const recordsPerWriter = 20

func TestMain(m *testing.M) {
	if dir := os.Getenv(appendEnv); dir != "" {
		if err := appendMany(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func appendMany(dir string) error {
	a, err := OpenAudit(AuditOptions{Dir: dir, RunID: "r", MaxFileBytes: 2000})
	if err != nil {
		return err
	}
	for i := range recordsPerWriter {
		if err := a.Append("test", slog.Int("i", i)); err != nil {
			return err
		}
	}
	return nil
}

func TestRunID(t *testing.T) {
	at := time.Date(2026, 11, 24, 2, 32, 8, 999, time.FixedZone("", 2*3600))
	got, err := NewRunID(at, bytes.NewReader([]byte{0xab, 0x12, 0xcd}))
	if err != nil || got != "20261124T003208Z-ab12cd" {
		t.Errorf("%q, %v", got, err)
	}
	if later, err := NewRunID(at.Add(time.Second), rand.Reader); err != nil || later <= got {
		t.Errorf("%q does not sort after %q (%v)", later, got, err)
	}
	if got, err := NewRunID(at, bytes.NewReader([]byte{1, 2})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without randomness: %q, %v", got, err)
	}
}

// An auditLog is a log under test.
type auditLog struct {
	t   *testing.T
	dir string // state directory
	*Audit
}

func newAuditLog(t *testing.T, maxFileBytes int64, records int) auditLog {
	t.Helper()
	dir := t.TempDir()
	now := time.Date(2026, 11, 24, 0, 0, 0, 1, time.UTC)
	a, err := OpenAudit(AuditOptions{Dir: dir, RunID: "run", User: "ann", Host: "host", MaxFileBytes: maxFileBytes,
		Now: func() time.Time { now = now.Add(time.Second); return now }})
	if err != nil {
		t.Fatal(err)
	}
	l := auditLog{t, dir, a}
	for i := range records {
		l.append(i)
	}
	return l
}

func (l auditLog) append(i int) {
	l.t.Helper()
	if err := l.Append("test.event", slog.Int("i", i)); err != nil {
		l.t.Fatal(err)
	}
}

func (l auditLog) path(name string) string { return filepath.Join(l.dir, "Logs", name) }

func (l auditLog) read(name string) string {
	l.t.Helper()
	data, err := os.ReadFile(l.path(name))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(data)
}

func (l auditLog) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(l.path(name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// wantWhole demands that the log verifies, with this many records and warnings.
func (l auditLog) wantWhole(records, warnings int) Report {
	l.t.Helper()
	report, err := Verify(l.dir)
	if err != nil || report.Records != uint64(records) || len(report.Warnings) != warnings {
		l.t.Fatalf("verify: %+v, %v; want %d records, %d warnings", report, err, records, warnings)
	}
	return report
}

// wantDamage demands that the log does not verify.
func (l auditLog) wantDamage(damage Damage, file string, line int) {
	l.t.Helper()
	_, err := Verify(l.dir)
	var d *DamageError
	if !errors.As(err, &d) || d.Damage != damage || d.File != file || d.Line != line {
		l.t.Errorf("verify: %v; want %s:%d %s", err, file, line, damage)
	}
}

func TestRecord(t *testing.T) {
	l := newAuditLog(t, 0, 0)
	if _, err := Verify(l.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log without a record verifies: %v", err)
	}
	secret := config.NewSecretString("hunter2")
	err := l.Append("key.load",
		slog.Any("secret", secret), slog.Any("pointer", &secret), slog.Any("list", []config.SecretString{secret}),
		slog.Any("inside", struct{ S config.SecretString }{secret}),
		slog.Group("group", slog.Any("secret", secret), slog.Duration("took", 90*time.Second)),
		slog.Any("err", fmt.Errorf("open: %w", fs.ErrNotExist)), slog.String("text", "a\n\"b\""), slog.Bool("ok", true))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":1,"prev":"` + zeroHash + `","time":"2026-11-24T00:00:01.000000001Z","run_id":"run","event":"key.load","user":"ann","host":"host","pid":` + fmt.Sprint(os.Getpid()) +
		`,"fields":{"err":"open: file does not exist","group":{"secret":"***","took":"1m30s"},"inside":{"S":"***"},"list":["***"],"ok":true,"pointer":"***","secret":"***","text":"a\n\"b\""}}` + "\n"
	if got := l.read(auditName); got != want {
		t.Errorf("line  %s\nwant %s", got, want)
	}
	report := l.wantWhole(1, 0)
	if report.SHA256 != hashLine([]byte(strings.TrimSuffix(want, "\n"))) || report.Last.Second() != 1 || report.Files != 1 {
		t.Errorf("report %+v", report)
	}
	for name, err := range map[string]error{
		"no event":  l.Append(""),
		"too large": l.Append("x", slog.String("x", strings.Repeat("x", maxRecordBytes))),
		"not JSON":  l.Append("x", slog.Any("x", make(chan int))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	l.wantWhole(1, 0)
	if runtime.GOOS != "windows" {
		for name, want := range map[string]fs.FileMode{".": 0o700, auditName: 0o600, auditHeadName: 0o600, auditLockName: 0o600} {
			if info, err := os.Stat(l.path(name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, want)
			}
		}
	}
}

func TestLargestRecord(t *testing.T) {
	l := newAuditLog(t, 0, 1)
	overhead := len(strings.SplitAfter(l.read(auditName), "\n")[0]) - 1 - len(`{"i":0}`) + len(`{"x":""}`) - len("test.event") + len("e")
	for _, n := range []int{0, 1} {
		err := l.Append("e", slog.String("x", strings.Repeat("x", maxRecordBytes-overhead+n)))
		if (err != nil) != (n > 0) {
			t.Errorf("a record of %d bytes: %v", maxRecordBytes+n, err)
		}
	}
	l.append(2)
	l.wantWhole(3, 0)
}

// TestTampering changes a log of eight records in each way, in its only file
// and across rotated ones.
func TestTampering(t *testing.T) {
	type change func(lines []string) []string
	editing := func(n int, from, to string) change {
		return func(lines []string) []string {
			edited := strings.Replace(lines[n-1], from, to, 1)
			if edited == lines[n-1] {
				panic("nothing edited")
			}
			lines[n-1] = edited
			return lines
		}
	}
	for name, c := range map[string]struct {
		change change
		damage Damage
		line   int
	}{
		"edit the first line":    {editing(1, "ann", "bob"), Edited, 1},
		"edit a line":            {editing(4, "ann", "bob"), Edited, 4},
		"edit the last line":     {editing(8, "ann", "bob"), Edited, 8},
		"edit a hash":            {editing(4, `"prev":"`, `"prev":"0`), Edited, 4},
		"edit a number":          {editing(4, `"seq":4`, `"seq":5`), Removed, 4},
		"make a line no record":  {editing(4, "{", ""), Edited, 4},
		"make the last line so":  {editing(8, "{", ""), Truncated, 0},
		"delete the first line":  {func(l []string) []string { return l[1:] }, Removed, 1},
		"delete a line":          {func(l []string) []string { return slices.Delete(l, 3, 4) }, Removed, 4},
		"delete the last line":   {func(l []string) []string { return l[:7] }, Truncated, 0},
		"cut the last line":      {func(l []string) []string { l[7] = l[7][:30]; return l }, Truncated, 0},
		"cut the last line end":  {func(l []string) []string { l[7] = strings.TrimSuffix(l[7], "\n"); return l }, Truncated, 0},
		"delete all lines":       {func([]string) []string { return nil }, Truncated, 0},
		"swap two lines":         {func(l []string) []string { l[3], l[4] = l[4], l[3]; return l }, Reordered, 4},
		"swap the last two":      {func(l []string) []string { l[6], l[7] = l[7], l[6]; return l }, Reordered, 7},
		"repeat a line":          {func(l []string) []string { return slices.Insert(l, 4, l[3]) }, Reordered, 5},
		"insert a forged record": {func(l []string) []string { return slices.Insert(l, 4, forge(l[3])) }, Reordered, 6},
		"insert text":            {func(l []string) []string { return slices.Insert(l, 4, "text\n") }, Edited, 5},
		"insert an empty line":   {func(l []string) []string { return slices.Insert(l, 4, "\n") }, Edited, 5},
		"append two records": {func(l []string) []string {
			l = append(l, forge(l[7]))
			return append(l, forge(l[8]))
		}, Edited, 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := newAuditLog(t, 0, 8)
			l.wantWhole(8, 0)
			lines := slices.Collect(strings.Lines(l.read(auditName)))
			l.write(auditName, strings.Join(c.change(lines), ""))
			l.wantDamage(c.damage, auditName, c.line)

			// It does not heal: the next records add to the log as it is, and
			// say so if its end was touched.
			l.append(8)
			l.append(9)
			if name == "cut the last line end" {
				l.wantWhole(10, 0) // all of the record was there
			} else if report, err := Verify(l.dir); err == nil {
				t.Errorf("the damage is gone after two records: %+v\n%s", report, l.read(auditName))
			}
		})
	}
}

// forge makes a record that follows from a line.
func forge(line string) string {
	text := strings.TrimSuffix(line, "\n")
	r, ok := parseRecord([]byte(text))
	if !ok {
		panic("not a record: " + line)
	}
	r.Seq, r.Prev, r.Event = r.Seq+1, hashLine([]byte(text)), "forged"
	forged, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(forged) + "\n"
}

func TestTamperingWithHead(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		damage Damage
		file   string
		line   int
	}{
		"missing":         {"", Removed, auditHeadName, 0},
		"garbage":         {"x", Edited, auditHeadName, 0},
		"no number":       {"{}", Edited, auditHeadName, 0},
		"too far":         {`{"seq":9,"sha256":"` + zeroHash + `"}`, Truncated, auditName, 0},
		"much too far":    {`{"seq":18446744073709551615,"sha256":"` + zeroHash + `"}`, Edited, auditHeadName, 0},
		"wrong hash":      {`{"seq":4,"sha256":"` + zeroHash + `"}`, Edited, auditName, 4},
		"behind by one":   {`{"seq":3,"sha256":"` + zeroHash + `"}`, Edited, auditName, 4},
		"behind by three": {`{"seq":1,"sha256":"` + zeroHash + `"}`, Edited, auditName, 4},
	} {
		l := newAuditLog(t, 0, 4)
		l.write(auditHeadName, c.text)
		if c.text == "" {
			if err := os.Remove(l.path(auditHeadName)); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(name, func(t *testing.T) {
			l.t = t
			l.wantDamage(c.damage, c.file, c.line)
			l.append(5)
			if _, err := Verify(l.dir); err == nil {
				t.Error("the damage is gone after another record")
			}
		})
	}
}

func TestUnreadableHeadIsNoTampering(t *testing.T) {
	l := newAuditLog(t, 0, 2)
	head := l.read(auditHeadName)
	if err := os.Remove(l.path(auditHeadName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.path(auditHeadName), 0o700); err != nil { // reading it is an I/O error
		t.Fatal(err)
	}
	var d *DamageError
	if err := l.Append("x"); err == nil {
		t.Error("a record is added although the head cannot be read")
	}
	if _, err := Verify(l.dir); err == nil || errors.As(err, &d) {
		t.Errorf("verify: %v", err)
	}
	if err := os.Remove(l.path(auditHeadName)); err != nil {
		t.Fatal(err)
	}
	l.write(auditHeadName, head)
	l.append(2)
	l.wantWhole(3, 0)
}

func TestRotation(t *testing.T) {
	l := newAuditLog(t, 1000, 20)
	report := l.wantWhole(20, 0)
	rotated, err := rotatedFiles(filepath.Join(l.dir, "Logs"))
	if err != nil || len(rotated) < 3 || report.Files != len(rotated)+1 {
		t.Fatalf("rotated files %v, %v; report %+v", rotated, err, report)
	}
	for _, name := range rotated {
		if len(l.read(name)) > 1500 {
			t.Errorf("%s has %d bytes", name, len(l.read(name)))
		}
	}
	l.write("audit-1.log", "not a file of ours\n")
	l.wantWhole(20, 0)

	// A crash between renaming and the first record.
	last := l.read(auditName)
	if err := os.Rename(l.path(auditName), l.path(rotatedName(20))); err != nil {
		t.Fatal(err)
	}
	l.wantWhole(20, 0)
	l.append(20)
	l.wantWhole(21, 0)

	// The whole first record of a file without its line end, then torn.
	text := l.read(auditName)
	l.write(auditName, strings.TrimSuffix(text, "\n"))
	l.write(auditHeadName, fmt.Sprintf(`{"seq":20,"sha256":%q}`, hashLine([]byte(lastLine(last)))))
	l.append(21)
	l.wantWhole(22, 0)
	l.write(auditName, text[:40])
	l.write(auditHeadName, fmt.Sprintf(`{"seq":20,"sha256":%q}`, hashLine([]byte(lastLine(last)))))
	l.wantWhole(20, 1)
	l.append(21)
	l.wantWhole(21, 1)

	middle := l.read(rotated[1])
	if err := os.Remove(l.path(rotated[1])); err != nil {
		t.Fatal(err)
	}
	l.wantDamage(Removed, rotated[2], 1)
	l.write(rotated[1], middle+"torn")
	l.wantDamage(Edited, rotated[1], strings.Count(middle, "\n")+1)
	l.write(rotated[1], middle)
	l.wantWhole(21, 1)
	if err := os.Remove(l.path(rotated[0])); err != nil {
		t.Fatal(err)
	}
	l.wantDamage(Removed, rotated[1], 1)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestRotationNeverReplaces(t *testing.T) {
	l := newAuditLog(t, 0, 3)
	l.o.MaxFileBytes = 10
	l.write(rotatedName(3), "")
	if err := l.Append("x"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rotation onto another file: %v", err)
	}
}

// TestTornTail cuts the fourth record at every byte, as a crash can, once or
// twice, and demands that the log goes on and stays whole.
func TestTornTail(t *testing.T) {
	l := newAuditLog(t, 0, 3)
	three, head := l.read(auditName), l.read(auditHeadName)
	l.append(3)
	fourth := strings.TrimPrefix(l.read(auditName), three)
	for cut := range len(fourth) {
		if cut > 4 && cut < len(fourth)-4 && cut%37 != 0 {
			continue // the middle is all alike, and each step flushes the disk
		}
		l.write(auditName, three+fourth[:cut])
		l.write(auditHeadName, head)
		unfinished, noted := 1, 1
		if cut == 0 {
			unfinished, noted = 0, 0
		}
		l.wantWhole(3, unfinished)
		l.append(4)
		if cut == len(fourth)-1 {
			l.wantWhole(5, 0) // only the line end was missing: it counts
			continue
		}
		l.wantWhole(4, noted)

		// The record that notes it is cut too, also by its line end only.
		text := l.read(auditName)
		start := len(three) + cut + 1
		if cut == 0 {
			start--
		}
		for _, again := range []int{start, start + 1, start + 50, len(text) - 1} {
			l.write(auditName, text[:again])
			l.write(auditHeadName, head)
			l.append(5)
			report, err := Verify(l.dir)
			want := uint64(4)
			if again == len(text)-1 {
				want = 5
			}
			if err != nil || report.Records != want || !strings.HasPrefix(l.read(auditName), text[:again]) {
				t.Fatalf("cut at %d, then at %d: %+v, %v", cut, again, report, err)
			}
		}
	}
}

func TestForeignLinesBeforeTheFirstRecord(t *testing.T) {
	l := newAuditLog(t, 0, 0)
	l.write(auditName, "{\"ts\":\"2025\",\"audit_event\":\"audit.restore\"}\nline\n")
	l.append(0)
	l.append(1)
	l.wantWhole(2, 1)
}

func TestTornZeros(t *testing.T) {
	l := newAuditLog(t, 0, 2)
	l.write(auditName, l.read(auditName)+strings.Repeat("\x00", 3*maxRecordBytes))
	l.wantWhole(2, 1)
	l.append(2)
	l.append(3)
	l.wantWhole(4, 1)
	text := l.read(auditName)
	l.write(auditName, strings.Replace(text, "\x00", "\x01", 1))
	l.wantDamage(Edited, auditName, 3)
	l.write(auditName, strings.ReplaceAll(text, "\x00", ""))
	if _, err := Verify(l.dir); err == nil {
		t.Error("a removed torn tail is not noticed")
	}
}

func TestHeadOneBehind(t *testing.T) {
	l := newAuditLog(t, 0, 3)
	head := l.read(auditHeadName)
	l.append(3)
	l.write(auditHeadName, head)
	l.wantWhole(4, 1)
	l.append(4)
	l.wantWhole(5, 0)
}

func TestGoroutinesAppend(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := appendMany(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	auditLog{t, dir, nil}.wantWhole(4*recordsPerWriter, 0)
}

func TestProcessesAppend(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), appendEnv+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	auditLog{t, dir, nil}.wantWhole(4*recordsPerWriter, 0)
}

func FuzzAuditLog(f *testing.F) {
	f.Add([]byte(""), []byte("{}"))
	f.Add([]byte("x\n\n"), []byte(""))
	f.Add([]byte(`{"seq":1,"prev":"`+zeroHash+`","event":"x"}`), []byte(`{"seq":1,"sha256":"`+zeroHash+`"}`))
	f.Add([]byte(`{"seq":1,"prev":"`+zeroHash+`","event":"x"}`+"\n{"), []byte(`{"seq":7,"sha256":"`+zeroHash+`"}`))
	f.Fuzz(func(t *testing.T, text, head []byte) {
		l := newAuditLog(t, 0, 0)
		l.write(auditName, string(text))
		if len(head) > 0 {
			l.write(auditHeadName, string(head))
		}
		before, beforeErr := Verify(l.dir)
		l.append(0)
		got := l.read(auditName)
		if !strings.HasPrefix(got, string(text)) {
			t.Fatalf("appending changed %q to %q", text, got)
		}
		after, err := Verify(l.dir)
		if beforeErr == nil && (err != nil || after.Records <= before.Records) {
			t.Errorf("a whole log (%+v) is damaged by a record: %+v, %v", before, after, err)
		}
		var d *DamageError
		if err != nil && !errors.As(err, &d) {
			t.Errorf("verify: %v", err)
		}
	})
}

func openTestLog(t *testing.T, o LogOptions) *Log {
	t.Helper()
	l, err := OpenLog(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLogLines(t *testing.T) {
	dir := t.TempDir()
	secret := config.NewSecretString("hunter2")
	for _, asJSON := range []bool{false, true} {
		l := openTestLog(t, LogOptions{Dir: dir, RunID: "run-1", JSON: asJSON, MaxSizeMB: 1, MaxFiles: 1})
		l.Logger().Debug("not written")
		l.Logger().With("with", 1).Info("a message", "secret", secret, "long", strings.Repeat("x", 3*maxLogText), "err", errors.New(strings.Repeat("y", 3*maxLogText)))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "Logs", "application.log")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(data)))
	if len(lines) != 2 || len(data) > 5*maxLogText || strings.Contains(string(data), "hunter2") {
		t.Fatalf("%d lines, %d bytes", len(lines), len(data))
	}
	if !regexp.MustCompile(`^time=\S+ level=INFO msg="a message" run_id=run-1 pid=\d+ with=1 secret=\*\*\* long="x+… \(cut\)" err="y+… \(cut\)"\n$`).MatchString(lines[0]) {
		t.Errorf("text line %.200s", lines[0])
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil || got["run_id"] != "run-1" || got["msg"] != "a message" || got["secret"] != "***" {
		t.Errorf("JSON line %.200s (%v)", lines[1], err)
	}
	if runtime.GOOS != "windows" {
		for name, want := range map[string]fs.FileMode{filepath.Dir(path): 0o700, path: 0o600} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, want)
			}
		}
	}
	for _, o := range []LogOptions{{Dir: dir, MaxSizeMB: 0, MaxFiles: 1}, {Dir: dir, MaxSizeMB: 1, MaxFiles: 0}, {Dir: path, MaxSizeMB: 1, MaxFiles: 1}} {
		if _, err := OpenLog(o); err == nil {
			t.Errorf("%+v opens", o)
		}
	}
}

// TestLogRotation writes to one log through two openings, as two processes
// would, over several rotations, and demands that every line is somewhere.
func TestLogRotation(t *testing.T) {
	dir := t.TempDir()
	logs := filepath.Join(dir, "Logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(logs, "application.log")
	if err := os.WriteFile(path, []byte("of 2.5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const lines, text = 1200, 4 << 10 // 4.7 MiB
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			l, err := OpenLog(LogOptions{Dir: dir, RunID: fmt.Sprint("w", w), MaxSizeMB: 1, MaxFiles: 100})
			if err != nil {
				t.Error(err)
				return
			}
			for i := range lines / 2 {
				l.Logger().Info("line", "n", i, "text", strings.Repeat("x", text))
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(logs)
	if err != nil {
		t.Fatal(err)
	}
	whole := regexp.MustCompile(`^time=\S+ level=INFO msg=line run_id=w[01] pid=\d+ n=\d+ text=x+\n$`)
	count := 0
	for _, e := range entries {
		name := filepath.Join(logs, e.Name())
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if whole.MatchString(line) {
				count++
			} else if line != "of 2.5\n" {
				t.Errorf("%s: line %.100q", name, line)
			}
		}
	}
	if count != lines || len(entries) < 4 {
		t.Errorf("%d lines of %d in %d files", count, lines, len(entries))
	}
}

func TestLogKeepsSoManyFiles(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, LogOptions{Dir: dir, MaxSizeMB: 1, MaxFiles: 2})
	for range 1000 {
		l.Logger().Info(strings.Repeat("x", maxLogText)) // 8 MiB
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "Logs"))
	if err != nil || len(entries) != 4 {
		t.Errorf("%d files, %v; want the log, its lock and 2 rotated ones", len(entries), err)
	}
}

func TestLogErrorIsReportedByClose(t *testing.T) {
	l := openTestLog(t, LogOptions{Dir: t.TempDir(), MaxSizeMB: 1, MaxFiles: 1})
	if _, err := l.file.Write(make([]byte, 4<<20)); err == nil { // more than a file may hold
		t.Error("a line of 4 MiB is written")
	}
	if err := l.Close(); err == nil {
		t.Error("the error is lost")
	}
	if _, err := l.file.Write([]byte("x\n")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
}
