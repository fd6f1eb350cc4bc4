package postgres

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

const (
	// cutBytes is how much of a dump is looked at in one go: rows are passed on in
	// pieces of this size, without being looked at one by one.
	cutBytes = 512 << 10
	// maxHeld bounds what is kept of a dump until it is known which file it belongs
	// to: a comment, and the head of a COPY with all its columns (1600, of 63 bytes).
	maxHeld = 1 << 20
)

// A lexer knows where in SQL, as pg_dump writes it, text is that is not SQL: strings,
// quoted names, bodies of functions, comments. Only outside of these a line means what it
// looks like.
type lexer struct {
	state     byte   // 0: SQL; '\'': string; 'E': string with escapes; '"': name; '$': tag is its end; '-', '/': comments
	tag       []byte // "$tag$"
	depth     int    // of /* */
	escapes   bool   // standard_conforming_strings is off: all strings have escapes
	last      byte   // the byte before
	word      bool   // the byte before last belongs to a word
	skipQuote bool   // the byte before was the escape of a string
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// feed reads a line, or a part of one.
func (l *lexer) feed(p []byte) {
	for i := 0; i < len(p); i++ {
		c, next := p[i], byte(0)
		if i+1 < len(p) {
			next = p[i+1]
		}
		before := l.last // of this token
		switch l.state {
		case 0:
			switch {
			case c == '\'':
				l.state = '\''
				if l.escapes || (before|0x20) == 'e' && !l.word {
					l.state = 'E'
				}
			case c == '"':
				l.state = '"'
			case c == '-' && next == '-':
				l.state = '-'
			case c == '/' && next == '*':
				l.state, l.depth = '/', 1
				i++
			case c == '$' && !isWord(before):
				if n := tagLen(p[i:]); n > 0 {
					l.state, l.tag = '$', append(l.tag[:0], p[i:i+n]...)
					i += n - 1
				}
			}
		case '\'':
			if c == '\'' { // a doubled one ends it, and begins it again
				l.state = 0
			}
		case 'E':
			switch {
			case l.skipQuote:
				l.skipQuote = false
			case c == '\\':
				l.skipQuote = true
			case c == '\'' && next == '\'':
				i++ // this does not begin a string without escapes
			case c == '\'':
				l.state = 0
			}
		case '"':
			if c == '"' {
				l.state = 0
			}
		case '$':
			if c == '$' && bytes.HasPrefix(p[i:], l.tag) {
				l.state = 0
				i += len(l.tag) - 1
			}
		case '-':
			if c == '\n' {
				l.state = 0
			}
		case '/':
			switch {
			case c == '/' && next == '*':
				l.depth++
				i++
			case c == '*' && next == '/':
				l.depth--
				i++
				if l.depth == 0 {
					l.state = 0
				}
			}
		}
		l.word, l.last = isWord(before), p[i]
	}
}

// tagLen is the length of a $tag$ with which p begins; 0: it does not.
func tagLen(p []byte) int {
	for i := 1; i < len(p); i++ {
		switch c := p[i]; {
		case c == '$':
			return i + 1
		case !isWord(c) || i == 1 && '0' <= c && c <= '9':
			return 0
		}
	}
	return 0
}

// A cutter reads what pg_dump prints, and writes it to the files of a dump.
//
// pg_dump prints, for each thing that it dumps, a comment ("-- Name: …; Type: …") and its
// statements, in three parts: what tables need, data, and what needs data. Data begins
// with the first COPY. Names and definitions can hold anything, lines that look like these
// included; the lexer tells them apart. The name of a table is that of its COPY, which is
// quoted without ambiguity, not that of the comment.
//
// It is the output of a [dbdump.Child], which it reads by itself. finish has to be called
// when that has ended well; else the files are left half-written.
type cutter struct {
	to      dbdump.Sink
	dir     string                                      // of the database: prefix of all names
	display func(schema, table string) (string, string) // names as UTF-8
	onTable func(table string)                          // one begins; nil: nobody

	in   *input
	lex  lexer
	held []byte // a comment, or the head of a COPY, whose file is not known yet

	header   bool     // what comes before the first thing
	preamble []byte   // settings of the header
	sets     []string // settings behind it: the last of each name
	complete bool     // the last line was there
	data     bool     // the first COPY was there
	restrict []byte   // key

	pre, post *output
	now       *output // where lines go
	one       *output // file of a table or of large objects that is open
	files     []dbdump.File
	names     map[string]string // file → table
}

// An output is a file of a dump.
type output struct {
	w     *bufio.Writer
	file  io.WriteCloser
	entry dbdump.File
	sum   hash.Hash // of the data; nil: none
	// summing: what is written is data.
	summing bool
}

func (o *output) Write(p []byte) (int, error) {
	o.entry.Bytes += int64(len(p))
	if o.summing {
		o.sum.Write(p)
	}
	return o.w.Write(p)
}

func (c *cutter) create(name string, stage int, table string) (*output, error) {
	f, err := c.to.Create(c.dir + "/" + name)
	if err != nil {
		return nil, err
	}
	return &output{w: bufio.NewWriterSize(f, 64<<10), file: f, entry: dbdump.File{Name: c.dir + "/" + name, Stage: stage, Table: table}}, nil
}

// close ends a file and takes it down.
func (c *cutter) close(o *output) error {
	if o == nil {
		return nil
	}
	err := o.w.Flush()
	if err := errors.Join(err, o.file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", o.entry.Name, err)
	}
	if o.sum != nil {
		o.entry.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	}
	c.files = append(c.files, o.entry)
	return nil
}

// ReadFrom reads to the end; finish says whether that was the end of a dump.
func (c *cutter) ReadFrom(r io.Reader) (n int64, err error) {
	widen(r)
	c.in, c.header, c.names = &input{r: r, buf: make([]byte, cutBytes)}, true, map[string]string{}
	defer func() {
		n = c.in.read
		if err != nil || !c.whole() {
			c.abort()
		}
	}()
	if c.pre, err = c.create(preName, stagePre, ""); err != nil {
		return 0, err
	}
	c.now = c.pre
	for {
		line, whole, err := c.in.line()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read what pg_dump prints: %w", err)
		}
		if err := c.line(line, whole); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return 0, nil // pg_dump says why
			}
			return 0, err
		}
	}
}

