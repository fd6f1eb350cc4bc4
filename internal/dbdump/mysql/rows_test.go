package mysql

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

// recut passes data through a rowCutter, in parts of random sizes.
func recut(t testing.TB, in []byte, random *rand.Rand) []byte {
	t.Helper()
	var out bytes.Buffer
	r := &rowCutter{to: func(p []byte) error { out.Write(p); return nil }}
	for len(in) > 0 {
		n := len(in)
		if random != nil {
			n = min(n, 1+random.IntN([]int{4, 300, 300_000, 3_000_000}[random.IntN(4)]))
		}
		if _, err := r.Write(in[:n]); err != nil {
			t.Fatal(err)
		}
		in = in[n:]
	}
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// insert prints rows as the dump program does: a statement ends before the row with
// which it would be longer than size.
func insert(head string, rows []string, size int) []byte {
	var out bytes.Buffer
	have := 0
	for i, row := range rows {
		switch {
		case i == 0 || have+len(row) > size:
			if i > 0 {
				out.WriteString(";\n")
			}
			out.WriteString(head)
			have = len(head)
		default:
			out.WriteString(",\n")
		}
		out.WriteString(row)
		have += len(row) + 2
	}
	if len(rows) > 0 {
		out.WriteString(";\n")
	}
	return out.Bytes()
}

func randomRows(random *rand.Rand, n int) []string {
	rows := make([]string, n)
	for i := range rows {
		size := 20 + random.IntN(200)
		switch random.IntN(n/3 + 1) {
		case 0:
			size = largeRow - 10 + random.IntN(20)
		case 1:
			size = random.IntN(3 * largeRow)
		}
		rows[i] = fmt.Sprintf("(%d,%s)", i, []string{
			"'" + strings.Repeat(string(rune('a'+random.IntN(26)))+"),(", size/4) + "'",
			`'\\\\\'),(1,\'',NULL,'\\\\',` + "'" + strings.Repeat("`x", size/2) + "'",
			"0x" + strings.Repeat("0F", size/2),
		}[i%3])
	}
	return rows
}

// The rows are what they were whatever the parts they come in, statements end in the same
// places whatever places they ended in before, and have the sizes that are promised.
func TestRows(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 7))
		head := []string{
			"INSERT INTO `t` VALUES\n",
			"INSERT IGNORE INTO `t` (`a`, `b VALUES\n(`, `c```) VALUES\n",
			"REPLACE INTO ` VALUES\n` VALUES\n",
		}[seed%3]
		rows := randomRows(random, 1+random.IntN(20_000))
		before, after := "--\n-- Dumping data for table `t`\n--\n\nLOCK TABLES `t` WRITE;\n", "/*!40000 ALTER TABLE `t` ENABLE KEYS */;\n"
		var want []byte
		for _, size := range []int{1, 10_000, 1_046_528, 1 << 40} {
			in := append(append([]byte(before), insert(head, rows, size)...), after...)
			got := recut(t, in, random)
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("seed %d: statements of %d bytes come out different", seed, size)
			}
		}
		// On one line it is the same, but for a space.
		oneLine := strings.TrimSuffix(head, "\n") + " "
		for _, size := range []int{1, 10_000, 1_046_528} {
			in := string(insert(oneLine, rows, size))
			in = strings.ReplaceAll(in, ",\n(", ",(")
			got := recut(t, []byte(before+in+after), random)
			if !bytes.Equal(bytes.ReplaceAll(got, []byte(oneLine+"\n("), []byte(head+"(")), want) {
				t.Fatalf("seed %d: statements of %d bytes on one line come out different", seed, size)
			}
		}
		text, ok := strings.CutPrefix(string(want), before)
		text, ok2 := strings.CutSuffix(text, after)
		if !ok || !ok2 {
			t.Fatalf("seed %d: what is around the rows has changed", seed)
		}
		i := 0
		for statement := range strings.SplitSeq(strings.TrimSuffix(text, ";\n"), ";\n"+head) {
			statement = strings.TrimPrefix(statement, head)
			got := strings.Split(statement, ",\n")
			for _, row := range got {
				if i == len(rows) || row != rows[i] {
					t.Fatalf("seed %d: row %d has changed", seed, i)
				}
				i++
				if len(row) > largeRow && len(got) > 1 {
					t.Errorf("seed %d: a row of %d bytes shares its statement", seed, len(row))
				}
			}
			if len(got) > 1 && len(statement) > maxStatement+largeRow {
				t.Errorf("seed %d: a statement of %d rows and %d bytes", seed, len(got), len(statement))
			}
			if i < len(rows) && len(statement) < minStatement && len(got[len(got)-1]) < largeRow && len(rows[i]) < largeRow-2 {
				t.Errorf("seed %d: a statement of %d bytes", seed, len(statement))
			}
		}
		if i != len(rows) {
			t.Fatalf("seed %d: %d rows of %d", seed, i, len(rows))
		}
	}
}

