package engines

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/bench/internal/cputime"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/postgres"
	"github.com/seed-2e639f12/tether/durable/redis"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// TestReplicas has three processes that share a store, and a client that asks them in turn.
// With TETHER_REPLICAS=long it makes the figures of RESULTS.md: 100,000 polls, 1,000 rounds of
// one key, and 100 kill -9; with TETHER_REPLICAS=cost those of what a poll and an inline answer
// cost.
func TestReplicas(t *testing.T) {
	long, cost := os.Getenv("TETHER_REPLICAS") == "long", os.Getenv("TETHER_REPLICAS") == "cost"
	for _, of := range []struct {
		name   string
		server func(testing.TB) durabletest.Server
	}{
		{"sqlite", func(t testing.TB) durabletest.Server {
			return durabletest.Serverless(filepath.Join(t.TempDir(), "jobs.db"))
		}},
		{"redis", durabletest.Redis},
		{"postgres", durabletest.Postgres},
	} {
		t.Run(of.name, func(t *testing.T) {
			if !long && !cost {
				t.Parallel()
			}
			f := &fleet{T: t, engine: of.name, address: of.server(t).Address(), runs: filepath.Join(t.TempDir(), "runs")}
			f.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			t.Cleanup(f.client.CloseIdleConnections)
			for range 3 {
				f.members = append(f.members, f.start())
			}
			if cost {
				f.pollCost()
				f.inlineCost()
				return
			}
			polls, rounds, kills := 300, 5, 0
			if long {
				polls, rounds, kills = 100_000, 1000, 100
			} else if of.name == "sqlite" && !testing.Short() {
				kills = 1
			}
			f.poll(polls)
			f.sendTogether(rounds)
			f.kill(kills)
		})
	}
}

// replicaEnv says in a child process which engine it has, at which address, and where a run is
// written down.
const replicaEnv = "TETHER_REPLICA"

// openStore opens the store of an engine.
func openStore(engine, address string) (b store.Backend, closeIt func(), err error) {
	switch engine {
	case "sqlite":
		e, err := sqlite.Open(address)
		if err != nil {
			return nil, nil, err
		}
		return e.Store(), func() { _ = e.Close() }, nil
	case "redis":
		opt, err := asynq.ParseRedisURI(address)
		if err != nil {
			return nil, nil, err
		}
		e, err := redis.Open(opt)
		if err != nil {
			return nil, nil, err
		}
		return e.Store(), func() { _ = e.Close() }, nil
	case "postgres":
		pool, err := pgxpool.New(context.Background(), address)
		if err != nil {
			return nil, nil, err
		}
		e, err := postgres.Open(pool)
		if err != nil {
			pool.Close()
			return nil, nil, err
		}
		return e.Store(), func() { _ = e.Close(); pool.Close() }, nil
	}
	return nil, nil, fmt.Errorf("engine %q", engine)
}

