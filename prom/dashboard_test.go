package tetherprom_test

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	tetherprom "github.com/seed-2e639f12/tether/prom"
)

var (
	sample   = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`)
	label    = regexp.MustCompile(`(\w+)="([^"]*)"`)
	selector = regexp.MustCompile(`\b(tether_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*=~?\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`by \(([^)]*)\)`)
	listing  = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	legend   = regexp.MustCompile(`\{\{(\w+)\}\}`)
	variable = regexp.MustCompile(`\$(\w+)`)
)

type dashboard struct {
	Inputs     []struct{ Name, Type, PluginID string } `json:"__inputs"`
	Templating struct {
		List []struct {
			Name, Definition string
			Query            struct{ Query string }
		}
	}
	Panels []struct {
		ID          int
		Title       string
		Datasource  struct{ UID string }
		GridPos     struct{ X, Y, W, H int }
		FieldConfig struct {
			Defaults struct {
				Unit   string
				Max    *float64
				Custom struct {
					DrawStyle string
					Stacking  struct{ Mode string }
				}
			}
		}
		Targets []struct{ Expr, LegendFormat string }
	}
}

// TestDashboard finds each metric, label and state that the dashboard names in a scrape.
func TestDashboard(t *testing.T) {
	scraped := make(map[string]map[string][]string) // name, label: values
	synctest.Test(t, func(t *testing.T) {
		m := tetherprom.New(tetherprom.Config{Shares: 1})
		everything(t, m)
		reg := prometheus.NewRegistry()
		reg.MustRegister(m)
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		for _, s := range sample.FindAllStringSubmatch(w.Body.String(), -1) {
			if scraped[s[1]] == nil { // every target has these
				scraped[s[1]] = map[string][]string{"job": nil, "instance": nil}
			}
			for _, l := range label.FindAllStringSubmatch(s[2], -1) {
				scraped[s[1]][l[1]] = append(scraped[s[1]][l[1]], l[2])
			}
		}
	})
	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	require.Len(t, d.Inputs, 1)
	assert.Equal(t, "datasource", d.Inputs[0].Type)

	variables := []string{"__rate_interval"}
	used := make(map[string]bool)
	shown := make(map[string]bool) // states of tether_tasks_ended_total that a panel asks for
	// check returns the labels that the expression's metrics have.
	check := func(t *testing.T, expr string) (labels []string) {
		selectors := selector.FindAllStringSubmatch(expr, -1)
		require.NotEmpty(t, selectors)
		for _, s := range selectors {
			require.Contains(t, scraped, s[1])
			used[s[1]] = true
			for l := range scraped[s[1]] {
				labels = append(labels, l)
			}
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				require.Contains(t, scraped[s[1]], m[1], s[1])
				for _, v := range strings.Split(m[2], "|") {
					if m[1] == "state" {
						assert.Contains(t, scraped[s[1]]["state"], v, s[1])
						shown[v] = shown[v] || s[1] == "tether_tasks_ended_total"
					}
				}
			}
		}
		for _, v := range variable.FindAllStringSubmatch(expr, -1) {
			assert.Contains(t, variables, v[1])
		}
		return labels
	}
	for _, v := range d.Templating.List {
		t.Run("variable "+v.Name, func(t *testing.T) {
			assert.Equal(t, v.Definition, v.Query.Query)
			list := listing.FindStringSubmatch(v.Definition)
			require.NotNil(t, list)
			assert.Contains(t, check(t, list[1]), list[2])
			variables = append(variables, v.Name)
		})
	}
	for i, p := range d.Panels {
		t.Run(p.Title, func(t *testing.T) {
			assert.Equal(t, "${"+d.Inputs[0].Name+"}", p.Datasource.UID)
			for _, q := range d.Panels[:i] {
				assert.NotEqual(t, q.ID, p.ID)
				assert.False(t, p.GridPos.X < q.GridPos.X+q.GridPos.W && q.GridPos.X < p.GridPos.X+p.GridPos.W &&
					p.GridPos.Y < q.GridPos.Y+q.GridPos.H && q.GridPos.Y < p.GridPos.Y+p.GridPos.H, "covers %q", q.Title)
			}
			look := p.FieldConfig.Defaults
			if look.Unit == "percentunit" {
				assert.Nil(t, look.Max, "it may be more than 100 %")
			}
			require.NotEmpty(t, p.Targets)
			for _, target := range p.Targets {
				labels := check(t, target.Expr)
				if strings.Contains(target.Expr, "increase(") {
					// The windows overlap: bars and stacks would look like a sum.
					assert.Equal(t, "line", look.Custom.DrawStyle)
					assert.Empty(t, look.Custom.Stacking.Mode)
				}
				var outer []string // by which the result is grouped
				for i, g := range grouping.FindAllStringSubmatch(target.Expr, -1) {
					by := strings.Split(g[1], ", ")
					for _, l := range by {
						assert.Contains(t, labels, l, target.Expr)
					}
					if i == 0 {
						outer = by
					}
				}
				for _, l := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
					assert.Contains(t, outer, l[1], target.Expr)
				}
			}
		})
	}
	for _, state := range []string{"failed", "panicked", "canceled", "dropped"} {
		assert.True(t, shown[state], "%s is in no panel of failures", state)
	}
	for name := range scraped {
		family := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		assert.True(t, slices.ContainsFunc([]string{"", "_bucket", "_count"}, func(suffix string) bool { return used[family+suffix] }), "%s is not shown", family)
	}
}