// Rows that change their length move the ends of statements near to them, and no others.
func TestRowsStay(t *testing.T) {
	head := "INSERT INTO `t` VALUES\n"
	rows := make([]string, 400_000)
	for i := range rows {
		rows[i] = fmt.Sprintf("(%d,'order %d of customer %d')", i, i*7, i%977)
	}
	ends := func(rows []string) map[string]bool {
		m := map[string]bool{}
		for statement := range strings.SplitSeq(string(recut(t, insert(head, rows, 1_046_528), nil)), head) {
			m[statement] = true
		}
		return m
	}
	before := ends(rows)
	for i := 100_000; i < 104_000; i++ {
		rows[i] = strings.Replace(rows[i], "order", "o", 1)
	}
	rows = append(rows[:50_000], rows[50_010:]...) // and some are removed
	after, lost := ends(rows), 0
	for statement := range before {
		if !after[statement] {
			lost++
		}
	}
	if lost == 0 || lost > 12 || len(before) < 40 {
		t.Errorf("%d of %d statements have changed", lost, len(before))
	}
}

// joined is text in which statements of one head that follow each other are one, made
// line by line; nil if a head may have several lines.
func joined(text []byte) []byte {
	out := []byte{}
	head, within, ended := "", false, false // ended: the line before was the last row of head's statement
	isRow := func(line string) bool {
		return strings.HasPrefix(line, "(") && (strings.HasSuffix(line, "),\n") || strings.HasSuffix(line, ");\n"))
	}
	lines := slices.Collect(strings.Lines(string(text)))
	for i, line := range lines {
		switch {
		case within && isRow(line):
			ended = line[len(line)-2] == ';'
			within = !ended
		case strings.HasPrefix(line, "INSERT "), strings.HasPrefix(line, "REPLACE "):
			whole, more := insertHead([]byte(line))
			if more {
				return nil
			}
			if whole && ended && line == head && i+1 < len(lines) && isRow(lines[i+1]) {
				out = append(out[:len(out)-2], ",\n"...)
				within, ended = true, false
				continue
			}
			head, within, ended = line, whole, false
		default:
			within, ended = false, false
		}
		out = append(out, line...)
	}
	return out
}

// Whatever comes: in what parts does not matter, nothing is lost, and what is done once
// stays as it is when it is done again.
func FuzzRows(f *testing.F) {
	f.Add([]byte("--\nINSERT INTO `t` VALUES\n(1),\n(2);\nINSERT INTO `t` VALUES\n(3);\nx\n"), uint64(1))
	f.Add([]byte("INSERT INTO `t` VALUES\nINSERT INTO `t` VALUES\n(3);\nINSERT INTO `t` VALUES\nINSERT INTO `t` VALUES\n(3)"), uint64(1))
	f.Add([]byte("INSERT INTO `t\n` VALUES\n(1),\n2;\n(3),\n"), uint64(1))
	f.Add([]byte("INSERT INTO `t` VALUES (1,'`\n"), uint64(1))
	f.Add([]byte("INSERT INTO `t` VALUES (1,'\\'),('),(2,'a');\nINSERT INTO `t` VALUES (3,'b');\n"), uint64(1))
	f.Add([]byte("INSERT INTO `t` VALUES\n(1);\nINSERT INTO `s` VALUES\n(1),\n(2)"), uint64(1))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		got := recut(t, in, nil)
		if parts := recut(t, in, rand.New(rand.NewPCG(seed, 1))); !bytes.Equal(parts, got) {
			t.Fatalf("in parts it is %q, not %q", parts, got)
		}
		if bytes.Contains(in, []byte(valuesWord)) {
			return
		}
		if again := recut(t, got, nil); !bytes.Equal(again, got) {
			t.Fatalf("the second time it is %q, not %q", again, got)
		}
		if want := joined(in); len(in) < minStatement && want != nil && !bytes.Equal(got, want) {
			t.Fatalf("%q came out as %q, not %q", in, got, want)
		}
	})
}

