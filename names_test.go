package tether_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

func TestN1_NamesArePrintable(t *testing.T) {
	r := newRegistry(t, tether.Config{})
	p := r.NewPool("pool", tether.PoolConfig{Queue: tether.Unbounded})
	for _, name := range []string{"a", "send welcome mail", "größe/日本:5", "<b>&\"'", "🚀", "\ufffd", strings.Repeat("x", 128), strings.Repeat("ä", 64)} {
		for _, on := range []tether.Submitter{r, p} {
			task, err := on.Go(context.Background(), name, succeed)
			require.NoError(t, err, "%q", name)
			assert.Equal(t, name, task.Name())
			assert.NoError(t, wait(task))
		}
		assert.NotPanics(t, func() { r.NewPool(name, tether.PoolConfig{Overflow: tether.OverflowBlock}) })
		assert.NoError(t, tether.CheckName(name))
	}
	for name, text := range map[string]string{
		"":                       "empty",
		strings.Repeat("x", 129): "128",
		strings.Repeat("ä", 65):  "130 bytes",
		"a\nb":                   "printable",
		"a\x00b":                 "printable",
		"a\x1b[31mb":             "printable",
		"tab\t":                  "printable",
		"del\x7f":                "printable",
		"zero\u200bwidth":        "printable",
		"right\u202eto left":     "printable",
		"line\u2028separator":    "printable",
		"not \xff UTF-8":         "UTF-8",
		"cut short \xe2\x82":     "UTF-8",
	} {
		for _, on := range []tether.Submitter{r, p} {
			for range 2 { // the second time as the first: nothing is remembered of it
				task, err := on.Go(context.Background(), name, succeed)
				assert.Nil(t, task)
				assert.ErrorIs(t, err, tether.ErrInvalid, "%q", name)
				assert.ErrorContains(t, err, text)
				assert.NotContains(t, err.Error(), "\n", "the text is safe to log")
			}
		}
		assert.Panics(t, func() { r.NewPool(name, tether.PoolConfig{Overflow: tether.OverflowBlock}) }, "%q", name)
		assert.ErrorIs(t, tether.CheckName(name), tether.ErrInvalid, "%q", name)
		assert.ErrorContains(t, tether.CheckName(name), text)
	}
}

func FuzzName(f *testing.F) {
	for _, name := range []string{"", "task", "a\nb", "\xff", "\ufffd", "ä", strings.Repeat("x", 129), "\u202e"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r := newRegistry(t, tether.Config{})
		valid := len(name) >= 1 && len(name) <= 128 && utf8.ValidString(name)
		for _, c := range name {
			valid = valid && unicode.IsPrint(c)
		}
		require.Equal(t, valid, tether.CheckName(name) == nil)
		task, err := r.Go(context.Background(), name, succeed)
		if !valid {
			require.ErrorIs(t, err, tether.ErrInvalid)
			require.Nil(t, task)
			require.True(t, utf8.ValidString(err.Error()) && !strings.ContainsFunc(err.Error(), unicode.IsControl), "%q", err)
			return
		}
		require.NoError(t, err)
		require.Equal(t, name, task.Name())
		require.NoError(t, wait(task))
		require.Contains(t, task.String(), name)
	})
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

