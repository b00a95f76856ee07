// Package bench measures Tether, the go statement and the libraries that can be used in
// its place. Each candidate does the same work.
//
// For benchstat:
//
//	go test -run '^$' -bench . -count 10 ./bench
//
// Ratios of such figures are unreliable on a machine that runs other programs too. The
// report command runs every candidate once in each repetition, in random order, and
// prints the medians of the ratios within a repetition:
//
//	go run ./bench/cmd/report
//
// The compare command does the same with two checkouts of Tether, to see whether a change
// makes it slower:
//
//	go run ./bench/cmd/compare -old ../before -new .
//
// The probe command does not measure. It shows what each library does when a task panics,
// calls runtime.Goexit or keeps running after a stop:
//
//	go run ./bench/probe
//
// Package peers defines the candidates and their settings, package workload what they do.
package bench
