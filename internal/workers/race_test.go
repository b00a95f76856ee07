//go:build race

package workers_test

// The race detector ends the process beyond 8128 goroutines.
const many = 8000
