//go:build !race

package crew_test

const many = 10_000