// Write is there for io.Writer, as ReadFrom does the work.
func (c *cutter) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// whole says whether the end of the dump was there.
func (c *cutter) whole() bool { return c.complete && c.lex.state == 0 && len(c.held) == 0 }

// abort leaves the files that are open as they are.
func (c *cutter) abort() {
	for _, o := range []*output{c.pre, c.post, c.one} {
		if o != nil {
			o.file.Close()
		}
	}
	c.pre, c.post, c.one = nil, nil, nil
}

// finish completes the files, once pg_dump has ended well.
func (c *cutter) finish() error {
	if !c.whole() {
		return errors.New("pg_dump: its output is not complete")
	}
	defer c.abort()
	if c.post == nil {
		if err := c.openPost(); err != nil {
			return err
		}
	}
	for _, o := range []**output{&c.one, &c.pre, &c.post} {
		one := *o
		*o = nil
		if err := c.close(one); err != nil {
			return err
		}
	}
	return nil
}

// line takes one line, or a part of one; whole: it begins here.
func (c *cutter) line(line []byte, whole bool) error {
	top := whole && c.lex.state == 0
	copying := len(c.held) > 0 && bytes.HasPrefix(c.held, []byte("COPY ")) // the head of one is not complete
	if top && !copying {
		switch {
		case line[0] == '\\':
			return c.meta(line)
		case string(line) == "--\n": // frame of a comment
			return c.comment(line)
		case bytes.HasPrefix(line, []byte("SET ")):
			c.set(line)
		case bytes.HasPrefix(line, []byte("SELECT pg_catalog.set_config(")) && c.header:
			c.preamble = append(c.preamble, line...)
		case bytes.HasPrefix(line, []byte("COPY ")):
			copying = true
		case string(line) == "BEGIN;\n", bytes.HasPrefix(line, []byte("SELECT pg_catalog.lo_open(")):
			if err := c.openLarge(); err != nil {
				return err
			}
		}
	}
	c.lex.feed(line)
	if copying {
		if c.held = append(c.held, line...); len(c.held) > maxHeld {
			return errors.New("pg_dump: its output has the head of a table that is too long")
		}
		if c.lex.state == 0 && bytes.HasSuffix(line, []byte(" FROM stdin;\n")) {
			return c.copy()
		}
		return nil
	}
	_, err := c.now.Write(line)
	return err
}

// meta takes a command for psql outside of everything. A dump has none but the keys, which
// keep others from being obeyed; these go in anew, with a secret of our own, when the file
// is loaded.
func (c *cutter) meta(line []byte) error {
	switch word, key, _ := bytes.Cut(bytes.TrimSpace(line), []byte{' '}); {
	case string(word) == `\restrict` && c.header && c.restrict == nil && len(key) > 0:
		c.restrict = bytes.Clone(key)
		return nil
	case string(word) == `\unrestrict` && c.restrict != nil && c.complete && bytes.Equal(key, c.restrict):
		return nil
	}
	return fmt.Errorf("pg_dump: its output has a command for psql: %.100q", line)
}

