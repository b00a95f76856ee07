package goroutinehint_test

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/goroutinehint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHint(t *testing.T) {
	t.Run("many goroutines at once choose different places", func(t *testing.T) {
		const goroutines, places = 1024, 8
		var mu sync.Mutex
		var found [places]int
		var ready, done sync.WaitGroup
		ready.Add(goroutines)
		for range goroutines {
			done.Go(func() {
				ready.Done()
				ready.Wait() // all stacks exist at once
				mu.Lock()
				defer mu.Unlock()
				found[goroutinehint.Hint()%places]++
			})
		}
		done.Wait()
		for place, n := range found {
			if n < goroutines/places/4 {
				t.Errorf("place %d got %d of %d", place, n, goroutines)
			}
		}
	})

	t.Run("costs no allocation", func(t *testing.T) {
		if n := testing.AllocsPerRun(100, func() { goroutinehint.Hint() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
