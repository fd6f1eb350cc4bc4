package mysql

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"
)

// logEvent makes an event with a checksum.
func logEvent(kind byte, at uint32, body []byte) []byte {
	b := make([]byte, eventHeaderBytes, eventHeaderBytes+len(body)+4)
	binary.LittleEndian.PutUint32(b, at)
	b[4] = kind
	binary.LittleEndian.PutUint32(b[9:], uint32(eventHeaderBytes+len(body)+4))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func formatEvent() []byte {
	body := make([]byte, 57+40+1)
	copy(body[2:], "8.0.40")
	body[len(body)-1] = 1 // CRC-32
	return logEvent(eventFormat, 1000, body)
}

func queryEvent(at uint32, database, text string) []byte {
	body := make([]byte, 13)
	body[8] = byte(len(database))
	return logEvent(eventQuery, at, append(append(append(body, database...), 0), text...))
}

// Groups of MySQL, whose GTIDs do not say how the group ends.
func TestGroups(t *testing.T) {
	var log []byte
	add := func(e []byte) int64 { log = append(log, e...); return int64(len(log)) }
	add([]byte(logMagic))
	start := add(formatEvent())
	add(logEvent(eventAnonymousGTID, 2000, make([]byte, 25)))
	add(queryEvent(2000, "shop", "BEGIN"))
	add(logEvent(eventRowsQuery, 2000, append([]byte{5}, "DELETE FROM orders"...)))
	first := add(logEvent(eventXID, 2003, make([]byte, 8)))
	add(logEvent(eventGTID, 2010, make([]byte, 25)))
	second := add(queryEvent(2010, "shop", "DROP TABLE orders"))
	add(queryEvent(2020, "shop", "BEGIN")) // without a GTID
	add(queryEvent(2020, "shop", "INSERT INTO t VALUES (1)"))
	third := add(queryEvent(2021, "shop", "COMMIT"))
	add(logEvent(eventAnonymousGTID, 2030, make([]byte, 25))) // cut off
	add(queryEvent(2030, "shop", "BEGIN"))
	read := func(from int64) (all []group) {
		l, err := newLogReader(bytes.NewReader(log), "log")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.groups(from, func(g *group) (bool, error) { all = append(all, *g); return true, nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := read(4)
	if len(all) != 4 || all[0].start != start || all[0].end != first || all[1].end != second || all[2].end != third || all[3].whole || !all[2].whole {
		t.Fatalf("%+v", all)
	}
	if all[0].time != time.Unix(2003, 0).UTC() || len(all[0].queries) != 0 || all[0].statements[0] != "DELETE FROM orders" {
		t.Errorf("%+v", all[0])
	}
	if all[1].queries[0] != (query{"shop", "DROP TABLE orders"}) || all[2].queries[0].text != "INSERT INTO t VALUES (1)" {
		t.Errorf("%+v", all[1:3])
	}
	if got := read(second); len(got) != 2 {
		t.Errorf("from the second: %+v", got)
	}
	l, err := newLogReader(bytes.NewReader(log), "log")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.groups(first-1, func(*group) (bool, error) { return true, nil }); err == nil {
		t.Error("an offset within an event was taken")
	}
}

func FuzzLog(f *testing.F) {
	f.Add(append(append([]byte(logMagic), formatEvent()...), queryEvent(1, "shop", "BEGIN")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := newLogReader(bytes.NewReader(in), "log")
		if err == nil {
			l.groups(4, func(g *group) (bool, error) { return g.start < g.end || g.whole, nil })
		}
		for err == nil {
			_, err = l.next()
		}
	})
}
