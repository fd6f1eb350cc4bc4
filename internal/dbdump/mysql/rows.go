package mysql

import (
	"bytes"
	"hash/crc32"
	"iter"
	"strings"
)

// MariaDB's program prints a table's rows as statements of many rows, one on each line,
// and ends a statement by its length:
//
//	INSERT INTO `orders` VALUES
//	(1,'a'),
//	(2,'b');
//	INSERT INTO `orders` VALUES
//	(3,'c');
//
// A row that gets longer or shorter so moves the beginnings of all statements behind it,
// and hardly a chunk of the table is what it was in the dump before. A rowCutter ends
// statements where the rows say so instead, as a chunker cuts: a change moves no more
// beginnings than those next to it. The rows stay as they are, and in their order; so
// does everything that is not certainly a row.
//
// MySQL's program, and old ones of MariaDB, print a statement on one line, which is
// parted into those of its rows first:
//
//	INSERT INTO `orders` VALUES (1,'a'),(2,'b');
const (
	// minStatement and meanStatement are how many bytes of rows a statement has at
	// least, and how many more on average until one ends it: little beside a chunk, and
	// enough that loading takes no longer than it did. The first is small beside the
	// second, so that after a change the ends are soon where they were.
	minStatement  = 32 << 10
	meanStatement = 192 << 10
	// maxStatement ends one that found no such row: one in twenty-five, e^-(608/192).
	maxStatement = 640 << 10
	// largeRow is the size from which on a row has a statement to itself. So none is
	// larger than the larger of a row and 896 KiB, and the program's own are as large as
	// that or 1 MiB: a max_allowed_packet that lets those in lets these in.
	largeRow = 256 << 10
	// maxInsertHead bounds what stands before the rows: the names of up to 4,096 columns
	// of 64 characters.
	maxInsertHead = 2 << 20
	rowsOutBytes  = 128 << 10
)

type rowState int

const (
	outsideRows rowState = iota
	insideHead           // a name in the head of a statement holds a newline
	insideRows           // after the head of a statement, or a row that is not its last
)

// A rowCutter passes the data of a table on, with statements that end elsewhere.
type rowCutter struct {
	to   func([]byte) error
	out  []byte // goes there next
	form splitter
	line []byte // what has come of a line
	long bool   // and of a long one, parts were taken before

	state rowState
	head  []byte // of the statement in hand, with its newline
	next  []byte // what has come of the head after it
	large bool   // the long line in hand is a row
	size  int    // bytes of rows in the statement
	full  bool   // no other row follows in it
	// end is what ended the last row, and was not passed on yet, as it depends on the
	// next one: ',' or ';', 0 for nothing. A ';' inside of rows has the same head again
	// behind it.
	end byte
}

