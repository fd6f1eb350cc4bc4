package job

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Lists of SHA-256s are the second reading that a drill compares with (ADR 0024): at the
// end of a run some files are read once more, by nothing but os.Open and crypto/sha256,
// and what they hold is noted beside the logs, in the form of sha256sum. Neither the
// engine nor the repository has a part in it.

// Bounds of lists.
const (
	maxLists     = 200       // files in the directory; the oldest go
	maxListBytes = 256 << 20 // content read for one list
	maxListFile  = 64 << 20  // size of one list
)

// Lists is the directory of lists, "lists" in the state directory.
type Lists struct{ Dir string }

func (l Lists) file(id repo.ID) string { return filepath.Join(l.Dir, id.String()+".sha256") }

// A ListEntry is one line of a list.
type ListEntry struct {
	Path   string // as in the snapshot
	SHA256 [sha256.Size]byte
}

// A sampler chooses files of a run, each with the same chance.
type sampler struct {
	size int

	mu    sync.Mutex
	rng   *rand.Rand
	seen  int
	picks []pick
}

// A pick is a file as it was when the backup read it.
type pick struct {
	path  string
	size  int64
	mtime tree.Time
}

func newSampler(size int) *sampler {
	var seed [32]byte
	crand.Read(seed[:])
	return &sampler{size: size, rng: rand.New(rand.NewChaCha8(seed))}
}

// add is backup.Options.OnStored.
func (s *sampler) add(path string, n *tree.Node) {
	if n.Unstable {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen++; s.seen <= s.size {
		s.picks = append(s.picks, pick{path, n.Size, n.MTime})
	} else if at := s.rng.IntN(s.seen); at < s.size {
		s.picks[at] = pick{path, n.Size, n.MTime}
	}
}

// write reads the files that a run has chosen, and notes what is in them. One that has
// changed since the backup read it, or cannot be read, is left out.
func (l Lists) write(ctx context.Context, id repo.ID, s *sampler) error {
	// Longest first would leave out the small ones, and the reverse the large.
	s.rng.Shuffle(len(s.picks), func(i, j int) { s.picks[i], s.picks[j] = s.picks[j], s.picks[i] })
	var entries []ListEntry
	left := int64(maxListBytes)
	for _, p := range s.picks {
		if p.size > left {
			continue
		}
		sum, err := hashUnchanged(ctx, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			left -= p.size
			entries = append(entries, ListEntry{p.path, sum})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	if err := durable.MkdirAll(l.Dir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(l.file(id), formatList(entries), 0o600); err != nil {
		return err
	}
	return keepNewest(l.Dir, ".sha256", maxLists)
}

var errChanged = errors.New("changed since it was backed up")

// hashUnchanged reads a file that is as it was.
func hashUnchanged(ctx context.Context, p pick) (sum [sha256.Size]byte, err error) {
	same := func(info fs.FileInfo, err error) error {
		if err == nil && (!info.Mode().IsRegular() || info.Size() != p.size || !info.ModTime().Equal(p.mtime.Time())) {
			err = errChanged
		}
		return err
	}
	name := filepath.FromSlash(p.path)
	if err := same(os.Lstat(name)); err != nil {
		return sum, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|listOpenFlags, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if err := same(f.Stat()); err != nil {
		return sum, err
	}
	if sum, err = hashOf(ctx, f); err != nil {
		return sum, err
	}
	return sum, same(f.Stat())
}

// hashOf reads to the end.
func hashOf(ctx context.Context, f io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for buf := make([]byte, 1<<20); ; {
		if err := limit.Pace(ctx); err != nil {
			return sum, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// Read returns the list of a snapshot; fs.ErrNotExist if there is none.
func (l Lists) Read(id repo.ID) ([]ListEntry, error) {
	f, err := os.Open(l.file(id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxListFile+1))
	if err == nil && len(data) > maxListFile {
		err = errors.New("it is too large")
	}
	var entries []ListEntry
	if err == nil {
		entries, err = parseList(data)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list %s: %w", f.Name(), err)
	}
	return entries, nil
}

// formatList writes what 'sha256sum --check' reads, sorted by path. Names are escaped
// as coreutils do: a line with \n, \r or \ in its name begins with a backslash.
func formatList(entries []ListEntry) []byte {
	slices.SortFunc(entries, func(a, b ListEntry) int { return strings.Compare(a.Path, b.Path) })
	var b bytes.Buffer
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	for _, e := range entries {
		if strings.ContainsAny(e.Path, "\\\n\r") {
			b.WriteByte('\\')
		}
		fmt.Fprintf(&b, "%x *%s\n", e.SHA256, escape.Replace(e.Path))
	}
	return b.Bytes()
}

func parseList(data []byte) (entries []ListEntry, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line, escaped := strings.CutPrefix(lines.Text(), `\`)
		digits, path, ok := strings.Cut(line, " ")
		sum, err := hex.DecodeString(digits)
		if !ok || err != nil || len(sum) != sha256.Size || len(path) < 2 || !strings.ContainsAny(path[:1], " *") {
			return nil, fmt.Errorf("line %d is not one of sha256sum", n)
		}
		path = path[1:]
		if escaped {
			path = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(path)
		}
		entries = append(entries, ListEntry{path, [sha256.Size]byte(sum)})
	}
	return entries, lines.Err()
}

// keepNewest removes the oldest files of a kind beyond n.
func keepNewest(dir, suffix string, n int) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	for _, e := range all {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && strings.HasSuffix(e.Name(), suffix) {
			files = append(files, info)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, f := range files[min(n, len(files)):] {
		err = errors.Join(err, durable.Remove(filepath.Join(dir, f.Name())))
	}
	return err
}
