//go:build !race

package workers_test

const many = 10_000
