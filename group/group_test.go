package group_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/group"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTest = errors.New("test error")

// logbook is what a registry has logged.
type logbook struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bubble runs f in a bubble of testing/synctest with a registry, which must drain at once at
// the end.
func bubble(t *testing.T, f func(t *testing.T, reg *tether.Registry, log *logbook)) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logbook)
		reg := tether.New(tether.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
		f(t, reg, log)
		require.NoError(t, reg.Shutdown(context.Background()))
		s := reg.Stats()
		assert.Zero(t, s.Held+s.Queued+s.Running)
	})
}

// inTask runs f in the body of a task, and waits for it.
func inTask(t *testing.T, to tether.Submitter, f func(ctx context.Context) error) error {
	t.Helper()
	task, err := to.Go(context.Background(), "parent", f)
	require.NoError(t, err)
	return task.Wait(context.Background())
}

func sleep(d time.Duration) tether.Func {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func TestG1_WaitWaitsForAll(t *testing.T) {
	t.Run("children run at once", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			began := time.Now()
			g := group.New(context.Background(), reg, "child")
			for i := range 10 {
				g.Go(sleep(time.Duration(i+1) * time.Second))
			}
			require.NoError(t, g.Wait())
			assert.Equal(t, 10*time.Second, time.Since(began))
			require.NoError(t, g.Wait(), "again")
		})
	})
	t.Run("no children", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			require.NoError(t, group.New(context.Background(), reg, "child").Wait())
		})
	})
	t.Run("children that children start", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			var ran atomic.Int32
			g := group.New(context.Background(), reg, "child")
			var start func(depth int)
			start = func(depth int) {
				g.Go(func(ctx context.Context) error {
					time.Sleep(time.Second)
					ran.Add(1)
					if depth > 0 {
						start(depth - 1)
						start(depth - 1)
					}
					return nil
				})
			}
			start(5)
			require.NoError(t, g.Wait())
			assert.EqualValues(t, 63, ran.Load())
		})
	})
	t.Run("one child", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			ctx := context.Background()
			g := group.New(ctx, reg, "child", group.Config{Until: group.UntilEnd})
			quick, slow := g.Go(sleep(time.Second)), g.Go(sleep(time.Minute))
			fails := g.Go(func(context.Context) error { return errTest })
			synctest.Wait()
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			assert.NoError(t, quick.Wait(short))
			assert.ErrorIs(t, slow.Wait(short), context.DeadlineExceeded)
			assert.NoError(t, slow.Err(), "it has not ended")
			assert.Equal(t, errTest, fails.Wait(short))
			assert.Equal(t, errTest, fails.Err())
			assert.ErrorIs(t, g.Wait(), errTest)
			assert.NoError(t, slow.Wait(short))
		})
	})
	t.Run("a child after the end", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.New(context.Background(), reg, "child")
			require.NoError(t, g.Wait())
			assert.Equal(t, group.ErrEnded, g.Go(sleep(0)).Err())
			require.NoError(t, g.Wait())
		})
	})
}

