package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"
)

// The shape of the sources.
const (
	// filesPerDir and dirsPerProject make a tree of three levels. (A Linux kernel
	// has some 15 files a directory.)
	filesPerDir    = 16
	dirsPerProject = 64

	// Files of a few hundred bytes: what they cost is the cost of a file, and a
	// million of them fit a disk. (Most file systems give each a block of 4 KiB.)
	minFileBytes = 100
	maxFileBytes = 600

	// Files of the sources that measure the cost of a byte.
	largeFileBytes = 256 << 20
	// pieceBytes is how much of a large file is compressible, then not, in turn.
	pieceBytes = 64 << 10
)

// words make text that compresses like text.
var words = [...]string{
	"the", "of", "and", "to", "in", "for", "is", "on", "that", "with", "as", "are", "from", "at", "this", "by", "an", "be",
	"report", "server", "value", "number", "month", "system", "result", "record", "change", "group", "place", "water",
	"measure", "letter", "station", "request", "version", "channel", "limit", "signal", "window", "summer",
}

// appendText appends size bytes of text, the same for the same seed, and hardly
// ever the same for two.
func appendText(b []byte, seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	end := len(b) + size
	b = append(b, '#')
	b = strconv.AppendUint(b, seed, 36)
	for len(b) < end {
		b = append(b, " \n"[r.IntN(9)/8])
		b = append(b, words[r.IntN(len(words))]...)
	}
	return append(b[:end-1], '\n')
}

// fileSize is the size of the small file with a number.
func fileSize(i int) int {
	return minFileBytes + rand.New(rand.NewPCG(uint64(i), 2)).IntN(maxFileBytes-minFileBytes+1)
}

// writeTree writes n small files to root: 16 to a directory, or all into one. The
// files of a flat directory are created in another order than that of their names,
// as files are that come one by one.
func writeTree(ctx context.Context, root string, n int, flat bool) error {
	const part = filesPerDir * dirsPerProject
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("write the source: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for first := 0; first < n; first += part {
		g.Go(func() error {
			var buf []byte
			dir := root
			for i := first; i < min(first+part, n); i++ {
				if err := ctx.Err(); err != nil {
					return err
				}
				if !flat && i%filesPerDir == 0 {
					dir = filepath.Join(root, fmt.Sprintf("project-%04d", i/part), fmt.Sprintf("part-%02d", i%part/filesPerDir))
					if err := os.MkdirAll(dir, 0o755); err != nil {
						return fmt.Errorf("write the source: %w", err)
					}
				}
				number := i
				if flat {
					number = int(uint64(i) * scatter % uint64(n))
				}
				buf = appendText(buf[:0], uint64(number), fileSize(number))
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("reading_%08d.txt", number)), buf, 0o644); err != nil {
					return fmt.Errorf("write the source: %w", err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// scatter is a prime: multiplied by it, modulo anything that it does not divide,
// numbers come in another order, each once.
const scatter = 2_654_435_761

// writeLarge writes total bytes to root, in files of 256 MiB, of text that compresses, or
// in turn 64 KiB of noise and 64 KiB of text; none of them twice.
func writeLarge(ctx context.Context, root string, total int64, noise bool) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("write the source: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := 0; int64(i)*largeFileBytes < total; i++ {
		size := min(largeFileBytes, total-int64(i)*largeFileBytes)
		g.Go(func() (err error) {
			f, err := os.Create(filepath.Join(root, fmt.Sprintf("large-%04d.bin", i)))
			if err != nil {
				return fmt.Errorf("write the source: %w", err)
			}
			defer func() {
				if e := f.Close(); err == nil && e != nil {
					err = fmt.Errorf("write the source: %w", e)
				}
			}()
			w := bufio.NewWriterSize(f, 1<<20)
			if err := writeLargeFile(ctx, w, uint64(i), size, noise); err != nil {
				return fmt.Errorf("write the source: %w", err)
			}
			return w.Flush()
		})
	}
	return g.Wait()
}

func writeLargeFile(ctx context.Context, w io.Writer, seed uint64, size int64, half bool) error {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	noise := rand.NewChaCha8(key)
	buf := make([]byte, 0, pieceBytes)
	for piece := uint64(0); size > 0; piece++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if buf = buf[:pieceBytes]; half && piece%2 == 0 {
			noise.Read(buf)
		} else {
			buf = appendText(buf[:0], seed<<32|piece, pieceBytes)
		}
		n, err := w.Write(buf[:min(size, pieceBytes)])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