// Write takes any part of the data.
func (r *rowCutter) Write(p []byte) (int, error) {
	for part := range r.form.split(p) {
		if err := r.lines(part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (r *rowCutter) lines(p []byte) error {
	for len(p) > 0 {
		part, whole := p, false
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			part, whole = p[:i+1], true
		}
		p = p[len(part):]
		switch {
		case whole && len(r.line) == 0:
			r.take(part, true, true)
		case whole:
			r.line = append(r.line, part...)
			r.take(r.line, !r.long, true)
			r.line, r.long = r.line[:0], false
		default:
			r.line = append(r.line, part...)
			// The end of a row, of two bytes, is never parted.
			if at := len(r.line) - 2; at >= largeRow || r.long && at > 0 {
				r.take(r.line[:at], !r.long, false)
				r.line, r.long = append(r.line[:0], r.line[at:]...), true
			}
		}
		if len(r.out) >= rowsOutBytes {
			if err := r.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Flush passes everything on that is still here, as it came.
func (r *rowCutter) Flush() error {
	r.asItCame()
	r.put(r.next)
	r.put(r.line)
	r.next, r.line, r.long, r.state = nil, nil, false, outsideRows
	return r.send()
}

func (r *rowCutter) send() error {
	err := r.to(r.out)
	r.out = r.out[:0]
	return err
}

func (r *rowCutter) put(p []byte) { r.out = append(r.out, p...) }

// take takes a line with its newline, or a part of one of more than largeRow bytes: the
// first has that much, the last is longer than the end of a row.
func (r *rowCutter) take(p []byte, first, last bool) {
	switch {
	case r.state == insideHead:
		r.takeHead(p, last)
	case r.state == insideRows && (first && p[0] == '(' || r.large):
		r.takeRow(p, first, last)
	case first && last && (bytes.HasPrefix(p, []byte(insertWord)) || bytes.HasPrefix(p, []byte(replaceWord))):
		r.takeHead(p, true)
	default:
		r.leave(p)
	}
}

// leave passes on what is no part of a statement that is understood.
func (r *rowCutter) leave(p []byte) {
	r.asItCame()
	r.put(p)
	r.state, r.large = outsideRows, false
}

func (r *rowCutter) takeHead(p []byte, last bool) {
	was := r.state
	r.next = append(r.next, p...)
	whole, more := insertHead(r.next)
	switch {
	case len(r.next) > maxInsertHead || last && !whole && !more:
		r.leave(r.next)
	case !whole:
		if was == insideRows {
			r.asItCame() // a statement that has no rows
		}
		r.state = insideHead
		return
	case was != insideRows && r.end == ';' && bytes.Equal(r.next, r.head):
		r.state = insideRows
	default:
		r.leave(r.next)
		r.head = append(r.head[:0], r.next...)
		r.size, r.full, r.state = 0, false, insideRows
	}
	r.next = r.next[:0]
}

// insertHead says whether p, which ends with a line, is all of a statement before its
// rows, or could be with more lines: a name in it may hold newlines.
func insertHead(p []byte) (whole, more bool) {
	for quoted := false; ; quoted = !quoted {
		part, rest, found := bytes.Cut(p, []byte{'`'})
		if !quoted {
			if _, rows, is := bytes.Cut(part, []byte(" VALUES")); is {
				return !found && (string(rows) == "\n" || string(rows) == " \n"), false
			}
		}
		if !found {
			return false, quoted
		}
		p = rest
	}
}

func (r *rowCutter) takeRow(p []byte, first, last bool) {
	if !last {
		if first {
			r.beginRow(true)
			r.large = true
		}
		r.put(p)
		return
	}
	at := len(p) - 3 // of "),\n"
	if at < 0 || p[at] != ')' || p[at+1] != ',' && p[at+1] != ';' {
		r.leave(p)
		return
	}
	row, large := p[:at+1], r.large || len(p) >= largeRow
	if first {
		r.beginRow(large)
	}
	r.put(row)
	r.size += len(row)
	r.full = large || r.size >= maxStatement || r.size >= minStatement && endsStatement(row)
	r.end, r.large = p[at+1], false
	if r.end == ';' {
		r.state = outsideRows
	}
}

// beginRow ends the row before, and its statement if it is to have no more.
func (r *rowCutter) beginRow(large bool) {
	switch {
	case r.end == 0:
	case r.full || large:
		r.out = append(r.out, ";\n"...)
		r.put(r.head)
		r.size, r.full = 0, false
	default:
		r.out = append(r.out, ",\n"...)
	}
	r.end = 0
}

// asItCame ends the last row as it was ended.
func (r *rowCutter) asItCame() {
	if r.end == 0 {
		return
	}
	r.out = append(r.out, r.end, '\n')
	if r.end == ';' && r.state == insideRows {
		r.put(r.head)
	}
	r.end = 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// endsStatement is true for one byte of rows in meanStatement. It depends on nothing but
// the row. The factor is that of Fibonacci hashing (Knuth, The Art of Computer
// Programming 3, 6.4): the sums of similar rows differ in few bits.
func endsStatement(row []byte) bool {
	h := crc32.Checksum(row, castagnoli) * 0x9E3779B1
	return uint64(h)*meanStatement < uint64(len(row))<<32
}

const insertWord, replaceWord, valuesWord = "INSERT ", "REPLACE ", " VALUES ("

// A splitter breaks the line before each row of a statement that is on one line. Other
// text it leaves alone. Literals are as mysql_real_escape_string makes them: the program
// sets an SQL mode in which a backslash escapes.
type splitter struct {
	state splitState
	seen  []byte // of the word that is looked for
}

type splitState int

const (
	lineStart splitState = iota
	otherLine
	insertName   // INSERT INTO …
	insertQuoted // `…`
	rowPlain     // after VALUES, between literals
	rowQuoted    // '…'
	rowEscaped   // after a backslash in it
)

// split yields p with the line breaks that are to be added.
func (s *splitter) split(p []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		from := 0
		for i := 0; i < len(p); i++ {
			switch s.state {
			case lineStart, insertName, rowPlain:
				switch {
				case len(s.seen) > 0:
				case s.state == rowPlain:
					i = skip(p, i, "')\n")
				case s.state == lineStart && p[i] == '(':
					s.state = otherLine // a row, most often
					continue
				}
				if i < len(p) && s.breaks(p[i]) {
					if !yield(p[from:i]) || !yield([]byte{'\n'}) {
						return
					}
					from = i
				}
			case otherLine:
				if i = skip(p, i, "\n"); i < len(p) {
					s.enter(lineStart)
				}
			case insertQuoted:
				if i = skip(p, i, "`"); i < len(p) {
					s.enter(insertName)
				}
			case rowQuoted:
				if i = skip(p, i, "'\\"); i < len(p) {
					if s.enter(rowPlain); p[i] == '\\' {
						s.enter(rowEscaped)
					}
				}
			case rowEscaped:
				s.enter(rowQuoted)
			}
		}
		yield(p[from:])
	}
}

// skip is where the next of some characters is; len(p) if there is none.
func skip(p []byte, from int, chars string) int {
	if i := bytes.IndexAny(p[from:], chars); i >= 0 {
		return from + i
	}
	return len(p)
}

func (s *splitter) enter(state splitState) { s.state, s.seen = state, s.seen[:0] }

// breaks takes a byte outside of quotes, and says whether a row begins with it.
func (s *splitter) breaks(b byte) bool {
	if b == '\n' {
		s.enter(lineStart)
		return false
	}
	s.seen = append(s.seen, b)
	switch seen := string(s.seen); s.state {
	case lineStart:
		if seen == insertWord || seen == replaceWord {
			s.enter(insertName)
		} else if !strings.HasPrefix(insertWord, seen) && !strings.HasPrefix(replaceWord, seen) {
			s.enter(otherLine)
		}
	case insertName:
		switch {
		case b == '`':
			s.enter(insertQuoted)
		case seen == valuesWord:
			s.enter(rowPlain)
			return true
		case strings.HasPrefix(valuesWord, seen):
		case b == valuesWord[0]:
			s.seen = append(s.seen[:0], b)
		default:
			s.seen = s.seen[:0]
		}
	case rowPlain:
		switch {
		case b == '\'':
			s.enter(rowQuoted)
		case seen == "),(":
			s.seen = s.seen[:0]
			return true
		case b == ')':
			s.seen = append(s.seen[:0], b)
		case seen != "),":
			s.seen = s.seen[:0]
		}
	}
	return false
}
