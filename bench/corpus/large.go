package corpus

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// Names of the large files that change, relative to the corpus.
const (
	dumpFile  = LargeDir + "/orders.sql"  // gets bytes inserted at its head
	imageFile = LargeDir + "/machine.img" // gets pages overwritten
)

const pageBytes = 4096

// A largeFile is written as a sequence of records from fill, which appends one
// record, until size is reached.
type largeFile struct {
	name  string // slash separated, relative to the corpus
	index uint64
	size  int64
	fill  func(w *textWriter, record int64)
}

// largeFiles are four incompressible ones with half of the bytes, then a log,
// a table, a database dump and a disk image that share the other half.
func (s Spec) largeFiles() []largeFile {
	share := func(per100 int64) int64 {
		return max(int64(float64(largeBytes)*s.Scale)*per100/100, 16*pageBytes) / pageBytes * pageBytes
	}
	files := []largeFile{
		{name: LargeDir + "/video-1.bin", size: share(20), fill: noise},
		{name: LargeDir + "/video-2.bin", size: share(15), fill: noise},
		{name: LargeDir + "/photos.bin", size: share(10), fill: noise},
		{name: LargeDir + "/music.bin", size: share(5), fill: noise},
		{name: LargeDir + "/access.log", size: share(15), fill: logLine},
		{name: LargeDir + "/readings.csv", size: share(8), fill: csvLine},
		{name: dumpFile, size: share(12), fill: sqlRow},
		{name: imageFile, size: share(15), fill: imageExtent},
	}
	for i := range files {
		files[i].index = uint64(i)
	}
	return files
}

