package main

import (
	"fmt"
	"html"
	"strings"
)

// Measures of the chart, in pixels.
const (
	chartWidth  = 960
	chartMargin = 28
	columnGap   = 40
	columnWidth = (chartWidth - 2*chartMargin - columnGap) / 2
	labelWidth  = 112 // left of the bars
	valueWidth  = 128 // right of the longest bar
	barsWidth   = columnWidth - labelWidth - valueWidth
	headHeight  = 62 // title and subtitle
	groupHead   = 24
	barHeight   = 15
	barGap      = 5
	groupGap    = 20
)

// chartStyle names what is drawn once for light and once for dark pages. The
// first tool stands out by its hue; all bars are named, so that nothing is told
// by colour alone.
const chartStyle = `text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#24292f}
.title{font-size:17px;font-weight:600}
.group{font-size:13px;font-weight:600}
.dim{fill:#656d76}
.own{font-weight:600}
.page{fill:#ffffff;stroke:#d0d7de}
.span{stroke:#24292f;stroke-opacity:.55}
.bar0{fill:#d9480f}.bar1{fill:#4a7fb5}.bar2{fill:#6a9f58}.bar3{fill:#9a7bb5}.bar4{fill:#a3abb3}.bar5{fill:#c9a94f}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.dim{fill:#8d96a0}
.page{fill:#0d1117;stroke:#30363d}
.span{stroke:#e6edf3}
.bar0{fill:#f76707}.bar1{fill:#4b86c2}.bar2{fill:#5f9a4e}.bar3{fill:#8f6fb0}.bar4{fill:#6e7681}.bar5{fill:#b3923a}
}
`

// barColours is how many classes chartStyle has.
const barColours = 6

// chart draws the main rows as groups of horizontal bars in two columns, each
// group to its own scale: seconds and mebibytes do not share an axis, and a
// first backup would flatten an unchanged run. A thin line spans the lowest to
// the highest round.
func (r *results) chart() string {
	var groups []row
	total := 0
	for _, w := range r.table() {
		if w.part == charted && len(w.Medians) > 0 {
			groups = append(groups, w)
			total += groupHeight(w)
		}
	}
	var b strings.Builder
	x, y, bottom := chartMargin, headHeight, headHeight
	for _, w := range groups {
		// The column that is shorter by its half of the group goes on.
		if x == chartMargin && y+groupHeight(w)/2 > headHeight+total/2 {
			x, y = chartMargin+columnWidth+columnGap, headHeight
		}
		r.drawGroup(&b, w, x, y)
		y += groupHeight(w)
		bottom = max(bottom, y)
	}
	title := fmt.Sprintf("%d small files (%.0f MB) and %d large ones (%.0f MB)",
		r.Corpus.SmallFiles, float64(r.Corpus.SmallBytes)/1e6, r.Corpus.LargeFiles, float64(r.Corpus.LargeBytes)/1e6)
	subtitle := fmt.Sprintf("Medians of %d interleaved rounds on %d processors; shorter is better. Thin lines: all rounds. ×: of %s. Each group has its own scale.",
		r.Rounds, r.CPUs, r.Tools[0].Label)
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" role=\"img\">\n"+
		"<title>%s</title>\n<style>%s</style>\n"+
		"<rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n"+
		"<text class=\"title\" x=\"%d\" y=\"32\">%[3]s</text>\n<text class=\"dim\" x=\"%[7]d\" y=\"50\">%[8]s</text>\n%[9]s</svg>\n",
		chartWidth, bottom, html.EscapeString(title), chartStyle, chartWidth-1, bottom-1, chartMargin, html.EscapeString(subtitle), b.String())
}

func groupHeight(w row) int { return groupHead + len(w.Medians)*(barHeight+barGap) + groupGap }

func (r *results) drawGroup(b *strings.Builder, w row, x, y int) {
	fmt.Fprintf(b, "<text class=\"group\" x=\"%d\" y=\"%d\">%s</text>\n", x, y+groupHead-8, html.EscapeString(w.title()))
	y += groupHead
	longest := 0.0
	for _, high := range w.High {
		longest = max(longest, high)
	}
	left := x + labelWidth
	scaled := func(value float64) float64 {
		if longest <= 0 {
			return 0
		}
		return max(0, value) / longest * barsWidth
	}
	own := w.Medians[r.Tools[0].Name]
	for i, t := range r.Tools {
		m, ok := w.Medians[t.Name]
		if !ok {
			continue
		}
		base, middle := y+barHeight-3, float64(y)+barHeight/2.0
		label, value := "dim", "other"
		if i == 0 {
			label, value = "own", "own"
		}
		fmt.Fprintf(b, "<text class=\"%s\" x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", label, left-8, base, html.EscapeString(t.Label))
		fmt.Fprintf(b, "<rect class=\"bar%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", i%barColours, left, y, max(1.5, scaled(m)), barHeight)
		low, high := scaled(w.Low[t.Name]), scaled(w.High[t.Name])
		if high-low >= 1 {
			fmt.Fprintf(b, "<line class=\"span\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%[2]g\"/>", float64(left)+low, middle, float64(left)+high)
		}
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\"><tspan class=\"%s\">%s %s</tspan>", float64(left)+max(high, scaled(m))+7, base, value, number(m), w.Unit)
		if i > 0 && own > 0 {
			fmt.Fprintf(b, "<tspan dx=\"7\" class=\"dim\">%s×</tspan>", number(m/own))
		}
		b.WriteString("</text>\n")
		y += barHeight + barGap
	}
}

// title is the row's name without what its unit says.
func (w row) title() string {
	name := strings.TrimPrefix(w.Name, wallPrefix)
	return strings.ToUpper(name[:1]) + name[1:]
}
