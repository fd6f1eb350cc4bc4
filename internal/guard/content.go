package guard

import (
	"path"
	"strings"
)

const (
	// SampleBytes is how much of a file is looked at, at its beginning and in its
	// middle.
	SampleBytes = 4 << 10
	// leastBytes is how much it takes to tell.
	leastBytes = 512
)

// Noise says whether bytes are as good as random: encrypted, or compressed well. Of
// less than 512 nothing can be said, and it is false.
//
// It is Pearson's test of uniformity over the 256 values. Random bytes give 255 on
// average, with a standard deviation of √510 = 22.6; what lies within 6.4 of these is
// noise: less than one sample of random bytes in a billion is missed. Text gives
// thousands; a table of ascending bytes, which is too uniform, nearly 0.
func Noise(b []byte) bool {
	if len(b) < leastBytes {
		return false
	}
	if chi := chiSquare(b[:leastBytes]); chi > 600 { // nearly everything that is no noise, at an eighth of the cost
		return false
	}
	chi := chiSquare(b[:min(len(b), SampleBytes)])
	return chi > 110 && chi < 400
}

// chiSquare is how much more often some values occur than others.
func chiSquare(b []byte) float64 {
	n := len(b)
	var count [4][256]uint16 // neighbours are often equal: one table would wait for itself
	for len(b) >= 4 {
		count[0][b[0]]++
		count[1][b[1]]++
		count[2][b[2]]++
		count[3][b[3]]++
		b = b[4:]
	}
	for _, c := range b {
		count[0][c]++
	}
	squares := 0
	for i := range 256 {
		c := int(count[0][i]) + int(count[1][i]) + int(count[2][i]) + int(count[3][i])
		squares += c * c
	}
	return 256*float64(squares)/float64(n) - float64(n)
}

// headers are how files begin that are noise by their nature. Formats of encryption
// (OpenPGP, "Salted__" of OpenSSL, LUKS) are left out on purpose.
var headers = []string{
	"PK\x03\x04", "PK\x05\x06", "PK\x07\x08", // zip, docx, xlsx, odt, jar, epub, apk
	"\xff\xd8\xff", "\x89PNG", "GIF8", "RIFF", "II*\x00", "MM\x00*", "II+\x00", "8BPS", "\x00\x00\x00\x0cjP", "\xff\x0a", "qoif",
	"%PDF", "%!PS", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "{\\rtf",
	"\x1f\x8b", "\x1f\x9d", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "\x04\x22\x4d\x18", "7z\xbc\xaf\x27\x1c", "Rar!\x1a\x07", "LZIP", "\x5d\x00\x00", "MSCF",
	"x\x01", "x\x5e", "x\x9c", "x\xda", // zlib: objects of git
	"ID3", "OggS", "fLaC", "\x1aE\xdf\xa3", "\x00\x00\x01\xba", "\x00\x00\x01\xb3", "\x30\x26\xb2\x75", "FLV\x01", "MThd", "FORM",
	"PACK", "\xfftOc", "DIRC", "\x7fELF", "MZ", "\xca\xfe\xba\xbe", "\xcf\xfa\xed\xfe", "\x00asm", "!<arch>\n", "\xed\xab\xee\xdb", "hsqs", "070701",
	"SQLite format 3\x00", "wOFF", "wOF2", "OTTO", "\x00\x01\x00\x00", "glTF", "PAR1", "\x89HDF", "CD001", "KDMV", "QFI\xfb", "conectix",
}

// Header says whether a file begins as one of a known format does.
func Header(b []byte) bool {
	head := string(b[:min(len(b), 32)])
	for _, h := range headers {
		if strings.HasPrefix(head, h) {
			return true
		}
	}
	switch {
	case len(head) >= 12 && head[4:8] == "ftyp": // mp4, mov, heic, avif
		return true
	case len(head) >= 8 && (head[4:8] == "moov" || head[4:8] == "mdat" || head[4:8] == "wide" || head[4:8] == "free"): // QuickTime
		return true
	case len(head) >= 2 && head[0] == 0xff && head[1]&0xe0 == 0xe0: // a frame of MPEG audio, AAC
		return true
	}
	return false
}

// promising are extensions whose formats begin with one of the headers.
var promising = func() map[string]bool {
	m := make(map[string]bool)
	for _, e := range strings.Fields(`zip jar war apk docx docm xlsx xlsm pptx odt ods odp odg epub
		jpg jpeg png gif webp tif tiff psd heic avif cr2 nef dng arw
		pdf doc xls ppt msg
		gz tgz bz2 xz zst 7z rar lz4 cab
		flac ogg opus avi wav mp4 m4a m4v mov mkv webm wmv
		sqlite exe dll so woff woff2 parquet h5`) {
		m["."+e] = true
	}
	return m
}()

// Promises says whether files of that name begin with a header.
func Promises(name string) bool { return promising[strings.ToLower(path.Ext(name))] }
