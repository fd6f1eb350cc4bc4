package mysql

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
	"time"
)

// A binary log is "\xfebin" and events, one after the other:
//
//	offset  bytes
//	0       4  time, seconds of Unix
//	4       1  type
//	5       4  server ID
//	9       4  length of all of it
//	13      4  offset of the next event
//	17      2  flags
//	19         body; its last 4 bytes are a CRC-32 of all before, if the first event says so
//
// All numbers are little-endian. The first event describes the others. Transactions and
// statements outside of one are groups of events, which begin with one that holds their
// GTID; old servers of MySQL have groups without.

const (
	eventHeaderBytes = 19
	logMagic         = "\xfebin"
	// maxParsed bounds the events that are read as a whole: those that hold a statement.
	maxParsed = 64 << 20
	// inUse is a flag of the first event, of a log that is still written to. It is not
	// part of the checksum.
	inUse = 1
)

// The types of events that mean something here.
const (
	eventQuery           = 2
	eventStop            = 3
	eventRotate          = 4
	eventExecuteLoad     = 18
	eventFormat          = 15
	eventXID             = 16
	eventIncident        = 26
	eventRowsQuery       = 29 // MySQL: the statement of what follows
	eventGTID            = 33
	eventAnonymousGTID   = 34
	eventPreviousGTIDs   = 35
	eventXAPrepare       = 38
	eventPayload         = 40  // MySQL: a compressed transaction
	eventAnnotate        = 160 // MariaDB: the statement of what follows
	eventCheckpoint      = 161
	eventMariaGTID       = 162
	eventGTIDList        = 163
	eventStartEncryption = 164
	eventQueryCompressed = 165
)

// An event is one event of a log. Of those that hold no statement, the body is skipped.
type event struct {
	offset   int64 // of its first byte
	length   int64
	time     time.Time
	kind     byte
	serverID uint32
	body     []byte // without the checksum; nil if it was skipped
}

func (e *event) end() int64 { return e.offset + e.length }

var errLog = errors.New("the binary log is damaged")

// A logReader reads the events of a log.
type logReader struct {
	r       *bufio.Reader
	name    string
	at      int64 // offset of what is read next
	sums    bool  // events end with a checksum
	version string
	created event // the first one
}

// newLogReader reads the beginning of a log.
func newLogReader(r io.Reader, name string) (*logReader, error) {
	l := &logReader{r: bufio.NewReaderSize(r, 256<<10), name: name}
	magic := make([]byte, len(logMagic))
	if _, err := io.ReadFull(l.r, magic); err != nil || string(magic) != logMagic {
		return nil, l.damaged(0, "it is no binary log")
	}
	l.at = int64(len(magic))
	e, err := l.next()
	if err != nil {
		return nil, err
	}
	if e.kind != eventFormat || len(e.body) < 57 {
		return nil, l.damaged(e.offset, "the first event describes no format")
	}
	l.version, _, _ = strings.Cut(string(e.body[2:52]), "\x00")
	l.created = *e
	return l, nil
}

func (l *logReader) damaged(at int64, what string) error {
	return fmt.Errorf("%w: %s at offset %d: %s", errLog, printable(l.name), at, what)
}

// next reads an event; io.EOF at the end of the last whole one.
func (l *logReader) next() (*event, error) {
	var head [eventHeaderBytes]byte
	if n, err := io.ReadFull(l.r, head[:]); err == io.EOF && n == 0 {
		return nil, io.EOF
	} else if err != nil {
		return nil, l.damaged(l.at, "it ends within an event")
	}
	e := &event{offset: l.at, kind: head[4], serverID: binary.LittleEndian.Uint32(head[5:]), length: int64(binary.LittleEndian.Uint32(head[9:])),
		time: time.Unix(int64(binary.LittleEndian.Uint32(head[0:])), 0).UTC()}
	if e.length < eventHeaderBytes {
		return nil, l.damaged(l.at, "an event has an impossible length")
	}
	rest := e.length - eventHeaderBytes
	if e.kind == eventFormat {
		head[17] &^= inUse
	}
	sum := crc32.NewIEEE()
	sum.Write(head[:])
	sumBytes := int64(0)
	if l.sums {
		sumBytes = 4
	}
	if rest < sumBytes {
		return nil, l.damaged(l.at, "an event is too short")
	}
	var err error
	switch e.kind {
	case eventFormat:
		e.body, err = l.whole(rest)
		if err == nil && len(e.body) >= 62 {
			// The algorithm, 1 for CRC-32, and then the sum itself; all servers of today.
			l.sums = e.body[rest-5] == 1
			if l.sums {
				sumBytes = 4
			}
		}
		if err == nil {
			sum.Write(e.body[:rest-sumBytes])
		}
	case eventQuery, eventQueryCompressed, eventAnnotate, eventRowsQuery, eventMariaGTID, eventExecuteLoad:
		if rest > maxParsed {
			return nil, l.damaged(l.at, fmt.Sprintf("a statement of %d bytes", rest))
		}
		e.body, err = l.whole(rest)
		if err == nil {
			sum.Write(e.body[:rest-sumBytes])
		}
	default:
		if err = l.skip(sum, rest-sumBytes); err == nil && sumBytes > 0 {
			var stored []byte
			if stored, err = l.whole(sumBytes); err == nil && binary.LittleEndian.Uint32(stored) != sum.Sum32() {
				return nil, l.damaged(l.at, "the checksum of an event is wrong")
			}
		}
	}
	if err != nil {
		return nil, l.damaged(l.at, "it ends within an event")
	}
	if e.body != nil && sumBytes > 0 {
		at := int64(len(e.body)) - sumBytes
		if binary.LittleEndian.Uint32(e.body[at:]) != sum.Sum32() {
			return nil, l.damaged(l.at, "the checksum of an event is wrong")
		}
		e.body = e.body[:at]
	}
	l.at += e.length
	return e, nil
}