// beReplica is the main function of a child. It ends when its input does.
func beReplica(config string) error {
	part := strings.SplitN(config, " ", 3)
	backend, closeIt, err := openStore(part[0], part[1])
	if err != nil {
		return err
	}
	defer closeIt()
	runs, err := os.OpenFile(part[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	reg := tether.New(tether.Config{})
	shared := tetherhttp.NewStore("bench", backend)
	mux := http.NewServeMux()
	mux.Handle("POST /work", tetherhttp.Async(reg, "work", func(ctx context.Context, r *http.Request) (string, error) {
		ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
		if err != nil {
			return "", err
		}
		for i := range ms / 10 {
			tether.ReportProgress(ctx, tether.Progress{Done: int64(i + 1), Total: int64(ms / 10)})
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		return r.URL.Query().Get("name"), nil
	}, tetherhttp.AsyncConfig{Store: shared}))
	mux.Handle("POST /once", tetherhttp.Async(reg, "once", func(_ context.Context, r *http.Request) (string, error) {
		_, err := fmt.Fprintln(runs, r.Header.Get("Idempotency-Key")) // one write, which is appended as a whole
		time.Sleep(5 * time.Millisecond)
		return r.Header.Get("Idempotency-Key"), err
	}, tetherhttp.AsyncConfig{Store: shared, Idempotency: &tetherhttp.IdempotencyConfig{}}))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared, AllowCancel: true}))
	// The same without a store, and the processor time that all has taken.
	now := func(context.Context, *http.Request) (string, error) { return "now", nil }
	mux.Handle("POST /now", tetherhttp.Async(reg, "now", now, tetherhttp.AsyncConfig{Store: shared}))
	mux.Handle("POST /local/now", tetherhttp.Async(reg, "now", now))
	mux.Handle("/local/tasks/", http.StripPrefix("/local", tetherhttp.Tasks(reg)))
	mux.HandleFunc("GET /cpu", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, int64(cputime.Used())) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	fmt.Println("http://" + l.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = srv.Close()
	return errors.Join(reg.Shutdown(ctx), shared.Close(ctx))
}

// fleet is three replicas and their client.
type fleet struct {
	*testing.T
	engine, address, runs string
	client                *http.Client
	members               []*member
	turn                  atomic.Int64
}

// member is a replica.
type member struct {
	url   string
	cmd   *exec.Cmd
	input io.Closer
}

func (f *fleet) start() *member {
	f.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), replicaEnv+"="+f.engine+" "+f.address+" "+f.runs)
	cmd.Stderr = io.Discard
	input, err := cmd.StdinPipe()
	require.NoError(f, err)
	output, err := cmd.StdoutPipe()
	require.NoError(f, err)
	require.NoError(f, cmd.Start())
	f.Cleanup(func() {
		_ = input.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(f, err, "a replica has not started")
	return &member{strings.TrimSpace(line), cmd, input}
}

// answer is a response.
type answer struct {
	code   int
	header http.Header
	body   []byte
	status struct {
		ID, State string
		Type      string // of a problem
		Done      bool
		Progress  struct{ Done int64 }
		Result    string
		Problem   struct{ Type string }
	}
}

func (f *fleet) do(method, url string, header ...string) (a answer, err error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return a, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := f.client.Do(r)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.code, a.header = res.StatusCode, res.Header
	if a.body, err = io.ReadAll(res.Body); err == nil && bytes.HasPrefix(a.body, []byte("{")) {
		err = json.Unmarshal(a.body, &a.status)
	}
	return a, err
}

// next returns the replica whose turn it is.
func (f *fleet) next() *member { return f.members[f.turn.Add(1)%int64(len(f.members))] }

// poll asks for tasks so many times, each time another replica, and checks each answer.
func (f *fleet) poll(polls int) {
	f.Helper()
	var asked, wrong, tasks, refused atomic.Int64
	bad := func(format string, args ...any) {
		if wrong.Add(1) <= 10 {
			f.Errorf(format, args...)
		}
	}
	began := time.Now()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for asked.Load() < int64(polls) {
				name := fmt.Sprint("task", tasks.Add(1))
				first, err := f.do("POST", fmt.Sprintf("%s/work?ms=%d&name=%s", f.next().url, 50+rand.IntN(500), name), "Prefer", "respond-async")
				if err == nil && first.code == 503 && first.status.Type == tetherhttp.ProblemStoreUnavailable {
					refused.Add(1) // the store was too slow for a 202: the client would repeat it
					continue
				}
				if err != nil || first.code != 202 {
					bad("POST: %d, %v", first.code, err)
					continue
				}
				at, progress, tag := first.header.Get("Location"), int64(0), ""
				for done := false; !done; {
					a, err := f.do("GET", f.next().url+at)
					asked.Add(1)
					switch {
					case err != nil || a.code != 200 || a.status.ID != first.status.ID:
						bad("GET: %d, %v, %s", a.code, err, a.body)
						done = true
					case a.status.Done && (a.status.State != "succeeded" || a.status.Result != name):
						bad("%s", a.body)
						done = true
					case !a.status.Done && a.status.Progress.Done < progress:
						bad("progress went from %d to %d", progress, a.status.Progress.Done)
					}
					done, progress, tag = done || a.status.Done, a.status.Progress.Done, a.header.Get("ETag")
				}
				for range f.members { // it stays so, whichever is asked
					a, err := f.do("GET", f.next().url+at, "If-None-Match", tag)
					asked.Add(1)
					if err != nil || a.code != 304 {
						bad("after the end: %d, %v, %s", a.code, err, a.body)
					}
					if a, err = f.do("GET", f.next().url+at+"/result"); err != nil || a.code != 200 || string(a.body) != strconv.Quote(name)+"\n" {
						bad("result: %d, %v, %s", a.code, err, a.body)
					}
					asked.Add(1)
				}
			}
		})
	}
	all.Wait()
	f.Logf("%d polls of %d tasks in turn at 3 replicas: %d wrong answers, %.0f polls/s; %d tasks refused with 503",
		asked.Load(), tasks.Load()-refused.Load(), wrong.Load(), float64(asked.Load())/time.Since(began).Seconds(), refused.Load())
}

