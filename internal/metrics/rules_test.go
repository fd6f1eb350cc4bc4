package metrics

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	rules     = filepath.Join("contrib", "prometheus", "backup-handler.rules.yml")
	dashboard = filepath.Join("contrib", "grafana", "backup-handler.json")
)

// The alerts that we ship say what they should, and are silent while all is well.
func TestRules(t *testing.T) {
	check(t, "", "check", "rules", filepath.Join(root(), rules))
	check(t, "", "test", "rules", filepath.Join("testdata", "rules.yml"))
	text := read(t, rules)
	tests, err := os.ReadFile(filepath.Join("testdata", "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(text, -1)
	if len(names) < 10 {
		t.Fatalf("rules %q", names)
	}
	for _, n := range names {
		if !regexp.MustCompile(`alertname: ` + n[1] + `\n\s+exp_alerts:\n`).Match(tests) {
			t.Errorf("no test sees %s", n[1])
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What we ship uses the metrics that there are, and each of them has a place to be seen.
func TestShippedNames(t *testing.T) {
	for _, name := range []string{rules, dashboard} {
		found := regexp.MustCompile(`backup_handler_[a-z_]+`).FindAllString(read(t, name), -1)
		if len(found) < 5 {
			t.Errorf("%s uses %q", name, found)
		}
		for _, n := range found {
			if !slices.Contains(Names(), n) {
				t.Errorf("%s uses %s, which there is not", name, n)
			}
		}
	}
	_, manual, _ := strings.Cut(read(t, filepath.Join("docs", "monitoring.md")), "### Metrics\n")
	manual, _, _ = strings.Cut(manual, "\n### ")
	var told []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(manual, -1) {
		told = append(told, prefix+row[1])
	}
	if !slices.Equal(told, Names()) {
		t.Errorf("docs/monitoring.md tells of\n%q, there are\n%q", told, Names())
	}
}

// The dashboard is JSON, its panels are within the grid and do not overlap, and its
// expressions are those of PromQL.
func TestDashboard(t *testing.T) {
	var d struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	taken := make(map[[2]int]string)
	exprs := []string{"groups:", "- name: dashboard", "  rules:"}
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if o := taken[[2]int{x, y}]; o != "" {
					t.Fatalf("%s is on top of %s", p.Title, o)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, q := range p.Targets {
			expr, err := json.Marshal(q.Expr) // a string of YAML, too
			if err != nil {
				t.Fatal(err)
			}
			exprs = append(exprs, "  - {record: 'x:"+strings.ToLower(q.RefID)+strings.Repeat("x", len(exprs))+"', expr: "+string(expr)+"}")
		}
	}
	if len(d.Panels) < 10 {
		t.Errorf("%d panels", len(d.Panels))
	}
	name := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(name, []byte(strings.Join(exprs, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, "", "check", "rules", name)
}
