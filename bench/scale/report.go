package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Targets of the project, for a million files.
const (
	maxOfFind   = 5.0
	maxOfRestic = 0.2
	maxPeakMiB  = 200
)

// table renders all points, and what became of the targets.
func table(points []point) string {
	var b strings.Builder
	for _, shape := range []string{treeShape, flatShape, byteShape, textShape} {
		sizes := sizesOf(points, shape)
		if len(sizes) == 0 {
			continue
		}
		fmt.Fprintf(&b, "### %s\n\n| |", title(shape))
		for _, n := range sizes {
			fmt.Fprintf(&b, " %s |", count(n, shape))
		}
		fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(sizes)))
		for _, step := range steps {
			cells, any := "", false
			for _, n := range sizes {
				p, ok := find(points, shape, n, step)
				any = any || ok
				if !ok {
					cells += " – |"
					continue
				}
				cells += fmt.Sprintf(" **%s**, %s, %d MiB |", perUnit(p), seconds(p.WallSeconds), p.PeakBytes>>20)
			}
			if any {
				fmt.Fprintf(&b, "| %s |%s\n", step, cells)
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(verdicts(points))
	return b.String()
}

func title(shape string) string {
	switch shape {
	case treeShape:
		return "Files, 16 in each directory: processor time for a file, wall time, peak memory"
	case flatShape:
		return "Files, all in one directory: processor time for a file, wall time, peak memory"
	}
	return map[string]string{byteShape: "Large files", textShape: "Large files of text"}[shape] + ": processor time for a gigabyte, wall time, peak memory"
}

func sizesOf(points []point, shape string) (sizes []int64) {
	for _, p := range points {
		if p.Shape == shape && !slices.Contains(sizes, p.Size) {
			sizes = append(sizes, p.Size)
		}
	}
	slices.Sort(sizes)
	return sizes
}

func find(points []point, shape string, size int64, step string) (point, bool) {
	for _, p := range points {
		if p.Shape == shape && p.Size == size && p.Step == step {
			return p, true
		}
	}
	return point{}, false
}

// count renders the size of a source.
func count(n int64, shape string) string {
	switch {
	case isLarge(shape):
		return fmt.Sprintf("%d GB", n/gigabyte)
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%d million", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%d thousand", n/1000)
	}
	return fmt.Sprint(n)
}

// unitCost is the processor time for a file, in microseconds, or for a gigabyte, in
// seconds.
func unitCost(p point) float64 {
	if isLarge(p.Shape) {
		return p.CPUSeconds / (float64(p.Size) / gigabyte)
	}
	return p.CPUSeconds / float64(p.Size) * 1e6
}

func perUnit(p point) string {
	if isLarge(p.Shape) {
		return fmt.Sprintf("%.2f s", unitCost(p))
	}
	return fmt.Sprintf("%.1f µs", unitCost(p))
}

func seconds(s float64) string {
	if s < 10 {
		return fmt.Sprintf("%.2f s", s)
	}
	return fmt.Sprintf("%.0f s", s)
}

// verdicts says which targets were met, of the largest sources measured.
func verdicts(points []point) string {
	var b strings.Builder
	line := func(what string, value, limit float64, unit string) {
		verdict := "kept"
		if value > limit {
			verdict = "missed"
		}
		fmt.Fprintf(&b, "* %s: %.3g%s, target %.3g%s: %s\n", what, value, unit, limit, unit, verdict)
	}
	for _, shape := range []string{treeShape, flatShape} {
		sizes := sizesOf(points, shape)
		if len(sizes) == 0 {
			continue
		}
		n := slices.Max(sizes)
		name := fmt.Sprintf("%s of %s files, ", shape, count(n, shape))
		unchanged, ok := find(points, shape, n, stepUnchanged)
		if f, both := find(points, shape, n, stepFind); ok && both {
			line(name+"unchanged run, of the time of find", unchanged.WallSeconds/f.WallSeconds, maxOfFind, " ×")
		}
		if r, both := find(points, shape, n, stepResticUnchanged); ok && both {
			line(name+"unchanged run, of the time of restic", unchanged.WallSeconds/r.WallSeconds, maxOfRestic, " ×")
		}
		for _, step := range []string{stepFirst, stepUnchanged, stepVerify, stepVerifyData, stepRestore} {
			if p, ok := find(points, shape, n, step); ok && p.PeakBytes > 0 {
				line(name+"memory of "+step, float64(p.PeakBytes)/(1<<20), maxPeakMiB, " MiB")
			}
		}
	}
	return b.String()
}

// byCost sorts the steps of a plot by their last value, so that names at the right
// do not cross lines.
func byCost(lines []line) {
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(b.last().y, a.last().y) })
}