func (s Spec) writeLarge(ctx context.Context, root string, m *model, l largeFile) error {
	path := filepath.Join(root, filepath.FromSlash(l.name))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	if err := s.fillLarge(ctx, out, m, l); err != nil {
		return fmt.Errorf("write %s: %w", l.name, err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	when := s.modTime(streamLarge + l.index)
	if err := os.Chtimes(path, when, when); err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	return nil
}

func (s Spec) fillLarge(ctx context.Context, out io.Writer, m *model, l largeFile) error {
	w := &textWriter{m: m, r: s.rng(streamLarge + l.index)}
	if l.index < 4 { // ChaCha8 gives noise several times faster than PCG
		w.r = rand.New(rand.NewChaCha8(chachaSeed(s.Seed, l.index)))
	}
	w.v = m.voice(s, &planDir{path: "large", index: 1<<20 + l.index})
	for left, record := l.size, int64(0); left > 0; record++ {
		if record&0xfff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		w.buf = w.buf[:0]
		l.fill(w, record)
		n := min(left, int64(len(w.buf)))
		if _, err := out.Write(w.buf[:n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

func chachaSeed(seed, index uint64) (out [32]byte) {
	binary.LittleEndian.PutUint64(out[:], seed)
	binary.LittleEndian.PutUint64(out[8:], index)
	return out
}

// noise is one page that no compressor can shorten, as of media files.
func noise(w *textWriter, _ int64) {
	for range pageBytes / 8 {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.r.Uint64())
	}
}

func logLine(w *textWriter, record int64) {
	r := w.r
	micros := record*9_137 + r.Int64N(9_000)
	w.buf = append(w.buf, `{"ts":"2025-05-`...)
	w.two(1 + micros/86_400_000_000%28)
	w.buf = append(w.buf, 'T')
	w.two(micros / 3_600_000_000 % 24)
	w.buf = append(w.buf, ':')
	w.two(micros / 60_000_000 % 60)
	w.buf = append(w.buf, ':')
	w.two(micros / 1_000_000 % 60)
	w.buf = append(w.buf, '.')
	w.buf = strconv.AppendInt(w.buf, 1_000_000+micros%1_000_000, 10)
	w.buf = append(w.buf, `Z","level":"`...)
	w.buf = append(w.buf, [...]string{"info", "info", "info", "info", "debug", "debug", "warn", "error"}[r.IntN(8)]...)
	w.buf = append(w.buf, `","service":"`...)
	w.buf = append(w.buf, w.oneOf(w.v.locals)...)
	w.buf = append(w.buf, `","request":"`...)
	w.hex(10)
	w.buf = append(w.buf, `","client":"10.`...)
	w.number(4)
	w.buf = append(w.buf, '.')
	w.number(256)
	w.buf = append(w.buf, '.')
	w.number(256)
	w.buf = append(w.buf, `","path":"/api/v2/`...)
	w.buf = append(w.buf, w.oneOf(w.v.fields)...)
	w.buf = append(w.buf, '/')
	w.number(100_000)
	w.buf = append(w.buf, `","status":`...)
	w.buf = append(w.buf, [...]string{"200", "200", "200", "200", "200", "204", "304", "404"}[r.IntN(8)]...)
	w.buf = append(w.buf, `,"ms":`...)
	w.number(2_000)
	w.buf = append(w.buf, `,"bytes":`...)
	w.number(60_000)
	w.buf = append(w.buf, `,"message":"`...)
	w.words(2 + r.IntN(3))
	w.buf = append(w.buf, "\"}\n"...)
}

func csvLine(w *textWriter, record int64) {
	r := w.r
	w.buf = strconv.AppendInt(w.buf, 1_700_000_000+record*5, 10)
	w.buf = append(w.buf, ",sensor-"...)
	w.number(40)
	w.buf = append(w.buf, ',')
	w.buf = append(w.buf, w.oneOf(w.v.types)...)
	w.buf = append(w.buf, ",ok,"...)
	w.buf = strconv.AppendFloat(w.buf, 20+float64(r.IntN(100))/10, 'f', 2, 64)
	w.buf = append(w.buf, ',')
	w.buf = strconv.AppendFloat(w.buf, 1013+float64(r.IntN(200))/10, 'f', 2, 64)
	w.buf = append(w.buf, ',')
	w.number(1_000)
	w.buf = append(w.buf, ",0.00,0.00,"...)
	w.buf = append(w.buf, w.oneOf(w.v.locals)...)
	w.buf = append(w.buf, '\n')
}

func sqlRow(w *textWriter, record int64) {
	r := w.r
	if record%200 == 0 {
		w.buf = append(w.buf, "INSERT INTO `orders` (`id`,`customer`,`mail`,`created`,`status`,`total`,`note`) VALUES\n"...)
	}
	w.buf = append(w.buf, '(')
	w.buf = strconv.AppendInt(w.buf, 100_000+record, 10)
	w.buf = append(w.buf, ",'"...)
	given, family := w.oneOf(w.v.types), w.oneOf(w.m.api)
	w.buf = append(append(append(w.buf, given...), ' '), family...)
	w.buf = append(w.buf, "','"...)
	w.buf = append(append(append(w.buf, given...), '.'), family...)
	w.hex(4)
	w.buf = append(w.buf, "@example.org','2024-"...)
	w.two(1 + record/20_000%12)
	w.buf = append(w.buf, '-')
	w.two(1 + record/700%28)
	w.buf = append(w.buf, ' ')
	w.two(r.Int64N(24))
	w.buf = append(w.buf, ':')
	w.two(r.Int64N(60))
	w.buf = append(w.buf, ":00','"...)
	w.buf = append(w.buf, [...]string{"paid", "paid", "shipped", "cancelled"}[r.IntN(4)]...)
	w.buf = append(w.buf, "',"...)
	w.number(50_000)
	w.buf = append(w.buf, ".90,'"...)
	w.words(3 + r.IntN(5))
	if record%200 == 199 {
		w.buf = append(w.buf, "');\n"...)
	} else {
		w.buf = append(w.buf, "'),\n"...)
	}
}

// imageExtent is a run of pages of one kind, as files lie on a disk: never
// written, media, text, or programs (short motifs from a small set, with
// operands). Zeroes are written out, so the image is not sparse.
func imageExtent(w *textWriter, _ int64) {
	r := w.r
	size := (4 + r.IntN(28)) * pageBytes
	switch x := r.IntN(100); {
	case x < 20:
		w.buf = append(w.buf, make([]byte, size)...)
	case x < 27:
		for len(w.buf) < size {
			noise(w, 0)
		}
	case x < 65:
		w.write(randomLanguage(r), size)
	default:
		var motifs [256][12]byte
		for i := range motifs {
			for j := range motifs[i] {
				motifs[i][j] = byte(r.Uint32() >> (24 + r.IntN(6)))
			}
		}
		for len(w.buf) < size {
			motif := motifs[r.IntN(len(motifs))]
			w.buf = append(w.buf, motif[:4+r.IntN(9)]...)
			if r.IntN(4) == 0 {
				w.buf = append(w.buf, byte(r.Uint32()))
			}
		}
		w.buf = w.buf[:size]
	}
}

func (w *textWriter) two(n int64) { w.buf = append(w.buf, byte('0'+n/10%10), byte('0'+n%10)) }

func (w *textWriter) number(below int) { w.buf = strconv.AppendInt(w.buf, int64(w.r.IntN(below)), 10) }

func (w *textWriter) hex(bytes int) {
	const digits = "0123456789abcdef"
	for range 2 * bytes {
		w.buf = append(w.buf, digits[w.r.IntN(16)])
	}
}
