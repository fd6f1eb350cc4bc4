// Package exclude decides whether a path belongs to a backup: pure decisions
// over names, sizes and the kind of an entry. The file source asks it about
// every entry; restore uses it for --include and --exclude.
//
// It reads no files and knows no file system: the caller walks from the top,
// does not descend into a directory that is excluded (so nothing below an
// excluded directory can be brought back, as in git), and looks for the
// markers that [Rules.Markers] names.
//
// Names are bytes. A path is relative to the source, separated by '/', without
// a leading slash. Matching is case-sensitive on every platform and does not
// allocate.
//
// Two languages are spoken because two groups of users bring them along:
//
//   - patterns of BackupHandler 2.5, which are those of Python's fnmatch: '*'
//     crosses '/', and both the name and the relative path are tried. Version
//     2.5 asked only about files; here a directory that matches is left out
//     with all it holds.
//   - rules of .gitignore: negation, anchoring, directory-only rules, "**".
//
// The .gitignore matcher is our own. That of go-git uses filepath.Match, so
// that "[!a]" and "[[:digit:]]" mean something else, "a**b" never matches,
// "**/a/b" is tried at one place only, '?' takes a character where git takes a
// byte, '\' is no escape on Windows, and each path must be split into a slice.
// Ours is compared with git itself in the tests, and takes about as long as
// one string comparison for most rules.
//
// exclude.go: Rules and Options. fnmatch.go: patterns of 2.5. ignore.go: rules
// of .gitignore. glob.go: their matcher. include.go: selection for restore.
package exclude

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// CacheTagName and CacheTagSignature are the name and the first bytes of the
// file that marks a directory as a cache (https://bford.info/cachedir/).
const (
	CacheTagName      = "CACHEDIR.TAG"
	CacheTagSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

// Bounds of a configuration; far above any sensible use, they keep a wrong file
// given as rules from making each of a million decisions slow.
const (
	MaxPatterns     = 10_000 // of Patterns and of ignore rules, each
	MaxPatternBytes = 4096   // of one pattern or rule
	MaxMarkers      = 100
	MaxHeaderBytes  = 4096 // of a marker's header
)

// ErrBadPattern is wrapped by every error about a pattern that can never match
// or whose meaning is unclear.
var ErrBadPattern = errors.New("bad pattern")

// An IgnoreFile is a file of .gitignore rules, already read.
type IgnoreFile struct {
	Name string // for messages
	Data []byte
}

// Options says what to leave out. The zero value leaves nothing out.
type Options struct {
	// Patterns are those of 2.5. Empty ones are passed over.
	Patterns []string
	// IgnoreFiles and then IgnoreRules form one list of .gitignore rules, of
	// which the last that matches decides. Each string of IgnoreRules is one
	// line. All are relative to the source.
	IgnoreFiles []IgnoreFile
	IgnoreRules []string
	// IfPresent are names of marker files, as "NAME" or "NAME:HEADER" (the file
	// must then begin with HEADER): see Rules.Markers.
	IfPresent []string
	// Caches adds the marker CACHEDIR.TAG with its signature.
	Caches bool
	// MaxSize, in bytes, leaves larger files out. 0: no limit.
	MaxSize int64
}

// Rules decide what is left out. They are immutable; a nil *Rules leaves
// nothing out. What Patterns leave out, a negated ignore rule does not bring
// back: the two lists are independent.
type Rules struct {
	patterns   []pattern
	ignore     ruleList
	markers    []Marker
	maxSize    int64
	sizeReason string
}

// A Marker is a file whose presence says that the contents of its directory are
// not worth keeping. The directory itself and the marker are kept, so that a
// restored cache is again recognised as one (unless another rule names them).
type Marker struct {
	Name   string
	Header string // the first bytes of the marker; "" for any file
	Reason string
}

// New checks and compiles o. Its errors name the pattern, and the line of an
// ignore rule; they wrap ErrBadPattern.
func New(o Options) (*Rules, error) {
	r := &Rules{maxSize: o.MaxSize}
	if o.MaxSize < 0 {
		return nil, fmt.Errorf("maximum size %d is negative", o.MaxSize)
	}
	if o.MaxSize > 0 {
		r.sizeReason = fmt.Sprintf("larger than %d bytes", o.MaxSize)
	}
	if len(o.Patterns) > MaxPatterns {
		return nil, fmt.Errorf("%d exclude patterns, at most %d are allowed", len(o.Patterns), MaxPatterns)
	}
	for i, p := range o.Patterns {
		if p == "" {
			continue
		}
		if len(p) > MaxPatternBytes {
			return nil, fmt.Errorf("exclude pattern %d (%.40q…) is longer than %d bytes: %w", i+1, p, MaxPatternBytes, ErrBadPattern)
		}
		r.patterns = append(r.patterns, compilePattern(p))
	}
	var err error
	for _, f := range o.IgnoreFiles {
		if r.ignore, err = r.ignore.appendFile(f); err != nil {
			return nil, err
		}
	}
	if r.ignore, err = r.ignore.appendLines("", o.IgnoreRules); err != nil {
		return nil, err
	}
	if len(o.IfPresent) > MaxMarkers {
		return nil, fmt.Errorf("%d marker files, at most %d are allowed", len(o.IfPresent), MaxMarkers)
	}
	for _, s := range o.IfPresent {
		name, header, _ := strings.Cut(s, ":")
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("marker file %q is not a file name: %w", s, ErrBadPattern)
		}
		if len(header) > MaxHeaderBytes {
			return nil, fmt.Errorf("header of marker file %q is longer than %d bytes: %w", name, MaxHeaderBytes, ErrBadPattern)
		}
		r.markers = append(r.markers, Marker{name, header, fmt.Sprintf("directory holds %q", name)})
	}
	if o.Caches {
		r.markers = append(r.markers, Marker{CacheTagName, CacheTagSignature, "cache directory"})
	}
	return r, nil
}