func TestG2_OneDecides(t *testing.T) {
	t.Run("the first failure cancels the others", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.New(context.Background(), reg, "child")
			a := g.Go(sleep(time.Hour))
			b := g.Go(func(context.Context) error { time.Sleep(time.Second); return errTest })
			c := g.Go(sleep(time.Hour))
			d := g.Go(func(ctx context.Context) error { <-ctx.Done(); return nil })
			synctest.Wait() // all run in tasks
			began := time.Now()
			assert.Equal(t, errTest, g.Wait())
			assert.Equal(t, time.Second, time.Since(began))
			assert.Equal(t, errTest, a.Err(), "the cause")
			assert.Equal(t, errTest, b.Err())
			assert.Equal(t, errTest, c.Err())
			assert.NoError(t, d.Err())
			assert.NotContains(t, log.String(), "task failed", "the error is that of Wait")
			synctest.Wait()
			assert.EqualValues(t, 1, reg.Stats().Failed, "the task of the one that has failed")
			assert.LessOrEqual(t, reg.Stats().Canceled, uint64(3))
		})
	})
	t.Run("what has not started never does", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			g := group.New(context.Background(), pool, "child")
			g.Go(func(context.Context) error { time.Sleep(time.Second); return errTest })
			synctest.Wait()
			never := g.Go(func(context.Context) error { panic("it ran") })
			time.Sleep(2 * time.Second)
			assert.Equal(t, errTest, never.Err())
			late := g.Go(func(context.Context) error { panic("it ran") })
			assert.Equal(t, errTest, late.Err())
			assert.Equal(t, errTest, g.Wait())
		})
	})
	t.Run("the first success cancels the others", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.NewResults[string](context.Background(), reg, "child", group.Config{Until: group.UntilSuccess})
			answer := func(s string, after time.Duration, err error) *group.Child {
				return g.Go(func(ctx context.Context) (string, error) {
					if canceled := sleep(after)(ctx); canceled != nil {
						return "", canceled
					}
					return s, err
				})
			}
			answer("fails", time.Second, errTest)
			slow := answer("slow", time.Hour, nil)
			answer("quick", time.Minute, nil)
			got, err := g.Wait()
			require.NoError(t, err)
			assert.Equal(t, []string{"quick"}, got)
			assert.Equal(t, group.ErrDecided, slow.Err())
		})
	})
	t.Run("no success", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.NewResults[int](context.Background(), reg, "child", group.Config{Until: group.UntilSuccess})
			for i := range 3 {
				g.Go(func(context.Context) (int, error) { return i, fmt.Errorf("%w %d", errTest, i) })
			}
			got, err := g.Wait()
			assert.EqualError(t, err, "test error 0\ntest error 1\ntest error 2")
			assert.Nil(t, got)
		})
	})
	t.Run("none decides", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.NewResults[int](context.Background(), reg, "child", group.Config{Until: group.UntilEnd})
			for i := range 5 {
				g.Go(func(context.Context) (int, error) {
					time.Sleep(time.Duration(5-i) * time.Second)
					if i%2 == 1 {
						return -i, fmt.Errorf("%w %d", errTest, i)
					}
					return i, nil
				})
			}
			got, err := g.Wait()
			assert.EqualError(t, err, "test error 1\ntest error 3")
			assert.Equal(t, []int{0, -1, 2, -3, 4}, got, "in order")
		})
	})
	t.Run("results, until one fails", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			for _, fails := range []bool{false, true} {
				g := group.NewResults[int](context.Background(), reg, "child")
				for i := range 100 {
					g.Go(func(context.Context) (int, error) {
						time.Sleep(time.Duration(rand.N(100)))
						if fails && i == 50 {
							return 0, errTest
						}
						return i * i, nil
					})
				}
				got, err := g.Wait()
				if fails {
					assert.Equal(t, errTest, err)
					assert.Nil(t, got)
					continue
				}
				require.NoError(t, err)
				require.Len(t, got, 100)
				for i, v := range got {
					assert.Equal(t, i*i, v)
				}
			}
		})
	})
	t.Run("by the program", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			g := group.New(context.Background(), reg, "child")
			before := g.Context()
			g.Go(sleep(time.Hour))
			synctest.Wait()
			g.Cancel(errTest)
			g.Cancel(errors.New("the first cause counts"))
			assert.Equal(t, errTest, g.Wait())
			assert.Equal(t, errTest, context.Cause(before))

			g = group.New(context.Background(), reg, "child")
			g.Cancel(nil)
			assert.Equal(t, context.Canceled, g.Go(sleep(0)).Err())
			assert.Equal(t, context.Canceled, context.Cause(g.Context()))
			assert.Equal(t, context.Canceled, g.Wait())
		})
	})
}

// A group that has been waited for is garbage, however long its parent goes on.
func TestTheParentDoesNotKeepGroups(t *testing.T) {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler), Retain: -1})
	require.NoError(t, inTask(t, reg, func(ctx context.Context) error {
		var groups []weak.Pointer[group.Group]
		for range 100 {
			g := group.New(ctx, reg, "child")
			g.Go(func(context.Context) error { return nil })
			if err := g.Wait(); err != nil {
				return err
			}
			groups = append(groups, weak.Make(g))
		}
		kept := 0
		for range 100 { // tasks of the last groups may be ending
			runtime.GC()
			kept = 0
			for _, g := range groups {
				if g.Value() != nil {
					kept++
				}
			}
			if kept <= 1 {
				break
			}
		}
		assert.LessOrEqual(t, kept, 1)
		return nil
	}))
	require.NoError(t, reg.Shutdown(context.Background()))
}

