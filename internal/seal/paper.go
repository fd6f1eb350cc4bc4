package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A key file on paper is its 32 bytes in four lines that people type, and in one word
// that machines read (a QR code, a keyring):
//
//	line n  base32(key[8n-8:8n] checksum[2]): 16 characters in groups of four
//	word    "BHKEY1-" and the four lines without spaces, joined by hyphens: 74 characters
//
// Base32 is Crockford's: digits and capitals without I, L, O and U, so that O is read
// as 0, I and L as 1. The checksum is the first 2 bytes of SHA-256("BHKEY1", n as a
// byte, key[8n-8:8n]): a line that is mistyped, or in another's place, is found and
// named, but for 1 of 65,536.
const (
	paperPrefix = "BHKEY1"
	// PaperLines is how many lines a key has on paper.
	PaperLines = 4

	paperLineBytes = KeySize / PaperLines
	paperSumBytes  = 2
	paperLineChars = (paperLineBytes + paperSumBytes) * 8 / 5
)

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var (
	paperEncoding = base32.NewEncoding(crockford).WithPadding(base32.NoPadding)
	// paperReading is what people make of the letters that are not used.
	paperReading = strings.NewReplacer("O", "0", "I", "1", "L", "1", " ", "", "\t", "", "-", "", "\r", "")
	// paperLine is a line of a recovery sheet, with its number.
	paperLine = lazyregexp.New(`(?m)^[ \t]*([1-9])[ \t]*[:.)][ \t]*([0-9A-Za-z][0-9A-Za-z \t-]*?)[ \t\r]*$`)
)

// ErrNoPaperKey says that a text holds nothing like a key on paper.
var ErrNoPaperKey = errors.New("it holds no key of a recovery sheet")

// A PaperError says which line of a key on paper is wrong. It does not quote it.
type PaperError struct {
	Line    int // from 1
	Problem string
}

func (e *PaperError) Error() string {
	return fmt.Sprintf("line %d of the key is wrong: %s", e.Line, e.Problem)
}

// GenerateKeyFile makes a key file of 32 random bytes.
func GenerateKeyFile() *KeyFile {
	raw := new([KeySize]byte)
	rand.Read(raw[:])
	return &KeyFile{raw: raw}
}

// Bytes returns a key file's content, which is secret.
func (k *KeyFile) Bytes() []byte { return bytes.Clone(k.raw[:]) }

// Lines returns the key as people type it, which is secret.
func (k *KeyFile) Lines() [PaperLines]string {
	var lines [PaperLines]string
	for i := range lines {
		part := k.raw[i*paperLineBytes:][:paperLineBytes]
		text := paperEncoding.EncodeToString(append(bytes.Clone(part), paperSum(i+1, part)...))
		lines[i] = text[:4] + " " + text[4:8] + " " + text[8:12] + " " + text[12:]
	}
	return lines
}

// Text returns the key as one word, which is secret.
func (k *KeyFile) Text() string {
	lines := k.Lines()
	return strings.ReplaceAll(paperPrefix+"-"+strings.Join(lines[:], "-"), " ", "")
}

func paperSum(line int, part []byte) []byte {
	sum := sha256.Sum256(append(append([]byte(paperPrefix), byte(line)), part...))
	return sum[:paperSumBytes]
}

// ParsePaperLine checks line n, from 1, of a key on paper, and returns its part of the
// key. Case, spaces and hyphens do not matter. The error is a *[PaperError].
func ParsePaperLine(n int, text string) ([]byte, error) {
	wrong := func(format string, args ...any) ([]byte, error) {
		return nil, &PaperError{n, fmt.Sprintf(format, args...)}
	}
	text = paperReading.Replace(strings.ToUpper(text))
	if at := strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune(crockford, r) }); at >= 0 {
		return wrong("character %d does not occur in keys", len([]rune(text[:at]))+1)
	}
	if len(text) != paperLineChars {
		return wrong("it has %d characters, must have %d", len(text), paperLineChars)
	}
	b, err := paperEncoding.DecodeString(text)
	if err != nil {
		return wrong("a character does not belong")
	}
	part := b[:paperLineBytes]
	if !bytes.Equal(paperSum(n, part), b[paperLineBytes:]) {
		for other := 1; other <= PaperLines; other++ {
			if bytes.Equal(paperSum(other, part), b[paperLineBytes:]) {
				return wrong("this is line %d", other)
			}
		}
		return wrong("a character is mistyped")
	}
	return part, nil
}

// ParsePaperKey finds the key on paper in a text: the word; the four lines, numbered
// or not; or a whole sheet, of which only the numbered lines count. The error is
// [ErrNoPaperKey], or a *[PaperError].
func ParsePaperKey(text []byte) (*KeyFile, error) {
	lines := paperLinesOf(string(text))
	if lines == nil {
		return nil, ErrNoPaperKey
	}
	var raw [KeySize]byte
	for i, line := range lines {
		part, err := ParsePaperLine(i+1, line)
		if err != nil {
			return nil, err
		}
		copy(raw[i*paperLineBytes:], part)
	}
	return &KeyFile{raw: &raw}, nil
}

// paperLinesOf finds the lines in a text; a line that is missing is empty. nil: there
// are none.
func paperLinesOf(text string) []string {
	for word := range strings.FieldsSeq(text) {
		if body, ok := strings.CutPrefix(strings.ToUpper(word), paperPrefix+"-"); ok {
			return strings.SplitN(body+strings.Repeat("-", PaperLines), "-", PaperLines+1)[:PaperLines]
		}
	}
	lines := make([]string, PaperLines)
	found := false
	for _, m := range paperLine().FindAllStringSubmatch(text, -1) {
		if n := int(m[1][0] - '0'); n <= PaperLines && lines[n-1] == "" && looksLikePaper(m[2]) {
			lines[n-1], found = m[2], true
		}
	}
	if found {
		return lines
	}
	var plain []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			plain = append(plain, line)
		}
	}
	if len(plain) == PaperLines && looksLikePaper(plain[0]) {
		return plain
	}
	return nil
}

// looksLikePaper tells a line of a key, be it mistyped, from a line of prose.
func looksLikePaper(line string) bool {
	n := len(paperReading.Replace(strings.ToUpper(line)))
	return n >= paperLineChars-3 && n <= paperLineChars+3 && !strings.ContainsAny(line, "abcdefghijklmnopqrstuvwxyz") ||
		n == paperLineChars
}
