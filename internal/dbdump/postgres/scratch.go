package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A scratch is a server that exists for a check alone: in a directory of its own, with no
// connection but a socket in it.
type scratch struct {
	Server
	dir      string // everything is below
	uid, gid int    // -1: ours
	running  *dbdump.Running
	ended    chan struct{}
	err      error // valid when ended is closed
}

// scratchPort is part of the name of the socket; nothing listens to it.
const scratchPort = 5432

// startTime bounds how long an empty server may take until it answers.
const startTime = 2 * time.Minute

// newScratch makes the directory, in parent, or in the system's for temporary files if
// that is "". As root, the server runs as the account, or as "postgres".
func newScratch(parent, account, bin string) (*scratch, error) {
	if account == "" && root() {
		account = "postgres"
	}
	s := &scratch{}
	var err error
	if s.uid, s.gid, err = ids(account); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp(parent, "bh-scratch-"); err != nil {
		return nil, err
	}
	if s.uid >= 0 {
		if err := os.Chown(s.dir, s.uid, s.gid); err != nil {
			os.RemoveAll(s.dir)
			return nil, err
		}
		if err := dbdump.CheckEnter(s.dir, uint32(s.uid), uint32(s.gid)); err != nil {
			os.RemoveAll(s.dir)
			return nil, err
		}
	}
	s.Server = Server{Host: s.dir, Port: scratchPort, User: "postgres", Account: account, Bin: bin}
	return s, nil
}

func (s *scratch) data() string { return filepath.Join(s.dir, "data") }

// initdb makes an empty cluster of a version.
func (s *scratch) initdb(ctx context.Context, major int) error {
	p, err := s.find(ctx, "initdb", major)
	if err != nil {
		return err
	}
	return s.run(ctx, p, "", nil, nil, "-D", s.data(), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
}

// start starts the server, and waits until it answers. Its configuration is ours: that of
// a base backup may name what this machine does not have.
func (s *scratch) start(ctx context.Context, major int, limit time.Duration, more ...[2]string) error {
	p, err := s.find(ctx, "postgres", major)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"conf": "", "hba": "local all all trust\n", "ident": ""} {
		if err := s.write(name, text); err != nil {
			return err
		}
	}
	args := []string{"-D", s.data()}
	// Arguments count more than what the cluster's own postgresql.auto.conf says.
	for _, v := range append([][2]string{
		{"config_file", filepath.Join(s.dir, "conf")}, {"hba_file", filepath.Join(s.dir, "hba")}, {"ident_file", filepath.Join(s.dir, "ident")},
		{"listen_addresses", ""}, {"port", fmt.Sprint(scratchPort)}, {"unix_socket_directories", s.dir}, {"unix_socket_permissions", "0700"},
		{"fsync", "off"}, {"full_page_writes", "off"}, {"synchronous_commit", "off"}, {"synchronous_standby_names", ""}, {"autovacuum", "off"},
		{"wal_level", "minimal"}, {"max_wal_senders", "0"}, {"archive_mode", "off"}, {"ssl", "off"}, {"shared_preload_libraries", ""},
		{"restart_after_crash", "off"}, {"logging_collector", "off"}, {"log_destination", "stderr"}, {"max_prepared_transactions", "64"},
	}, more...) {
		args = append(args, "-c", v[0]+"="+v[1])
	}
	c, err := s.child(p, "", args...)
	if err != nil {
		return err
	}
	// It is ended in good order, not with the context.
	if s.running, err = c.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func() {
		s.err = s.running.Wait()
		close(s.ended)
	}()
	return s.wait(ctx, limit)
}

func (s *scratch) write(name, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if s.uid >= 0 {
		return os.Chown(path, s.uid, s.gid)
	}
	return nil
}

// wait waits until the server answers.
func (s *scratch) wait(ctx context.Context, limit time.Duration) error {
	work, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the scratch server has not answered within %s", limit))
	defer cancel()
	for {
		t, err := s.connect(work, "template1")
		if err == nil {
			t.close()
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the scratch server has ended: %w", cmp.Or(explainServer(s.err), errors.New("without an error")))
		case <-work.Done():
			return context.Cause(work)
		case <-time.After(100 * time.Millisecond):
		}
		if says, _ := errors.AsType[*dbdump.ChildError](err); says != nil && strings.Contains(says.Stderr, "does not exist") {
			return explain(err) // it answers, but not to us
		}
	}
}

// scratchFull is what to do about a scratch server without room.
const scratchFull = "there is no room for the scratch server: choose a larger directory (--scratch, [DRILL] dir, $TMPDIR)"

// crashTime bounds how long a server that has crashed may take to end.
const crashTime = 10 * time.Second

// why says of an error of a program that had to do with the server what became of that: it
// has no log that anybody could look into.
func (s *scratch) why(err error) error {
	switch {
	case err == nil || s.running == nil:
		return err
	case dbdump.Hint(err) == fullHint:
		return &dbdump.Error{Err: err, Hint: scratchFull}
	case dbdump.Hint(err) != goneHint:
		return err
	}
	select {
	case <-s.ended:
	case <-time.After(crashTime):
		return err
	}
	cause := &dbdump.Error{Err: fmt.Errorf("%w: the scratch server has ended: %w", err, cmp.Or(explainServer(s.err), errors.New("without an error")))}
	if strings.Contains(cause.Error(), "No space left on device") {
		cause.Hint = scratchFull
	}
	return cause
}

// explainServer makes one line of a server's log.
func explainServer(err error) error {
	failed, ok := errors.AsType[*dbdump.ChildError](err)
	if !ok {
		return err
	}
	for line := range strings.Lines(failed.Stderr) {
		for _, level := range []string{"FATAL:", "PANIC:"} {
			// What it has told us while it started.
			if _, says, ok := strings.Cut(line, level); ok && !strings.Contains(says, "the database system is") {
				return errors.New(strings.TrimSpace(says))
			}
		}
	}
	return errors.New(failed.Last)
}

// stop ends the server.
func (s *scratch) stop() {
	if s.running != nil {
		interrupt(s.running)
		<-s.ended
		s.running = nil
	}
}

// remove ends the server and removes everything.
func (s *scratch) remove() error {
	s.stop()
	return os.RemoveAll(s.dir)
}