// A group's context ends with the group, as that of errgroup does.
func TestContext(t *testing.T) {
	bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
		g := group.New(context.Background(), reg, "child")
		ctx := g.Context()
		assert.Same(t, ctx, g.Context())
		assert.NoError(t, ctx.Err())
		require.NoError(t, g.Wait())
		assert.Equal(t, context.Canceled, context.Cause(ctx))
		g = group.New(context.Background(), reg, "child")
		require.NoError(t, g.Wait())
		assert.Equal(t, context.Canceled, context.Cause(g.Context()))
	})
}

func TestG3_ChildrenEndWithTheirParent(t *testing.T) {
	for what, end := range map[string]func(parent *tether.Task){
		"canceled": func(parent *tether.Task) { parent.Cancel(errTest) },
		"returns":  func(*tether.Task) {},
		"panics":   func(*tether.Task) {},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
				type key struct{}
				var cause error
				running := make(chan struct{})
				parent, err := reg.Go(context.WithValue(context.Background(), key{}, 42), "parent", func(ctx context.Context) error {
					g := group.New(ctx, reg, "child")
					g.Go(func(ctx context.Context) error {
						assert.Equal(t, 42, ctx.Value(key{}))
						close(running)
						<-ctx.Done()
						cause = context.Cause(ctx)
						return cause
					})
					<-running
					switch what {
					case "canceled":
						return g.Wait()
					case "panics":
						panic("parent")
					}
					return nil // without waiting
				})
				require.NoError(t, err)
				<-running
				for task := range reg.Tasks() {
					if task.Name() == "child" {
						assert.Equal(t, parent.ID(), task.Info().Parent)
					}
				}
				end(parent)
				synctest.Wait()
				if what == "canceled" {
					assert.Equal(t, errTest, cause)
					assert.Equal(t, tether.Canceled, parent.State())
				} else {
					assert.Equal(t, context.Canceled, cause)
				}
			})
		})
	}
	t.Run("the drain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			began := time.Now()
			parent, err := reg.Go(context.Background(), "parent", func(ctx context.Context) error {
				g := group.New(ctx, reg, "child")
				g.Go(sleep(time.Hour))
				time.Sleep(10 * time.Second)
				g.Go(sleep(time.Hour)) // the drain has begun, and admits children
				return g.Wait()
			})
			require.NoError(t, err)
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
			defer cancel()
			require.NoError(t, reg.Shutdown(ctx))
			assert.Equal(t, 21*time.Second, time.Since(began), "contexts are canceled 5 s before the deadline")
			assert.ErrorIs(t, parent.Err(), tether.ErrShutdown)
		})
	})
	t.Run("after the drain", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, reg.Shutdown(context.Background()))
			g := group.New(context.Background(), reg, "child")
			c := g.Go(sleep(0))
			assert.ErrorIs(t, c.Err(), tether.ErrClosed)
			assert.ErrorIs(t, g.Wait(), tether.ErrClosed)
		})
	})
}

