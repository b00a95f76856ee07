// Package bench measures tether beside the go statement. Its benchmarks do the same
// work for each candidate in one run, so that ratios hold on a noisy machine:
//
//	go test -bench . -count 10 ./bench
package bench
