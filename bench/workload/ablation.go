package workload

import (
	"runtime"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func ablation() Family {
	w := Workload{
		N: 30_000, Quick: 300,
		Metric: NsPerOp, Compare: Difference,
	}
	registry, pool := w, w
	registry.Name, registry.Baseline, registry.Candidates = "registry", peers.PlainTask, peers.RegistryFeatures
	pool.Name, pool.Baseline, pool.Candidates = "pool", peers.PooledTask, peers.PoolFeatures
	for _, w := range []*Workload{&registry, &pool} {
		w.Run = onOneProcessor(tasks(unlimited, 1, batch, noWork))
	}
	return Family{
		ID: "W12", Title: "What each feature costs", Apart: true,
		About: "An empty task with one thing more, on one processor: so the time is all that is spent on it, by whoever submits and whoever runs it. " +
			"The options are made anew for each task, as programs do. What is on by default is in the first line: name, id, listing, context, panic, Goexit and the last 1024 retained.",
		Workloads: []Workload{registry, pool},
	}
}

// onOneProcessor makes costs add up: on several, what the submitter spends may be
// hidden behind what the worker spends.
func onOneProcessor(run func(Meter, peers.Candidate, int) error) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		return run(m, c, n)
	}
}