func TestN2_IDsTellNothing(t *testing.T) {
	t.Run("unique, url-safe, in no order", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Queue: tether.Unbounded})
		seen := make(map[string]bool)
		rising, last := 0, ""
		var common [22]map[byte]int
		for i := range common {
			common[i] = make(map[byte]int)
		}
		const n = 4000
		for i := range n {
			id := start(t, []tether.Submitter{r, p}[i%2], "task", succeed).ID()
			require.Regexp(t, idPattern, id)
			require.False(t, seen[id])
			seen[id] = true
			if id > last {
				rising++
			}
			last = id
			for i := range id {
				common[i][id[i]]++
			}
		}
		// Rising in half of the cases, give or take six standard deviations of n fair
		// coins, is what an observer sees who learns nothing.
		assert.InDelta(t, n/2, rising, 6*32)
		for i, letters := range common[:21] { // the last has two bits only
			assert.Len(t, letters, 64, "letters at place %d", i)
			for _, times := range letters {
				assert.Less(t, times, 3*n/64)
			}
		}
	})
	t.Run("stable, and found", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		p := r.NewPool("pool", tether.PoolConfig{Overflow: tether.OverflowBlock})
		gate := make(chan struct{})
		for _, on := range []tether.Submitter{r, p} {
			task := start(t, on, "task", until(gate))
			id := task.ID()
			assert.Equal(t, id, task.ID())
			assert.Equal(t, id, task.Info().ID)
			found, err := r.Find(id)
			require.NoError(t, err)
			assert.Same(t, task, found)
			defer func() {
				assert.NoError(t, wait(task))
				found, err := r.Find(id)
				require.NoError(t, err)
				assert.Same(t, task, found, "retained")
			}()
		}
		close(gate)
	})
	t.Run("never ours", func(t *testing.T) {
		r, other := newRegistry(t, tether.Config{}), newRegistry(t, tether.Config{})
		id := start(t, r, "task", succeed).ID()
		foreign := start(t, other, "task", succeed).ID()
		never := []string{"", "x", foreign, id + "A", id[:21], " " + id[1:], id + "=", strings.ToUpper(id) + "!", strings.Repeat("A", 22), strings.Repeat("\x00", 22), "%2e%2e%2f"}
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for i := range id {
			for j := range alphabet {
				if alphabet[j] != id[i] {
					never = append(never, id[:i]+alphabet[j:j+1]+id[i+1:])
				}
			}
		}
		for _, guess := range never {
			task, err := r.Find(guess)
			assert.Nil(t, task)
			require.ErrorIs(t, err, tether.ErrNotFound, "%q", guess)
		}
	})
	t.Run("ours but forgotten", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: 10})
		var ids []string
		for range 1000 {
			task := start(t, r, "task", succeed)
			require.NoError(t, wait(task))
			ids = append(ids, task.ID())
		}
		for i, id := range ids {
			task, err := r.Find(id)
			if i < 990 {
				require.Nil(t, task)
				require.ErrorIs(t, err, tether.ErrExpired)
				require.NotErrorIs(t, err, tether.ErrNotFound)
			} else {
				require.NoError(t, err)
				require.Equal(t, id, task.ID())
			}
		}
	})
}

func FuzzFind(f *testing.F) {
	r := tether.New(tether.Config{Retain: 1})
	ids := make(map[string]*tether.Task)
	add := func(opts ...tether.Option) *tether.Task {
		task, err := r.Go(context.Background(), "task", succeed, opts...)
		require.NoError(f, err)
		ids[task.ID()] = task
		f.Add(task.ID())
		return task
	}
	live := add(tether.Hold())
	forgotten := add()
	wait(forgotten)
	wait(add())
	f.Cleanup(func() { live.Cancel(nil); drain(f, r) })
	f.Add("")
	f.Add(strings.Repeat("A", 22))
	f.Fuzz(func(t *testing.T, id string) {
		task, err := r.Find(id)
		want, ours := ids[id]
		switch {
		case !ours:
			require.Nil(t, task)
			require.ErrorIs(t, err, tether.ErrNotFound)
		case want == forgotten:
			require.Nil(t, task)
			require.ErrorIs(t, err, tether.ErrExpired)
		default:
			require.NoError(t, err)
			require.Same(t, want, task)
		}
	})
}

func namesOf(tasks iter.Seq[*tether.Task]) (names []string) {
	for task := range tasks {
		names = append(names, task.Name())
	}
	return names
}

// collected runs the garbage collector until gone reports true, or it has had
// every chance.
func collected(gone func() bool) bool {
	for range 20 {
		if gone() {
			return true
		}
		runtime.GC()
		runtime.Gosched()
	}
	return gone()
}

