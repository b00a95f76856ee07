package workload

import "strconv"

func stacks() Family {
	f := Family{
		ID: "W5", Title: "A task that needs a deep stack",
		About: "A new goroutine starts with a small stack, which is copied each time it grows. A goroutine that is used again has a large one. " +
			"`burst`: batches of 10 000. `paced`: each task is waited for before the next is submitted.",
	}
	for _, v := range []struct {
		name     string
		sys      system
		kb       int
		n, batch int
	}{
		{"8KB/burst/no-limit", unlimited, 8, 20_000, 10_000},
		{"8KB/burst/limit=1000", limited(1000), 8, 20_000, 10_000},
		{"32KB/burst/no-limit", unlimited, 32, 10_000, 10_000},
		{"32KB/burst/limit=1000", limited(1000), 32, 10_000, 10_000},
		{"32KB/paced/no-limit", unlimited, 32, 3_000, 1},
		{"32KB/paced/limit=1000", limited(1000), 32, 3_000, 1},
	} {
		f.Workloads = append(f.Workloads, Workload{
			Name: v.name, N: v.n, Quick: 500,
			Metric: NsPerOp, Baseline: goStatement,
			Run: tasks(v.sys, 1, v.batch, func(done func()) func() {
				return func() { deep(v.kb); done() }
			}),
		})
	}
	for _, limit := range []int{0, 1000} {
		sys, name := unlimited, "empty/paced/no-limit"
		if limit > 0 {
			sys, name = limited(limit), "empty/paced/limit="+strconv.Itoa(limit)
		}
		f.Workloads = append(f.Workloads, Workload{
			Name: name, N: 10_000, Quick: 500,
			Metric: NsPerOp, Baseline: goStatement,
			Run: tasks(sys, 1, 1, noWork),
		})
	}
	return f
}

// deep uses frames of nearly a kilobyte each.
//
//go:noinline
func deep(frames int) byte {
	var frame [960]byte
	frame[frames%len(frame)] = byte(frames)
	if frames <= 1 {
		return frame[0]
	}
	return deep(frames-1) + frame[frames%len(frame)]
}
