package sftp

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/sftp/sftptest"
)

// What DefaultConnections, writeWindow and readWindow were chosen by: packs of
// 16 MiB, eight at a time, and ranges of 1 MiB, over lines of 0 and 50 ms.
func BenchmarkTransfer(b *testing.B) {
	const packs, size = 8, 16 << 20
	server := sftptest.Start(b, sftptest.Config{})
	proxy := sftptest.NewProxy(b, server.Address())
	data := random(size)
	n := 0
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		for _, connections := range []int{1, 2, 3, 4} {
			name := fmt.Sprintf("%s/%d", delay, connections)
			target, options := through(b, server, proxy, server.Dir)
			options.Connections = connections
			proxy.SetDelay(delay / 2)
			s := mustCreate(b, target, options)
			// All connections are there before the clock runs.
			warm := func() {
				for range 2 {
					var wg sync.WaitGroup
					for i := range 2 * connections {
						wg.Go(func() { s.Get(b.Context(), fmt.Sprint("none", i), 0, 1) })
					}
					wg.Wait()
					time.Sleep(8*delay + 200*time.Millisecond)
				}
			}
			warm()
			var names []string
			b.Run("put/"+name, func(b *testing.B) {
				b.SetBytes(packs * size)
				for b.Loop() {
					var wg sync.WaitGroup
					names = nil
					for range packs {
						n++
						name := fmt.Sprint("packs/", n)
						names = append(names, name)
						wg.Go(func() {
							if err := s.Put(b.Context(), name, bytes.NewReader(data), size); err != nil {
								b.Error(err)
							}
						})
					}
					wg.Wait()
				}
			})
			read := func(b *testing.B, name string, off, length int64) {
				r, err := s.Get(b.Context(), name, off, length)
				if err != nil {
					b.Error(err)
					return
				}
				defer r.Close()
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Error(err)
				}
			}
			b.Run("get/"+name, func(b *testing.B) {
				b.SetBytes(packs * size)
				for b.Loop() {
					var wg sync.WaitGroup
					for _, name := range names {
						wg.Go(func() { read(b, name, 0, -1) })
					}
					wg.Wait()
				}
			})
			b.Run("range1MiB/"+name, func(b *testing.B) {
				b.SetBytes(1 << 20)
				for b.Loop() {
					read(b, names[0], 12345, 1<<20)
				}
			})
		}
	}
}
