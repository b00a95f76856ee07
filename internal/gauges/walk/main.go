// Command walk runs one task on a pool, from Pool.Go to its end, and writes the
// coverage counters of that alone into the directory that is its only argument. It is
// built with -cover -covermode=atomic by the gauges command.
package main

import (
	"context"
	"log"
	"os"
	"runtime/coverage"
	"time"

	"github.com/seed-2e639f12/tether"
)

func main() {
	dir := os.Args[1]
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("walk", tether.PoolConfig{Workers: 1, Queue: 1})
	// What the setup has executed is not part of the walk.
	check(coverage.ClearCounters())
	_, err := pool.Go(context.Background(), "walk", func(context.Context) error { return nil })
	check(err)
	// Waiting would execute code of the library too. The worker needs microseconds.
	time.Sleep(200 * time.Millisecond)
	check(coverage.WriteMetaDir(dir))
	check(coverage.WriteCountersDir(dir))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