// Match says whether the entry at rel is left out, and why: reason quotes the
// pattern or rule. size counts only for files, not for directories. The caller
// asks top-down and does not descend into what is excluded; see MatchTree for
// a path taken by itself.
func (r *Rules) Match(rel string, isDir bool, size int64) (excluded bool, reason string) {
	if r == nil {
		return false, ""
	}
	if excluded, reason = r.MatchName(rel, isDir); excluded || isDir {
		return excluded, reason
	}
	return r.MatchSize(size)
}

// MatchName is Match without the size: what can be said before the file system
// is asked about the entry. That matters where asking hangs, as it does on the
// mount point of a network file system that is gone.
func (r *Rules) MatchName(rel string, isDir bool) (excluded bool, reason string) {
	if r == nil {
		return false, ""
	}
	if len(r.patterns) > 0 {
		name := rel[strings.LastIndexByte(rel, '/')+1:]
		for i := range r.patterns {
			if p := &r.patterns[i]; p.match(name) || len(name) != len(rel) && p.match(rel) {
				return true, p.reason
			}
		}
	}
	if rule := r.ignore.match(rel, isDir); rule != nil && !rule.negated {
		return true, rule.reason
	}
	return false, ""
}

// MatchSize says whether a regular file of size bytes is too large.
func (r *Rules) MatchSize(size int64) (excluded bool, reason string) {
	if r == nil || r.maxSize == 0 || size <= r.maxSize {
		return false, ""
	}
	return true, r.sizeReason
}

// MatchTree says whether rel or any directory above it is left out.
func (r *Rules) MatchTree(rel string, isDir bool, size int64) (excluded bool, reason string) {
	if r == nil {
		return false, ""
	}
	for i := 0; i < len(rel); i++ {
		if rel[i] == '/' {
			if excluded, reason = r.MatchName(rel[:i], true); excluded {
				return true, reason
			}
		}
	}
	return r.Match(rel, isDir, size)
}

// Markers lists the marker files to look for in each directory, the source's
// own included. Where one is found (with its header), all other entries of the
// directory are left out. The caller must not change the list.
func (r *Rules) Markers() []Marker {
	if r == nil {
		return nil
	}
	return r.markers
}

// Empty says that the rules leave nothing out, so that no path need be built.
func (r *Rules) Empty() bool {
	return r == nil || len(r.patterns) == 0 && len(r.ignore) == 0 && len(r.markers) == 0 && r.maxSize == 0
}

// Matches says whether a marker file that begins with head (at least
// len(m.Header) bytes, or all there are) is one.
func (m Marker) Matches(head []byte) bool { return bytes.HasPrefix(head, []byte(m.Header)) }
