package mysql

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A dump is one stream:
//
//	/*M!999999\- enable the sandbox mode */
//	-- MariaDB dump 10.19 …
//	/*!40101 SET NAMES utf8mb4 */;           the session: into each file
//	…
//	--
//	-- Current Database: `shop`              CREATE DATABASE, USE: left out
//	--
//	--
//	-- Sequence structure for `s`            shop/s.sql
//	--
//	--
//	-- Table structure for table `orders`    shop/orders.sql
//	--
//	--
//	-- Dumping data for table `orders`       the same file; from here on hashed
//	--
//	--
//	-- Temporary table structure for view `v`   shop/schema/placeholders.sql
//	--
//	--
//	-- Final view structure for view `v`     shop/views/v.sql
//	--
//	…
//	/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;   the end: left out
//	-- Dump completed
//
// A marker is three whole lines. Rows begin with "(" or "INSERT", and no literal or
// comment of a statement holds a newline: the program and the server write \n for it.
// Only identifiers can, in which the text of a marker would be taken for one. So every
// marker must name something that the server's catalogue has, once: a name that pretends
// to be a marker makes the dump fail, not lie.

const (
	// cutBufferBytes is what is read and searched at once.
	cutBufferBytes = 1 << 20
	// maxMarker bounds a marker: 64 characters of a name, each of which may be a newline
	// that the comment continues with "-- "; and the position's, of four lines.
	maxMarker = 2 << 10
	// maxPreamble bounds what is kept of the parts that are in no file.
	maxPreamble = 256 << 10
	// tailBytes are held back until the end of the stream: what stands there belongs to
	// no table.
	tailBytes = 8 << 10
)

// A kind of section.
type sectionKind int

const (
	inPreamble sectionKind = iota
	inPosition
	inDatabase
	inSequence
	inTable
	inData
	inPlaceholder
	inView
	inNothing
)

var sectionKinds = []struct {
	prefix string
	kind   sectionKind
}{
	{"Table structure for table `", inTable},
	{"Dumping data for table `", inData},
	{"Sequence structure for `", inSequence},
	{"Temporary table structure for view `", inPlaceholder},
	{"Temporary view structure for view `", inPlaceholder},
	{"Final view structure for view `", inView},
	{"Current Database: `", inDatabase},
	{"Alternately, following is the position", inPosition},
	{"Position to start replication", inPosition},
	{"GTID state at the ", inNothing},
	{"Dumping events for database '", inNothing},
	{"Dumping routines for database '", inNothing},
}

var (
	marker     = []byte("\n--\n-- ")
	markerEnd  = []byte("\n--\n")
	sessionEnd = []byte("\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n")
	gtidEnd    = []byte("\n-- The deferred gtid setting for ")
	completed  = []byte("\n-- Dump completed")
)

// A cutter cuts a dump into files of a sink.
type cutter struct {
	sink dbdump.Sink
	// known says whether the server has something of this name: a table or sequence, or
	// a view. It is asked for each marker.
	known    func(database, name string, view bool) bool
	progress dbdump.Progress

	kind     sectionKind
	preamble []byte // and what follows the position's marker
	position []byte
	session  []byte // the lines at the beginning of each file
	db       *cutDatabase
	dbs      []*cutDatabase
	name     string // of the table or view in hand

	file     io.WriteCloser
	at       *dbdump.File
	rows     *rowCutter // of the table's data; nil outside
	hash     hash.Hash  // of the table's data; nil outside
	newlines int        // that wait for what follows
	complete bool       // the end of the stream was that of a dump
}

// A cutDatabase is what a dump has of one database.
type cutDatabase struct {
	name          string
	files         []*dbdump.File
	placeholders  bytes.Buffer // bounded by the number of views and columns
	tables, views map[string]bool
}

// lacksData says whether a table, which is no sequence, has a definition only.
func (d *cutDatabase) lacksData(table string) bool {
	return slices.ContainsFunc(d.files, func(f *dbdump.File) bool { return f.Table == table && f.Stage == stageTables && f.SHA256 == "" })
}

// ReadFrom cuts everything that a dump program prints. The end of the stream is no
// error: whether it was the end of the dump, complete says.
func (c *cutter) ReadFrom(r io.Reader) (total int64, err error) {
	buf := make([]byte, cutBufferBytes)
	buf[0] = '\n' // as if a line had ended before the first one
	n := 1
	for {
		m, err := r.Read(buf[n:])
		n, total = n+m, total+int64(m)
		eof := errors.Is(err, io.EOF)
		if err != nil && !eof {
			return total, errors.Join(err, c.closeFile())
		}
		// Reads of a pipe are short: searching after each would copy the tail each time.
		if !eof && n < len(buf) {
			continue
		}
		used, err := c.cut(buf[:n], eof)
		if err != nil || eof {
			return total, errors.Join(err, c.closeFile())
		}
		n = copy(buf, buf[used:n])
	}
}

