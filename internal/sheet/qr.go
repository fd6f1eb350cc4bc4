package sheet

import (
	"fmt"
	"strings"

	qr "github.com/piglig/go-qr"
)

// quiet is the margin that readers want around a code, in modules (ISO/IEC 18004).
const quiet = 4

// A code is a QR code, with its margin.
type code struct{ *qr.QrCode }

// newCode encodes a text. A quarter of the code may be dirt: paper lies around for years.
func newCode(text string) (code, error) {
	c, err := qr.EncodeText(text, qr.Quartile)
	if err != nil {
		return code{}, fmt.Errorf("make QR code: %w", err)
	}
	return code{c}, nil
}

func (c code) size() int { return c.Size() + 2*quiet }

func (c code) dark(x, y int) bool {
	x, y = x-quiet, y-quiet
	return x >= 0 && y >= 0 && x < c.Size() && y < c.Size() && c.Module(x, y)
}

// text draws the code in block characters, two modules each: ink is dark.
func (c code) text() string {
	blocks := [...]string{" ", "▀", "▄", "█"}
	var b strings.Builder
	for y := 0; y < c.size(); y += 2 {
		var line strings.Builder
		for x := range c.size() {
			i := 0
			if c.dark(x, y) {
				i |= 1
			}
			if c.dark(x, y+1) {
				i |= 2
			}
			line.WriteString(blocks[i])
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// svg draws it as one path of rows.
func (c code) svg() string {
	var path strings.Builder
	for y := range c.size() {
		for x := 0; x < c.size(); x++ {
			start := x
			for c.dark(x, y) {
				x++
			}
			if n := x - start; n > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", start, y, n, n)
			}
		}
	}
	n := c.size()
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" shape-rendering="crispEdges" role="img">`+
		`<rect width="%d" height="%d" fill="#fff"/><path d="%s" fill="#000"/></svg>`, n, n, 6*n, 6*n, n, n, path.String())
}
