package durabletest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// roundsEnv holds how many rounds of kills the contract has, for a longer run.
const roundsEnv = "TETHER_DURABLETEST_ROUNDS"

// testKills kills workers at random moments, round after round, while jobs are enqueued and
// run, and counts: none is lost, and none is dead.
func testKills(l *lab) {
	if testing.Short() {
		l.Skip("repeats what the other clauses have")
	}
	rounds, jobs := 3, 200
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		rounds = n
	}
	l.patience += time.Duration(rounds) * (l.fixture.Rescue + time.Minute)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	l.Logf("seed %d", seed)
	plain, _, _ := childJobs(role{}, nil)
	all := make(map[string]bool)
	began, kills := time.Now(), 0
	for range rounds {
		if kills > 0 && l.fixture.Hasten != nil {
			require.NoError(l, l.fixture.Hasten(l.address, l.queue))
		}
		var workers []*process
		for range 1 + random.IntN(2) {
			w := l.spawn(role{Play: "worker", Concurrency: 1 + random.IntN(20), Takes: time.Duration(random.IntN(10)) * time.Millisecond})
			w.ready()
			workers = append(workers, w)
		}
		until := len(doneTimes(l.journal.all())) + 1 + random.IntN(jobs*3/4)
		for id := range l.enqueueAll(plain, jobs, nil) {
			all[id] = true
		}
		l.await("jobs to be done before the kill", func(lines []line) bool { return len(doneTimes(lines)) >= until })
		for _, w := range workers { // at once: Hasten needs all of them to be dead
			w.kill()
			kills++
		}
	}
	if l.fixture.Hasten != nil {
		require.NoError(l, l.fixture.Hasten(l.address, l.queue))
	}
	last := l.spawn(role{Play: "worker", Concurrency: 20})
	lines := l.awaitDone(all)
	require.Zero(l, last.terminate(), "exit status")
	done, twice := doneTimes(lines), 0
	for id, n := range done {
		assert.True(l, all[id])
		if n > 1 {
			twice++
		}
	}
	l.Logf("%d kills in %d rounds: %d jobs enqueued, %d done, %d of them twice or more, in %v", kills, rounds, len(all), len(done), twice, time.Since(began).Round(time.Millisecond))
}