// sendTogether sends keys to all replicas at once.
func (f *fleet) sendTogether(rounds int) {
	f.Helper()
	began, conflicts := time.Now(), 0
	for round := range rounds {
		key := fmt.Sprint("key", round)
		answers := make(chan answer)
		for _, m := range f.members {
			go func() {
				a, err := f.do("POST", m.url+"/once", "Idempotency-Key", key)
				assert.NoError(f, err)
				answers <- a
			}()
		}
		fresh := 0
		for range f.members {
			switch a := <-answers; {
			case a.code == 409:
				conflicts++
			case a.code != 200 || string(a.body) != strconv.Quote(key)+"\n":
				f.Errorf("%d: %s", a.code, a.body)
			case a.header.Get("Idempotency-Replayed") == "":
				fresh++
			}
		}
		assert.Equal(f, 1, fresh, "answers of a first request")
		a, err := f.do("POST", f.next().url+"/once", "Idempotency-Key", key)
		if assert.NoError(f, err) {
			assert.Equal(f, "true", a.header.Get("Idempotency-Replayed"), "%d: %s", a.code, a.body)
		}
	}
	written, err := os.ReadFile(f.runs)
	require.NoError(f, err)
	ran := make(map[string]int)
	for line := range strings.Lines(string(written)) {
		ran[line]++
	}
	twice := 0
	for _, n := range ran {
		if n != 1 {
			twice++
		}
	}
	assert.Len(f, ran, rounds)
	assert.Zero(f, twice)
	f.Logf("%d keys sent to 3 replicas at once: %d ran, %d of them more than once; %d answers 409; %v a round",
		rounds, len(ran), twice, conflicts, (time.Since(began) / time.Duration(rounds)).Round(time.Microsecond))
}

// lostWithin is how soon the tasks of a killed replica must be lost.
const lostWithin = 10 * time.Second

