package tree_test

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

const benchEntries = 10_000

// benchNodes are files as a directory of source code has them: some with an
// extended attribute, each of one chunk.
func benchNodes() []*tree.Node {
	nodes := make([]*tree.Node, benchEntries)
	for i := range nodes {
		n := &tree.Node{
			Name: fmt.Sprintf("module_%06d.go", i), Type: tree.File, Mode: 0o644, UID: 1000, GID: 1000, Links: 1,
			MTime: tree.Time{Sec: 1_700_000_000 + int64(i)*37, Nsec: uint32(i * 91_193 % 1_000_000_000)},
			CTime: tree.Time{Sec: 1_700_000_000 + int64(i)*37, Nsec: uint32(i * 17_777 % 1_000_000_000)},
			Inode: 4_000_000 + uint64(i), Size: int64(100 + i*7919%50_000),
		}
		if i%20 == 0 {
			n.Xattrs = []tree.Xattr{{Name: "user.origin", Value: "https://example.org/"}}
		}
		n.Content = []tree.Chunk{{Hash: sha256.Sum256(fmt.Append(nil, i)), Size: uint32(n.Size)}}
		nodes[i] = n
	}
	return nodes
}

func BenchmarkEncode(b *testing.B) {
	nodes := benchNodes()
	total := 0
	w := tree.PageWriter{Page: func(page []byte) error { total += len(page); return nil }}
	b.ReportAllocs()
	for b.Loop() {
		total = 0
		for _, n := range nodes {
			if err := w.Add(n); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(total))
	b.ReportMetric(float64(total)/benchEntries, "B/entry")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchEntries, "ns/entry")
}

func BenchmarkDecode(b *testing.B) {
	var pages [][]byte
	total := 0
	w := tree.PageWriter{Page: func(page []byte) error {
		pages = append(pages, append([]byte(nil), page...))
		total += len(page)
		return nil
	}}
	for _, n := range benchNodes() {
		if err := w.Add(n); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(total))
	b.ReportAllocs()
	for b.Loop() {
		last, entries := "", 0
		for _, page := range pages {
			var err error
			if last, err = tree.DecodePage(page, last, func(*tree.Node) error { entries++; return nil }); err != nil {
				b.Fatal(err)
			}
		}
		if entries != benchEntries {
			b.Fatalf("decoded %d entries, want %d", entries, benchEntries)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchEntries, "ns/entry")
}

// BenchmarkChunks encodes and decodes the list of chunks of a large file.
func BenchmarkChunks(b *testing.B) {
	chunks := make([]tree.Chunk, benchEntries)
	for i := range chunks {
		chunks[i] = tree.Chunk{Hash: sha256.Sum256(fmt.Append(nil, i)), Size: uint32(1 + i*7919%(2<<20))}
	}
	list := tree.AppendChunks(nil, chunks)
	b.Run("encode", func(b *testing.B) {
		buf := make([]byte, 0, len(list))
		b.SetBytes(int64(len(list)))
		b.ReportAllocs()
		for b.Loop() {
			buf = tree.AppendChunks(buf[:0], chunks)
		}
	})
	b.Run("decode", func(b *testing.B) {
		out := make([]tree.Chunk, 0, len(chunks))
		b.SetBytes(int64(len(list)))
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if out, err = tree.DecodeChunks(out[:0], list); err != nil || len(out) != len(chunks) {
				b.Fatalf("%d chunks, %v", len(out), err)
			}
		}
	})
}
