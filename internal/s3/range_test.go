package s3

import (
	"bytes"
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

// TestChecksum: all bytes, and no others, count.
func TestChecksum(t *testing.T) {
	const readBytes = 256 << 10 // httpstore's
	data := bytes.Repeat([]byte("0123456789"), readBytes/4)
	content := bytes.NewReader(data)
	for _, size := range []int64{0, 1, readBytes - 1, readBytes, readBytes + 1, int64(len(data)) - 3} {
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