// Write is there for the type only: a pipe is read by ReadFrom.
func (c *cutter) Write([]byte) (int, error) {
	return 0, errors.New("a cutter reads for itself")
}

// cut takes what is whole of b, whose first byte was taken before, and returns how much
// of it is not needed any more.
func (c *cutter) cut(b []byte, eof bool) (used int, err error) {
	limit := len(b)
	if !eof {
		limit -= tailBytes
	}
	taken, search := 1, 0 // the newline of a marker may be the byte taken last
	for search < limit {
		i := bytes.Index(b[search:limit], marker)
		if i < 0 {
			break
		}
		i += search
		text := b[i+len(marker) : min(len(b), i+len(marker)+maxMarker)]
		j := bytes.Index(text, markerEnd)
		if j < 0 || !isComment(text[:j]) {
			search = i + 1
			continue
		}
		text = text[:j]
		stop := i + len(marker) + j + len(markerEnd)
		if i+1 > taken {
			if err := c.write(b[taken : i+1]); err != nil {
				return 0, err
			}
		}
		if err := c.section(b[i+1:stop], string(text)); err != nil {
			return 0, err
		}
		taken, search = stop, stop-1
	}
	if eof {
		return len(b), c.tail(b[taken-1:])
	}
	// A marker may begin in the last bytes that were searched.
	if stop := limit - len(marker); stop > taken {
		if err := c.write(b[taken:stop]); err != nil {
			return 0, err
		}
		taken = stop
	}
	return taken - 1, nil
}

// isComment says whether all lines but the first are comments: the dump begins with
// "--" and a comment, too.
func isComment(text []byte) bool {
	for {
		_, rest, more := bytes.Cut(text, []byte{'\n'})
		if !more {
			return true
		}
		if !bytes.HasPrefix(rest, []byte("-- ")) {
			return false
		}
		text = rest
	}
}

// tail takes the rest of the stream, whose first byte was taken before.
func (c *cutter) tail(b []byte) error {
	end := bytes.LastIndex(b, sessionEnd)
	if end < 0 || !bytes.Contains(b[end:], completed) {
		return c.write(b[1:])
	}
	c.complete = true
	if i := bytes.LastIndex(b[:end+1], gtidEnd); i >= 0 && end-i < tailBytes {
		end = i
	}
	return c.write(b[1 : end+1])
}

// section begins with a marker.
func (c *cutter) section(head []byte, text string) error {
	kind, name := inPreamble, ""
	for _, k := range sectionKinds {
		if rest, ok := strings.CutPrefix(text, k.prefix); ok {
			kind, name = k.kind, rest
			break
		}
	}
	switch kind {
	case inPreamble:
		return fmt.Errorf("cut the dump: the section %q is not known", printable(text))
	case inPosition, inNothing:
		return c.enter(kind, "")
	}
	quoted, ok := strings.CutSuffix(name, "`")
	if !ok {
		return fmt.Errorf("cut the dump: the section %q has no name", printable(text))
	}
	name = strings.ReplaceAll(strings.ReplaceAll(quoted, "\n-- ", "\n"), "``", "`")
	if kind == inDatabase {
		return c.database(name)
	}
	if c.db == nil {
		return fmt.Errorf("cut the dump: %s is in no database", printable(name))
	}
	if kind == inData {
		if c.kind != inTable || c.name != name {
			return c.lie(name)
		}
		// What stands between the definition and the data belongs to neither.
		if err := c.put(newlines(c.newlines)); err != nil {
			return err
		}
		c.newlines = 0
		c.kind, c.hash, c.rows = inData, sha256.New(), &rowCutter{to: c.emit}
		return c.write(head)
	}
	view := kind == inPlaceholder || kind == inView
	if !c.known(c.db.name, name, view) {
		return c.lie(name)
	}
	if err := c.enter(kind, name); err != nil {
		return err
	}
	switch kind {
	case inPlaceholder:
		if c.db.placeholders.Len() == 0 {
			c.db.placeholders.Write(c.session)
		}
	case inView:
		if c.db.views[name] {
			return c.lie(name)
		}
		c.db.views[name] = true
		if err := c.create("views/"+dbdump.FileName(name)+".sql", stageViews+len(c.db.views), ""); err != nil {
			return err
		}
	default:
		if c.db.tables[name] {
			return c.lie(name)
		}
		c.db.tables[name] = true
		stage := stageTables
		if kind == inSequence {
			stage = stageSequences
		}
		if err := c.create(dbdump.FileName(name)+".sql", stage, name); err != nil {
			return err
		}
	}
	return c.write(head)
}

// lie is the error for a marker that cannot be one.
func (c *cutter) lie(name string) error {
	return &dbdump.Error{
		Err:  fmt.Errorf("cut the dump: a section of %s is where none can be", printable(name)),
		Hint: "does a table or a column have a line break in its name? Such names can look like the dump's own marks: rename it, or exclude the table",
	}
}

