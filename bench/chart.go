package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// Measures of the chart, in pixels.
const (
	chartWidth  = 880
	labelWidth  = 130
	barHeight   = 16
	barGap      = 3
	groupGap    = 30
	chartMargin = 20
	valueWidth  = 150 // right of the longest bar
)

// colours of the tools in their order; they differ in lightness too, so that
// they can be told apart on paper and by everyone.
var colours = [...]string{"#d9480f", "#1864ab", "#5c940d", "#868e96", "#5f3dc4"}

// chart draws the main rows as horizontal bars, each group to its own scale:
// seconds and mebibytes do not share an axis, and a first backup would flatten
// an unchanged run.
func (r *results) chart() string {
	var b strings.Builder
	y := chartMargin + 24
	for _, w := range r.table() {
		if !w.chart || len(w.Medians) == 0 {
			continue
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" class=\"group\">%s</text>\n", chartMargin, y, html.EscapeString(w.Name+w.note()))
		y += 8
		longest := 0.0
		for _, m := range w.Medians {
			longest = max(longest, m)
		}
		for i, t := range r.Tools {
			m, ok := w.Medians[t.Name]
			if !ok {
				continue
			}
			width := 1.0
			if longest > 0 {
				width = max(1, m/longest*(chartWidth-2*chartMargin-labelWidth-valueWidth))
			}
			x := chartMargin + labelWidth
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", x-8, y+barHeight-4, html.EscapeString(t.Label))
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>", x, y, width, barHeight, colours[i%len(colours)])
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%s %s</text>\n", float64(x)+width+6, y+barHeight-4, number(m), w.Unit)
			y += barHeight + barGap
		}
		y += groupGap
	}
	title := fmt.Sprintf("Medians of %d rounds; shorter is better; each group has its own scale", r.Rounds)
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" role=\"img\">\n"+
		"<title>%s</title>\n"+
		"<style>text{font:12px sans-serif;fill:#212529}.group{font-weight:bold}</style>\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"+
		"<text x=\"%d\" y=\"%d\">%[3]s</text>\n%[6]s</svg>\n", chartWidth, y, html.EscapeString(title), chartMargin, chartMargin, b.String())
}

// note names the target and its verdict beside the group's name.
func (w row) note() string {
	if !slices.Contains([]string{"pass", "miss"}, w.Verdict) {
		return ""
	}
	return " (target " + w.Target + ": " + w.Verdict + ")"
}
