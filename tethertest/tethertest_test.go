package tethertest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tethertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var bg = context.Background()

// trial is the test that a registry is given here. Its failures are what is tested.
type trial struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (t *trial) Helper()           {}
func (t *trial) Cleanup(f func())  { t.cleanups = append(t.cleanups, f) }
func (t *trial) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }
func (t *trial) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

// end ends the trial and returns how it has failed.
func (t *trial) end() []string {
	for _, f := range t.cleanups {
		f()
	}
	return t.failures
}

// outcome runs a trial in virtual time.
func outcome(t *testing.T, run func(t *trial, reg *tether.Registry), adjust ...func(*tether.Config)) (failures []string) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trial{TB: t}
		run(tr, tethertest.New(tr, adjust...))
		failures = tr.end()
		time.Sleep(2 * time.Hour) // bodies may outlive the trial, not the bubble
	})
	return failures
}

func TestNew(t *testing.T) {
	boom := errors.New("boom")
	fails := func(context.Context) error { return boom }

	t.Run("good tasks pass", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			pool := reg.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 100, Overflow: tether.OverflowBlock})
			for range 50 {
				_, err := pool.Go(bg, "quick", func(context.Context) error { return nil })
				require.NoError(t, err)
			}
			_, err := reg.Go(bg, "slow", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
			require.NoError(t, err)
			_, err = reg.Go(bg, "service", func(ctx context.Context) error { <-tether.StoppingFrom(ctx); return nil })
			require.NoError(t, err)
		})
		assert.Empty(t, failures)
	})

	t.Run("a failure that was not asked for is named", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			_, err := reg.Go(bg, "welcome mail", fails)
			require.NoError(t, err)
			_, err = reg.Go(bg, "invoice", func(context.Context) error { panic("no paper") })
			require.NoError(t, err)
			_, err = reg.Go(bg, "report", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, tether.Timeout(time.Second))
			require.NoError(t, err)
		})
		require.Len(t, failures, 3)
		all := strings.Join(failures, "\n")
		for _, part := range []string{`"welcome mail"`, "boom", `"invoice"`, "no paper", `"report"`, "time is up"} {
			assert.Contains(t, all, part)
		}
	})

	t.Run("a failure that was asked for passes, even if late", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			task, err := reg.Go(bg, "welcome mail", fails)
			require.NoError(t, err)
			synctest.Wait()
			assert.ErrorIs(t, task.Err(), boom)
			task, err = reg.Go(bg, "welcome mail", fails)
			require.NoError(t, err)
			assert.ErrorIs(t, task.Wait(bg), boom)
		})
		assert.Empty(t, failures)
	})

	t.Run("a held task that was not released is named", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			_, err := reg.Go(bg, "audit log", fails, tether.Hold())
			require.NoError(t, err)
		})
		require.Len(t, failures, 1)
		assert.Contains(t, failures[0], `"audit log"`)
		assert.Contains(t, failures[0], "never ran")
	})

	t.Run("a task that ends only when it is canceled is named", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			_, err := reg.Go(bg, "ticker", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			require.NoError(t, err)
		})
		require.Len(t, failures, 1)
		assert.Contains(t, failures[0], `"ticker"`)
		assert.Contains(t, failures[0], "canceled")
	})

	t.Run("loops that end when the test does pass", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			until := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			_, err := reg.Loop(bg, "consumer", until, tether.LoopConfig{})
			require.NoError(t, err)
			synctest.Wait()
			_, err = reg.Loop(bg, "just started", until, tether.LoopConfig{})
			require.NoError(t, err)
			_, err = reg.Loop(bg, "delayed", until, tether.LoopConfig{}, tether.Delay(time.Hour))
			require.NoError(t, err)
		})
		assert.Empty(t, failures)
	})

	t.Run("a loop that fails is named, whether it fails early or late", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			_, err := reg.Loop(bg, "early", fails, tether.LoopConfig{})
			require.NoError(t, err)
			_, err = reg.Loop(bg, "late", func(ctx context.Context) error { <-ctx.Done(); return boom }, tether.LoopConfig{})
			require.NoError(t, err)
			_, err = reg.Loop(bg, "restarting", fails, tether.LoopConfig{Restarts: tether.Unbounded})
			require.NoError(t, err)
			synctest.Wait()
		})
		require.Len(t, failures, 3)
		for _, name := range []string{"early", "late", "restarting"} {
			assert.Contains(t, strings.Join(failures, "\n"), `"`+name+`"`)
		}
	})

	t.Run("a task that the test has canceled passes", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			task, err := reg.Go(bg, "ticker", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			require.NoError(t, err)
			task.Cancel(nil)
		})
		assert.Empty(t, failures)
	})

	t.Run("a task that does not end in time is named, with its stack", func(t *testing.T) {
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			_, err := reg.Go(bg, "deaf", sleepForAnHour)
			require.NoError(t, err)
		})
		require.Len(t, failures, 1)
		assert.Contains(t, failures[0], `"deaf"`)
		assert.Contains(t, failures[0], "never ended")
		assert.Contains(t, failures[0], "sleepForAnHour")
	})

	t.Run("the program's observer is notified too", func(t *testing.T) {
		watch := new(counter)
		failures := outcome(t, func(t *trial, reg *tether.Registry) {
			attempt := 0
			_, err := reg.Go(bg, "x", func(context.Context) error {
				attempt++
				if attempt == 1 {
					return boom
				}
				time.Sleep(3 * time.Second)
				return nil
			}, tether.Retry(tether.RetryPolicy{Attempts: 2}))
			require.NoError(t, err)
		}, func(c *tether.Config) { c.Observer, c.StuckAfter = watch, time.Second })
		assert.Empty(t, failures)
		assert.Equal(t, counter{ended: 1, stuck: 1, retried: 1}, *watch)
	})
}

