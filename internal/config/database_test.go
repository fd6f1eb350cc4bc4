package config

import (
	"strings"
	"testing"
)

func TestDatabases(t *testing.T) {
	// That of BackupHandler 2.5.
	c, warnings := mustRead(t, "[DATABASE]\nuser = ann\npassword = ${PW}\ndatabase = shop\nhost = db.example\nport = 3307\nsingle_transaction = False\nbinlog_position = True\n", envOf("PW", "hush"))
	if len(warnings) > 0 {
		t.Error(warnings)
	}
	all := must[[]Database](t)(c.Databases())
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	d := all[0]
	if d.Name != "mysql" || d.User != "ann" || d.Host != "db.example" || d.Port != 3307 || d.SingleTransaction || !d.BinlogPosition || d.PostgreSQL ||
		!d.Dump || d.Base || d.Logs || !d.Routines || !d.Triggers || !d.Events || d.Grants || d.TLS != "preferred" {
		t.Errorf("%+v", d)
	}
	wantEqual(t, "databases", d.Databases, []string{"shop"})
	wantEqual(t, "password", must[SecretString](t)(d.Password.Get()).Reveal(), "hush")

	c, _ = mustRead(t, "[DATABASE a]\ndatabase = x, \"y,z\"\n[DATABASE b]\ntype = PostgreSQL\ndatabase = *\nbase = yes\ndump = no\nsocket = /run/postgresql\n", envOf())
	all = must[[]Database](t)(c.Databases())
	if len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" || !all[1].PostgreSQL || all[1].Port != 0 || !all[1].Base || all[1].Dump || all[1].Socket != "/run/postgresql" {
		t.Errorf("%+v", all)
	}
	wantEqual(t, "databases", all[0].Databases, []string{"x", "y,z"})

	// Nothing is asked for.
	for _, text := range []string{"", "[DATABASE]\n", "[DATABASE]\nhost = localhost\nport = 3306\n"} {
		c, _ = mustRead(t, text, envOf())
		if all := must[[]Database](t)(c.Databases()); len(all) != 0 {
			t.Errorf("%q: %+v", text, all)
		}
	}
	for text, want := range map[string]string{
		"[DATABASE]\nuser = ann\n":                                   "[DATABASE] database: is missing",
		"[DATABASE a]\nhost = x\n":                                   "[DATABASE a] database: is missing",
		"[DATABASE]\ndatabase = a\nbase = yes\n":                     "base: is for type = postgresql",
		"[DATABASE]\ndatabase = a\ntype = postgresql\nlogs = yes\n":  "logs: is for type = mysql",
		"[DATABASE]\ndatabase = a\ndump = no\n":                      "nothing is backed up",
		"[DATABASE]\ndatabase = a\ntype = oracle\n":                  "[DATABASE] type",
		"[DATABASE]\ndatabase = a\nport = many\n":                    "[DATABASE] port",
		"[DATABASE]\ndatabase = a\n[DATABASE mysql]\ndatabase = b\n": "has the same name: mysql",
		"[DATABASE]\ndatabase = a\ntls = sometimes\n":                "must be one of",
		"[DATABASE]\ndatabase = a\nsingle_transaction = of course\n": "[DATABASE] single_transaction",
	} {
		c, _, err := read("f.ini", strings.NewReader(text), envOf()) // which looks at what has no variable
		if err == nil {
			_, err = c.Databases()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