// Nested groups in a full pool: every worker is a parent that waits for children in the same
// pool, four generations deep.
func TestG4_NestedGroupsInAFullPool(t *testing.T) {
	for what, cfg := range map[string]tether.PoolConfig{
		"reject, no queue":   {Workers: 2},
		"reject, a queue":    {Workers: 2, Queue: 3},
		"unbounded":          {Workers: 1, Queue: tether.Unbounded},
		"block":              {Workers: 2, Queue: 1, Overflow: tether.OverflowBlock},
		"drop the oldest":    {Workers: 2, Queue: 1, Overflow: tether.OverflowDropOldest},
		"the caller runs it": {Workers: 2, Queue: 1, Overflow: tether.OverflowCallerRuns},
		"capacity":           {Workers: 4, Queue: 10, Capacity: 2},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
				pool := reg.NewPool("pool", cfg)
				var leaves atomic.Int32
				var nest func(ctx context.Context, depth int) error
				nest = func(ctx context.Context, depth int) error {
					if depth == 0 {
						leaves.Add(1)
						time.Sleep(time.Millisecond)
						return nil
					}
					g := group.New(ctx, pool, "child")
					for range 4 {
						g.Go(func(ctx context.Context) error { return nest(ctx, depth-1) })
					}
					return g.Wait()
				}
				for range 3 {
					require.NoError(t, inTask(t, pool, func(ctx context.Context) error { return nest(ctx, 4) }))
				}
				assert.EqualValues(t, 3*256, leaves.Load())
			})
		})
	}
	t.Run("one child is waited for", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			require.NoError(t, inTask(t, pool, func(ctx context.Context) error {
				g := group.New(ctx, pool, "child")
				var order []int
				one := g.Go(func(context.Context) error { order = append(order, 1); return nil })
				two := g.Go(func(context.Context) error { order = append(order, 2); return errTest })
				assert.Equal(t, errTest, two.Wait(ctx))
				assert.Equal(t, errTest, one.Wait(ctx), "the failure of the other one has canceled it")
				assert.Equal(t, []int{2}, order)
				assert.Equal(t, errTest, g.Wait())
				return nil
			}))
		})
	})
	t.Run("a pool that is paused", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 5})
			pool.Pause()
			require.NoError(t, inTask(t, reg, func(ctx context.Context) error {
				g := group.New(ctx, pool, "child")
				var ran int
				for range 10 {
					g.Go(func(context.Context) error { ran++; return nil })
				}
				err := g.Wait()
				assert.Equal(t, 10, ran)
				assert.Zero(t, pool.Stats().Queued, "nothing is left there")
				return err
			}))
		})
	})
	t.Run("a child that is added while another caller waits", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			require.NoError(t, inTask(t, pool, func(ctx context.Context) error {
				g := group.New(ctx, pool, "child")
				added := make(chan struct{})
				g.Go(func(context.Context) error {
					synctest.Wait() // the other caller waits
					g.Go(func(context.Context) error { close(added); return nil })
					<-added
					return nil
				})
				other := make(chan error)
				go func() { other <- g.Wait() }()
				return errors.Join(g.Wait(), <-other)
			}))
		})
	})
	t.Run("the limit of the registry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Limit: 2, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, inTask(t, reg, func(ctx context.Context) error {
				g := group.New(ctx, reg, "child")
				for range 10 {
					g.Go(sleep(time.Second))
				}
				return g.Wait()
			}))
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
}

// A caller of Wait that is no task occupies no worker: the bounds of the pool hold.
func TestG8_OutsideOfTasksThePoolDecides(t *testing.T) {
	ctx := context.Background()
	t.Run("its bound", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 3, Queue: 1})
			var running atomic.Int32
			began := time.Now()
			g := group.New(ctx, pool, "child")
			for range 30 {
				g.Go(func(context.Context) error {
					assert.LessOrEqual(t, running.Add(1), int32(3))
					time.Sleep(time.Second)
					running.Add(-1)
					return nil
				})
			}
			last := g.Go(func(context.Context) error { return nil })
			require.NoError(t, last.Wait(ctx))
			require.NoError(t, g.Wait())
			assert.Equal(t, 10*time.Second, time.Since(began))
		})
	})
	for _, fail := range []bool{false, true} {
		t.Run(fmt.Sprintf("a pool without a queue, failures %v", fail), func(t *testing.T) {
			bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
				pool := reg.NewPool("pool", tether.PoolConfig{Workers: 3})
				var ran atomic.Int32
				g := group.New(ctx, pool, "child", group.Config{Until: group.UntilEnd})
				for i := range 30 {
					g.Go(func(context.Context) error {
						ran.Add(1)
						time.Sleep(time.Second)
						if fail && i%2 == 0 {
							return errTest
						}
						return nil
					})
				}
				err := g.Wait()
				assert.EqualValues(t, 30, ran.Load())
				assert.NotErrorIs(t, err, tether.ErrFull)
				if fail {
					assert.Equal(t, 15, strings.Count(err.Error(), "test error"))
				} else {
					assert.NoError(t, err)
				}
			})
		})
	}
	t.Run("its refusal", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1})
			busy, err := pool.Go(ctx, "busy", sleep(time.Second))
			require.NoError(t, err)
			g := group.New(ctx, pool, "child")
			assert.ErrorIs(t, g.Go(sleep(0)).Err(), tether.ErrFull)
			assert.ErrorIs(t, g.Wait(), tether.ErrFull)
			require.NoError(t, busy.Wait(ctx))
		})
	})
	t.Run("a pool that blocks", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
			_, err := pool.Go(ctx, "busy", sleep(time.Second))
			require.NoError(t, err)
			began := time.Now()
			g := group.New(ctx, pool, "child")
			g.Go(sleep(0))
			assert.Equal(t, time.Second, time.Since(began), "Go waits for room")
			require.NoError(t, g.Wait())
		})
	})
	for _, one := range []bool{false, true} {
		t.Run(fmt.Sprintf("a task that is canceled before it starts, one child %v", one), func(t *testing.T) {
			bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
				pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
				pool.Pause()
				g := group.New(ctx, pool, "child")
				a, b := g.Go(sleep(0)), g.Go(sleep(0))
				ended := make(chan error)
				go func() {
					if one {
						ended <- b.Wait(ctx)
					} else {
						ended <- g.Wait()
					}
				}()
				synctest.Wait()
				short, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				assert.ErrorIs(t, a.Wait(short), context.DeadlineExceeded)
				for task := range reg.Tasks() {
					task.Cancel(errTest)
				}
				assert.ErrorIs(t, <-ended, errTest)
				assert.ErrorIs(t, a.Err(), errTest)
				assert.ErrorIs(t, g.Wait(), errTest)
			})
		})
	}
	t.Run("dropped for newer tasks", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
			_, err := pool.Go(ctx, "busy", sleep(time.Second))
			require.NoError(t, err)
			synctest.Wait()
			g := group.New(ctx, pool, "child")
			g.Go(sleep(0))
			_, err = pool.Go(ctx, "newer", sleep(0))
			require.NoError(t, err)
			assert.ErrorIs(t, g.Wait(), tether.ErrFull)
		})
	})
}

