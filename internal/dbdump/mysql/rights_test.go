package mysql

import (
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

func TestRights(t *testing.T) {
	r := parseRights([]string{
		"GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*AB'",
		"GRANT SELECT, LOCK TABLES ON `shop\\_%`.* TO `u`@`%`",
		"GRANT ALL PRIVILEGES ON `we``ird`.* TO `u`@`%` WITH GRANT OPTION",
		"GRANT SELECT (`id`, `name`), INSERT ON `shop`.`orders` TO `u`@`%`",
		"GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `u`@`%`",
		"GRANT BINLOG MONITOR ON *.* TO `u`@`%`",
	})
	for _, c := range []struct {
		database, privilege string
		want                bool
	}{
		{"shop_1", "SELECT", true},
		{"shop_", "LOCK TABLES", true},
		{"shopX1", "SELECT", false},
		{"shop_1", "TRIGGER", false},
		{"we`ird", "EVENT", true},
		{"shop", "SELECT", false},
		{"shop", "EXECUTE", false},
		{"*", "BINLOG MONITOR", true},
		{"*", "SELECT", false},
		{"any", "BINLOG MONITOR", true},
	} {
		if got := r.has(c.database, c.privilege); got != c.want {
			t.Errorf("%s on %s: %t", c.privilege, c.database, got)
		}
	}
	if !r.onSomeTable("shop", "SELECT") || r.onSomeTable("shop", "DELETE") || r.roles {
		t.Errorf("%+v", r)
	}
	if !parseRights([]string{"GRANT `staff`@`%` TO `u`@`%`"}).roles {
		t.Error("a role was not seen")
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		glob, like    bool
	}{
		{"", "", true, true},
		{"", "x", false, false},
		{"a.b", "a.b", true, true},
		{"a*c", "abbc", true, false},
		{"*.log_*", "shop.log_2024", true, false},
		{"*.log_*", "shop.blog_2024", false, false},
		{"**a**b*", "xxaxxbxx", true, false},
		{"?.x", "ö.x", true, false},
		{"?", "", false, false},
		{"a%", "abc", false, true},
		{"a_c", "abc", false, true},
		{`a\_c`, "abc", false, false},
		{`a\_c`, "a_c", false, true},
		{"%b%", "abc", false, true},
		{"%b", "abc", false, false},
	} {
		if got := glob(c.pattern, c.name); got != c.glob {
			t.Errorf("glob(%q, %q) = %t", c.pattern, c.name, got)
		}
		if got := like(c.pattern, c.name); got != c.like {
			t.Errorf("like(%q, %q) = %t", c.pattern, c.name, got)
		}
	}
}

func TestUnqualifyTriggers(t *testing.T) {
	for in, want := range map[string]string{
		"/*!50003 trigger tr before insert on t for each row set new.a = 1 */;;":                                   "/*!50003 trigger tr before insert on t for each row set new.a = 1 */;;",
		"/*!50003 TRIGGER shop.tr AFTER UPDATE ON shop.t FOR EACH ROW INSERT INTO shop.l VALUES (1) */;;":          "/*!50003 TRIGGER tr AFTER UPDATE ON t FOR EACH ROW INSERT INTO shop.l VALUES (1) */;;",
		"/*!50003 TRIGGER `sh``op` . `t``r` BEFORE DELETE ON `sh``op`.`t on` FOR EACH ROW BEGIN END */;;":          "/*!50003 TRIGGER `t``r` BEFORE DELETE ON `t on` FOR EACH ROW BEGIN END */;;",
		"/*!50003 TRIGGER IF NOT EXISTS größe.tr\nAFTER INSERT ON größe.t\nFOR EACH ROW FOLLOWS x SET @a = 1 */;;": "/*!50003 TRIGGER IF NOT EXISTS tr\nAFTER INSERT ON t\nFOR EACH ROW FOLLOWS x SET @a = 1 */;;",
	} {
		got, err := unqualifyTriggers([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s\nbecame %s, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"/*!50003 TRIGGER /* of */ shop.tr AFTER UPDATE ON shop.t FOR EACH ROW SET @a = 1 */;;",
		"/*!50003 TRIGGER tr AFTER UPDATE ON /* of */ shop.t FOR EACH ROW SET @a = 1 */;;",
	} {
		if got, err := unqualifyTriggers([]byte(in)); err == nil {
			t.Errorf("%s\nbecame %s", in, got)
		}
	}
}

// A server that counts anew uses the names of its logs again.
func TestStartLog(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	log := func(name string, created time.Duration) LogFile { return LogFile{Name: name, Created: at.Add(created)} }
	from := dbdump.Position{File: "b.000002", Offset: 500}
	for _, c := range []struct {
		files []LogFile
		want  int
	}{
		{nil, -1},
		{[]LogFile{log("b.000001", -time.Hour)}, -1},
		{[]LogFile{log("b.000001", -time.Hour), log("b.000002", -time.Minute)}, 1},
		{[]LogFile{log("b.000002", -48*time.Hour), log("b.000001", -2*time.Hour), log("b.000002", -time.Hour), log("b.000002", 10*time.Second)}, 2},
		{[]LogFile{log("b.000002", 10*time.Second)}, 0}, // its clock is ahead
		{[]LogFile{log("b.000002", time.Hour)}, -1},
	} {
		if got := startLog(&Logs{Files: c.files}, from, at); got != c.want {
			t.Errorf("%v: %d", c.files, got)
		}
	}
}

func TestWithoutPassword(t *testing.T) {
	for in, want := range map[string]string{
		"GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL":                        "GRANT USAGE ON *.* TO `u`@`%` REQUIRE SSL",
		"GRANT ALL PRIVILEGES ON *.* TO `r`@`localhost` IDENTIFIED VIA unix_socket WITH GRANT OPTION":   "GRANT ALL PRIVILEGES ON *.* TO `r`@`localhost` WITH GRANT OPTION",
		"GRANT USAGE ON *.* TO `r`@`%` IDENTIFIED VIA mysql_native_password USING '*AB' OR unix_socket": "GRANT USAGE ON *.* TO `r`@`%`",
		"GRANT SELECT ON `shop`.* TO `u`@`%`":                                                           "GRANT SELECT ON `shop`.* TO `u`@`%`",
	} {
		if got := withoutPassword(in); got != want {
			t.Errorf("%s\nbecame %s", in, got)
		}
	}
}
