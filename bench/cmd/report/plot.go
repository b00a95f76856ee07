package main

import (
	"bytes"
	"math"
	"os"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/seed-2e639f12/tether/bench/workload"
)

// dots are the points of one workload: the median and the quartiles of each candidate.
type dots struct {
	plotter.XYs
	plotter.XErrors
}

// familyPlot has a line for each candidate and a color for each workload. The axis shows
// multiples of the baseline, or the metric itself if differences are compared. Its scale is
// logarithmic: twice and half are equally far from one.
func familyPlot(results []result) (p *plot.Plot, rows int, err error) {
	names := []string{}
	for _, c := range candidatesOf(results) {
		names = append(names, c.Name)
	}
	slices.Reverse(names) // the first at the top
	plot.DefaultFont.Variant = "Sans"
	p = plot.New()
	p.Title.Text = results[0].family.ID + ". " + results[0].family.Title
	p.X.Label.Text = axis(results[0])
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(decades)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -.6, float64(len(names))-.4
	p.Legend.Top = true
	p.Legend.XOffs = vg.Points(5)
	p.Add(plotter.NewGrid())
	for i, r := range results {
		lane := .6 * (float64(len(results)-1)/2 - float64(i)) / float64(len(results))
		if err := addDots(p, r, names, lane, i); err != nil {
			return nil, 0, err
		}
	}
	if results[0].workload.Compare == workload.Ratio {
		one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: p.Y.Min}, {X: 1, Y: p.Y.Max}})
		if err != nil {
			return nil, 0, err
		}
		one.Dashes = plotutil.Dashes(1)
		p.Add(one)
	}
	p.X.Min, p.X.Max = p.X.Min/1.2, p.X.Max*4 // room for the legend on the right
	return p, len(names), nil
}

func axis(r result) string {
	if r.workload.Compare == workload.Difference {
		return r.workload.Metric
	}
	return "multiple of " + r.workload.Baseline + " (" + r.workload.Metric + "), less is better"
}

func addDots(p *plot.Plot, r result, names []string, lane float64, i int) error {
	d := r.dots(names, lane)
	if len(d.XYs) == 0 {
		return nil
	}
	points, err := plotter.NewScatter(d)
	if err != nil {
		return err
	}
	points.Color, points.Shape, points.Radius = plotutil.Color(i), plotutil.Shape(i), vg.Points(2.5)
	bars, err := plotter.NewXErrorBars(d)
	if err != nil {
		return err
	}
	bars.Color, bars.CapWidth = plotutil.Color(i), vg.Points(4)
	p.Add(bars, points)
	p.Legend.Add(r.workload.Name, points)
	return nil
}

// dots omits values that a logarithmic scale cannot show.
func (r result) dots(names []string, lane float64) (d dots) {
	for row, name := range names {
		s := r.against(name, r.workload.Baseline)
		if r.workload.Compare == workload.Difference {
			s = r.metric(name, r.workload.Metric)
		}
		if math.IsNaN(s.Median) || s.Q1 <= 0 {
			continue
		}
		d.XYs = append(d.XYs, plotter.XY{X: s.Median, Y: float64(row) + lane})
		d.XErrors = append(d.XErrors, struct{ Low, High float64 }{s.Median - s.Q1, s.Q3 - s.Median})
	}
	return d
}

// decades returns ticks at 1, 2 and 5 of each decade.
func decades(low, high float64) (ticks []plot.Tick) {
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, k := range []float64{1, 2, 5} {
			if v := k * math.Pow(10, e); v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
			}
		}
	}
	return ticks
}

// savePlot names fallbacks for the plot's font, so that readers without it see a sans serif.
func savePlot(results []result, path string) error {
	p, rows, err := familyPlot(results)
	if err != nil {
		return err
	}
	svg, err := p.WriterTo(20*vg.Centimeter, vg.Centimeter*vg.Length(3.5+.75*float64(rows)), "svg")
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if _, err := svg.WriteTo(&text); err != nil {
		return err
	}
	const font = "font-family:Liberation Sans"
	return os.WriteFile(path, bytes.ReplaceAll(text.Bytes(), []byte(font), []byte(font+",Arial,sans-serif")), 0o644)
}