// enter ends the section in hand and begins another one.
func (c *cutter) enter(kind sectionKind, name string) error {
	if c.kind == inPreamble {
		c.session = sessionLines(c.preamble)
	}
	if err := c.closeFile(); err != nil {
		return err
	}
	c.kind, c.name = kind, name
	return nil
}

func (c *cutter) database(name string) error {
	if err := c.enter(inDatabase, ""); err != nil {
		return err
	}
	for _, db := range c.dbs {
		if db.name == name {
			c.db = db // MariaDB's has the views at the end
			return nil
		}
	}
	c.db = &cutDatabase{name: name, tables: map[string]bool{}, views: map[string]bool{}}
	c.dbs = append(c.dbs, c.db)
	return nil
}

// sessionLines are the statements at the beginning of a dump, for a file that is loaded
// alone: character set, time zone, SQL mode, checks.
func sessionLines(preamble []byte) []byte {
	var out []byte
	for line := range bytes.Lines(preamble) {
		if (bytes.HasPrefix(line, []byte("/*!")) || bytes.HasPrefix(line, []byte("/*M!"))) && bytes.HasSuffix(line, []byte("*/;\n")) {
			out = append(out, line...)
		}
	}
	return append(out, '\n')
}

func (c *cutter) create(name string, stage int, table string) error {
	name = databaseDir(c.db.name) + "/" + name
	w, err := c.sink.Create(name)
	if err != nil {
		return err
	}
	c.file, c.at = w, &dbdump.File{Name: name, Stage: stage, Table: table}
	c.db.files = append(c.db.files, c.at)
	if c.progress != nil && table != "" {
		c.progress.Table(c.db.name+"."+table, false)
	}
	return c.write(c.session)
}

// write adds to the section in hand. Newlines at the end of p wait for what follows:
// how many a section ends with depends on the next one.
func (c *cutter) write(p []byte) error {
	switch c.kind {
	case inPreamble, inPosition:
		to := &c.preamble
		if c.kind == inPosition {
			to = &c.position
		}
		if len(*to)+len(p) > maxPreamble {
			return errors.New("cut the dump: what the program prints is no dump")
		}
		*to = append(*to, p...)
		return nil
	case inDatabase, inNothing:
		return nil
	case inPlaceholder:
		c.db.placeholders.Write(p)
		return nil
	}
	text := bytes.TrimRight(p, "\n")
	if len(text) > 0 {
		if err := c.put(newlines(c.newlines)); err != nil {
			return err
		}
		c.newlines = 0
		if err := c.put(text); err != nil {
			return err
		}
	}
	c.newlines += len(p) - len(text)
	return nil
}

func newlines(n int) []byte { return bytes.Repeat([]byte{'\n'}, n) }

// put adds to the file in hand.
func (c *cutter) put(p []byte) error {
	if c.rows != nil {
		_, err := c.rows.Write(p)
		return err
	}
	return c.emit(p)
}

// emit writes to the file in hand.
func (c *cutter) emit(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if c.hash != nil {
		c.hash.Write(p)
	}
	c.at.Bytes += int64(len(p))
	if c.progress != nil {
		c.progress.Add(int64(len(p)))
	}
	_, err := c.file.Write(p)
	return err
}

// closeFile ends the file in hand, if there is one.
func (c *cutter) closeFile() error {
	if c.file == nil {
		return nil
	}
	err := c.put(newlines(min(c.newlines, 1)))
	c.newlines = 0
	if c.rows != nil {
		err = errors.Join(err, c.rows.Flush())
	}
	err = errors.Join(err, c.file.Close())
	if c.hash != nil {
		c.at.SHA256 = hex.EncodeToString(c.hash.Sum(nil))
	}
	if c.progress != nil && c.at.Table != "" {
		c.progress.Table(c.db.name+"."+c.at.Table, true)
	}
	c.file, c.at, c.hash, c.rows = nil, nil, nil, nil
	return err
}

// CHANGE MASTER TO MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4050;
var positionLine = lazyregexp.New(`(?m)^(?:-- )?CHANGE (?:MASTER|REPLICATION SOURCE) TO (?:MASTER|SOURCE)_LOG_FILE='([^'\n]+)', (?:MASTER|SOURCE)_LOG_POS=(\d+)`)

// logPosition is the place in the binary log that the dump shows; nil if it has none.
func (c *cutter) logPosition() *dbdump.Position {
	m := positionLine().FindSubmatch(c.position)
	if m == nil {
		return nil
	}
	offset, err := strconv.ParseInt(string(m[2]), 10, 64)
	if err != nil {
		return nil
	}
	return &dbdump.Position{File: string(m[1]), Offset: offset}
}

// databaseDir is the directory of a database in a dump.
func databaseDir(name string) string {
	dir := dbdump.FileName(name)
	if slices.Contains([]string{dbdump.ManifestName, grantsFile}, dir) {
		dir = strings.Replace(dir, ".", "%2E", 1)
	}
	return dir
}