func (l *logReader) whole(n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(l.r, b)
	return b, err
}

// skip passes over bytes in the reader's own buffer.
func (l *logReader) skip(sum hash.Hash32, n int64) error {
	for n > 0 {
		b, err := l.r.Peek(int(min(n, int64(l.r.Size()))))
		sum.Write(b)
		n -= int64(len(b))
		l.r.Discard(len(b))
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// A query is a statement in a log, with the database that it was executed in.
type query struct{ database, text string }

// query reads an event of a statement.
func (e *event) query() (query, error) {
	const fixed = 13
	b := e.body
	if len(b) < fixed {
		return query{}, errLog
	}
	nameBytes, statusBytes := int(b[8]), int(binary.LittleEndian.Uint16(b[11:]))
	at := fixed + statusBytes
	if e.kind == eventExecuteLoad {
		at += 13 // the file, and where its name is in the statement
	}
	if len(b) < at+nameBytes+1 {
		return query{}, errLog
	}
	q := query{database: string(b[at : at+nameBytes])}
	text := b[at+nameBytes+1:]
	if e.kind != eventQueryCompressed {
		q.text = string(text)
		return q, nil
	}
	// The length of the length, the length, a stream of zlib.
	if len(text) == 0 || len(text) < 1+int(text[0]&7) {
		return query{}, errLog
	}
	z, err := zlib.NewReader(bytes.NewReader(text[1+int(text[0]&7):]))
	if err != nil {
		return query{}, errLog
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxParsed))
	q.text = string(plain)
	return q, err
}

// statement is the text that an event holds as a comment on what follows; "" if none.
func (e *event) statement() string {
	switch {
	case e.kind == eventAnnotate:
		return string(e.body)
	case e.kind == eventRowsQuery && len(e.body) > 0:
		return string(e.body[1:])
	}
	return ""
}

// A group is a transaction, or a statement outside of one.
type group struct {
	start, end int64
	time       time.Time // of its commit
	queries    []query
	statements []string // that its rows are of
	payload    bool     // it is compressed, as a whole: nobody knows what is in it
	whole      bool     // it is not cut off by the end of the log
}

// groups calls a function with each group that begins at an offset or behind it, until
// that returns false or an error.
func (l *logReader) groups(from int64, each func(g *group) (bool, error)) error {
	var g *group
	single, counted := false, false
	finish := func(e *event) (bool, error) {
		g.end, g.time, g.whole = e.end(), e.time, true
		done := g
		g = nil
		return each(done)
	}
	for {
		e, err := l.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if e.offset < from {
			if e.end() > from {
				return fmt.Errorf("offset %d of %s is within an event", from, printable(l.name))
			}
			continue
		}
		isGTID := e.kind == eventMariaGTID || e.kind == eventGTID || e.kind == eventAnonymousGTID
		switch e.kind {
		case eventFormat, eventStop, eventRotate, eventCheckpoint, eventGTIDList, eventPreviousGTIDs:
			continue
		case eventStartEncryption:
			return l.damaged(e.offset, "it is encrypted")
		case eventIncident:
			return l.damaged(e.offset, "the server notes that it has lost events here")
		}
		if g != nil && isGTID { // cut off by a crash
			if ok, err := each(&group{start: g.start, end: e.offset}); !ok || err != nil {
				return err
			}
			g = nil
		}
		if g == nil {
			g = &group{start: e.offset}
			single, counted = false, false
			if e.kind == eventMariaGTID {
				if len(e.body) < 13 {
					return l.damaged(e.offset, "a GTID is too short")
				}
				single, counted = e.body[12]&1 != 0, true
			}
			if isGTID {
				continue
			}
		}
		end := false
		switch e.kind {
		case eventXID, eventXAPrepare:
			end = true
		case eventPayload:
			g.payload, end = true, true
		case eventAnnotate, eventRowsQuery:
			g.statements = append(g.statements, e.statement())
		case eventQuery, eventQueryCompressed, eventExecuteLoad:
			q, err := e.query()
			if err != nil {
				return l.damaged(e.offset, "a statement cannot be read")
			}
			word := strings.ToUpper(strings.TrimRight(q.text, " ;"))
			switch {
			case !counted:
				// MySQL does not say how the group ends before its first statement.
				counted, single = true, word != "BEGIN" && !strings.HasPrefix(word, "XA START")
				if single {
					g.queries = append(g.queries, q)
				}
				end = single
			case word == "COMMIT" || word == "ROLLBACK" || strings.HasPrefix(word, "XA COMMIT") || strings.HasPrefix(word, "XA ROLLBACK"):
				end = true
			default:
				g.queries = append(g.queries, q)
				end = single
			}
		}
		if end {
			if ok, err := finish(e); !ok || err != nil {
				return err
			}
		}
	}
	if g != nil {
		_, err := each(&group{start: g.start, end: l.at})
		return err
	}
	return nil
}
