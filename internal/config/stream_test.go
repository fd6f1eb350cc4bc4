package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestStreams(t *testing.T) {
	for text, want := range map[string][]Stream{
		"":           nil,
		"[STREAM]\n": nil,
		"[STREAM b]\ncommand = echo b\n[STREAM a-1]\ncommand = slapcat | cat\nfile = ldap/all.ldif\nlimit = 5m\ntags = x, y\nallow_empty = yes\n": {
			{Name: "b", Command: "echo b", File: "b"},
			{Name: "a-1", Command: "slapcat | cat", File: "ldap/all.ldif", Limit: 5 * time.Minute, Tags: []string{"x", "y"}, AllowEmpty: true},
		},
	} {
		c, _ := mustRead(t, text, envOf())
		got, err := c.Streams()
		if err != nil || len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, word := range map[string]string{
		"[STREAM]\ncommand = echo\n":                  "name",
		"[STREAM x]\nfile = y\n":                      "command",
		"[STREAM x]\ncommand = echo\nfile = /y\n":     "file",
		"[STREAM x]\ncommand = echo\nfile = a/../b\n": "file",
		"[STREAM x]\ncommand = echo\nfile = .\n":      "file",
		"[STREAM x]\ncommand = echo\nlimit = soon\n":  "limit",
	} {
		c, _, err := read("f.ini", strings.NewReader(text+"[BACKUPS]\nbackup_dirs = /b\n"), envOf())
		if err != nil { // what can be seen at once
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if _, err := c.Streams(); err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "STREAM") {
			t.Errorf("%q: %v", text, err)
		}
		errs := c.Check()
		if len(errs) != 1 && !(len(errs) == 2 && strings.Contains(errs[1].Error(), "nothing to back up")) {
			t.Errorf("%q: %v", text, errs)
		}
	}
	c, _ := mustRead(t, "[STREAM x]\ncommand = echo\n[BACKUPS]\nbackup_dirs = /b\n", envOf())
	if errs := c.Check(); len(errs) > 0 {
		t.Errorf("nothing but a stream: %v", errs)
	}
}