func BenchmarkRows(b *testing.B) {
	rows := make([]string, 100_000)
	for i := range rows {
		rows[i] = fmt.Sprintf("(%d,'order %d of customer %d, which is so long')", i, i*7, i%977)
	}
	in := insert("INSERT INTO `t` VALUES\n", rows, 1_046_528)
	b.SetBytes(int64(len(in)))
	r := &rowCutter{to: func([]byte) error { return nil }}
	for b.Loop() {
		r.Write(in)
	}
}

// What the server gets back is what it had, and rows that get shorter leave the
// statements of the others as they were.
func TestStatements(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{NoLog: true})
	s.Exec("CREATE DATABASE shop", "USE shop",
		"CREATE TABLE t (id int PRIMARY KEY, `x\n`` VALUES` int AS (id * 2) STORED, `no\nte` text, bin varbinary(40), big longblob)",
		"INSERT INTO t (id, `no\nte`, bin) SELECT seq, CONCAT('it''s \\\\ \n),(', seq, ',''', MD5(seq)), UNHEX(MD5(seq)) FROM seq_1_to_60000",
		"UPDATE t SET big = REPEAT(UNHEX(MD5(id)), 16384) WHERE id % 20000 = 7")
	checksum := func(table string) string {
		_, sum, _ := strings.Cut(s.Query("CHECKSUM TABLE " + table)[0], table)
		return sum
	}
	want := checksum("shop.t")
	statements := func() map[string]bool {
		dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"shop"}})
		text, err := os.ReadFile(filepath.Join(dir, "shop", "t.sql"))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]bool{}
		for _, statement := range strings.Split(string(text), "\nINSERT INTO `t` ")[1:] {
			if rows := strings.Count(statement, "\n("); len(statement) > maxStatement+largeRow && rows > 1 {
				t.Errorf("%d rows of %d bytes in one statement", rows, len(statement))
			}
			all[statement] = true
		}
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "again"}); err != nil {
			t.Fatal(err)
		}
		if got := checksum("again.t"); got != checksum("shop.t") {
			t.Errorf("the table's checksum is %s after a restore, not %s", got, checksum("shop.t"))
		}
		// As programs print it that have a statement on one line.
		begin := strings.Index(string(text), "\nINSERT INTO `t` ") + 1
		one := strings.ReplaceAll(strings.ReplaceAll(string(text[begin:]), "),\n(", "),("), " VALUES\n(", " VALUES (")
		parted := recut(t, []byte(one), rand.New(rand.NewPCG(1, 2)))
		if strings.Contains(one, "),\n(") || strings.ReplaceAll(string(parted), " VALUES \n(", " VALUES\n(") != string(text[begin:]) {
			t.Error("on one line it comes out different")
		}
		s.Exec("DROP TABLE again.t")
		s.Shell("again", string(text[:begin])+string(parted))
		if got := checksum("again.t"); got != checksum("shop.t") {
			t.Errorf("on one line, the table's checksum is %s, not %s", got, checksum("shop.t"))
		}
		s.Exec("DROP DATABASE again")
		return all
	}
	before := statements()
	if want == "" {
		t.Fatal("no checksum")
	}
	s.Exec("UPDATE shop.t SET `no\nte` = 'short' WHERE id BETWEEN 20000 AND 20600", "DELETE FROM shop.t WHERE id BETWEEN 40000 AND 40010")
	if checksum("shop.t") == want {
		t.Fatal("nothing has changed")
	}
	after := statements()
	changed := 0
	for statement := range before {
		if !after[statement] {
			changed++
		}
	}
	if len(before) < 20 || changed == 0 || changed > 6 {
		t.Errorf("%d of %d statements have changed", changed, len(before))
	}
}
