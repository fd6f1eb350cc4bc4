package gcs

import (
	"math"
	"strings"
	"testing"
)

func TestByteRange(t *testing.T) {
	tests := []struct {
		off, length int64
		want        string
	}{
		{0, -1, ""}, {0, 1, "bytes=0-0"}, {5, 10, "bytes=5-14"}, {5, -1, "bytes=5-"}, {5, math.MaxInt64, "bytes=5-"},
		{0, math.MaxInt64, "bytes=0-"}, {-5, -1, "bytes=-5"}, {-5, 2, "bytes=-5"}, {math.MinInt64, 3, ""},
	}
	for _, tt := range tests {
		if got := byteRange(tt.off, tt.length); got != tt.want {
			t.Errorf("%d, %d: %q, want %q", tt.off, tt.length, got, tt.want)
		}
	}
}

func FuzzParseRefusal(f *testing.F) {
	f.Add("application/json", []byte(`{"error":{"message":"m","errors":[{"reason":"r"}]}}`))
	f.Add("text/plain", []byte("No such object\n"))
	f.Fuzz(func(t *testing.T, contentType string, data []byte) {
		reason, message := parseRefusal(contentType, data)
		if strings.ContainsAny(reason+message, "\r\n\x1b") || len(message) > 300 {
			t.Errorf("%q, %q", reason, message)
		}
	})
}
