package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// segment is the name of a file of a log.
func segment(n int) string { return fmt.Sprintf("%08X%08X%08X", 1, 0, n) }

// TestForgetLogs: what a push supersedes is forgotten, and no file of the log that a base
// backup may need is ever in no snapshot, also where one of them did not take over those
// before it.
func TestForgetLogs(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	run := func(s Stream) {
		t.Helper()
		now = now.Add(time.Minute)
		o := b.options("a", "b")
		o.Sources, o.Streams, o.Now = nil, []Stream{s}, func() time.Time { return now }
		res, err := Backup(t.Context(), a, o)
		if err != nil || res.Failed() {
			t.Fatal(err, res.Streams[0].Err)
		}
	}
	push := func(n int) {
		t.Helper()
		run(pileLog("main", segment(n), func(line string) { t.Error(line) }, func(ctx context.Context, to *logWriter) error {
			return to.Put(ctx, segment(n), 1, strings.NewReader(fmt.Sprint("content of ", n)))
		}))
	}
	check := func(snapshots int, want ...int) {
		t.Helper()
		var names []string
		for _, n := range want {
			names = append(names, segment(n))
		}
		for _, dest := range []string{"a", "b"} {
			d := b.loaded(a, dest)
			logs := slices.DeleteFunc(slices.Clone(d.Snapshots), func(s *tree.Snapshot) bool { return s.Kind != tree.KindPostgreSQLLog })
			l, err := OpenLog(t.Context(), d, tree.KindPostgreSQLLog, "h", "main")
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Names(t.Context())
			if err != nil || !slices.Equal(got, names) || len(logs) != snapshots {
				t.Errorf("%s: %d snapshots with %v, want %d with %v: %v", dest, len(logs), got, snapshots, names, err)
			}
		}
	}
	for n := range 4 {
		push(n)
	}
	check(2, 0, 1, 2, 3)

	// One that begins anew, as the one before could not be read: nothing is superseded.
	fresh := Stream{Name: "anew", Kind: tree.KindPostgreSQLLog, Source: DatabaseSource(tree.KindPostgreSQLLog, "main"), Piles: true,
		Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) error { return put(to, segment(4), "content of 4") }}
	run(fresh)
	for n := 5; n < 8; n++ {
		push(n)
	}
	if l, err := OpenLog(t.Context(), b.loaded(a, "a"), tree.KindPostgreSQLLog, "h", "main"); err != nil {
		t.Fatal(err)
	} else if got, err := l.Names(t.Context()); err != nil || len(got) != 8 {
		t.Fatalf("files of the log are gone: %v %v", got, err)
	}

	// What no base backup needs any more goes, a day after.
	base := Stream{Name: "base", Kind: tree.KindPostgreSQLBase, Source: DatabaseSource(tree.KindPostgreSQLBase, "main"),
		Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) error { return put(to, "base.json", "{}") }}
	now = now.Add(logMargin / 2)
	run(base)
	push(8)
	if l, err := OpenLog(t.Context(), b.loaded(a, "a"), tree.KindPostgreSQLLog, "h", "main"); err != nil {
		t.Fatal(err)
	} else if got, err := l.Names(t.Context()); err != nil || len(got) != 9 {
		t.Fatalf("left out too early: %v %v", got, err)
	}
	now = now.Add(2 * logMargin)
	for _, dest := range []string{"a", "b"} {
		d := b.loaded(a, dest)
		for _, s := range d.Snapshots {
			if s.Kind == tree.KindPostgreSQLBase {
				if err := d.Repo.Forget(t.Context(), s.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	run(base)
	for n := 9; n < 12; n++ {
		push(n)
	}
	check(2, 9, 10, 11)
}

// TestForgetBinaryLogs: a log that grew supersedes itself, another one does not.
func TestForgetBinaryLogs(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	run := func(files map[string]string) {
		t.Helper()
		o := b.options("a")
		o.Sources = nil
		o.Streams = []Stream{{Name: "logs", Kind: tree.KindMySQLLog, Source: DatabaseSource(tree.KindMySQLLog, "shop"), Piles: true,
			Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) (err error) {
				for name, text := range files {
					err = errors.Join(err, put(to, name, text))
				}
				return err
			}}}
		if res, err := Backup(t.Context(), a, o); err != nil || res.Failed() {
			t.Fatal(err, res)
		}
	}
	const one, two = "20260301T000000Z-binlog.000001", "20260301T010000Z-binlog.000002"
	count := func(want int) {
		t.Helper()
		if n := len(b.loaded(a, "a").Snapshots); n != want {
			t.Errorf("%d snapshots, want %d", n, want)
		}
	}
	run(map[string]string{"logs.json": "1", one: "aaa"})
	run(map[string]string{"logs.json": "2", one: "aaaa"})
	run(map[string]string{"logs.json": "3", one: "aaaa", two: "b"})
	count(2)
	run(map[string]string{"logs.json": "4", two: "bb"}) // without the first log
	run(map[string]string{"logs.json": "5", two: "bbb"})
	run(map[string]string{"logs.json": "6", two: "bbbb"})
	count(4) // the two with it, and the newest two
}
