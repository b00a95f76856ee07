package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/bench/internal/sample"
	"github.com/seed-2e639f12/tether/bench/workload"
)

func TestMain(m *testing.M) {
	// The ants package starts a pool when it is imported and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// made compares the pairs of W1 with samples of that many ns/op, in the order in which a
// side is asked.
func made(t *testing.T, reps int, ask func(side, asked int, req sample.Request) (float64, error)) *comparison {
	var asked [2]int
	c := &comparison{
		pairs: pairs([]string{"W1/producers=1", "W2/limit=2/producers=1"}, []string{"tether"}), reps: reps, atLeast: time.Second, log: io.Discard,
		ask: func(_ context.Context, side int, req sample.Request) (sample.Sample, error) {
			ns, err := ask(side, asked[side], req)
			asked[side]++
			return sample.Sample{workload.NsPerOp: ns}, err
		},
	}
	require.Len(t, c.pairs, 2)
	return c
}

// What slows the machine down for a while must slow both sides: their samples follow one
// another.
func TestSidesFollowOneAnother(t *testing.T) {
	type asked struct {
		side int
		id   string
	}
	var all []asked
	c := made(t, 20, func(side, _ int, req sample.Request) (float64, error) {
		all = append(all, asked{side, req.Workload})
		return 1, nil
	})
	require.NoError(t, c.run(t.Context()))
	all = all[len(all)-2*2*20:] // without those that find the size
	first := map[int]bool{}
	for i := 0; i < len(all); i += 2 {
		assert.Equal(t, all[i].id, all[i+1].id)
		assert.Equal(t, 1, all[i].side+all[i+1].side)
		first[all[i].side] = true
	}
	assert.Len(t, first, 2, "neither is always the first")
}

func TestTable(t *testing.T) {
	c := made(t, 8, func(side, _ int, _ sample.Request) (float64, error) { return 100 + 4*float64(side), nil })
	require.NoError(t, c.run(t.Context()))
	assert.Equal(t, `|                               |       | old | new | new/old              | 95 % bounds    |
|-------------------------------|------:|----:|----:|---------------------:|---------------:|
| W1/producers=1 tether         | ns/op | 100 | 104 | 1.040 [1.040, 1.040] | 1.040 to 1.040 |
| W2/limit=2/producers=1 tether | ns/op | 100 | 104 | 1.040 [1.040, 1.040] | 1.040 to 1.040 |
`, c.table())
	assert.Equal(t, []string{"W1/producers=1 tether", "W2/limit=2/producers=1 tether"}, c.slower(1.03))
	assert.Empty(t, c.slower(1.04))
}

// A sample takes as long as asked for, in whole batches.
func TestSize(t *testing.T) {
	var last sample.Request
	c := made(t, 1, func(_, _ int, req sample.Request) (float64, error) { last = req; return 1000, nil })
	require.NoError(t, c.size(t.Context(), &c.pairs[0]))
	assert.Equal(t, 10*c.pairs[0].workload.N, c.pairs[0].n, "1 s at 100 000 operations of 1 µs")
	require.NoError(t, c.measure(t.Context(), &c.pairs[0]))
	assert.Equal(t, sample.Request{Workload: "W1/producers=1", Candidate: "tether", N: c.pairs[0].n}, last)
	c.pairs[1].workload.Isolated = true
	require.NoError(t, c.size(t.Context(), &c.pairs[1]))
	assert.Equal(t, c.pairs[1].workload.N, c.pairs[1].n)
}

func TestSkips(t *testing.T) {
	c := made(t, 8, func(side, asked int, req sample.Request) (float64, error) {
		switch {
		case strings.HasPrefix(req.Workload, "W2") && side == 0:
			return 0, workload.ErrLacks
		case strings.HasPrefix(req.Workload, "W1") && asked == 5:
			return 0, errors.New("lost a task")
		}
		return 1, nil
	})
	require.NoError(t, c.run(t.Context()))
	text := c.table()
	assert.Contains(t, text, "- W2/limit=2/producers=1 tether: only the new one can do this\n")
	assert.Contains(t, text, "lost a task\n")
	assert.NotContains(t, text, "ns/op", "a pair that fails once has no figures")
	c = made(t, 8, func(int, int, sample.Request) (float64, error) { return 0, workload.ErrLacks })
	require.NoError(t, c.run(t.Context()))
	assert.NotContains(t, c.table(), "Skipped")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := made(t, 100, func(_, asked int, _ sample.Request) (float64, error) {
		if asked == 20 {
			cancel()
		}
		return 100, nil
	})
	assert.ErrorIs(t, c.run(ctx), context.Canceled)
	assert.Contains(t, c.table(), "1.000 [1.000, 1.000]", "what was measured is shown")
}

func TestPairs(t *testing.T) {
	ids := map[string]bool{}
	for _, p := range pairs(list(usual), nil) {
		ids[p.id] = true
		assert.True(t, strings.HasPrefix(p.candidate, "tether"), p.name())
	}
	for _, name := range list(usual) {
		found := false
		for id := range ids {
			found = found || strings.HasPrefix(id, name+"/")
		}
		assert.True(t, found, name)
	}
	assert.Empty(t, pairs([]string{"W99"}, nil))
	assert.Empty(t, pairs([]string{"W1"}, []string{"none"}))
	assert.Greater(t, len(pairs(list("all"), nil)), len(ids))
}

func TestRefuses(t *testing.T) {
	assert.ErrorContains(t, run(t.Context(), nil, io.Discard, io.Discard), "-old")
	err := run(t.Context(), []string{"-old", t.TempDir()}, io.Discard, io.Discard)
	assert.ErrorContains(t, err, "building")
}

func TestOverlay(t *testing.T) {
	own, other := t.TempDir(), t.TempDir()
	for _, path := range []string{
		own + "/bench/peers/tether.go", own + "/bench/peers/peers.go", own + "/bench/peers/gone.go", own + "/bench/peers/peers_test.go",
		other + "/bench/peers/tether.go", other + "/bench/peers/peers.go", other + "/bench/internal/a/new.go", other + "/bench/bench.go",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	replace, err := overlay(own, other)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		filepath.Join(own, "bench/peers/peers.go"):    filepath.Join(other, "bench/peers/peers.go"),
		filepath.Join(own, "bench/peers/gone.go"):     "",
		filepath.Join(own, "bench/internal/a/new.go"): filepath.Join(other, "bench/internal/a/new.go"),
	}, replace)
}

// Compare this checkout with a copy of its bench that lacks W11.
func TestCompare(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the report command three times")
	}
	here, err := filepath.Abs("../../..")
	require.NoError(t, err)
	old := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(old, "bench"), os.DirFS(filepath.Join(here, "bench"))))
	edit(t, filepath.Join(old, "bench/go.mod"), "tether => ../", "tether => "+here)
	edit(t, filepath.Join(old, "bench/workload/workload.go"), "live(), ", "")
	require.NoError(t, os.Remove(filepath.Join(old, "bench/workload/live.go")))

	var stdout, stderr bytes.Buffer
	args := []string{"-old", old, "-new", here, "-quick", "-workloads", "W1/producers=1,W11", "-candidates", "tether,none"}
	require.NoError(t, run(t.Context(), args, &stdout, &stderr), &stderr)
	for _, want := range []string{"W1/producers=1 tether", "W11/live=100k tether", workload.Growth} {
		assert.Contains(t, stdout.String(), want)
	}
	assert.NotContains(t, stdout.String(), "Skipped")
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), from)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o644))
}