// comment takes a comment in a frame: "--", text, "--".
func (c *cutter) comment(frame []byte) error {
	held := bytes.Clone(frame)
	var text []byte
	for {
		line, whole, err := c.in.line()
		if err != nil {
			return fmt.Errorf("read what pg_dump prints: %w", cmp.Or(unexpected(err), err))
		}
		if held = append(held, line...); len(held) > maxHeld {
			return errors.New("pg_dump: its output has a comment that is too long")
		}
		if whole && string(line) == "--\n" {
			break
		}
		if whole && !bytes.HasPrefix(line, []byte("--")) {
			return fmt.Errorf("pg_dump: its output has a comment that is none: %.100q", line)
		}
		text = append(text, line...)
	}
	switch {
	case string(text) == "-- PostgreSQL database dump complete\n":
		c.complete = true
	case bytes.Contains(text, []byte("; Type: ")):
		c.header = false
	}
	// What was before is complete: a file of one table ends.
	one := c.one
	c.one = nil
	if err := c.close(one); err != nil {
		return err
	}
	if c.data {
		if c.post == nil {
			if err := c.openPost(); err != nil {
				return err
			}
		}
		c.now = c.post
	}
	// The comment of a table's data says nothing that its COPY does not, but who its
	// owner is: without it the file stays the same when the owner changes.
	if bytes.Contains(text, []byte("; Type: TABLE DATA; ")) || bytes.Contains(text, []byte("; Type: BLOBS; ")) {
		return nil
	}
	_, err := c.now.Write(held)
	return err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// set remembers a setting, which holds for all that follows, also in other files.
func (c *cutter) set(line []byte) {
	if string(line) == "SET standard_conforming_strings = off;\n" {
		c.lex.escapes = true
	}
	if c.header {
		c.preamble = append(c.preamble, line...)
		return
	}
	name, _, _ := strings.Cut(string(line), " = ")
	for i, s := range c.sets {
		if strings.HasPrefix(s, name+" = ") {
			c.sets[i] = string(line)
			return
		}
	}
	c.sets = append(c.sets, string(line))
}

// openPost begins the file of what needs data. It is loaded by a session of its own,
// which has to be told all settings.
func (c *cutter) openPost() (err error) {
	if c.post, err = c.create(postName, stagePost, ""); err != nil {
		return err
	}
	_, err = io.WriteString(c.post, string(c.preamble)+strings.Join(c.sets, "")+"\n")
	return err
}

// openLarge makes the lines that follow go to the file of large objects.
func (c *cutter) openLarge() (err error) {
	if c.one != nil {
		return nil
	}
	c.data = true
	name := largeName
	for i := 2; c.names[name] != ""; i++ { // version 17 and later: a thousand in each
		name = fmt.Sprintf("large-objects-%d.sql", i)
	}
	c.names[name] = "large objects"
	if c.one, err = c.create(name, stageData, ""); err != nil {
		return err
	}
	if _, err := c.one.Write(append(c.preamble, '\n')); err != nil {
		return err
	}
	c.one.sum, c.one.summing = sha256.New(), true
	c.now = c.one
	return nil
}

// copy passes on the data of a table, whose COPY is held.
func (c *cutter) copy() (err error) {
	schema, table, err := copyTarget(c.held)
	if err != nil {
		return err
	}
	schema, table = c.display(schema, table)
	shown := tableName(schema, table)
	name := fileName(schema, table)
	if c.names[name] != "" {
		return fmt.Errorf("pg_dump: its output has two tables %q", shown)
	}
	c.names[name] = shown
	if c.onTable != nil {
		c.onTable(shown)
	}
	c.data = true
	if c.one, err = c.create(name, stageData, shown); err != nil {
		return err
	}
	c.now = c.one
	if _, err := fmt.Fprintf(c.one, "%s\n%s", c.preamble, c.held); err != nil {
		return err
	}
	c.held = c.held[:0]
	c.one.sum, c.one.summing = sha256.New(), true
	if err := c.in.data(c.one); err != nil {
		return fmt.Errorf("data of table %s: %w", shown, err)
	}
	c.one.summing = false
	_, err = io.WriteString(c.one, "\\.\n")
	return err
}

// tableName is how a table is called in a manifest: SCHEMA.TABLE, each in quotes if it
// would be ambiguous otherwise.
func tableName(schema, table string) string {
	for _, n := range []*string{&schema, &table} {
		if strings.ContainsAny(*n, ".\"") {
			*n = ident(*n)
		}
	}
	return schema + "." + table
}

// copyTarget reads schema and table of a COPY.
func copyTarget(statement []byte) (schema, table string, err error) {
	rest := statement[len("COPY "):]
	var names [2]string
	for i := range names {
		var n int
		if names[i], n = name(rest); n == 0 {
			return "", "", fmt.Errorf("pg_dump: its output has a table without a name: %.200q", statement)
		}
		rest = rest[n:]
		if i == 0 {
			if len(rest) == 0 || rest[0] != '.' {
				return "", "", fmt.Errorf("pg_dump: its output has a table without a schema: %.200q", statement)
			}
			rest = rest[1:]
		}
	}
	return names[0], names[1], nil
}

// name reads a name, quoted or not, and says how long it is in p; 0: there is none.
func name(p []byte) (string, int) {
	if len(p) == 0 || p[0] != '"' {
		n := 0
		for n < len(p) && isWord(p[n]) {
			n++
		}
		return string(p[:n]), n
	}
	var b []byte
	for i := 1; i < len(p); i++ {
		if p[i] == '"' {
			if i+1 == len(p) || p[i+1] != '"' {
				return string(b), i + 1
			}
			i++
		}
		b = append(b, p[i])
	}
	return "", 0
}

// maxName is how long the name of a file may be, in bytes; file systems take 255.
const maxName = 240

// fileName is the file of a table. The only dots in it that are not the table's own are
// that behind the schema and that before "sql".
func fileName(schema, table string) string {
	n := strings.ReplaceAll(dbdump.FileName(schema), ".", "%2E") + "." + dbdump.FileName(table)
	if len(n) > maxName {
		sum := sha256.Sum256([]byte(n))
		n = strings.ToValidUTF8(n[:maxName-20], "") + "%-" + hex.EncodeToString(sum[:8])
	}
	return n + ".sql"
}

// An input is read in large pieces.
type input struct {
	r    io.Reader
	buf  []byte
	at   int // buf[at:end] is not taken yet
	end  int
	part bool // the last line was not returned to its end
	read int64
	err  error
}

// fill reads more behind buf[at:end], which it moves to the front. There must be room.
func (in *input) fill() error {
	if in.err != nil {
		return in.err
	}
	if in.at > 0 {
		copy(in.buf, in.buf[in.at:in.end])
		in.at, in.end = 0, in.end-in.at
	}
	n, err := in.r.Read(in.buf[in.end:])
	in.end += n
	in.read += int64(n)
	if in.err = err; n > 0 {
		return nil
	}
	return err
}

// line returns a line with its end, or as much of one as fits. begins: it is one's
// beginning. It is valid until the next call.
func (in *input) line() (line []byte, begins bool, err error) {
	begins = !in.part
	for seen := 0; ; {
		have := in.buf[in.at:in.end]
		if i := bytes.IndexByte(have[seen:], '\n'); i >= 0 {
			n := seen + i + 1
			in.at += n
			in.part = false
			return have[:n], begins, nil
		}
		if len(have) == len(in.buf) {
			n := pieceEnd(have)
			in.at += n
			in.part = true
			return have[:n], begins, nil
		}
		seen = len(have)
		if err := in.fill(); err != nil {
			if errors.Is(err, io.EOF) && in.end > in.at {
				return nil, false, io.ErrUnexpectedEOF // no output ends within a line
			}
			return nil, false, err
		}
	}
}

// pieceEnd is where a line that does not fit is parted: not within what the lexer looks
// at as a whole, pairs of these characters and $tags$, which have 63 bytes at most.
func pieceEnd(p []byte) int {
	special := func(c byte) bool { return strings.IndexByte(`'"-/*\$`, c) >= 0 }
	for i := len(p) - 1; i > 65; i-- {
		if !special(p[i-1]) && !special(p[i]) && bytes.IndexByte(p[i-65:i], '$') < 0 {
			return i
		}
	}
	return len(p)
}

// endOfData ends the rows of a COPY. No row is this line, as a backslash in data is
// doubled.
var endOfData = []byte("\n\\.\n")

// data passes on rows up to the line that ends them, and takes that too.
func (in *input) data(w io.Writer) error {
	begin := true // of a line
	for {
		have := in.buf[in.at:in.end]
		if begin && bytes.HasPrefix(have, endOfData[1:]) {
			in.at += len(endOfData) - 1
			return nil
		}
		if i := bytes.Index(have, endOfData); i >= 0 {
			in.at += i + len(endOfData)
			_, err := w.Write(have[:i+1])
			return err
		}
		// The end of what is there may be the beginning of the last line.
		if n := len(have) - len(endOfData); n > 0 {
			if _, err := w.Write(have[:n]); err != nil {
				return err
			}
			in.at += n
			begin = have[n-1] == '\n'
		}
		if err := in.fill(); err != nil {
			return cmp.Or(unexpected(err), err)
		}
	}
}
