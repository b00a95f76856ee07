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
		About: "An empty task with one addition, on one processor, so that the time includes both the submitter's and the worker's part. " +
			"The options are made for each task, as programs do. The first line has what is on by default: name, id, listing, context, containment of panics and Goexit, and the retention of the last 1024 finished tasks.",
		Workloads: []Workload{registry, pool},
	}
}

// onOneProcessor makes the submitter's and the worker's time add up. On several processors
// they overlap.
func onOneProcessor(run func(Meter, peers.Candidate, int) error) func(Meter, peers.Candidate, int) error {
	return func(m Meter, c peers.Candidate, n int) error {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		return run(m, c, n)
	}
}
