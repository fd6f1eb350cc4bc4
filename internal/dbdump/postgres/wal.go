package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A WAL keeps the files of a server's log: segments, histories of timelines, and labels of
// base backups. Its methods may be called at the same time.
type WAL interface {
	// Names are those of all files, in any order.
	Names(ctx context.Context) ([]string, error)
	// Open opens a file; the error is fs.ErrNotExist if there is none of this name, and
	// only if that is certain.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// Put stores a file so that it survives a crash, or not at all. One that is there is
	// never replaced: the error is fs.ErrExist.
	Put(ctx context.Context, name string, size int64, r io.Reader) error
}

// Disputed is implemented by a WAL that may have several files of one name.
type Disputed interface {
	// Conflicts are the names that cannot be opened as there are several files of them,
	// which differ, with the error that Open returns.
	Conflicts(ctx context.Context) (map[string]error, error)
}

var (
	segmentRE = lazyregexp.New(`^[0-9A-F]{24}(\.partial)?$`)
	historyRE = lazyregexp.New(`^[0-9A-F]{8}\.history$`)
	labelRE   = lazyregexp.New(`^[0-9A-F]{24}\.[0-9A-F]{8}\.backup$`)
)

// maxOther bounds files that are no segments, in bytes; they have a few lines.
const maxOther = 1 << 20

// Push stores a file of the log: what archive_command has to do, with %p and %f. The server
// reuses the file when it succeeds. It may be called again for what is stored already, as
// after a crash: the same content is a success, another one is refused.
//
// If it fails the server tries again, as long as it takes, and keeps the file: any exit
// code but 0 says so, and one above 125 ends its archiver as well, to begin anew.
func Push(ctx context.Context, path, name string, to WAL) error {
	err := push(ctx, path, name, to)
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

func push(ctx context.Context, path, name string, to WAL) error {
	if !segmentRE().MatchString(name) && !historyRE().MatchString(name) && !labelRE().MatchString(name) {
		return &dbdump.Error{Err: errors.New("this is not the name of a file of the log"), Hint: "archive_command has to give %p and %f"}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", path)
	case segmentRE().MatchString(name):
		head := make([]byte, segmentHead)
		if _, err := io.ReadFull(f, head); err != nil {
			return fmt.Errorf("%s is no segment: %w", path, err)
		}
		if err := checkSegment(head, name, size); err != nil {
			return err
		}
	case size > maxOther:
		return fmt.Errorf("%s has %d bytes, too many for what it is", path, size)
	}
	for try := 0; ; try++ {
		there, err := to.Open(ctx, name)
		if err == nil {
			defer there.Close()
			return sameContent(f, there)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		err = to.Put(ctx, name, size, io.NewSectionReader(f, 0, size))
		if !errors.Is(err, fs.ErrExist) || try > 0 {
			return err
		}
		// Somebody else has stored it in between: what?
	}
}

// sameContent compares from the beginnings.
func sameContent(f *os.File, there io.Reader) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(f, a)
		m, errB := io.ReadFull(there, b)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return &dbdump.Error{Err: errors.New("another file of this name is archived already"),
				Hint: "do two servers archive to the same place, or was this one restored without a new timeline? Give it a place of its own"}
		}
		if n < len(a) {
			return nil
		}
	}
}

// Fetch gets a file of the log: what restore_command has to do, with %f and %p. The error
// is fs.ErrNotExist if it is not there, which is how recovery finds the end of the log; see
// [FetchExit]. The file appears whole, or not.
func Fetch(ctx context.Context, from WAL, name, to string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("get %s from the archive: %w", name, err)
		}
	}()
	r, err := from.Open(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	// Not flushed to disk: after a crash the server asks for it again.
	f, err := os.CreateTemp(filepath.Dir(to), ".fetch-")
	if err != nil {
		return noExist(err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return noExist(err)
}

// noExist makes an error one that is not fs.ErrNotExist: that a directory of ours is
// missing does not mean that the log has ended.
func noExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}

// Exit codes for restore_command beside 0. PostgreSQL takes 1 to 125 for "there is none",
// ends recovery there and opens the database; above 125 it stops, and can be started again.
// A repository that cannot be reached must not look like the end of the log.
const (
	FetchNone = 1   // the archive, which was read, has no such file
	FetchStop = 200 // whatever else is wrong
)

// FetchExit is the exit code of an error of Fetch.
func FetchExit(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, fs.ErrNotExist):
		return FetchNone
	}
	return FetchStop
}

// segmentHead is the length of the header of a segment's first page, in bytes.
const segmentHead = 40

// checkSegment compares the header of a segment (XLogLongPageHeaderData) with its name and
// length. It is in the order of bytes of the machine that the server runs on: this one.
func checkSegment(head []byte, name string, size int64) error {
	order := binary.NativeEndian
	if size != int64(order.Uint32(head[32:])) || size < 1<<20 || size&(size-1) != 0 {
		return fmt.Errorf("it has %d bytes, and is not a whole segment", size)
	}
	line, addr := order.Uint32(head[4:]), order.Uint64(head[8:])
	s, err := parseSegment(name, size)
	if err != nil {
		return err
	}
	// The first segment of a timeline is a copy of its parent's, with its first pages.
	if addr != s.no*uint64(size) || line > s.timeline {
		return fmt.Errorf("what is in it belongs to %s", segment{line, addr / uint64(size)}.name(size))
	}
	return nil
}

// segmentSystem is the identifier of the cluster in a segment's header.
func segmentSystem(head []byte) string {
	return strconv.FormatUint(binary.NativeEndian.Uint64(head[24:]), 10)
}

// An LSN is a position in a server's log, in bytes.
type LSN uint64

// ParseLSN reads "0/3000028".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, &dbdump.Error{Err: fmt.Errorf("%q is not a position in the log", s), Hint: "positions are two hexadecimal numbers: 0/3000028"}
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText and UnmarshalText write and read it as PostgreSQL does.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// A segment is a piece of the log of one timeline: bytes no×size to (no+1)×size.
type segment struct {
	timeline uint32
	no       uint64
}

func (s segment) name(size int64) string {
	per := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", s.timeline, s.no/per, s.no%per)
}

func parseSegment(name string, size int64) (s segment, err error) {
	name = strings.TrimSuffix(name, ".partial")
	var n [3]uint64
	for i := range n {
		if n[i], err = strconv.ParseUint(name[8*i:8*i+8], 16, 32); err != nil {
			return s, err
		}
	}
	per := uint64(1<<32) / uint64(size)
	if n[2] >= per {
		return s, fmt.Errorf("there is no segment %s of %d bytes", name, size)
	}
	return segment{uint32(n[0]), n[1]*per + n[2]}, nil
}

// A past is a timeline that another descends from, and where that left it.
type past struct {
	timeline uint32
	end      LSN
}

// parseHistory reads the history of a timeline, oldest first.
func parseHistory(r io.Reader) ([]past, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxOther))
	if err != nil {
		return nil, err
	}
	var all []past
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil || len(f) < 2 {
			return nil, fmt.Errorf("a history has the line %.100q", line)
		}
		end, err := ParseLSN(f[1])
		if err != nil {
			return nil, err
		}
		all = append(all, past{uint32(n), end})
	}
	return all, nil
}
