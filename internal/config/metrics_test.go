package config

import (
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

func TestListen(t *testing.T) {
	for text, want := range map[string]string{
		"9821": "127.0.0.1:9821", ":9821": "127.0.0.1:9821", "127.0.0.1:9821": "127.0.0.1:9821", "[::1]:1": "[::1]:1", "localhost:9821": "localhost:9821",
		"0.0.0.0:9821": "0.0.0.0:9821", "192.0.2.1:65535": "192.0.2.1:65535",
		"": "", "0": "wrong", "65536": "wrong", "host": "wrong", "host:": "wrong", "::1": "wrong", "::1:9821": "wrong", "http://a:1": "wrong", "a b:1": "wrong", "a:-1": "wrong", "a:http": "wrong",
	} {
		if want == "wrong" {
			if err := checkListen(text); err == nil || !strings.Contains(err.Error(), "must be an address and a port") {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		c, _ := mustRead(t, "[METRICS]\nlisten = "+text+"\n", envOf())
		if m, err := c.Metrics(); err != nil || m.Listen != want {
			t.Errorf("%q: %q, %v", text, m.Listen, err)
		}
	}
}

func joined(errs []error) string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return strings.Join(all, "\n")
}

func TestTextfile(t *testing.T) {
	base := "[DEFAULT]\nsource_dir = /home\n[BACKUPS]\nbackup_dirs = /mnt/b\n[METRICS]\ntextfile = "
	c, _ := mustRead(t, base+"/var/x.prom\n", envOf())
	if errs := c.Check(); len(errs) > 0 {
		t.Error(errs)
	}
	c, _ = mustRead(t, base+"/var/x.txt\n", envOf())
	if errs := c.Check(); len(errs) != 1 || !strings.Contains(joined(errs), "[METRICS] textfile: must end in .prom") {
		t.Error(errs)
	}
}

func TestHeaders(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "",
		"Authorization=Bearer%20a%3Db":    "Authorization:Bearer a=b",
		" a = b , X-Scope=t=1,":           "X-Scope:t=1 a:b",
		"a=%2C":                           "a:,",
		"novalue":                         "wrong",
		"=x":                              "wrong",
		"a b=x":                           "wrong",
		"a=%zz":                           "wrong",
		"a=b%0d%0aEvil:%20x":              "wrong",
		"Host\r\nEvil=x":                  "wrong",
		strings.Repeat("n", 100) + "=s3c": "wrong",
	} {
		h, err := ParseHeaders(text)
		var all []string
		for _, name := range []string{"Authorization", "X-Scope", "a"} {
			if v, ok := h[name]; ok {
				all = append(all, name+":"+v)
			}
		}
		got := strings.Join(all, " ")
		if err != nil {
			got = "wrong"
			if strings.Contains(err.Error(), "s3c") {
				t.Errorf("%q: %v", text, err)
			}
		}
		if got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestAges(t *testing.T) {
	c, _ := mustRead(t, "[SCHEDULE]\ntimes = 03:00, 15:30\nverify = every 6h\ninterval_minutes = 60\ntimezone = UTC\n[PREFLIGHT]\nstaleness_factor = 1.5\n", envOf())
	ages, err := c.Ages()
	if err != nil || len(ages) != 2 {
		t.Fatalf("%v, %v", ages, err)
	}
	wantEqual(t, "backup", ages[schedule.Backup], Age{12*time.Hour + 30*time.Minute, 18*time.Hour + 45*time.Minute})
	wantEqual(t, "verify", ages[schedule.Verify], Age{6 * time.Hour, 9 * time.Hour})
	c, _ = mustRead(t, "", envOf())
	if ages, err := c.Ages(); err != nil || len(ages) != 0 {
		t.Errorf("%v, %v", ages, err)
	}
}
