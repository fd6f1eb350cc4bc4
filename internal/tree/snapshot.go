package tree

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// Mode says what a run read of its sources.
type Mode string

// The modes of a run. Every snapshot is complete, whatever its mode.
const (
	Full         Mode = "full"         // every byte was read
	Incremental  Mode = "incremental"  // files unchanged since the last snapshot were not read
	Differential Mode = "differential" // files unchanged since the last full snapshot were not read
)

// Kind says what a snapshot is of.
type Kind string

// The kinds. Those of databases and streams are described in ADR 0037.
const (
	KindFiles          Kind = "" // directories and files of a host
	KindMySQL          Kind = "mysql"
	KindMySQLLog       Kind = "mysql-log"
	KindPostgreSQL     Kind = "postgresql"
	KindPostgreSQLBase Kind = "postgresql-base"
	KindPostgreSQLLog  Kind = "postgresql-log"
	KindStream         Kind = "stream" // what a program has printed
)

// Kinds are all that this program makes.
func Kinds() []Kind {
	return []Kind{KindFiles, KindMySQL, KindMySQLLog, KindPostgreSQL, KindPostgreSQLBase, KindPostgreSQLLog, KindStream}
}

// String is the kind as people write it: "files", "mysql", ….
func (k Kind) String() string {
	if k == KindFiles {
		return "files"
	}
	return string(k)
}

// Path is a path or name of the source's file system: bytes. In JSON, one that
// is not valid UTF-8, or begins with NUL, is a string of U+0000 and its standard
// base64.
type Path string

// MarshalText implements [encoding.TextMarshaler].
func (p Path) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(p)) && !strings.HasPrefix(string(p), "\x00") {
		return []byte(p), nil
	}
	return []byte("\x00" + base64.StdEncoding.EncodeToString([]byte(p))), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Path) UnmarshalText(text []byte) error {
	if b64, ok := strings.CutPrefix(string(text), "\x00"); ok {
		b, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			return fmt.Errorf("%w: path: %w", ErrCorrupt, err)
		}
		*p = Path(b)
		return nil
	}
	*p = Path(text)
	return nil
}

// Counts are the sums of one snapshot.
type Counts struct {
	Files    int64 `json:"files"`
	Dirs     int64 `json:"dirs"`
	Symlinks int64 `json:"symlinks"`
	Others   int64 `json:"others"` // FIFOs and devices
	Bytes    int64 `json:"bytes"`  // logical size of all files

	New        int64 `json:"new"`
	Changed    int64 `json:"changed"`
	Unmodified int64 `json:"unmodified"`

	BytesRead     int64 `json:"bytes_read"`   // from the sources
	DataAdded     int64 `json:"data_added"`   // of new chunks of file content, before compression
	BytesAdded    int64 `json:"bytes_added"`  // DataAdded and new metadata
	BytesStored   int64 `json:"bytes_stored"` // in new packs, index included
	ChunksAdded   int64 `json:"chunks_added"` // new in the repository
	SkippedByRule int64 `json:"skipped"`      // excluded entries and sockets
	Problems      int64 `json:"problems"`     // entries of Snapshot.Problems
}

// Drift is how the files of a source differ from those of the parent. Where very many
// are gone, Deleted and Renamed are estimates.
type Drift struct {
	Files     int64 `json:"files"`     // of the parent: those found again, and those gone
	Rewritten int64 `json:"rewritten"` // found again, with other content
	Deleted   int64 `json:"deleted"`   // gone, and under no other name
	Renamed   int64 `json:"renamed"`   // gone, and there under another name
	Extended  int64 `json:"extended"`  // the part of Renamed whose name only became longer
	Scrambled int64 `json:"scrambled"` // were readable, and are noise without a known header, under the old name or a longer one
	Noise     int64 `json:"noise"`     // new files that are noise without a known header
	Replaced  int64 `json:"replaced"`  // the part of Deleted that was readable, but no more than Noise
}

// A Problem is something that is not in the snapshot as it was in the source.
type Problem struct {
	Path Path   `json:"path"`
	Kind string `json:"kind"` // unreadable | vanished | unstable | metadata | silent-change
	Text string `json:"text"`
}

