package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/s3/s3test"
)

// BenchmarkTransfer moves packs and small objects to and from a server on loopback,
// which shares the processors with the client.
func BenchmarkTransfer(b *testing.B) {
	for _, tls := range []bool{false, true} {
		server := s3test.Start(b, s3test.Options{TLS: tls})
		server.MakeBucket(b, "bucket")
		o := server.Options()
		o.MultipartThreshold = 64 << 20
		s := open(b, s3.Location{Bucket: "bucket", Prefix: "p"}, o)
		for _, size := range []int{1 << 10, 32 << 20, 96 << 20} {
			content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
			var n atomic.Int64
			b.Run(fmt.Sprintf("put/tls=%t/%dKiB", tls, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					name := fmt.Sprint("packs/", n.Add(1))
					if err := s.Put(b.Context(), name, bytes.NewReader(content), int64(size)); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if err := s.Delete(b.Context(), name); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
			put(b, s, fmt.Sprint("get/", size), string(content))
			b.Run(fmt.Sprintf("get/tls=%t/%dKiB", tls, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					rc, err := s.Get(b.Context(), fmt.Sprint("get/", size), 0, -1)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, rc); err != nil || n != int64(size) {
						b.Fatal(n, err)
					}
					rc.Close()
				}
			})
		}
	}
}
