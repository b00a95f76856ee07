// Package bench measures Tether beside the go statement and the libraries that one
// would use in its place: the same work for each, by workload and candidate.
//
// For benchstat:
//
//	go test -run '^$' -bench . -count 10 ./bench
//
// Ratios of two such figures are worth little on a machine that others use too. The
// command runs every candidate once in each repetition, in a shuffled order, and
// reports the medians of the ratios within a repetition:
//
//	go run ./bench/cmd/report
//
// Package peers has the candidates and what they are set to, package workload what is
// measured.
package bench
