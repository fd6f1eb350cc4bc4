package config

import "strings"

// A Database is one [DATABASE NAME].
type Database struct {
	Name       string // of the section; of [DATABASE] that of its type
	Section    string
	PostgreSQL bool // else MySQL or MariaDB
	Databases  []string

	User          string
	Password      Lazy[SecretString]
	Host          string
	Port          int    // 0: not set
	Socket        string // absolute path; "": not set
	TLS           string // preferred, off, required, verified
	CAFile        string // absolute path; "": not set
	Programs      string // absolute path; "": not set
	RunAs         string
	ExtraArgs     []string
	ExcludeTables []string
	Parallel      int // 0: not set
	Tags          []string

	Dump, Base, Logs           bool
	Grants                     bool
	Routines, Triggers, Events bool
	SingleTransaction          bool
	BinlogPosition             bool
}

// Databases returns the sections [DATABASE] and [DATABASE NAME] that name a database.
func (c *Config) Databases() ([]Database, error) {
	var r reader
	var all []Database
	for _, section := range c.SectionsOf("DATABASE") {
		v := func(name string) Value { return c.Value(section, name) }
		_, name, named := strings.Cut(section, " ")
		d := Database{
			Name: name, Section: section,
			PostgreSQL:        get(&r, v("type"), Value.Text) == "postgresql",
			Databases:         get(&r, v("database"), Value.List),
			User:              get(&r, v("user"), Value.Text),
			Password:          Lazy[SecretString]{v("password"), Value.Secret},
			Host:              get(&r, v("host"), Value.Text),
			Socket:            get(&r, v("socket"), Value.Path),
			TLS:               get(&r, v("tls"), Value.Text),
			CAFile:            get(&r, v("ca_file"), Value.Path),
			Programs:          get(&r, v("programs"), Value.Path),
			RunAs:             get(&r, v("run_as"), Value.Text),
			ExtraArgs:         get(&r, v("extra_args"), Value.List),
			ExcludeTables:     get(&r, v("exclude_tables"), Value.List),
			Parallel:          int(get(&r, v("parallel"), Value.Int)),
			Tags:              get(&r, v("tags"), Value.List),
			Dump:              get(&r, v("dump"), Value.Bool),
			Base:              get(&r, v("base"), Value.Bool),
			Logs:              get(&r, v("logs"), Value.Bool),
			Grants:            get(&r, v("grants"), Value.Bool),
			Routines:          get(&r, v("routines"), Value.Bool),
			Triggers:          get(&r, v("triggers"), Value.Bool),
			Events:            get(&r, v("events"), Value.Bool),
			SingleTransaction: get(&r, v("single_transaction"), Value.Bool),
			BinlogPosition:    get(&r, v("binlog_position"), Value.Bool),
		}
		if v("port").IsSet() {
			d.Port = int(get(&r, v("port"), Value.Int))
		}
		if !named {
			d.Name = "mysql"
			if d.PostgreSQL {
				d.Name = "postgresql"
			}
		}
		switch {
		case r.err != nil:
			return nil, r.err
		case len(d.Databases) == 0 && (named || d.User != ""):
			r.err = v("database").errorf("is missing: which database? * means all")
		case len(d.Databases) == 0:
			continue
		case !d.PostgreSQL && d.Base:
			r.err = v("base").errorf("is for type = postgresql")
		case d.PostgreSQL && d.Logs:
			r.err = v("logs").errorf("is for type = mysql: PostgreSQL archives its log itself, by archive_command = 'backup-handler db wal-push …'")
		case !d.Dump && !d.Base && !d.Logs:
			r.err = v("dump").errorf("nothing is backed up of this server")
		}
		for _, o := range all {
			if o.Name == d.Name && r.err == nil {
				r.err = v("database").errorf("[%s] has the same name: %s", o.Section, d.Name)
			}
		}
		all = append(all, d)
	}
	return all, r.err
}
