package postgres

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A session is a connection to a database: a psql that reads statements from a pipe.
// It is used by one goroutine.
type session struct {
	server *Server
	psql   *dbdump.Running
	in     *io.PipeWriter
	out    *bufio.Reader
	mark   string // printed behind each answer
	err    error  // set once it has failed: psql has ended
}

// connect opens a session. Objects of the database cannot stand in for the server's own,
// as only pg_catalog is searched, and nothing ends it for being idle.
func (s *Server) connect(ctx context.Context, database string) (*session, error) {
	p, err := s.find(ctx, "psql", 0)
	if err != nil {
		return nil, err
	}
	c, err := s.child(p, database, "-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-")
	if err != nil {
		return nil, err
	}
	c.Env = append(c.Env, "PGCLIENTENCODING=UTF8")
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	c.Stdin, c.Stdout = stdin, passing{stdout}
	t := &session{server: s, in: in, out: bufio.NewReader(out), mark: rand.Text()}
	if t.psql, err = c.Start(ctx); err != nil {
		return nil, err
	}
	_, err = t.ask(`SELECT pg_catalog.set_config('search_path', 'pg_catalog', false);
SELECT set_config(name, '0', false) FROM pg_settings
	WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')`)
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// passing passes on what psql prints, to its end.
type passing struct{ *io.PipeWriter }

func (p passing) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(p.PipeWriter, r)
	p.Close()
	return n, err
}

// ask sends statements, and returns what psql prints.
func (t *session) ask(sql string) ([]byte, error) {
	if t.err != nil {
		return nil, t.err
	}
	// psql may end without reading all of it.
	go fmt.Fprintf(t.in, "%s;\nSELECT '%s';\n", sql, t.mark)
	var answer []byte
	for {
		line, err := t.out.ReadBytes('\n')
		if err != nil {
			break
		}
		if string(bytes.TrimSuffix(line, []byte{'\n'})) == t.mark {
			return answer, nil
		}
		answer = append(answer, line...)
	}
	t.in.Close()
	t.err = t.server.explain(t.psql.Wait())
	if t.err == nil {
		t.err = errors.New("psql: ended too early")
	}
	return nil, t.err
}

// exec sends statements without an answer.
func (t *session) exec(sql string) error {
	_, err := t.ask(sql)
	return err
}

// try sends a statement, one that may be in a transaction block, and returns why the server
// refuses it; "" if it does not. Unlike exec it does not end the session then.
func (t *session) try(sql string) (why string, err error) {
	const note = "'backup_handler.refused'"
	body := "BEGIN PERFORM set_config(" + note + ", '', false); EXECUTE " + literal(sql) +
		"; EXCEPTION WHEN OTHERS THEN PERFORM set_config(" + note + ", SQLERRM, false); END"
	if err := t.exec("DO " + literal(body)); err != nil {
		return "", err
	}
	return t.value("SELECT current_setting(" + note + ")")
}

// rows puts the rows of a query into a slice, by the names of its columns.
func (t *session) rows(query string, into any) error {
	b, err := t.ask("SELECT coalesce(json_agg(row_to_json(answer)), '[]') FROM (" + query + ") AS answer")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("psql: an answer is not as expected: %w", err)
	}
	return nil
}

// value is the only column of the only row of a query, as text.
func (t *session) value(query string) (string, error) {
	b, err := t.ask(query)
	return strings.TrimSuffix(string(b), "\n"), err
}

// close ends the session. It may be called again, and on none.
func (t *session) close() {
	if t == nil || t.err != nil {
		return
	}
	t.err = errors.New("psql: the session was closed")
	t.in.Close()
	io.Copy(io.Discard, t.out)
	t.psql.Wait()
}

// ident quotes the name of an object.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal quotes a string, whatever standard_conforming_strings is.
func literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(q, `\`) {
		q = " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

// A serverInfo is what a server says of itself.
type serverInfo struct {
	Version  int    `json:"version"` // 150018
	Text     string `json:"text"`    // "PostgreSQL 15.18"
	Recovery bool   `json:"recovery"`
	Super    bool   `json:"super"`
}

func (i *serverInfo) major() int { return i.Version / 10000 }

func (t *session) info() (*serverInfo, error) {
	var r []serverInfo
	err := t.rows(`SELECT current_setting('server_version_num')::int AS version, 'PostgreSQL ' || current_setting('server_version') AS text,
		pg_is_in_recovery() AS recovery, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super`, &r)
	if err != nil {
		return nil, err
	}
	if len(r) != 1 {
		return nil, errors.New("psql: the server does not say what it is")
	}
	text, _, _ := strings.Cut(r[0].Text, " (") // "15.18 (Debian …)"
	r[0].Text = text
	if r[0].Version < 120000 {
		return nil, &dbdump.Error{Err: fmt.Errorf("%s is too old", text), Hint: "12 is the oldest version that can be backed up"}
	}
	return &r[0], nil
}
