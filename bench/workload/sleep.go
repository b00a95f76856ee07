package workload

import "time"

// CPUPerOp is the CPU time of the process divided by n. The Meter of the report measures it
// in every workload; a *testing.B does not.
const (
	CPUPerOp = "cpu-ns/op" // of all cores together
)

func sleeping() Family {
	const sleep, limit = 10 * time.Millisecond, 10_000
	f := Family{
		ID: "W4", Title: "Many tasks that sleep for 10 ms",
		About: "Tasks that wait, all submitted at once. The CPU time varies less than the time.",
	}
	work := func(done func()) func() {
		return func() { time.Sleep(sleep); done() }
	}
	for _, v := range []struct {
		name string
		sys  system
		n    int
		reps int
		long bool
	}{
		{"100k/no-limit", unlimited, 100_000, 10, false},
		{"100k/limit=10000", limited(limit), 100_000, 10, false},
		{"1M/no-limit", unlimited, 1_000_000, 3, true},
		{"1M/limit=10000", limited(limit), 1_000_000, 3, true},
	} {
		f.Workloads = append(f.Workloads, Workload{
			Name: v.name, N: v.n, Quick: 1000, Reps: v.reps, Long: v.long,
			Metric: NsPerOp, Extra: []string{CPUPerOp}, Baseline: goStatement, Isolated: true,
			Run: tasks(v.sys, 1, v.n, work),
		})
	}
	return f
}
