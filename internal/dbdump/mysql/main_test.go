package mysql

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	mysqltest.Cleanup()
	os.Exit(code)
}

// A dirSink keeps a dump in a directory.
type dirSink string

func (d dirSink) Create(name string) (io.WriteCloser, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("%q is no valid path", name)
	}
	path := filepath.Join(string(d), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
}

const password = "s3cret'\"\\ #pässword"

// account makes a user with a password for TCP, and returns how it comes.
func account(s *mysqltest.Server, name, grants string) Server {
	s.Exec("CREATE USER " + quote(name) + "@'%' IDENTIFIED BY '" + strings.ReplaceAll(strings.ReplaceAll(password, `\`, `\\`), "'", `\'`) + "'")
	for g := range strings.SplitSeq(grants, ";") {
		if g != "" {
			s.Exec("GRANT " + g + " TO " + quote(name) + "@'%'")
		}
	}
	return Server{Host: "127.0.0.1", Port: s.Port, User: name, Password: config.NewSecretString(password)}
}

// root comes by the socket, without a password.
func root(s *mysqltest.Server) Server { return Server{Socket: s.Socket, User: "root"} }

// warnings collects them.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) add(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, fmt.Sprintf(format, args...))
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.list, "\n")
}

// hashes are those of all files below a directory.
func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		sum := sha256.Sum256(b)
		all[filepath.ToSlash(name)] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// awkward is a database with what dumps have gone wrong with.
const awkward = `
CREATE TABLE customers (
  id int PRIMARY KEY, name varchar(200) COMMENT 'a
--
-- Table structure for table ` + "`evil`" + `
--
', bin varbinary(300), j json, doubled int GENERATED ALWAYS AS (id*2) STORED, next int GENERATED ALWAYS AS (id+1) VIRTUAL,
  d datetime DEFAULT '2020-01-01', bits bit(5), f float, dd double, dec_ decimal(30,10), e enum('a','b
--
-- Dumping data for table ` + "`evil`" + `
--
'), g geometry, ts timestamp NULL, y year, t time(6)
) COMMENT='
--
-- Table structure for table ` + "`evil`" + `
--
';
INSERT INTO customers (id, name, bin, j, bits, f, dd, dec_, e, g, ts, y, t) VALUES
 (1, 'x\n--\n-- Table structure for table ` + "`evil`" + `\n--\n', 0x000102FF0A0D1A5C27, '{"a": [1, null]}', b'10101', 1.1, 1e-300, 12345678901234567890.0123456789, 'a', POINT(1,2), '2021-03-28 01:30:00', 1999, '-12:34:56.123456'),
 (2, '😀 größe 漢字 \\ '' " \Z \0 \r\n;', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
 (3, 'DELIMITER ;;\n\\! touch /tmp/owned', '', '"x"', 0, -0.0, 0, 0, 'b
--
-- Dumping data for table ` + "`evil`" + `
--
', NULL, NULL, 2026, '00:00:00');
CREATE TABLE orders (id int AUTO_INCREMENT PRIMARY KEY, customer int NOT NULL, FOREIGN KEY (customer) REFERENCES customers (id), amount int CHECK (amount > 0));
INSERT INTO orders (customer, amount) VALUES (1, 10), (2, 20);
CREATE TABLE log (id int AUTO_INCREMENT PRIMARY KEY, what text);
SET SESSION sql_mode = '';
CREATE TABLE zero (d date, dt datetime);
INSERT INTO zero VALUES ('0000-00-00', '0000-00-00 00:00:00'), ('2024-00-13', NULL);
SET SESSION sql_mode = DEFAULT;
CREATE TABLE ` + "`a/b`" + ` (x int);
INSERT INTO ` + "`a/b`" + ` VALUES (1);
CREATE TABLE ` + "`-- Table structure for table`" + ` (y int);
INSERT INTO ` + "`-- Table structure for table`" + ` VALUES (2);
CREATE TABLE ` + "`q``\"'x\\\\`" + ` (z int);
INSERT INTO ` + "`q``\"'x\\\\`" + ` VALUES (3);
CREATE TABLE ` + "`new\nline`" + ` (` + "`c\n-- x`" + ` int);
INSERT INTO ` + "`new\nline`" + ` VALUES (4);
CREATE TABLE ` + "`größe 漢字`" + ` (` + "`schlüssel`" + ` int);
CREATE TABLE ` + "`routines`" + ` (x int);
CREATE TABLE ` + "`schema`" + ` (x int);
CREATE TABLE ` + "`UPPER`" + ` (x int);
CREATE TABLE ` + "`upper`" + ` (x int);
CREATE TABLE old (x int) ENGINE=MyISAM;
INSERT INTO old VALUES (1), (2);
CREATE TABLE parts (id int) PARTITION BY HASH (id) PARTITIONS 3;
INSERT INTO parts VALUES (1), (2), (3), (4);
CREATE SEQUENCE numbers START WITH 7;
CREATE TABLE numbered (n bigint DEFAULT nextval(numbers), x int);
INSERT INTO numbered (x) VALUES (1), (2);
CREATE TABLE big (id int PRIMARY KEY, b longblob);
INSERT INTO big VALUES (1, REPEAT(0x00FF0A, 1500000)), (2, REPEAT('
--
-- Table structure for table ', 100000));
DELIMITER //
CREATE FUNCTION twice(x int) RETURNS int DETERMINISTIC BEGIN RETURN x * 2; /* ; */ END//
CREATE PROCEDURE note(what text) BEGIN INSERT INTO log (what) VALUES (what); END//
CREATE TRIGGER ordered AFTER INSERT ON orders FOR EACH ROW BEGIN INSERT INTO log (what) VALUES (CONCAT('order ', NEW.id)); END//
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO BEGIN DELETE FROM log WHERE id < 0; END//
DELIMITER ;
CREATE VIEW b_orders AS SELECT orders.*, customers.name FROM orders JOIN customers ON customers.id = orders.customer;
CREATE VIEW a_view AS SELECT id, twice(amount) AS twice FROM b_orders;
CREATE VIEW ` + "`v/w`" + ` AS SELECT 1 AS ` + "`x\ny`" + `;
`
