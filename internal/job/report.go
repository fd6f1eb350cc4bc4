package job

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// Bounds of reports.
const (
	maxReports    = 500 // files in the directory; the oldest go
	maxReportFile = 1 << 20
)

// ErrReport says that a report is not as it was signed, or by somebody who could not
// open the repository.
var ErrReport = errors.New("the signature is wrong")

// Reports is the directory of the reports of drills, "drills" in the state directory; Dir
// "" has none. Each is a file
//
//	{"report":{…},"hmac_sha256":"<64 hex>"}
//
// whose signature is over the bytes of the report without space (seal.Keys.ReportMAC).
type Reports struct{ Dir string }

// A SignedReport is one file.
type SignedReport struct {
	Report DrillReport
	body   []byte // compact
	mac    []byte
}

// reportTime begins the names of reports, so that they sort by time: two drills within a
// second, of different snapshots, too.
const reportTime = "20060102T150405.000Z"

// Write stores a report and returns its name, and the SHA-256 of the file.
func (r Reports) Write(rep *DrillReport, sign func([]byte) [sha256.Size]byte) (name string, sum [sha256.Size]byte, err error) {
	body, err := json.Marshal(rep)
	if err != nil {
		return "", sum, err
	}
	mac := sign(body)
	content := slices.Concat([]byte(`{"report":`), body, []byte(`,"hmac_sha256":"`+hex.EncodeToString(mac[:])+"\"}\n"))
	if err := durable.MkdirAll(r.Dir, 0o700); err != nil {
		return "", sum, err
	}
	stem := filepath.Join(r.Dir, fmt.Sprintf("%s-%s-%s", rep.Time.UTC().Format(reportTime), rep.RepositoryID.Short(), rep.Snapshot.Short()))
	for n := 1; ; n++ {
		name = fmt.Sprintf("%s-%03d.json", stem, n)
		err := writeNew(name, content)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || n == maxReports {
			return "", sum, err
		}
	}
	return name, sha256.Sum256(content), keepNewest(r.Dir, ".json", maxReports)
}

// writeNew stores a file that does not exist.
func writeNew(name string, content []byte) error {
	f, err := durable.Create(name, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Commit()
}

// ReadReport reads a file.
func ReadReport(name string) (*SignedReport, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxReportFile+1))
	if err == nil && len(content) > maxReportFile {
		err = errors.New("it is too large")
	}
	var s SignedReport
	if err == nil {
		err = s.parse(content)
	}
	if err != nil {
		return nil, fmt.Errorf("read the report %s: %w", name, err)
	}
	return &s, nil
}

func (s *SignedReport) parse(content []byte) error {
	var file struct {
		Report json.RawMessage `json:"report"`
		MAC    string          `json:"hmac_sha256"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return err
	}
	var body bytes.Buffer
	if err := json.Compact(&body, file.Report); err != nil {
		return err
	}
	var err error
	if s.mac, err = hex.DecodeString(file.MAC); err != nil || len(s.mac) != sha256.Size {
		return ErrReport
	}
	s.body = body.Bytes()
	return json.Unmarshal(s.body, &s.Report)
}

// Check returns ErrReport unless sign makes the signature that the report has.
func (s *SignedReport) Check(sign func([]byte) [sha256.Size]byte) error {
	if want := sign(s.body); !hmac.Equal(want[:], s.mac) {
		return ErrReport
	}
	return nil
}

// Last returns the name of the newest report about a repository; "" if there is none.
func (r Reports) Last(id repo.ID) (string, error) {
	if r.Dir == "" {
		return "", nil
	}
	entries, err := os.ReadDir(r.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	last := ""
	for _, e := range entries { // sorted by name, hence by time
		if strings.HasSuffix(e.Name(), ".json") && strings.Contains(e.Name(), "-"+id.Short()+"-") {
			last = e.Name()
		}
	}
	if last == "" {
		return "", nil
	}
	return filepath.Join(r.Dir, last), nil
}