func sleepForAnHour(context.Context) error {
	time.Sleep(time.Hour)
	return nil
}

type counter struct {
	tether.NopObserver
	ended, stuck, retried int
}

func (c *counter) TaskEnded(context.Context, *tether.Task)                          { c.ended++ }
func (c *counter) TaskStuck(context.Context, *tether.Task, []byte)                  { c.stuck++ }
func (c *counter) TaskRetrying(context.Context, *tether.Task, error, time.Duration) { c.retried++ }

func TestInline(t *testing.T) {
	t.Run("the body has run when Go returns", func(t *testing.T) {
		reg := tethertest.New(t)
		var ran bool
		task, err := tethertest.Inline(reg).Go(bg, "x", func(context.Context) error { ran = true; return nil })
		require.NoError(t, err)
		assert.True(t, ran)
		assert.Equal(t, tether.Succeeded, task.State())
	})

	t.Run("a panic is the task's", func(t *testing.T) {
		reg := tethertest.New(t)
		task, err := tethertest.Inline(reg).Go(bg, "x", func(context.Context) error { panic("no") })
		require.NoError(t, err)
		var p *tether.PanicError
		assert.ErrorAs(t, task.Err(), &p)
	})

	t.Run("what cannot run inline is refused", func(t *testing.T) {
		reg := tethertest.New(t)
		pool := tethertest.Inline(reg)
		for _, opt := range []tether.Option{tether.Hold(), tether.Delay(time.Second), tether.Serial("k")} {
			_, err := pool.Go(bg, "x", func(context.Context) error { return nil }, opt)
			assert.ErrorIs(t, err, tether.ErrFull)
		}
	})
}

// shop is a handler that mails in the background.
type shop struct {
	mail *tether.Pool
	sent []string
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, err := s.mail.Go(r.Context(), "welcome mail", func(context.Context) error {
		s.sent = append(s.sent, r.URL.Query().Get("to"))
		return nil
	})
	if err != nil {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func TestInlineHandler(t *testing.T) {
	s := &shop{mail: tethertest.Inline(tethertest.New(t))}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/?to=ann", nil))
	assert.Equal(t, http.StatusAccepted, w.Code)
	assert.Equal(t, []string{"ann"}, s.sent)
}