// Children of a registry run at once, however many there are, also while their parent does
// not wait.
func TestG5_ChildrenDoNotWaitForEachOther(t *testing.T) {
	const n = 1000
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	for _, waits := range []bool{true, false} {
		var barrier sync.WaitGroup
		barrier.Add(n)
		g := group.New(context.Background(), reg, "child")
		for range n {
			g.Go(func(context.Context) error {
				barrier.Done()
				barrier.Wait()
				return nil
			})
		}
		if !waits {
			barrier.Wait()
		}
		require.NoError(t, g.Wait())
	}
	// Some of them have shared tasks with quick ones, of which they are the last.
	var quick, slow atomic.Int32
	release := make(chan struct{})
	g := group.New(context.Background(), reg, "child")
	for i := range n {
		g.Go(func(context.Context) error {
			if i%10 == 0 {
				if slow.Add(1) == n/10 {
					close(release)
				}
				<-release
			}
			quick.Add(1)
			return nil
		})
	}
	<-release // all slow ones run, though nothing waits for the group
	require.NoError(t, g.Wait())
	assert.EqualValues(t, n, quick.Load())
	require.NoError(t, reg.Shutdown(context.Background()))
}

func TestG6_PanicsAndGoexit(t *testing.T) {
	// inPlace makes the waiter run the child, or a task.
	for _, inPlace := range []bool{false, true} {
		t.Run(fmt.Sprintf("in place %v", inPlace), func(t *testing.T) {
			for _, what := range []string{"panic", "goexit"} {
				t.Run(what, func(t *testing.T) {
					bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
						pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
						if inPlace {
							pool.Pause()
						}
						var g *group.Group
						made := make(chan struct{})
						parent, err := reg.Go(context.Background(), "parent", func(ctx context.Context) error {
							g = group.New(ctx, pool, "child", group.Config{Until: group.UntilEnd})
							close(made)
							<-ctx.Done()
							return nil
						})
						require.NoError(t, err)
						<-made
						defer parent.Cancel(nil)
						c := g.Go(func(context.Context) error {
							if what == "goexit" {
								runtime.Goexit()
							}
							panic(errTest)
						})
						other := g.Go(sleep(time.Second))
						if !inPlace {
							time.Sleep(2 * time.Second)
						}
						done := make(chan error, 1)
						go func() {
							defer close(done)
							done <- g.Wait()
						}()
						err, returned := <-done // of Wait
						if inPlace && what == "goexit" {
							assert.False(t, returned, "the goroutine of the caller has ended, as its code wanted")
						} else {
							require.True(t, returned)
							assert.ErrorIs(t, err, c.Err())
						}
						assert.ErrorIs(t, g.Wait(), c.Err())
						assert.NoError(t, other.Err())
						if what == "goexit" {
							assert.ErrorIs(t, c.Err(), tether.ErrGoexit)
							return
						}
						var p *tether.PanicError
						require.ErrorAs(t, c.Err(), &p)
						assert.Equal(t, errTest, p.Value)
						assert.Contains(t, string(p.Stack), "TestG6_PanicsAndGoexit")
						assert.Equal(t, 1, strings.Count(log.String(), `msg=panic`))
						assert.Contains(t, log.String(), "TestG6_PanicsAndGoexit", "the stack is logged")
					})
				})
			}
		})
	}
	t.Run("in place, when the registry takes no task", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := new(logbook)
			reg := tether.New(tether.Config{Limit: 1, Logger: slog.New(slog.NewTextHandler(log, nil))})
			assert.ErrorIs(t, inTask(t, reg, func(ctx context.Context) error {
				g := group.New(ctx, reg, "child")
				g.Go(func(context.Context) error { panic(errTest) })
				return g.Wait()
			}), errTest)
			assert.Contains(t, log.String(), "level=ERROR msg=panic task=child panic=\"test error\" stack=")
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
}

