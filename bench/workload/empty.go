package workload

import (
	"runtime"
	"strconv"
)

const batch = 10_000

// batchOf returns how many tasks are submitted before the workload waits for all of them.
func batchOf(producers int) int { return max(batch, 100*producers) }

func empty() Family {
	f := Family{
		ID: "W1", Title: "An empty task, no limit",
		About: "The cost of running a task and of knowing that it has run. The tasks are submitted in batches of 10 000 (100 000 with 1000 producers).",
	}
	for _, producers := range []int{1, runtime.GOMAXPROCS(0), 1000} {
		f.Workloads = append(f.Workloads, Workload{
			Name: "producers=" + strconv.Itoa(producers),
			N:    100_000, Quick: 2000,
			Metric: NsPerOp, Baseline: goStatement,
			Run: tasks(unlimited, producers, batchOf(producers), noWork),
		})
	}
	return f
}

func pools() Family {
	f := Family{
		ID: "W2", Title: "An empty task, a limit",
		About: "`go` has no limit here: it is only the baseline. Some libraries queue the tasks, others make the submitter wait.",
	}
	p := runtime.GOMAXPROCS(0)
	for _, shape := range []struct{ limit, producers int }{{2, 1}, {2, p}, {1000, 1}, {1000, p}, {1000, 1000}} {
		f.Workloads = append(f.Workloads, Workload{
			Name: "limit=" + strconv.Itoa(shape.limit) + "/producers=" + strconv.Itoa(shape.producers),
			N:    max(50_000, batchOf(shape.producers)), Quick: 2000,
			Metric: NsPerOp, Baseline: goStatement,
			Run: tasks(limited(shape.limit), shape.producers, batchOf(shape.producers), noWork),
		})
	}
	return f
}