// heap returns the bytes that are in use after all garbage is collected.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestN3_MemoryIsBounded(t *testing.T) {
	t.Run("live tasks by Limit", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Limit: 100})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 10, Queue: tether.Unbounded})
		gate := make(chan struct{})
		var mu sync.Mutex
		var admitted []*tether.Task
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for j := range 100 {
					task, err := []tether.Submitter{r, p}[i%2].Go(context.Background(), "task", until(gate), []tether.Option{{}, tether.Hold()}[j%2])
					if err != nil {
						assert.ErrorIs(t, err, tether.ErrFull)
						continue
					}
					mu.Lock()
					admitted = append(admitted, task)
					mu.Unlock()
				}
			})
		}
		group.Wait()
		assert.Len(t, admitted, 100)
		assert.Len(t, namesOf(r.Tasks()), 100)
		close(gate)
		for _, task := range admitted {
			task.Release()
			assert.NoError(t, wait(task))
		}
		for range 100 {
			start(t, r, "task", succeed, tether.Hold()).Cancel(nil)
			assert.NoError(t, wait(start(t, p, "task", succeed)))
		}
		assert.Empty(t, namesOf(r.Tasks()))
	})
	t.Run("finished tasks by count", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: 3})
		for i := range 10 {
			wait(start(t, r, fmt.Sprint(i), succeed))
			want := []string{}
			for j := i; j >= max(0, i-2); j-- {
				want = append(want, fmt.Sprint(j))
			}
			assert.Equal(t, want, namesOf(r.Finished()), "newest first")
		}
		start(t, r, "dropped", succeed, tether.Hold()).Cancel(nil)
		assert.Equal(t, []string{"dropped", "9", "8"}, namesOf(r.Finished()))
		for task := range r.Finished() {
			assert.Equal(t, "dropped", task.Name())
			break
		}
	})
	t.Run("finished tasks by age", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{RetainFor: time.Minute})
			first := start(t, r, "first", succeed)
			wait(first)
			time.Sleep(40 * time.Second)
			second := start(t, r, "second", succeed)
			wait(second)
			time.Sleep(20*time.Second - 1)
			assert.Equal(t, []string{"second", "first"}, namesOf(r.Finished()))
			time.Sleep(time.Nanosecond)
			assert.Equal(t, []string{"second"}, namesOf(r.Finished()))
			_, err := r.Find(first.ID())
			assert.ErrorIs(t, err, tether.ErrExpired)
			_, err = r.Find(second.ID())
			assert.NoError(t, err)
			time.Sleep(time.Hour)
			assert.Empty(t, namesOf(r.Finished()))
			_, err = r.Find(second.ID())
			assert.ErrorIs(t, err, tether.ErrExpired)
			// The store starts anew after it was empty.
			wait(start(t, r, "third", succeed))
			assert.Equal(t, []string{"third"}, namesOf(r.Finished()))
			time.Sleep(time.Minute)
			assert.Empty(t, namesOf(r.Finished()))
		})
	})
	t.Run("finished tasks that are too old are collected", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{RetainFor: time.Minute})
			for range 2 { // the second time when the store has been empty
				ref := weak.Make(start(t, r, "task", succeed))
				time.Sleep(time.Minute - time.Nanosecond)
				assert.False(t, collected(func() bool { return ref.Value() == nil }))
				time.Sleep(time.Minute)
				assert.True(t, collected(func() bool { return ref.Value() == nil }))
			}
		})
	})
	t.Run("the defaults are 1024 and an hour", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			for range 1100 {
				wait(start(t, r, "task", succeed))
			}
			assert.Len(t, namesOf(r.Finished()), 1024)
			time.Sleep(time.Hour - 1)
			assert.Len(t, namesOf(r.Finished()), 1024)
			time.Sleep(time.Nanosecond)
			assert.Empty(t, namesOf(r.Finished()))
		})
	})
	t.Run("none are retained if Retain is negative", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: -1})
		for range 100 {
			task := start(t, r, "task", fail)
			assert.Error(t, wait(task))
			assert.Empty(t, namesOf(r.Finished()))
			assert.Equal(t, tether.Failed, task.State(), "who has the handle keeps it")
			gone, err := r.Find(task.ID())
			for gone != nil { // Done closes a moment before the registry lets go
				runtime.Gosched()
				gone, err = r.Find(task.ID())
			}
			assert.ErrorIs(t, err, tether.ErrExpired)
		}
	})

	type big struct{ bytes [1 << 16]byte }
	// letGo runs make's task to its end while it is retained, and requires that what
	// make made can be collected.
	letGo := func(name string, make func(t *testing.T, r *tether.Registry, data *big) *tether.Task) {
		t.Run(name+" is let go while the task is retained", func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			var ref weak.Pointer[big]
			task := func() *tether.Task {
				data := new(big)
				ref = weak.Make(data)
				return make(t, r, data)
			}()
			for !task.State().Final() { // not by Wait: a task that nobody asks is let go on another path
				runtime.Gosched()
			}
			assert.True(t, collected(func() bool { return ref.Value() == nil }))
			found, err := r.Find(task.ID())
			require.NoError(t, err)
			assert.Same(t, task, found)
		})
	}
	use := func(data *big) tether.Func {
		return func(context.Context) error { data.bytes[0]++; return nil }
	}
	letGo("a body", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		return start(t, r, "task", use(data))
	})
	letGo("a failed body", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		return start(t, r, "task", func(context.Context) error { data.bytes[0]++; return errTest }, tether.Retry(every(2, 0)), tether.Timeout(time.Hour))
	})
	letGo("the body of a task that never ran", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		task := start(t, r, "task", use(data), tether.Hold())
		task.Cancel(nil)
		return task
	})
	letGo("the body of a delayed task that never ran", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		task := start(t, r, "task", use(data), tether.Delay(time.Hour))
		task.Cancel(nil)
		return task
	})
	letGo("the body of a typed task", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		res, err := tether.Submit(context.Background(), r, "task", func(context.Context) (byte, error) { return data.bytes[0], nil })
		require.NoError(t, err)
		return res.Task
	})
	letGo("a context", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		task, err := r.Go(context.WithValue(context.Background(), ctxKey("data"), data), "task", func(ctx context.Context) error {
			ctx.Done()
			_ = ctx.Value(ctxKey("data"))
			return nil
		})
		require.NoError(t, err)
		return task
	})
	letGo("a context that the body has leaked", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		var leaked context.Context
		task, err := r.Go(context.WithValue(context.Background(), ctxKey("data"), data), "task", func(ctx context.Context) error {
			leaked = ctx
			return nil
		})
		require.NoError(t, err)
		t.Cleanup(func() { assert.Error(t, leaked.Err()) })
		return task
	})
	letGo("a retry policy", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		return start(t, r, "task", fail, tether.Retry(tether.RetryPolicy{Attempts: 2, ShouldRetry: func(error) bool { return data.bytes[0] == 1 }}))
	})
	letGo("a hand-over", func(t *testing.T, r *tether.Registry, data *big) *tether.Task {
		return start(t, r, "task", succeed, tether.HandOver(func(context.Context, tether.Info) error { data.bytes[0]++; return nil }))
	})
	t.Run("an observer's context is let go while the task is retained", func(t *testing.T) {
		o := new(bigObserver)
		task := start(t, newRegistry(t, tether.Config{Observer: o}), "task", succeed)
		wait(task)
		assert.True(t, collected(func() bool { return o.ref.Value() == nil }))
		runtime.KeepAlive(task)
	})
	t.Run("a result lives as long as the task is retained or held", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: 1})
		var ref weak.Pointer[big]
		submit := func() *tether.Result[*big] {
			res, err := tether.Submit(context.Background(), r, "task", func(context.Context) (*big, error) {
				data := new(big)
				ref = weak.Make(data)
				return data, nil
			})
			require.NoError(t, err)
			wait(res.Task)
			return res
		}
		res := submit()
		assert.False(t, collected(func() bool { return ref.Value() == nil }))
		wait(start(t, r, "next", succeed))
		assert.False(t, collected(func() bool { return ref.Value() == nil }), "the handle holds it")
		v, err := res.Value(context.Background())
		assert.NoError(t, err)
		assert.NotNil(t, v)
		res, v = nil, nil
		_, _ = res, v
		assert.True(t, collected(func() bool { return ref.Value() == nil }))
	})
	t.Run("a forgotten task is collected", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: 1})
		var refs []weak.Pointer[tether.Task]
		for range 100 {
			task := start(t, r, "task", succeed)
			wait(task)
			refs = append(refs, weak.Make(task))
		}
		assert.True(t, collected(func() bool {
			left := 0
			for _, ref := range refs {
				if ref.Value() != nil {
					left++
				}
			}
			return left <= 1
		}))
	})
	t.Run("a finished task does not keep the next ones alive", func(t *testing.T) {
		r := newRegistry(t, tether.Config{Retain: -1})
		p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
		gate := make(chan struct{})
		first := start(t, p, "first", until(gate))
		var refs []weak.Pointer[tether.Task]
		for range 100 {
			refs = append(refs, weak.Make(start(t, p, "next", succeed)))
		}
		close(gate)
		wait(first)
		wait(start(t, p, "last", succeed))
		assert.True(t, collected(func() bool {
			return !slices.ContainsFunc(refs, func(ref weak.Pointer[tether.Task]) bool { return ref.Value() != nil })
		}))
		runtime.KeepAlive(first)
	})

	// A task costs some 200 bytes: what is kept of 30,000 would be seen.
	const rounds, most = 30_000, 2 << 20
	churn := map[string]func(r *tether.Registry, p *tether.Pool) (*tether.Task, error){
		"cancelled in a pool's queue": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return p.Go(context.Background(), "task", succeed)
		},
		"cancelled behind their serial key": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return p.Go(context.Background(), "task", succeed, tether.Serial("key"))
		},
		"cancelled behind a serial key on the registry": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return r.Go(context.Background(), "task", succeed, tether.Serial("key"))
		},
		"cancelled while held": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return r.Go(context.Background(), "task", succeed, tether.Hold())
		},
		"cancelled while delayed": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return r.Go(context.Background(), "task", succeed, tether.Delay(time.Hour))
		},
		"of one name each": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return r.Go(context.Background(), fmt.Sprint("task", r.Stats().Submitted), succeed)
		},
		"of one serial key each": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return p.Go(context.Background(), "task", succeed, tether.Serial(fmt.Sprint(r.Stats().Submitted)))
		},
		"of one unique key each": func(r *tether.Registry, p *tether.Pool) (*tether.Task, error) {
			return r.Go(context.Background(), "task", succeed, tether.Unique(fmt.Sprint(r.Stats().Submitted)))
		},
	}
	for name, submit := range churn {
		t.Run("no trace of tasks "+name, func(t *testing.T) {
			r := newRegistry(t, tether.Config{Retain: -1})
			p := r.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: tether.Unbounded})
			gate := make(chan struct{})
			defer close(gate)
			start(t, p, "running", until(gate), tether.Serial("key"))
			start(t, r, "running", until(gate), tether.Serial("key"))
			var before int64
			for i := range rounds + 1000 {
				if i == 1000 {
					before = heap()
				}
				task, err := submit(r, p)
				require.NoError(t, err)
				if strings.HasPrefix(name, "cancelled") || strings.Contains(name, "serial") {
					require.True(t, task.Cancel(errTest))
				}
				wait(task)
			}
			assert.Less(t, heap()-before, int64(most))
		})
	}
	t.Run("a burst leaves nothing behind", func(t *testing.T) {
		r := newRegistry(t, tether.Config{})
		before := heap()
		gate := make(chan struct{})
		tasks := make([]*tether.Task, 0, rounds)
		for range rounds {
			tasks = append(tasks, start(t, r, "task", succeed, tether.Hold()))
		}
		for _, task := range tasks {
			task.Cancel(nil)
		}
		close(gate)
		tasks = nil
		_ = tasks
		assert.Less(t, heap()-before, int64(most))
	})
	t.Run("an empty task is one allocation", func(t *testing.T) {
		if raceEnabled() {
			t.Skip("the race detector allocates as well")
		}
		ctx := context.Background()
		r := newRegistry(t, tether.Config{})
		pools := map[string]tether.Submitter{
			"registry": r,
			"pool":     r.NewPool("unbounded", tether.PoolConfig{Workers: 100, Queue: tether.Unbounded}),
			"blocking": r.NewPool("blocking", tether.PoolConfig{Workers: 2, Queue: 100_000, Overflow: tether.OverflowBlock}),
		}
		for name, on := range pools {
			var group sync.WaitGroup
			body := func(context.Context) error { group.Done(); return nil }
			const burst = 10_000
			perBurst := testing.AllocsPerRun(5, func() {
				group.Add(burst)
				for range burst {
					on.Go(ctx, "task", body)
				}
				group.Wait()
			})
			// The rest are workers, and the registry's room for each 32 tasks.
			assert.Less(t, perBurst/burst, 1.1, name)
		}
	})
	t.Run("a refusal allocates its error only", func(t *testing.T) {
		if raceEnabled() {
			t.Skip("the race detector allocates as well")
		}
		r := newRegistry(t, tether.Config{})
		p, free := fullPool(t, r, tether.OverflowReject)
		defer free()
		ctx := context.Background()
		assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
			if _, err := p.Go(ctx, "task", succeed); !errors.Is(err, tether.ErrFull) {
				t.Error(err)
			}
		}), 1.0)
	})
}

// bigObserver gives each body's context a large value.
type bigObserver struct {
	tether.NopObserver
	ref weak.Pointer[[1 << 16]byte]
}

func (o *bigObserver) TaskStarted(ctx context.Context, _ *tether.Task) context.Context {
	data := new([1 << 16]byte)
	o.ref = weak.Make(data)
	return context.WithValue(ctx, ctxKey("data"), data)
}

// raceEnabled reports whether the race detector runs.
func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