// With PanicCrash a panic ends the process before Wait returns, wherever the child runs.
func TestG6_CrashEndsTheProcess(t *testing.T) {
	const key = "TETHER_GROUP_CRASH"
	if mode := os.Getenv(key); mode != "" {
		reg := tether.New(tether.Config{OnPanic: tether.PanicCrash})
		pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
		_ = inTask(t, reg, func(ctx context.Context) error {
			if mode == "in place" {
				pool.Pause()
			}
			g := group.New(ctx, pool, "child")
			g.Go(func(context.Context) error { panic("of the child") })
			_ = g.Wait()
			fmt.Println("Wait has returned")
			return nil
		})
		return
	}
	for _, mode := range []string{"in place", "in a task"} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestG6_CrashEndsTheProcess$")
		cmd.Env = append(os.Environ(), key+"="+mode)
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, mode)
		assert.Contains(t, string(out), "panic: of the child", mode)
		assert.Contains(t, string(out), "TestG6_CrashEndsTheProcess", "the stack")
		assert.NotContains(t, string(out), "Wait has returned", mode)
	}
}

// Whatever happens to the tasks of a group, its children run, or end with an error.
func TestG7_TasksThatAreCanceled(t *testing.T) {
	t.Run("before they start", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			pool.Pause()
			g := group.New(context.Background(), pool, "child")
			var ran atomic.Int32
			body := func(context.Context) error { ran.Add(1); return nil }
			g.Go(body)
			for task := range reg.Tasks() {
				task.Cancel(errTest)
			}
			pool.Resume()
			g.Go(body) // another task, for both
			synctest.Wait()
			assert.EqualValues(t, 2, ran.Load())
			require.NoError(t, g.Wait())
		})
	})
	t.Run("while they run", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			g := group.New(context.Background(), pool, "child", group.Config{Until: group.UntilEnd})
			first := g.Go(func(ctx context.Context) error { <-ctx.Done(); return nil }) // and says nothing of it
			second := g.Go(sleep(time.Second))
			synctest.Wait()
			for task := range reg.Tasks() {
				if task.State() == tether.Running {
					task.Cancel(errTest)
					break
				}
			}
			time.Sleep(2 * time.Second)
			assert.NoError(t, first.Err())
			assert.NoError(t, second.Wait(context.Background()), "it has a task of its own")
			require.NoError(t, g.Wait())
		})
	})
	t.Run("while one child is waited for", func(t *testing.T) {
		bubble(t, func(t *testing.T, reg *tether.Registry, log *logbook) {
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Queue: 1})
			require.NoError(t, inTask(t, reg, func(ctx context.Context) error {
				pool.Pause() // so that another caller of Wait runs the first child
				g := group.New(ctx, pool, "child")
				first := g.Go(sleep(time.Second))
				other := make(chan error)
				go func() { other <- g.Wait() }()
				synctest.Wait()
				second := g.Go(sleep(time.Second))
				defer func() { assert.NoError(t, <-other) }()
				var queued *tether.Task
				for task := range reg.Tasks() {
					if task.State() == tether.Queued {
						queued = task
					}
				}
				require.NotNil(t, queued)
				time.AfterFunc(time.Millisecond, func() { queued.Cancel(errTest) })
				assert.NoError(t, first.Wait(ctx))
				assert.NoError(t, second.Wait(ctx))
				return g.Wait()
			}))
		})
	})
	t.Run("a refusal that ends the goroutine", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler), Observer: refusalLeaver{}})
			pool := reg.NewPool("pool", tether.PoolConfig{Workers: 1})
			pool.Pause()
			g := group.New(context.Background(), pool, "child")
			go g.Go(sleep(0))
			synctest.Wait()
			assert.ErrorIs(t, g.Wait(), tether.ErrGoexit)
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
	t.Run("an observer that ends the goroutine", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler), Observer: leaver{}})
			g := group.New(context.Background(), reg, "child")
			g.Go(sleep(time.Second))
			synctest.Wait()
			require.NoError(t, g.Wait())
			require.NoError(t, reg.Shutdown(context.Background()))
		})
	})
}

