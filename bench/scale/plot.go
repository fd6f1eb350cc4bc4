package main

import (
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
	"strings"
)

// Measures of a plot, in pixels.
const (
	plotWidth  = 880
	plotHeight = 420
	plotLeft   = 60
	plotRight  = 210 // for the names of lines
	plotTop    = 50
	plotBottom = 50
	lineSpace  = 15
)

// colours of the steps; they differ in lightness, too.
var colours = map[string]string{
	stepFind: "#868e96", stepFirst: "#d9480f", stepUnchanged: "#1864ab",
	stepVerify: "#5c940d", stepVerifyData: "#0b7285", stepRestore: "#5f3dc4",
}

// A line is one step of one shape.
type line struct {
	name, step string
	dashed     bool
	points     []struct{ x, y float64 }
}

func (l *line) last() struct{ x, y float64 } { return l.points[len(l.points)-1] }

// plotFiles draws the cost of a file against their number.
func plotFiles(points []point) string {
	lines := append(linesOf(points, treeShape, ""), linesOf(points, flatShape, ", flat")...)
	return plot("Processor time for a file (microseconds) by the number of files: dashed, all in one directory", treeShape, lines)
}

// plotBytes draws the cost of a gigabyte against their number.
func plotBytes(points []point) string {
	lines := append(linesOf(points, byteShape, ""), linesOf(points, textShape, ", text")...)
	return plot("Processor time for a gigabyte (seconds) by the size of the source: dashed, of text", byteShape, lines)
}

// linesOf are the steps of a shape; with a suffix to their names dashed.
func linesOf(points []point, shape, suffix string) (lines []line) {
	for _, step := range steps {
		l := line{name: step + suffix, step: step, dashed: suffix != ""}
		for _, n := range sizesOf(points, shape) {
			if p, ok := find(points, shape, n, step); ok && colours[step] != "" {
				l.points = append(l.points, struct{ x, y float64 }{float64(n), unitCost(p)})
			}
		}
		if len(l.points) > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}

// plot draws lines over a logarithmic axis: a constant cost is a level line.
func plot(caption, shape string, lines []line) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" role=\"img\">\n<title>%s</title>\n"+
		"<style>text{font:12px sans-serif;fill:#212529}.axis{stroke:#adb5bd;stroke-width:1}</style>\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"%d\" y=\"25\">%[3]s</text>\n", plotWidth, plotHeight, html.EscapeString(caption), plotLeft)
	low, high, top := math.Inf(1), 0.0, 0.0
	ticks := map[float64]bool{}
	for _, l := range lines {
		for _, p := range l.points {
			low, high, top = min(low, p.x), max(high, p.x), max(top, p.y)
			ticks[p.x] = true
		}
	}
	if top == 0 {
		return b.String() + "</svg>\n"
	}
	if low == high {
		low, high = low/2, high*2
	}
	step := math.Pow(10, math.Floor(math.Log10(top)))
	for top/step < 4 {
		step /= 2
	}
	top = math.Ceil(top/step) * step
	const width, height = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	atX := func(x float64) float64 { return plotLeft + math.Log(x/low)/math.Log(high/low)*width }
	atY := func(y float64) float64 { return plotTop + (1-y/top)*height }
	for i := 0; float64(i)*step <= top*1.001; i++ {
		v := float64(i) * step
		fmt.Fprintf(&b, "<path class=\"axis\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", plotLeft, atY(v), plotWidth-plotRight, plotLeft-8, atY(v)+4, v)
	}
	for _, x := range slices.Sorted(maps.Keys(ticks)) {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", atX(x), plotHeight-plotBottom+20, count(int64(x), shape))
	}
	byCost(lines)
	below := 0.0
	for _, l := range lines {
		dash := ""
		if l.dashed {
			dash = " stroke-dasharray=\"6 4\""
		}
		fmt.Fprintf(&b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"", colours[l.step], dash)
		for _, p := range l.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", atX(p.x), atY(p.y))
		}
		b.WriteString("\"/>\n")
		y := max(atY(l.last().y)+4, below+lineSpace) // names do not cover each other
		below = y
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\" style=\"fill:%s\">%s</text>\n", plotWidth-plotRight+8, y, colours[l.step], html.EscapeString(l.name))
	}
	return b.String() + "</svg>\n"
}