// MaxProblems bounds the list of a snapshot; Counts.Problems counts on.
const MaxProblems = 10_000

// Snapshot is one complete, immutable point in time of some sources of one host.
type Snapshot struct {
	ID repo.ID `json:"-"`

	Time    time.Time `json:"time"` // start of the run
	End     time.Time `json:"end"`
	Host    string    `json:"host"`
	User    string    `json:"user"`
	Program string    `json:"program"` // name and version
	RunID   string    `json:"run_id"`
	Kind    Kind      `json:"kind,omitempty"`
	Sources []Path    `json:"sources"` // absolute, ascending
	Mode    Mode      `json:"mode"`
	Parent  *repo.ID  `json:"parent,omitempty"` // the snapshot that unchanged files were compared with
	Tags    []string  `json:"tags,omitempty"`

	// Root is the content of the record of the directory "/".
	Root []Chunk `json:"root"`
	// Users and Groups name the owners that occur; a number without a name is
	// not listed.
	Users  map[uint32]string `json:"users,omitempty"`
	Groups map[uint32]string `json:"groups,omitempty"`

	Counts Counts `json:"counts"`
	Drift  *Drift `json:"drift,omitempty"` // nil: there was no parent, or the program did not tell yet
	// Suspicions are the reasons, in plain words, for which it is tagged suspicious.
	Suspicions []string  `json:"suspicions,omitempty"`
	Problems   []Problem `json:"problem_list,omitempty"`
	// Lacks says what the source's platform could not give at all.
	Lacks []string `json:"lacks,omitempty"`
}

// A Group is what snapshots of one host, kind and set of sources have in common: they
// are versions of each other. It is comparable, as the key of a map.
type Group struct {
	Host    string
	Kind    Kind
	sources string // joined by NUL, which no path holds
}

// Group returns what s is a version of.
func (s *Snapshot) Group() Group {
	var b strings.Builder
	for _, p := range s.Sources {
		b.WriteString(string(p))
		b.WriteByte(0)
	}
	return Group{s.Host, s.Kind, b.String()}
}

// Compare orders groups by host, kind (files first) and sources.
func (g Group) Compare(o Group) int {
	return cmp.Or(cmp.Compare(g.Host, o.Host), cmp.Compare(g.Kind, o.Kind), cmp.Compare(g.sources, o.sources))
}

// RootNode returns the node of the directory "/".
func (s *Snapshot) RootNode() *Node {
	return &Node{Type: Dir, Mode: 0o755, Links: 1, Content: s.Root}
}

// MarshalJSON implements [json.Marshaler]: hash in hexadecimal, and size.
func (c Chunk) MarshalJSON() ([]byte, error) {
	return json.Marshal(chunkJSON{hex.EncodeToString(c.Hash[:]), c.Size})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *Chunk) UnmarshalJSON(b []byte) error {
	var j chunkJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if len(j.Hash) != 2*len(c.Hash) || j.Size == 0 {
		return fmt.Errorf("%w: chunk reference", ErrCorrupt)
	}
	if _, err := hex.Decode(c.Hash[:], []byte(j.Hash)); err != nil {
		return fmt.Errorf("%w: chunk reference: %w", ErrCorrupt, err)
	}
	c.Size = j.Size
	return nil
}

type chunkJSON struct {
	Hash string `json:"sha256"`
	Size uint32 `json:"size"`
}

// EncodeSnapshot returns the body of a snapshot object. The ID is not part of it: it
// is the object's name.
func EncodeSnapshot(s *Snapshot) ([]byte, error) {
	c := *s
	if c.Root == nil {
		c.Root = []Chunk{} // empty; its absence is a fault
	}
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return b, nil
}

// DecodeSnapshot decodes the body of the snapshot object with that ID. Fields that
// this version does not know are ignored. The error is ErrCorrupt.
func DecodeSnapshot(id repo.ID, body []byte) (*Snapshot, error) {
	s := new(Snapshot)
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%w: snapshot %s: %w", ErrCorrupt, id.Short(), err)
	}
	if s.Root == nil { // another JSON document, not the snapshot of nothing
		return nil, fmt.Errorf("%w: snapshot %s: no root", ErrCorrupt, id.Short())
	}
	s.ID = id
	return s, nil
}