type refusalLeaver struct{ tether.NopObserver }

func (refusalLeaver) TaskRefused(context.Context, string, error) { runtime.Goexit() }

type leaver struct{ tether.NopObserver }

func (leaver) TaskStarted(context.Context, *tether.Task) context.Context {
	runtime.Goexit()
	return nil
}

func TestInvalid(t *testing.T) {
	reg := tether.New(tether.Config{})
	ctx := context.Background()
	var none context.Context
	for what, f := range map[string]func(){
		"nil context":  func() { group.New(none, reg, "child") },
		"nil":          func() { group.New(ctx, nil, "child") },
		"nil registry": func() { group.New(ctx, (*tether.Registry)(nil), "child") },
		"nil pool":     func() { group.New(ctx, (*tether.Pool)(nil), "child") },
		"name":         func() { group.New(ctx, reg, "") },
		"until":        func() { group.New(ctx, reg, "child", group.Config{Until: 3}) },
		"two":          func() { group.NewResults[int](ctx, reg, "child", group.Config{}, group.Config{}) },
	} {
		assert.Panics(t, f, what)
	}
	g := group.NewResults[int](ctx, reg, "child")
	assert.ErrorIs(t, g.Go(nil).Err(), tether.ErrInvalid)
	assert.ErrorIs(t, g.Go(nil).Wait(none), tether.ErrInvalid)
	_, err := g.Wait()
	assert.ErrorIs(t, err, tether.ErrInvalid)
	assert.ErrorIs(t, context.Cause(g.Group().Context()), tether.ErrInvalid)
}

// Random families of groups, with failures, cancellations and panics: each child ends once,
// none runs after Wait, and nothing hangs.
func TestRandomGroups(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	for seed := range rounds {
		synctest.Test(t, func(t *testing.T) {
			reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
			rnd := rand.New(rand.NewPCG(uint64(seed), 0))
			to := tether.Submitter(reg)
			if rnd.IntN(3) > 0 {
				to = reg.NewPool("pool", tether.PoolConfig{Workers: 1 + rnd.IntN(3), Queue: rnd.IntN(4), Overflow: tether.Overflow(rnd.IntN(4))})
			}
			var live, ran atomic.Int32
			var family func(ctx context.Context, depth int, rnd *rand.Rand) error
			family = func(ctx context.Context, depth int, rnd *rand.Rand) error {
				g := group.New(ctx, to, "child", group.Config{Until: group.Until(rnd.IntN(3))})
				ended := atomic.Bool{}
				for range 1 + rnd.IntN(8) {
					rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
					g.Go(func(ctx context.Context) error {
						assert.False(t, ended.Load(), "after Wait")
						live.Add(1)
						ran.Add(1)
						defer live.Add(-1)
						switch n := rnd.IntN(20); {
						case n == 0:
							return errTest
						case n == 1:
							panic(errTest)
						case n == 2:
							g.Cancel(errTest)
						case n == 3:
							g.Go(func(context.Context) error { return nil })
						case n == 4:
							<-ctx.Done()
							return ctx.Err()
						case n < 10 && depth > 0:
							return family(ctx, depth-1, rnd)
						}
						return nil
					})
				}
				stop := time.AfterFunc(20*time.Millisecond, func() { g.Cancel(errTest) }) // some wait for a cancellation
				defer stop.Stop()
				err := g.Wait()
				ended.Store(true)
				return err
			}
			task, err := to.Go(context.Background(), "parent", func(ctx context.Context) error {
				_ = family(ctx, 3, rnd)
				return nil
			})
			require.NoError(t, err)
			require.NoError(t, task.Wait(context.Background()))
			require.NoError(t, reg.Shutdown(context.Background()))
			assert.Zero(t, live.Load())
			assert.Positive(t, ran.Load())
		})
	}
}

// A task of the group must not wait for room that it takes up itself, also when it was
// canceled and leaves the other children to another task.
func TestATaskDoesNotWaitForItsOwnPlace(t *testing.T) {
	for _, canceled := range []bool{false, true} {
		t.Run(fmt.Sprint("canceled ", canceled), func(t *testing.T) { testOwnPlace(t, canceled) })
	}
}