// kill kills replicas at work, ten at a time, and asks another one for their tasks.
func (f *fleet) kill(rounds int) {
	f.Helper()
	const atOnce = 10
	var mu sync.Mutex
	var took []time.Duration
	for killed := 0; killed < rounds; killed += atOnce {
		var all sync.WaitGroup
		for range min(atOnce, rounds-killed) {
			victim := f.start()
			all.Go(func() {
				first, err := f.do("POST", victim.url+"/work?ms=600000", "Prefer", "respond-async")
				if !assert.NoError(f, err) || !assert.Equal(f, 202, first.code) {
					return
				}
				time.Sleep(rand.N(time.Second))
				if !assert.NoError(f, victim.cmd.Process.Kill()) {
					return
				}
				died, at := time.Now(), first.header.Get("Location")
				for {
					a, err := f.do("GET", f.next().url+at)
					if !assert.NoError(f, err) || !assert.Equal(f, 200, a.code) || !assert.Less(f, time.Since(died), time.Minute) {
						return
					}
					if a.status.Done {
						assert.Equal(f, "lost", a.status.State)
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				mu.Lock()
				took = append(took, time.Since(died))
				mu.Unlock()
				for _, m := range f.members {
					a, err := f.do("GET", m.url+at)
					assert.NoError(f, err)
					assert.Equal(f, "lost", a.status.State, "and it stays lost")
				}
			})
		}
		all.Wait()
	}
	if rounds == 0 {
		return
	}
	slices.Sort(took)
	require.Len(f, took, rounds)
	f.Logf("%d kill -9: lost after %v to %v, median %v", rounds, took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond))
	if os.Getenv("TETHER_REPLICAS") == "long" { // a time threshold, which is for an idle machine
		assert.LessOrEqual(f, took[len(took)-1], lostWithin)
	}
}

// pollCost measures polls of a task of another replica, which are answered from the store, beside
// those of a task of the process itself without a store. Both are asked of one replica.
func (f *fleet) pollCost() {
	f.Helper()
	first, err := f.do("POST", f.members[0].url+"/work?ms=10&name=x", "Prefer", "respond-async")
	require.NoError(f, err)
	_, err = f.do("GET", f.members[1].url+first.header.Get("Location"), "Prefer", "wait=10")
	require.NoError(f, err)
	local, err := f.do("POST", f.members[1].url+"/local/now", "Prefer", "respond-async")
	require.NoError(f, err)
	at := f.members[1].url
	f.compare("a poll", "GET", f.members[1], 60, at+"/local"+local.header.Get("Location"), at+first.header.Get("Location"))
}

// inlineCost measures inline answers with a store beside those without.
func (f *fleet) inlineCost() {
	f.Helper()
	at := f.members[2].url
	f.compare("an inline answer", "POST", f.members[2], 250, at+"/local/now", at+"/now")
}

// compare sends requests to two URLs of a replica in turn, without and with a store, and logs
// medians and the median and quartiles of the ratios within one pair.
func (f *fleet) compare(what, method string, m *member, pairs int, urls ...string) {
	f.Helper()
	const slice = 100 * time.Millisecond // so that both halves of a pair have the same machine
	var (
		took       [2][]time.Duration
		rates, cpu [2][]float64
		rateRatios []float64
		cpuRatios  []float64
	)
	for _, url := range urls {
		f.load(slice, method, url) // connections, caches
	}
	for pair := range pairs {
		var rate, used [2]float64
		for half := range 2 {
			i := (half + pair) % 2
			before := f.used(m)
			began := time.Now()
			answers := f.load(slice, method, urls[i])
			rate[i] = float64(len(answers)) / time.Since(began).Seconds()
			used[i] = float64(f.used(m)-before) / float64(len(answers)) / 1000
			took[i] = append(took[i], answers...)
			rates[i], cpu[i] = append(rates[i], rate[i]), append(cpu[i], used[i])
		}
		rateRatios, cpuRatios = append(rateRatios, rate[1]/rate[0]), append(cpuRatios, used[1]/used[0])
	}
	for i, with := range []string{"without a store", "with one"} {
		slices.Sort(took[i])
		f.Logf("%s %s: %.0f/s, median %v, p99 %v, %.1f µs of CPU time", what, with, quantile(rates[i], 0.5),
			took[i][len(took[i])/2].Round(time.Microsecond), took[i][len(took[i])*99/100].Round(time.Microsecond), quantile(cpu[i], 0.5))
	}
	f.Logf("%s, ratios of %d pairs: requests/s %.3f [%.3f, %.3f], CPU time %.3f [%.3f, %.3f]", what, pairs,
		quantile(rateRatios, 0.5), quantile(rateRatios, 0.25), quantile(rateRatios, 0.75),
		quantile(cpuRatios, 0.5), quantile(cpuRatios, 0.25), quantile(cpuRatios, 0.75))
}

func quantile(of []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// used returns the processor time that a replica has used, in nanoseconds.
func (f *fleet) used(m *member) (ns int64) {
	f.Helper()
	a, err := f.do("GET", m.url+"/cpu")
	require.NoError(f, err)
	ns, err = strconv.ParseInt(string(a.body), 10, 64)
	require.NoError(f, err)
	return ns
}

// load sends requests for so long, on four connections, and returns how long each answer took.
func (f *fleet) load(limit time.Duration, method, url string) (took []time.Duration) {
	f.Helper()
	var mu sync.Mutex
	began := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			var mine []time.Duration
			for time.Since(began) < limit {
				at := time.Now()
				if a, err := f.do(method, url); err != nil || a.code != 200 {
					f.Errorf("%d, %v", a.code, err)
					return
				}
				mine = append(mine, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	return took
}
