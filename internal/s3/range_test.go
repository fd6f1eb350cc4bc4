package s3

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestByteRange(t *testing.T) {
	tests := []struct {
		off, length int64
		want        string
	}{
		{0, -1, ""},
		{0, math.MinInt64, ""},
		{0, 1, "bytes=0-0"},
		{0, 100, "bytes=0-99"},
		{0, math.MaxInt64, "bytes=0-9223372036854775806"},
		{1, math.MaxInt64, "bytes=1-"},
		{2, math.MaxInt64, "bytes=2-"},
		{7, -1, "bytes=7-"},
		{math.MaxInt64, 1, "bytes=9223372036854775807-"},
		{-1, -1, "bytes=-1"},
		{-52, 10, "bytes=-52"},
		{math.MinInt64 + 1, -1, "bytes=-9223372036854775807"},
		{math.MinInt64, -1, ""},
	}
	for _, tt := range tests {
		if got := byteRange(tt.off, tt.length); got != tt.want {
			t.Errorf("off %d, length %d: %q, want %q", tt.off, tt.length, got, tt.want)
		}
	}
}

func TestAnswered(t *testing.T) {
	tests := []struct {
		contentRange string
		size, off    int64
		skip         int64
		ok           bool
	}{
		{"bytes 5-9/10", 5, 5, 0, true},
		{"bytes 5-9/10", 5, -5, 0, true},
		{"bytes 0-9/10", 10, -50, 0, true},
		{"Bytes 0-9/10", 10, 0, 0, true},
		{"bytes 0-4/10", 5, -5, 0, false}, // s3rver's idea of a suffix
		{"bytes 6-9/10", 4, 5, 0, false},
		{"", 10, 5, 5, true}, // all of it
		{"", 10, 10, 10, true},
		{"", 10, 11, 10, true},
		{"", 10, -3, 7, true},
		{"", 10, -30, 0, true},
		{"", -1, 5, 0, false},
		{"bytes */10", 0, 5, 0, false},
		{"octets 5-9/10", 5, 5, 0, false},
		{"bytes 5-9/*", 5, 5, 0, false},
		{"bytes 5-9", 5, 5, 0, false},
	}
	for _, tt := range tests {
		skip, err := answered(tt.contentRange, tt.size, tt.off)
		if skip != tt.skip || (err == nil) != tt.ok {
			t.Errorf("%q, %d bytes, from %d: %d, %v", tt.contentRange, tt.size, tt.off, skip, err)
		}
	}
}

// FuzzAnswered: whatever a server says, what is delivered begins where it should, or
// is an error.
func FuzzAnswered(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(5))
	f.Add("", int64(10), int64(-3))
	f.Add("bytes -5--9/-10", int64(5), int64(-5))
	f.Fuzz(func(t *testing.T, contentRange string, size, off int64) {
		if off == math.MinInt64 {
			return // byteRange asks for all then
		}
		skip, err := answered(contentRange, size, off)
		if err != nil {
			return
		}
		if skip < 0 || contentRange == "" && skip > size || contentRange != "" && skip != 0 {
			t.Errorf("skip %d of %d", skip, size)
		}
		if off >= 0 && contentRange != "" && !strings.Contains(contentRange, fmt.Sprint(off)) {
			t.Errorf("%q accepted for %d", contentRange, off)
		}
	})
}

// FuzzParseURL: a location that is accepted is written as it was read.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"s3://bucket", "s3://bucket/a/b", "S3://bucket/a/", "s3://user:secret@bucket/x", "s3:///", "s3://b", "s3://bucket/../x", "s3://bucket/%2e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, location string) {
		l, err := ParseURL(location)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		again, err := ParseURL(l.String())
		if err != nil || again != l {
			t.Errorf("%q: %+v, then %+v, %v", location, l, again, err)
		}
		for element := range strings.SplitSeq(l.key("packs/3f"), "/") {
			if element == "" || element == "." || element == ".." {
				t.Errorf("%q: key %q", location, l.key("packs/3f"))
			}
		}
	})
}

// TestOneLine: what servers say is short, and does nothing to a terminal.
func TestOneLine(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"Access Denied.", "Access Denied"},
		{"a\r\n\tb  c\x1b[2J\x07d", "a b c [2J d"},
		{"x\u2028y\u0085z", "x y z"},
		{strings.Repeat("ä", 150), strings.Repeat("ä", 100) + "…"},
		{"a" + strings.Repeat("ä", 150), "a" + strings.Repeat("ä", 99) + "…"},
	}
	for _, tt := range tests {
		if got := oneLine(tt.in); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

// TestChecksum: all bytes, and no others, count.
func TestChecksum(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), checksumBytes/4)
	content := bytes.NewReader(data)
	for _, size := range []int64{0, 1, checksumBytes - 1, checksumBytes, checksumBytes + 1, int64(len(data)) - 3} {
		d := dialect{sha256: true}
		got, err := d.checksum(t.Context(), content, 3, size)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := d.checksum(t.Context(), bytes.NewReader(data[3:3+size]), 0, size)
		if err != nil || !bytes.Equal(got.sha256, whole.sha256) || got.md5Base64 != "" {
			t.Errorf("%d bytes: %v, %v, %v", size, got, whole, err)
		}
		d.sha256 = false
		if got, err = d.checksum(t.Context(), content, 3, size); err != nil || len(got.md5Base64) != 24 {
			t.Errorf("%d bytes: %v, %v", size, got, err)
		}
	}
	if _, err := (dialect{}).checksum(t.Context(), content, 3, int64(len(data))); err == nil {
		t.Error("content that ends early has a checksum")
	}
}