func testOwnPlace(t *testing.T, canceled bool) {
	bubble(t, func(t *testing.T, reg *tether.Registry, _ *logbook) {
		p := reg.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		end := make(chan struct{})
		_, err := p.Go(context.Background(), "busy", func(context.Context) error { <-end; return nil })
		require.NoError(t, err)
		g := group.New(context.Background(), p, "child")
		var ran atomic.Int32
		body := func(ctx context.Context) error {
			if task, _ := tether.FromContext(ctx); ran.Add(1) == 1 && canceled {
				task.Cancel(errTest)
			}
			return nil
		}
		go g.Go(body)
		synctest.Wait() // it waits for room
		g.Go(body)
		g.Go(body)
		close(end)
		synctest.Wait()
		assert.EqualValues(t, 3, ran.Load())
		if ran.Load() == 3 {
			require.NoError(t, g.Wait())
		}
	})
}

// A child that starts others in a group which was made outside of tasks, in its own pool.
func TestAChildDoesNotWaitForItsOwnPlace(t *testing.T) {
	for _, queue := range []int{0, 1} {
		bubble(t, func(t *testing.T, reg *tether.Registry, _ *logbook) {
			p := reg.NewPool("pool", tether.PoolConfig{Workers: 2, Queue: queue, Overflow: tether.OverflowBlock})
			var ran atomic.Int32
			var walk func(g *group.Group, depth int) tether.Func
			walk = func(g *group.Group, depth int) tether.Func {
				return func(context.Context) error {
					if ran.Add(1) <= 2 {
						time.Sleep(time.Second) // until each worker has a child of another group
					}
					for range 3 {
						if depth > 0 {
							g.Go(walk(g, depth-1))
						}
					}
					return nil
				}
			}
			var groups []*group.Group
			for range 3 { // more than workers
				g := group.New(context.Background(), p, "child")
				groups = append(groups, g)
				go g.Go(walk(g, 4))
				synctest.Wait()
			}
			time.Sleep(time.Minute)
			assert.EqualValues(t, 3*(1+3+9+27+81), ran.Load())
			if !t.Failed() {
				for _, g := range groups {
					require.NoError(t, g.Wait())
				}
			}
		})
	}
}

// A child that finds the pool full, while another one runs, waits for room, and not for the
// other one. Nothing waits for room once the group was canceled, or has ended.
func TestG8_AChildWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T, reg *tether.Registry, _ *logbook) {
		p := reg.NewPool("pool", tether.PoolConfig{Workers: 2, Overflow: tether.OverflowBlock})
		for _, roomAfter := range []time.Duration{time.Second, time.Hour} {
			other, err := p.Go(context.Background(), "other", sleep(roomAfter))
			require.NoError(t, err)
			g := group.New(context.Background(), p, "child")
			sent := make(chan struct{})
			g.Go(func(context.Context) error {
				select {
				case <-sent:
					return nil
				case <-time.After(time.Minute):
					return errTest
				}
			})
			synctest.Wait()
			second := g.Go(func(context.Context) error { close(sent); return nil })
			if roomAfter == time.Second {
				assert.NoError(t, g.Wait())
			} else {
				synctest.Wait()
				g.Cancel(errTest)
				synctest.Wait()
				assert.ErrorIs(t, g.Wait(), errTest)
				assert.ErrorIs(t, second.Err(), errTest)
			}
			require.NoError(t, other.Wait(context.Background()))
			synctest.Wait()
		}
		assert.EqualValues(t, 5, p.Stats().Submitted, "the last child has had no task")
	})
}

func TestG8_ARefusalIsCountedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, reg *tether.Registry, _ *logbook) {
		p := reg.NewPool("pool", tether.PoolConfig{Workers: 1})
		start := func() *group.Group {
			g := group.New(context.Background(), p, "child")
			g.Go(sleep(time.Second))
			return g
		}
		g := start()
		synctest.Wait()
		assert.ErrorIs(t, start().Wait(), tether.ErrFull)
		assert.EqualValues(t, 1, p.Stats().Refused)
		g.Go(sleep(time.Second)) // the task of the first one runs it
		assert.EqualValues(t, 2, p.Stats().Refused)
		assert.NoError(t, g.Wait())
	})
}
