package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"
)

// The test binary is also the program of the children.
func TestMain(m *testing.M) {
	childMain()
	os.Exit(m.Run())
}

// verdicts returns the verdicts of the children that match, by probe/candidate.
func verdicts(t *testing.T, only string) map[string]verdict {
	t.Helper()
	rows := candidates()
	all, err := parent{effort: patient, only: regexp.MustCompile(only)}.run(rows)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]verdict)
	for c, row := range rows {
		for _, p := range probes {
			if v, ok := all[job{p, c, 0}.key()]; ok {
				found[p.Name+"/"+row.Name] = v
			}
		}
	}
	return found
}

func TestTether(t *testing.T) {
	found := verdicts(t, `/\*\*tether\*\* .*/$`)
	if len(found) != 2*len(probes) {
		t.Errorf("%d verdicts, want %d", len(found), 2*len(probes))
	}
	for cell, v := range found {
		if v.Bad || v.Text == lacking.Text {
			t.Errorf("%s: %s %v", cell, v.Text, v.Notes)
		}
	}
}

// The probes see what is known of the peers. TestProbes covers hangs and races.
func TestPeers(t *testing.T) {
	found := verdicts(t, `^(panic/(go statement|gammazero)|names/ants|deadline/bytedance).*/$`)
	for cell, want := range map[string]string{
		"panic/go statement":         "yes",
		"panic/gammazero/workerpool": "yes",
		"names/ants":                 "no",
		"names/ants MultiPool":       "no",
		"deadline/bytedance gopool":  lacking.Text,
	} {
		if v, ok := found[cell]; !ok || v.Text != want || v.Bad != (want != lacking.Text) {
			t.Errorf("%s: %q, want %q", cell, v.Text, want)
		}
	}
}

// Each probe finds what it looks for in a library that is broken for it, and finds nothing
// in a sound one.
func TestProbes(t *testing.T) {
	// A short patience is enough for what hangs forever.
	brief := effort{Runs: 20, Repeats: 2, Patience: time.Second}
	long := effort{Runs: 20, Repeats: 2, Patience: time.Minute}
	sound := func() setting {
		return setting{WaitName: "Wait", DrainName: "Stop", New: func(int, func(any)) *system { return newLibrary() }}
	}
	broken := func(breakIt func(*system)) setting {
		s := sound()
		s.New = func(int, func(any)) *system {
			sys := newLibrary()
			breakIt(sys)
			return sys
		}
		return s
	}
	forever := func(context.Context) error { select {} }

	for _, tt := range []struct {
		name   string
		probe  func(setting, effort) verdict
		set    setting
		effort effort
		want   string
	}{
		{"a sound library", probeGoexit, sound(), long, "no"},
		{"a sound library", probeEarly, sound(), long, "no"},
		{"a sound library", probeLate, sound(), long, "no (0/20)"},
		{"a sound library", probeLost, sound(), long, "no (0/10)"},

		{"a drain that hangs", probeGoexit, broken(func(s *system) { s.Drain = forever }), brief, "yes: hangs Stop"},
		{"a wait that hangs", probeGoexit, broken(func(s *system) {
			s.GoWait = func(string, body) (func() error, error) {
				return func() error { return forever(context.Background()) }, nil
			}
		}), brief, "yes: hangs Wait"},
		{"a lost worker", probeGoexit, broken(func(s *system) {
			s.Go = func(string, body) error { return nil }
		}), brief, "yes: loses workers"},
		{"a drain that does not wait", probeEarly, broken(func(s *system) {
			s.Drain = func(context.Context) error { return nil }
		}), long, "yes (2/2)"},
		{"a stop that closes too late", probeLate, broken(func(s *system) {
			drain := s.Drain
			s.Drain = func(ctx context.Context) error {
				go func() { time.Sleep(20 * time.Millisecond); drain(ctx) }()
				return nil
			}
		}), long, "yes (20/20)"},
		{"no stop", probeLate, broken(func(s *system) { s.Closes = false }), long, lacking.Text},
		{"one task in ten is dropped", probeLost, broken(func(s *system) {
			submit, n := s.Go, 0
			var mu sync.Mutex
			s.Go = func(name string, fn body) error {
				mu.Lock()
				n++
				drop := n%10 == 0
				mu.Unlock()
				if drop {
					fn = func(context.Context) {}
				}
				return submit(name, fn)
			}
		}), brief, "yes (2/2)"},
		{"a drain that waits for its caller", probeInside, sound(), brief, "deadlock, or until its deadline"},
		{"a drain that does not wait", probeInside, broken(func(s *system) {
			s.Drain = func(context.Context) error { return nil }
		}), long, "returns too early"},
		{"a drain that refuses its own tasks", probeInside, broken(func(s *system) {
			s.Drain = func(context.Context) error { return errors.New("called by a task") }
		}), long, "no: an error at once"},
		{"a deadline", probeDeadline, sound(), long, "yes"},
		{"a deadline that is ignored", probeDeadline, broken(func(s *system) {
			s.DrainWithin = func(time.Duration) error { return forever(nil) }
		}), brief, "no"},
		{"a deadline without an error", probeDeadline, broken(func(s *system) {
			within := s.DrainWithin
			s.DrainWithin = func(d time.Duration) error { within(d); return nil }
		}), long, "claims success"},
		{"no names", probeNames, sound(), long, "no"},
		{"one name of two", probeNames, broken(func(s *system) {
			s.Left = func(error) string { return "send welcome mail" }
		}), long, "only what runs"},
		{"names", probeNames, broken(func(s *system) {
			s.Left = func(error) string { return "send welcome mail, weekly report" }
		}), long, "yes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if v := tt.probe(tt.set, tt.effort); v.Text != tt.want {
				t.Errorf("%q, want %q; %v", v.Text, tt.want, v.Notes)
			}
		})
	}
}

// newLibrary is a small sound library: goroutines, and a flag guarded by a lock. It has no
// limit, and its stop waits for a task that calls it.
func newLibrary() *system {
	var mu sync.Mutex
	var live sync.WaitGroup
	closed := false
	begin := func(fn body, done func()) error {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			return errors.New("closed")
		}
		live.Go(func() {
			defer done()
			fn(context.Background())
		})
		return nil
	}
	drain := func(ctx context.Context) error {
		mu.Lock()
		closed = true
		mu.Unlock()
		ended := make(chan struct{})
		go func() { live.Wait(); close(ended) }()
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return &system{
		Go: func(_ string, fn body) error { return begin(fn, func() {}) },
		GoWait: func(_ string, fn body) (func() error, error) {
			done := make(chan struct{})
			if err := begin(fn, func() { close(done) }); err != nil {
				return nil, err
			}
			return func() error { <-done; return nil }, nil
		},
		Drain:  drain,
		Closes: true,
		DrainWithin: func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return drain(ctx)
		},
	}
}
