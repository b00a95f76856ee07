// Package engines measures package durable beside the engines that it uses, called
// directly: enqueueing jobs, by one caller and by 16, and processing them, 20 at once.
// It has benchmarks only. Each iteration measures both once, in random order, so that a
// slow phase of the machine affects both:
//
//	go test -run '^$' -bench . -benchtime 12x ./bench/engines
//
// The benchmarks report the median time and CPU time for each job, and the medians and
// quartiles of the ratios Tether/direct. CPU time is that of the process; it does not
// include a server's. The direct use has the same guarantees: the same flushes to the disk,
// confirmations, batch sizes and polling.
//
// Servers are started by the benchmarks. An engine is skipped if its server is not
// installed.
package engines
