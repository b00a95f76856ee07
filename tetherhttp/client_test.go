package tetherhttp_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// If a server's base context ends with the signal, as in many services, its requests are
// finished all the same: their clients have not gone.
func TestBaseContextEnds(t *testing.T) {
	// based returns a server in memory, and ends its base context.
	based := func(t *testing.T, n *memNet, version int, h http.Handler, attach *tether.Registry) (*http.Client, context.CancelFunc) {
		base, signal := context.WithCancel(context.Background())
		t.Cleanup(signal)
		srv := n.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/first" {
				h.ServeHTTP(w, r)
			}
		}))
		srv.BaseContext = func(net.Listener) context.Context { return base }
		if attach != nil {
			tetherhttp.Attach(srv, attach)
		}
		n.serve(t, srv, version == 2)
		c := clientOf(t, n, version)
		res, err := c.Do(outbound(t.Context(), "GET", "/first", nil)) // TLS cannot be established later
		require.NoError(t, err)
		readAll(t, res)
		return c, signal
	}
	for _, attached := range []bool{true, false} {
		name := ", with hooks"
		if !attached {
			name = ", without hooks"
		}
		hooks := func(reg *tether.Registry) *tether.Registry {
			if attached {
				return reg
			}
			return nil
		}
		overTheNetwork(t, "a request that waits for its task is answered"+name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			h := tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (report, error) {
				return report{7}, pass(ctx, 5*time.Second)
			}, tetherhttp.AsyncConfig{Inline: 10 * time.Second})
			c, signal := based(t, n, version, h, hooks(reg))
			time.AfterFunc(time.Second, signal)
			for range 2 { // the second begins when the base context has ended
				res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, res.StatusCode)
				assert.JSONEq(t, `{"pages":7}`, readAll(t, res))
			}
			assert.EqualValues(t, 2, reg.Stats().Succeeded)
		})
		overTheNetwork(t, "or told where to look"+name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			release := make(chan struct{})
			c, signal := based(t, n, version, tetherhttp.Async(reg, "report", until(release)), hooks(reg))
			signal()
			res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
			require.NoError(t, err)
			assert.Equal(t, http.StatusAccepted, res.StatusCode)
			readAll(t, res)
			close(release)
			synctest.Wait()
			assert.EqualValues(t, 1, reg.Stats().Succeeded)
		})
		overTheNetwork(t, "and a client that goes then is one that has gone"+name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			cause := make(chan error, 1)
			h := tetherhttp.Async(reg, "report", func(ctx context.Context, _ *http.Request) (report, error) {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return report{}, ctx.Err()
			}, tetherhttp.AsyncConfig{Inline: time.Hour})
			c, signal := based(t, n, version, h, hooks(reg))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := c.Do(outbound(ctx, "POST", "/", strings.NewReader("{}"))) // there is no body to close
				done <- err
			}()
			synctest.Wait()
			signal()
			time.Sleep(time.Minute)
			require.Equal(t, tether.Running, live(t, reg).State())
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
			require.ErrorIs(t, <-cause, tetherhttp.ErrClientGone)
		})
		overTheNetwork(t, "and a time limit is one"+name, func(t *testing.T, n *memNet, version int) {
			reg := newRegistry(t, tether.Config{})
			inner := tetherhttp.Async(reg, "report", until(nil), tetherhttp.AsyncConfig{Inline: time.Hour})
			c, signal := based(t, n, version, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
				defer cancel()
				inner.ServeHTTP(w, r.WithContext(ctx))
			}), hooks(reg))
			time.AfterFunc(time.Second, signal)
			began := time.Now()
			res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}")))
			require.NoError(t, err)
			assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
			readAll(t, res)
			assert.Equal(t, time.Minute, time.Since(began))
			synctest.Wait()
			assert.EqualValues(t, 1, reg.Stats().Canceled)
		})
	}
	overTheNetwork(t, "a repetition waits for the first request to be admitted", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		room := make(chan struct{})
		pool := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		_, err := pool.Go(t.Context(), "fills it", func(context.Context) error { <-room; return nil })
		require.NoError(t, err)
		h := tetherhttp.Async(pool, "order", seven, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		c, signal := based(t, n, version, h, reg)
		answers := make(chan string, 2)
		for range 2 {
			go func() {
				res, err := c.Do(outbound(t.Context(), "POST", "/", strings.NewReader("{}"), "Idempotency-Key", "k"))
				if assert.NoError(t, err) {
					answers <- readAll(t, res)
				}
			}()
		}
		synctest.Wait()
		signal()
		synctest.Wait()
		require.Empty(t, answers)
		close(room)
		assert.Equal(t, "7\n", <-answers)
		assert.Equal(t, "7\n", <-answers)
	})
	overTheNetwork(t, "tasks start after the response, not before", func(t *testing.T, n *memNet, version int) {
		if version == 1 {
			n.slow = 15 * time.Millisecond
		}
		reg := newRegistry(t, tether.Config{})
		started := make(chan int64, 2)
		deliveries := make(chan tetherhttp.Delivery, 2)
		c, signal := based(t, n, version, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "after", func(ctx context.Context) error {
				started <- n.written.Load()
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
			_, _ = w.Write([]byte("hello"))
		}), reg)
		for range 2 {
			signal() // at once: each request's context has ended when it begins
			before := n.written.Load()
			res, err := c.Do(outbound(t.Context(), "GET", "/", nil))
			require.NoError(t, err)
			assert.Equal(t, "hello", readAll(t, res))
			assert.Greater(t, <-started, before, "bytes that had been written when the task started")
			want := tetherhttp.DeliverySent
			if version == 2 {
				want = tetherhttp.DeliveryFrame
			}
			assert.Equal(t, want, <-deliveries)
		}
	})
	overTheNetwork(t, "the live page is shown", func(t *testing.T, n *memNet, version int) {
		reg := newRegistry(t, tether.Config{})
		c, signal := based(t, n, version, tetherhttp.Debug(reg), reg)
		signal()
		for range 20 {
			res, err := c.Do(outbound(t.Context(), "GET", "/", nil))
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, res.StatusCode)
			readAll(t, res)
		}
	})
	overTheNetwork(t, "a task that has ended is forgotten on request", func(t *testing.T, n *memNet, version int) {
		busy := make(chan struct{})
		reg := newRegistry(t, tether.Config{Observer: slowEnd{until: busy}})
		c, signal := based(t, n, version, tetherhttp.Tasks(reg, tetherhttp.TasksConfig{AllowCancel: true}), reg)
		task := start(t, reg, succeed)
		synctest.Wait()
		signal()
		time.AfterFunc(time.Minute, func() { close(busy) })
		res, err := c.Do(outbound(t.Context(), "DELETE", at(task), nil))
		require.NoError(t, err)
		assert.Equal(t, http.StatusNoContent, res.StatusCode)
		readAll(t, res)
		_, err = reg.Find(task.ID())
		assert.ErrorIs(t, err, tether.ErrExpired)
	})
}
