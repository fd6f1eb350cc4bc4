package mysql

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	testPreamble = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n--\n-- Host: localhost\n-- ---\n-- Server version\n\n" +
		"/*!40101 SET NAMES utf8mb4 */;\n/*!40103 SET TIME_ZONE='+00:00' */;\n\n"
	testSession  = "/*!40101 SET NAMES utf8mb4 */;\n/*!40103 SET TIME_ZONE='+00:00' */;\n\n"
	testDatabase = "--\n-- Current Database: `db`\n--\n\nCREATE DATABASE `db`;\n\nUSE `db`;\n"
	testEnd      = "/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;\n\n-- Dump completed\n"
)

func cutAll(t *testing.T, in io.Reader) (string, *cutter, error) {
	t.Helper()
	dir := t.TempDir()
	c := &cutter{sink: dirSink(dir), known: func(db, name string, view bool) bool {
		return db == "db" && view == strings.HasPrefix(name, "v") && !strings.HasPrefix(name, "un")
	}}
	_, err := c.ReadFrom(in)
	return dir, c, err
}

// Marks are found wherever they are in what is read at once, and nothing else is taken
// for one.
func TestCut(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 4))
	for round := range 40 {
		var in strings.Builder
		in.WriteString(testPreamble + testDatabase)
		want, sums := map[string]string{}, map[string]string{}
		for i := range 1 + random.IntN(6) {
			name := fmt.Sprintf("t%d", i)
			def := fmt.Sprintf("--\n-- Table structure for table `%[1]s`\n--\n\nCREATE TABLE `%[1]s` (x int);\n", name)
			data := fmt.Sprintf("--\n-- Dumping data for table `%[1]s`\n--\n", name)
			// Sizes around those of buffers; in the last rounds, the mark of the next table
			// is moved over the end of one, byte by byte.
			size := random.IntN(3000)
			if i == 0 && round >= 10 {
				size = cutBufferBytes - tailBytes - in.Len() - len(def) - len(data) - round
			} else if random.IntN(3) == 0 {
				size = random.IntN(2 * cutBufferBytes)
			}
			rows := strings.Repeat("(1,'\\n--\\n-- Table structure'),\n-- \n--\n(2)", size/40+1)[:max(size, 0)]
			data += "\nINSERT INTO x VALUES\n" + rows + ";\n"
			in.WriteString("\n" + def + "\n" + data)
			want[name] = testSession + def + "\n" + data
			sum := sha256.Sum256([]byte(data))
			sums[name] = hex.EncodeToString(sum[:])
		}
		if round%2 == 0 {
			in.WriteString("\n-- The deferred gtid setting for slave\n\n-- SET GLOBAL gtid_slave_pos='0-1-17';\n")
		}
		in.WriteString(testEnd)
		var r io.Reader = strings.NewReader(in.String())
		if round%3 == 0 {
			r = iotest.HalfReader(r)
		}
		dir, c, err := cutAll(t, r)
		if err != nil || !c.complete {
			t.Fatalf("round %d: %v, complete: %t", round, err, c.complete)
		}
		if len(c.dbs) != 1 || len(c.dbs[0].files) != len(want) {
			t.Fatalf("round %d: %d files, not %d", round, len(c.dbs[0].files), len(want))
		}
		for _, f := range c.dbs[0].files {
			got, err := os.ReadFile(filepath.Join(dir, f.Name))
			if err != nil || string(got) != want[f.Table] || f.Bytes != int64(len(got)) || f.SHA256 != sums[f.Table] {
				t.Errorf("round %d: %s: %d bytes, not %d; %v", round, f.Name, len(got), len(want[f.Table]), err)
			}
		}
	}
}

func TestCutRefuses(t *testing.T) {
	table := func(name string) string {
		return "\n--\n-- Table structure for table `" + name + "`\n--\n\nCREATE;\n"
	}
	for name, c := range map[string]struct{ in, want string }{
		"twice":           {testDatabase + table("t") + table("t"), "where none can be"},
		"unknown":         {testDatabase + table("unknown"), "where none can be"},
		"no database":     {table("t"), "in no database"},
		"data of another": {testDatabase + table("t") + "\n--\n-- Dumping data for table `s`\n--\n", "where none can be"},
		"data first":      {testDatabase + "\n--\n-- Dumping data for table `t`\n--\n", "where none can be"},
		"not known":       {testDatabase + "\n--\n-- Something new\n--\n", "Something new"},
		"no name":         {testDatabase + "\n--\n-- Table structure for table `t\n--\n", "no name"},
		"view as table":   {testDatabase + table("v"), "where none can be"},
		"view twice":      {testDatabase + strings.Repeat("\n--\n-- Final view structure for view `v`\n--\nCREATE;\n", 2), "where none can be"},
		"no dump at all":  {strings.Repeat("x", 2*maxPreamble), "no dump"},
	} {
		if _, _, err := cutAll(t, strings.NewReader(testPreamble+c.in+testEnd)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Cut off anywhere, it is no dump.
	whole := testPreamble + testDatabase + table("t") + testEnd
	for i := range len(whole) - len("d\n") {
		if _, c, err := cutAll(t, strings.NewReader(whole[:i])); err != nil || c.complete {
			t.Fatalf("cut at %d: %v, complete: %t", i, err, c.complete)
		}
	}
	broken := errors.New("broken")
	if _, _, err := cutAll(t, io.MultiReader(strings.NewReader(whole[:len(whole)-50]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte(testPreamble + testDatabase + "\n--\n-- Table structure for table `t`\n--\n\nCREATE;\n\n--\n-- Dumping data for table `t`\n--\nx\n" + testEnd))
	f.Fuzz(func(t *testing.T, in []byte) {
		cutAll(t, strings.NewReader(string(in))) // must end, and not panic
	})
}
