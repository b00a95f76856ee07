package adaptive_test

import (
	"context"
	"fmt"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/adaptive"
)

func ExampleController() {
	workers := adaptive.New(adaptive.Config{})
	reg := tether.New(tether.Config{Observer: workers})
	images := reg.NewPool("resize image", tether.PoolConfig{Workers: 4, Queue: 1000})
	if err := workers.Adapt(images, 2, 64); err != nil {
		fmt.Println(err)
	}
	for _, s := range workers.Stats() { // the live page and the metrics show the number of workers, too
		fmt.Printf("%s: %d of %d to %d workers\n", s.Pool, s.Workers, s.Min, s.Max)
	}
	fmt.Println(workers.Adapt(images, 9, 3))
	_ = reg.Shutdown(context.Background())
	// Output:
	// resize image: 4 of 2 to 64 workers
	// tether: invalid: adaptive: pool "resize image": 9 to 3 workers
}
