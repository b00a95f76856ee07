package tetherhttp_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
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

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestAfterScope(t *testing.T) {
	nothing := func(context.Context) error { return nil }

	t.Run("without a request there is no after", func(t *testing.T) {
		var none context.Context
		for _, ctx := range []context.Context{none, context.Background()} {
			_, err := tetherhttp.After(ctx, "task", nothing)
			require.ErrorIs(t, err, tetherhttp.ErrNoScope)
			_, err = tetherhttp.AfterOn(ctx, newRegistry(t, tether.Config{}), "task", nothing)
			require.ErrorIs(t, err, tetherhttp.ErrNoScope)
			_, err = tetherhttp.AfterInOrder(ctx, "task", nothing)
			require.ErrorIs(t, err, tetherhttp.ErrNoScope)
			tetherhttp.Discard(ctx, errTest)
			assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx))
		}
	})

	t.Run("what cannot be a task is refused", func(t *testing.T) {
		record(t, func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "", nothing)
			assert.ErrorIs(t, err, tether.ErrInvalid)
			_, err = tetherhttp.After(r.Context(), "task", nil)
			assert.ErrorIs(t, err, tether.ErrInvalid)
			_, err = tetherhttp.AfterOn(r.Context(), nil, "task", nothing)
			assert.ErrorIs(t, err, tether.ErrInvalid)
			_, err = tetherhttp.AfterInOrder(r.Context(), "task")
			assert.ErrorIs(t, err, tether.ErrInvalid)
			_, err = tetherhttp.AfterInOrder(r.Context(), "task", nothing, nil)
			assert.ErrorIs(t, err, tether.ErrInvalid)
		})
	})

	t.Run("the task has the request's values, but not its end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			type key struct{}
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(context.WithValue(r.Context(), key{}, "mine"))
				defer cancel()
				assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx), "before the task has started")
				_, err := tetherhttp.After(ctx, "task", func(ctx context.Context) error {
					assert.NoError(t, ctx.Err())
					assert.Equal(t, "mine", ctx.Value(key{}))
					assert.NotNil(t, ctx.Value(http.ServerContextKey))
					derived, cancel := context.WithCancel(ctx)
					defer cancel()
					assert.Equal(t, tetherhttp.DeliverySent, tetherhttp.DeliveryOf(derived))
					return nil
				})
				assert.NoError(t, err)
			})
			s.get(t, "/")
			s.drained(t, 1)
		})
	})

	t.Run("many goroutines of a handler may add", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						_, err := tetherhttp.After(r.Context(), "task", nothing)
						assert.NoError(t, err)
					})
				}
				wg.Wait()
			})
			s.get(t, "/")
			s.drained(t, 100)
		})
	})

	t.Run("the time to add is over when the handler has returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var left context.Context
			tooLate := func() {
				_, err := tetherhttp.After(left, "late", nothing)
				assert.ErrorIs(t, err, tetherhttp.ErrFinished)
			}
			returned := make(chan struct{})
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				left = r.Context()
				_, err := tetherhttp.After(left, "task", func(ctx context.Context) error {
					_, err := tetherhttp.After(ctx, "late", nothing)
					assert.ErrorIs(t, err, tetherhttp.ErrFinished, "in a task after the request")
					return nil
				})
				assert.NoError(t, err)
				close(returned)
			})
			s.slow = time.Second
			go func() {
				<-returned
				time.Sleep(time.Second / 2)
				tooLate() // the response is being written
			}()
			s.get(t, "/")
			tooLate() // it has been
			s.drained(t, 1)
		})
	})

	t.Run("it is over too for a task that takes long to be admitted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			reg := newRegistry(t, tether.Config{})
			slow := &slowRunner{Registry: reg}
			var adding sync.WaitGroup
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				adding.Go(func() {
					task, err := tetherhttp.AfterOn(r.Context(), slow, "late", nothing)
					assert.ErrorIs(t, err, tetherhttp.ErrFinished)
					assert.Nil(t, task)
				})
				time.Sleep(time.Second) // it has come in time
			})
			assert.Contains(t, s.get(t, "/"), "200 OK")
			adding.Wait()
			require.ErrorIs(t, slow.task.Wait(t.Context()), tetherhttp.ErrFinished)
			assert.Equal(t, tether.Dropped, slow.task.State())
		})
	})

	t.Run("a refusal comes when the handler can still answer it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := tetherhttp.After(r.Context(), "task", nothing); err != nil {
					assert.ErrorIs(t, err, tether.ErrClosed)
					http.Error(w, "busy", http.StatusServiceUnavailable)
				}
			})
			assert.Contains(t, s.get(t, "/"), "200 OK")
			require.NoError(t, s.reg.Shutdown(t.Context()))
			assert.Contains(t, s.get(t, "/"), "503 Service Unavailable")
			s.drained(t, 1)
		})
	})

	t.Run("the options that many requests share are left alone", func(t *testing.T) {
		opts := make([]tether.Option, 1, 8)
		opts[0] = tether.Label("key", "value")
		var task *tether.Task
		record(t, func(_ http.ResponseWriter, r *http.Request) {
			var err error
			task, err = tetherhttp.After(r.Context(), "task", nothing, opts...)
			assert.NoError(t, err)
		})
		require.NoError(t, task.Wait(context.Background()))
		assert.Equal(t, map[string]string{"key": "value"}, task.Info().Labels)
		for _, opt := range opts[1:cap(opts)] {
			assert.Zero(t, opt, "room behind the options was written to")
		}
	})

	t.Run("Go starts at once, on the registry of the request or the task", func(t *testing.T) {
		for _, ctx := range []context.Context{nil, context.Background()} {
			_, err := tetherhttp.Go(ctx, "task", nothing)
			assert.ErrorIs(t, err, tetherhttp.ErrNoScope)
		}
		reg, other := newRegistry(t, tether.Config{}), newRegistry(t, tether.Config{})
		started := make(chan struct{})
		var child *tether.Task
		tetherhttp.NewReleaser(reg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			task, err := tetherhttp.Go(r.Context(), "task", func(ctx context.Context) error {
				close(started)
				return nil
			}, tether.Label("key", "value"))
			assert.NoError(t, err)
			<-started // before the handler returns
			assert.Same(t, reg, task.Registry())
			assert.Equal(t, "value", task.Info().Labels["key"])
			task, err = other.Go(r.Context(), "of another registry", func(ctx context.Context) (err error) {
				child, err = tetherhttp.Go(ctx, "child", nothing)
				return err
			})
			assert.NoError(t, err)
			assert.NoError(t, task.Wait(context.Background()))
			assert.Same(t, other, child.Registry())
			assert.Equal(t, task.ID(), child.Info().Parent)
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})

	t.Run("Info.Func is what the user wrote", func(t *testing.T) {
		var infos []tether.Info
		reg := newRegistry(t, tether.Config{})
		async := tetherhttp.Async(reg, "task", func(ctx context.Context, r *http.Request) (int, error) {
			task, _ := tether.FromContext(ctx)
			infos = append(infos, task.Info())
			return 1, nil
		})
		handler := tetherhttp.AsyncHandler(reg, "task", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			task, _ := tether.FromContext(r.Context())
			infos = append(infos, task.Info())
		}))
		record(t, func(w http.ResponseWriter, r *http.Request) {
			async.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
			handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
			task, err := tetherhttp.AfterInOrder(r.Context(), "task", nothing)
			assert.NoError(t, err)
			infos = append(infos, task.Info())
		})
		assert.Len(t, infos, 3)
		for _, info := range infos {
			assert.Contains(t, info.Func, "tetherhttp_test.TestAfterScope")
		}
	})

	t.Run("the protocol's preface gets no scope", func(t *testing.T) {
		b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
		called := false
		b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called = true
			_, err := tetherhttp.After(r.Context(), "task", nothing)
			assert.ErrorIs(t, err, tetherhttp.ErrNoScope)
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PRI", "/", nil))
		assert.True(t, called)
	})
}

// A server of HTTP/2 behind a connection that a request of HTTP/1 has opened hands
// down the context of that one; its requests are of their own all the same.
func TestAfterWithinAnotherProtocol(t *testing.T) {
	b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
	add := func(r *http.Request) *tether.Task {
		task, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
		assert.NoError(t, err)
		return task
	}
	var outer, inner *tether.Task
	second := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inner = add(r) }))
	b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		outer = add(r)
		stream := r.Clone(r.Context())
		stream.ProtoMajor = 2
		second.ServeHTTP(httptest.NewRecorder(), stream)
		assert.NotEqual(t, tether.Held, inner.State(), "it must not wait for the other request")
		assert.Equal(t, tether.Held, outer.State())
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	inner.Release()
	require.NoError(t, inner.Wait(context.Background()))
	require.NoError(t, outer.Wait(context.Background()))
}

// A handler that has taken over its connection may still add tasks, and pass the connection
// on: the tasks start when the handler has returned.
func TestAfterHijack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned time.Time
		deliveries := make(chan tetherhttp.Delivery, 1)
		s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			go func() {
				time.Sleep(time.Hour)
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				_ = c.Close()
			}()
			_, err = tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				assert.Equal(t, returned, time.Now())
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
			time.Sleep(time.Second)
			returned = time.Now()
		})
		c := s.rawClient(t, false)
		go c.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		require.Contains(t, c.response(http.MethodGet, nil), "101 Switching Protocols")
		assert.Equal(t, tetherhttp.DeliveryHijacked, <-deliveries)
		s.drained(t, 1)
	})
}

// A connection that an HTTP/1 request has turned over to HTTP/2 goes on with the context
// of that request: it is no longer theirs.
func TestAfterUpgrade(t *testing.T) {
	const upgrade = "GET %s HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	synctest.Test(t, func(t *testing.T) {
		deliveries := make(chan tetherhttp.Delivery, 1)
		add := func(r *http.Request) error {
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			return err
		}
		s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
			assert.NoError(t, add(r))
			if r.URL.Path == "/ignored" {
				return
			}
			c, _, err := http.NewResponseController(w).Hijack()
			if !assert.NoError(t, err) {
				return
			}
			assert.ErrorIs(t, add(r), tetherhttp.ErrNoScope)
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			_ = c.Close()
		})
		c := s.rawClient(t, false)
		go c.send(fmt.Sprintf(upgrade, "/ignored"))
		require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
		assert.Equal(t, tetherhttp.DeliverySent, <-deliveries)
		go c.send(fmt.Sprintf(upgrade, "/"))
		require.Contains(t, c.response(http.MethodGet, nil), "101 Switching Protocols")
		assert.Equal(t, tetherhttp.DeliveryHijacked, <-deliveries)
		s.drained(t, 2)
	})
}

// slowRunner admits a task after a minute.
type slowRunner struct {
	*tether.Registry
	task *tether.Task
}

func (r *slowRunner) Go(ctx context.Context, name string, fn tether.Func, opts ...tether.Option) (*tether.Task, error) {
	time.Sleep(time.Minute)
	var err error
	r.task, err = r.Registry.Go(ctx, name, fn, opts...)
	return r.task, err
}

func TestAfterInOrder(t *testing.T) {
	var mu sync.Mutex
	var ran []int
	step := func(i int, err error) tether.Func {
		return func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, i)
			if errors.Is(err, context.Canceled) {
				task, _ := tether.FromContext(ctx)
				task.Cancel(errTest)
				return nil
			}
			return err
		}
	}
	for name, c := range map[string]struct {
		fns  []tether.Func
		want []int
		end  tether.State
	}{
		"one after the other":        {[]tether.Func{step(1, nil), step(2, nil), step(3, nil)}, []int{1, 2, 3}, tether.Succeeded},
		"an error ends it":           {[]tether.Func{step(1, nil), step(2, errTest), step(3, nil)}, []int{1, 2}, tether.Failed},
		"a cancellation ends it":     {[]tether.Func{step(1, context.Canceled), step(2, nil)}, []int{1}, tether.Canceled},
		"a panic ends it":            {[]tether.Func{step(1, nil), func(context.Context) error { panic(errTest) }, step(3, nil)}, []int{1}, tether.Panicked},
		"a cancellation of the last": {[]tether.Func{step(1, nil), step(2, context.Canceled)}, []int{1, 2}, tether.Succeeded},
		"the last one's error count": {[]tether.Func{step(1, nil), step(2, errTest)}, []int{1, 2}, tether.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			ran = nil
			var task *tether.Task
			record(t, func(_ http.ResponseWriter, r *http.Request) {
				var err error
				task, err = tetherhttp.AfterInOrder(r.Context(), "steps", c.fns...)
				assert.NoError(t, err)
			})
			err := task.Wait(context.Background())
			assert.Equal(t, c.want, ran)
			assert.Equal(t, c.end, task.State())
			if c.end != tether.Succeeded {
				require.ErrorIs(t, err, errTest)
			}
		})
	}
}

func TestAfterOn(t *testing.T) {
	t.Run("runs in the pool", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		pool := reg.NewPool("mail", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowBlock})
		var task *tether.Task
		record(t, func(_ http.ResponseWriter, r *http.Request) {
			var err error
			task, err = tetherhttp.AfterOn(r.Context(), pool, "task", func(context.Context) error { return nil })
			assert.NoError(t, err)
			assert.Equal(t, tether.Held, task.State())
		})
		require.NoError(t, task.Wait(context.Background()))
		assert.Equal(t, "mail", task.Info().Pool)
	})

	for name, overflow := range map[string]tether.Overflow{"rejects": tether.OverflowReject, "would run it here": tether.OverflowCallerRuns} {
		t.Run("a full pool that "+name+" refuses in time for a 503", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var pool *tether.Pool
				s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
					for range 2 {
						if _, err := tetherhttp.AfterOn(r.Context(), pool, "task", func(context.Context) error { return nil }); err != nil {
							assert.ErrorIs(t, err, tether.ErrFull)
							http.Error(w, "busy", http.StatusServiceUnavailable)
							return
						}
					}
				})
				pool = s.reg.NewPool("narrow", tether.PoolConfig{Workers: 1, Overflow: overflow})
				assert.Contains(t, s.get(t, "/"), "503 Service Unavailable")
				s.drained(t, 1) // the first one runs: it was not discarded
			})
		})
	}
}

func TestDiscard(t *testing.T) {
	t.Run("is no news for the log, whatever the cause", func(t *testing.T) {
		log := make(lineCount)
		reg := newRegistry(t, tether.Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
		tetherhttp.NewReleaser(reg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
			assert.NoError(t, err)
			tetherhttp.Discard(r.Context(), &tether.FullError{})
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		assert.EqualValues(t, 1, reg.Stats().Dropped)
		assert.Empty(t, log)
	})
	nothing := func(context.Context) error { return nil }
	for name, cause := range map[string]error{"with a cause": errTest, "without a cause": nil} {
		t.Run(name, func(t *testing.T) {
			var before, after *tether.Task
			rec := record(t, func(w http.ResponseWriter, r *http.Request) {
				before, _ = tetherhttp.After(r.Context(), "before", nothing)
				tetherhttp.Discard(r.Context(), cause)
				assert.Equal(t, tether.Dropped, before.State())
				after, _ = tetherhttp.After(r.Context(), "after", nothing)
				w.WriteHeader(http.StatusConflict)
			})
			assert.Equal(t, http.StatusConflict, rec.Code)
			want := cause
			if want == nil {
				want = tetherhttp.ErrDiscarded
			}
			require.ErrorIs(t, before.Wait(context.Background()), want)
			assert.NotErrorIs(t, before.Err(), tetherhttp.ErrFinished)
			require.NoError(t, after.Wait(context.Background()), "what is added after Discard runs")
		})
	}

	t.Run("after the request does nothing", func(t *testing.T) {
		var ctx context.Context
		var task *tether.Task
		goOn := make(chan struct{})
		record(t, func(_ http.ResponseWriter, r *http.Request) {
			ctx = r.Context()
			task, _ = tetherhttp.After(ctx, "task", func(ctx context.Context) error {
				<-goOn
				return context.Cause(ctx)
			})
		})
		tetherhttp.Discard(ctx, errTest)
		close(goOn)
		require.NoError(t, task.Wait(context.Background()))
	})

	t.Run("while the response is being sent does nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "task", nothing)
				assert.NoError(t, err)
				context.AfterFunc(r.Context(), func() { // the handler has returned
					time.Sleep(time.Second / 2)
					tetherhttp.Discard(r.Context(), errTest)
				})
			})
			s.slow = time.Second
			s.get(t, "/")
			s.drained(t, 1)
		})
	})
}

func TestHandlerThatDoesNotReturn(t *testing.T) {
	recoverer := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { _ = recover() }()
			h.ServeHTTP(w, r)
		})
	}
	none := func(h http.Handler) http.Handler { return h }
	panics := func() { panic(errTest) }
	cases := map[string]struct {
		end                func()
		outside, inside    bool // where the middleware is mounted
		between, wrapped   func(http.Handler) http.Handler
		opts               []tetherhttp.ReleaserConfig
		state              tether.State
		wantsNoOtherResult bool
	}{
		"a panic":                   {end: panics, outside: true, between: none, state: tether.Dropped},
		"an abort":                  {end: func() { panic(http.ErrAbortHandler) }, outside: true, between: none, state: tether.Dropped},
		"its goroutine ends":        {end: runtime.Goexit, outside: true, between: none, state: tether.Dropped},
		"a panic, with OnlyIf":      {end: panics, outside: true, between: none, opts: []tetherhttp.ReleaserConfig{{OnlyIf: func(int) bool { return true }}}, state: tether.Dropped},
		"a panic that is recovered": {end: panics, outside: true, between: recoverer, state: tether.Succeeded},
		"a panic that is recovered, and the guard": {end: panics, outside: true, inside: true, between: recoverer, state: tether.Dropped},
		"an abort recovered, and the guard":        {end: func() { panic(http.ErrAbortHandler) }, outside: true, inside: true, between: recoverer, state: tether.Dropped},
		"a return, and the guard":                  {end: func() {}, outside: true, inside: true, between: recoverer, state: tether.Succeeded},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(0)
				reg := newRegistry(t, tether.Config{})
				b := tetherhttp.NewReleaser(reg, c.opts...)
				var task *tether.Task
				var h http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					var err error
					task, err = tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
					assert.NoError(t, err)
					c.end()
				})
				if c.inside {
					h = b.Handler(h)
				}
				srv := network.server(b.Handler(c.between(h)))
				b.Hooks(srv)
				network.serve(t, srv, false)
				client := network.rawClient(t, false)
				go client.send(get)
				client.response(http.MethodGet, nil)
				err := task.Wait(t.Context())
				assert.Equal(t, c.state, task.State())
				if c.state == tether.Dropped {
					require.ErrorIs(t, err, tetherhttp.ErrDiscarded)
				}
			})
		})
	}
}

// A middleware that is reached when the connection has nothing to do with the request
// any more: no response will come that the tasks could wait for.
func TestHandlerWithoutItsConnection(t *testing.T) {
	for name, leave := range map[string]func(http.ResponseWriter, func()){
		"the request is over": func(_ http.ResponseWriter, serve func()) {
			go func() {
				time.Sleep(time.Second)
				serve()
			}()
		},
		"the connection is hijacked": func(w http.ResponseWriter, serve func()) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			serve()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(0)
				b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
				var served time.Time
				deliveries := make(chan tetherhttp.Delivery, 1)
				inner := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					served = time.Now()
					_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
						assert.Zero(t, time.Since(served))
						deliveries <- tetherhttp.DeliveryOf(ctx)
						return nil
					})
					assert.NoError(t, err)
				}))
				srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/first" {
						inner.ServeHTTP(w, r)
						return
					}
					leave(w, func() {
						inner.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
					})
				}))
				b.Hooks(srv)
				network.serve(t, srv, false)
				c := network.rawClient(t, false)
				go c.send("GET /first HTTP/1.1\r\nHost: test\r\n\r\n") // the connection is known
				require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
				assert.Equal(t, tetherhttp.DeliverySent, <-deliveries)
				go c.send(get)
				require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
				assert.Equal(t, tetherhttp.DeliveryUnknown, <-deliveries)
			})
		})
	}
}

// What a recoverer adds itself, behind the guard that has dropped the handler's tasks, runs.
func TestAfterInRecoverer(t *testing.T) {
	b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
	var earlier, dropped, report *tether.Task
	add := func(r *http.Request) *tether.Task {
		task, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
		assert.NoError(t, err)
		return task
	}
	guarded := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		dropped = add(r)
		panic(errTest)
	}))
	b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			assert.Equal(t, errTest, recover(), "the panic goes on as it was")
			report = add(r)
		}()
		earlier = add(r)
		guarded.ServeHTTP(w, r)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	require.ErrorIs(t, earlier.Wait(context.Background()), tetherhttp.ErrDiscarded, "all of the request's tasks are dropped")
	require.ErrorIs(t, dropped.Wait(context.Background()), tetherhttp.ErrDiscarded)
	require.NoError(t, report.Wait(context.Background()))
}

// A handler that goes on when its time limit has answered for it.
func TestHandlerOutlivesItsResponse(t *testing.T) {
	limit := func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Second, "late") }

	// The middleware may be outside the time limit, where it belongs, or inside.
	for name, mount := range map[string]func(*tetherhttp.Releaser, http.Handler) http.Handler{
		"the limit is inside":  func(b *tetherhttp.Releaser, h http.Handler) http.Handler { return b.Handler(limit(h)) },
		"the limit is outside": func(b *tetherhttp.Releaser, h http.Handler) http.Handler { return limit(b.Handler(h)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(15 * time.Millisecond)
				type start struct {
					at       time.Duration
					delivery tetherhttp.Delivery
				}
				began := time.Now()
				starts := make(chan start, 1)
				var handlers sync.WaitGroup
				h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					handlers.Add(1)
					defer handlers.Done()
					if r.URL.Path == "/next" {
						time.Sleep(900 * time.Millisecond) // while the first handler ends
						return
					}
					_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
						starts <- start{time.Since(began), tetherhttp.DeliveryOf(ctx)}
						return nil
					})
					assert.NoError(t, err)
					time.Sleep(1500 * time.Millisecond)
					_, err = tetherhttp.After(r.Context(), "late", func(context.Context) error { return nil })
					assert.ErrorIs(t, err, tetherhttp.ErrFinished)
				})
				reg := newRegistry(t, tether.Config{})
				b := tetherhttp.NewReleaser(reg)
				srv := network.server(mount(b, h))
				b.Hooks(srv)
				network.serve(t, srv, false)

				c := network.rawClient(t, false)
				go c.send(get)
				require.Contains(t, c.response(http.MethodGet, nil), "503 Service Unavailable")
				go c.send("GET /next HTTP/1.1\r\nHost: test\r\n\r\n")
				require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
				assert.Equal(t, start{time.Second + 15*time.Millisecond, tetherhttp.DeliverySent}, <-starts)
				handlers.Wait()
				assert.EqualValues(t, 1, reg.Stats().Succeeded)
				assert.EqualValues(t, 0, reg.Stats().Dropped)
			})
		})
	}

	// A middleware that is only reached when the connection is at its next request: the
	// task must not take that one's response for its own.
	t.Run("until the next request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet(15 * time.Millisecond)
			b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
			began := time.Now()
			started := make(chan tetherhttp.Delivery, 1)
			inner := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/next" {
					time.Sleep(time.Second)
					return
				}
				_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
					assert.Equal(t, 1500*time.Millisecond, time.Since(began), "the task starts when its handler returns")
					started <- tetherhttp.DeliveryOf(ctx)
					return nil
				})
				assert.NoError(t, err)
			}))
			srv := network.server(http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/next" {
					time.Sleep(1500 * time.Millisecond)
				}
				inner.ServeHTTP(w, r)
			}), time.Second+time.Millisecond, "late"))
			b.Hooks(srv)
			network.serve(t, srv, false)

			c := network.rawClient(t, false)
			go c.send(get)
			require.Contains(t, c.response(http.MethodGet, nil), "503 Service Unavailable")
			go c.send("GET /next HTTP/1.1\r\nHost: test\r\n\r\n")
			require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
			assert.Equal(t, tetherhttp.DeliveryUnknown, <-started)
		})
	})
}

// A task that an earlier request has added as well is that request's.
func TestAfterUnique(t *testing.T) {
	for name, second := range map[string]func(context.Context){
		"the second one returns":  func(context.Context) {},
		"the second one discards": func(ctx context.Context) { tetherhttp.Discard(ctx, errTest) },
		"the second one panics":   func(context.Context) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				tasks := make(chan *tether.Task, 2)
				ran := 0
				s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
					task, err := tetherhttp.After(r.Context(), "task", func(context.Context) error {
						ran++
						return nil
					}, tether.Unique("one"))
					assert.NoError(t, err)
					tasks <- task
					if r.URL.Path == "/second" {
						second(r.Context())
					} else {
						<-goOn
					}
				})
				c1, c2 := s.rawClient(t, false), s.rawClient(t, false)
				go c1.send(get)
				first := <-tasks
				go c2.send("GET /second HTTP/1.1\r\nHost: test\r\n\r\n")
				assert.Same(t, first, <-tasks)
				c2.response(http.MethodGet, nil)
				time.Sleep(time.Minute)
				assert.Equal(t, tether.Held, first.State(), "the first request is not answered")
				close(goOn)
				require.Contains(t, c1.response(http.MethodGet, nil), "200 OK")
				require.NoError(t, first.Wait(t.Context()))
				assert.Equal(t, 1, ran)
			})
		})
	}
}

func TestAfterClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deliveries := make(chan tetherhttp.Delivery, 2)
		note := func(ctx context.Context) error {
			deliveries <- tetherhttp.DeliveryOf(ctx)
			return ctx.Err()
		}
		s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "before", note)
			assert.NoError(t, err)
			<-r.Context().Done()
			_, err = tetherhttp.After(r.Context(), "after", note)
			assert.NoError(t, err)
			writePieces(w, 100)
		})
		c := s.rawClient(t, false)
		c.send(get)
		c.close()
		assert.Equal(t, tetherhttp.DeliveryClosed, <-deliveries)
		assert.Equal(t, tetherhttp.DeliveryClosed, <-deliveries)
		s.drained(t, 2)
	})
}

// The client has gone before the middleware is reached: the end of that request cannot
// be told from the next one's, and the handler's return has to do.
func TestAfterClientGoneEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet(0)
		deliveries := make(chan tetherhttp.Delivery, 1)
		b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
		inner := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return ctx.Err()
			})
			assert.NoError(t, err)
		}))
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			inner.ServeHTTP(w, r)
		}))
		b.Hooks(srv)
		network.serve(t, srv, false)
		c := network.rawClient(t, false)
		c.send(get)
		c.close()
		assert.Equal(t, tetherhttp.DeliveryUnknown, <-deliveries)
	})
}

// A client that does not read does not delay tasks forever.
func TestMaxWait(t *testing.T) {
	for name, c := range map[string]struct {
		opts []tetherhttp.ReleaserConfig
		want time.Duration
	}{
		"by default": {nil, 2 * time.Second},
		"set":        {[]tetherhttp.ReleaserConfig{{MaxWait: time.Minute}}, time.Minute},
		"zero":       {[]tetherhttp.ReleaserConfig{{}}, 2 * time.Second},
		"below zero": {[]tetherhttp.ReleaserConfig{{MaxWait: -time.Second}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
					for range 3 {
						_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
							assert.Equal(t, c.want, time.Since(began)-time.Second)
							assert.Equal(t, tetherhttp.DeliveryTimeout, tetherhttp.DeliveryOf(ctx))
							return nil
						})
						assert.NoError(t, err)
					}
					time.Sleep(time.Second)
				}, c.opts...)
				conn, err := s.dial(t.Context(), "", "") // a pipe: each write waits for a reader
				require.NoError(t, err)
				_, err = io.WriteString(conn, get)
				require.NoError(t, err)
				time.Sleep(2 * time.Hour)
				s.drained(t, 3)

				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, res.StatusCode)
				require.NoError(t, conn.Close())
				time.Sleep(time.Hour)
				s.drained(t, 3) // nothing runs a second time when the response is sent after all
			})
		})
	}

	t.Run("what comes of the response later changes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
					assert.Equal(t, tetherhttp.DeliveryTimeout, tetherhttp.DeliveryOf(ctx))
					time.Sleep(time.Hour)
					assert.Equal(t, tetherhttp.DeliveryTimeout, tetherhttp.DeliveryOf(ctx))
					return nil
				})
				assert.NoError(t, err)
			})
			conn, err := s.dial(t.Context(), "", "")
			require.NoError(t, err)
			_, err = io.WriteString(conn, get)
			require.NoError(t, err)
			time.Sleep(time.Minute)
			_, err = http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // it is empty
			require.NoError(t, err)
			time.Sleep(2 * time.Hour)
			s.drained(t, 1)
			require.NoError(t, conn.Close())
		})
	})

	t.Run("is not waited for if the response is sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s := serveMem(t, func(_ http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error {
					assert.Zero(t, time.Since(began))
					return nil
				})
				assert.NoError(t, err)
			})
			s.get(t, "/")
			s.drained(t, 1)
		})
	})
}

func TestHooks(t *testing.T) {
	type key struct{}

	t.Run("what was there is still called", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet(0)
			var states []http.ConnState
			var mu sync.Mutex
			srv := network.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				assert.Equal(t, "theirs", r.Context().Value(key{}))
				_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
				assert.NoError(t, err)
			}))
			srv.ConnState = func(c net.Conn, s http.ConnState) {
				assert.IsType(t, new(memConn), c)
				mu.Lock()
				defer mu.Unlock()
				states = append(states, s)
			}
			srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
				assert.IsType(t, new(memConn), c)
				return context.WithValue(ctx, key{}, "theirs")
			}
			reg := newRegistry(t, tether.Config{})
			tetherhttp.Attach(srv, reg)
			network.serve(t, srv, false)
			c := network.rawClient(t, false)
			for range 2 {
				go c.send(get)
				require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
			}
			c.close()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, []http.ConnState{http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateIdle, http.StateClosed}, states)
			assert.EqualValues(t, 2, reg.Stats().Succeeded)
		})
	})

	// Without them, tasks start at the handler's return. None is lost.
	for name, replace := range map[string]func(*http.Server){
		"none":               func(srv *http.Server) { srv.ConnState, srv.ConnContext = nil, nil },
		"ConnState replaced": func(srv *http.Server) { srv.ConnState = func(net.Conn, http.ConnState) {} },
		"ConnContext replaced": func(srv *http.Server) {
			srv.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return ctx }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(0)
				srv := network.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					began := time.Now()
					_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
						assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx))
						assert.Zero(t, time.Since(began))
						return nil
					})
					assert.NoError(t, err)
				}))
				reg := newRegistry(t, tether.Config{})
				tetherhttp.Attach(srv, reg)
				replace(srv)
				network.serve(t, srv, false)
				c := network.rawClient(t, false)
				for range 3 {
					go c.send(get)
					require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
				}
				synctest.Wait()
				assert.EqualValues(t, 3, reg.Stats().Succeeded)
			})
		})
	}

	t.Run("two Backgrounds of one server, one of them twice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet(15 * time.Millisecond)
			reg1, reg2 := newRegistry(t, tether.Config{}), newRegistry(t, tether.Config{})
			b1, b2 := tetherhttp.NewReleaser(reg1), tetherhttp.NewReleaser(reg2)
			began := time.Now()
			add := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
						assert.Equal(t, tetherhttp.DeliverySent, tetherhttp.DeliveryOf(ctx))
						assert.Equal(t, 15*time.Millisecond, time.Since(began))
						return nil
					})
					assert.NoError(t, err)
					next.ServeHTTP(w, r)
				})
			}
			nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
			srv := network.server(b1.Handler(add(b2.Handler(add(b1.Handler(add(nothing)))))))
			b1.Hooks(srv)
			b2.Hooks(srv)
			network.serve(t, srv, false)
			c := network.rawClient(t, false)
			go c.send(get)
			require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
			synctest.Wait()
			assert.EqualValues(t, 2, reg1.Stats().Succeeded)
			assert.EqualValues(t, 1, reg2.Stats().Succeeded)
			c.close()
		})
	})

	t.Run("connections that cannot be told apart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			network := newMemNet(0)
			reg := newRegistry(t, tether.Config{})
			srv := network.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
					assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx))
					return nil
				})
				assert.NoError(t, err)
			}))
			tetherhttp.Attach(srv, reg)
			done := make(chan error, 1)
			go func() {
				done <- srv.Serve(acceptor{network, func(c net.Conn) net.Conn { return peeked{c, []byte("seen")} }})
			}()
			c := network.rawClient(t, false)
			for range 2 {
				go c.send(get)
				require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
			}
			c.close()
			synctest.Wait()
			assert.EqualValues(t, 2, reg.Stats().Succeeded)
			require.NoError(t, srv.Close())
			require.ErrorIs(t, <-done, http.ErrServerClosed)
		})
	})

	t.Run("a Background has a registry", func(t *testing.T) {
		assert.Panics(t, func() { tetherhttp.NewReleaser(nil) })
	})

	t.Run("a server without a handler serves the default one", func(t *testing.T) {
		old := http.DefaultServeMux
		defer func() { http.DefaultServeMux = old }()
		http.DefaultServeMux = http.NewServeMux()
		var ran chan tetherhttp.Delivery
		http.HandleFunc("GET /{$}", func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				ran <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
		})
		synctest.Test(t, func(t *testing.T) {
			ran = make(chan tetherhttp.Delivery, 1)
			s := serveMem(t, nil)
			assert.Contains(t, s.get(t, "/"), "200 OK")
			assert.Equal(t, tetherhttp.DeliverySent, <-ran)
		})
	})
}

// peeked is a connection by value, as some listeners make them: no key for a map.
type peeked struct {
	net.Conn
	seen []byte
}

func TestAfterWithHTTPTest(t *testing.T) {
	t.Run("on a recorder", func(t *testing.T) {
		var task *tether.Task
		rec := record(t, func(w http.ResponseWriter, r *http.Request) {
			var err error
			task, err = tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				assert.Equal(t, tetherhttp.DeliveryUnknown, tetherhttp.DeliveryOf(ctx))
				return nil
			})
			assert.NoError(t, err)
			assert.Equal(t, tether.Held, task.State())
			w.WriteHeader(http.StatusAccepted)
		})
		assert.Equal(t, http.StatusAccepted, rec.Code)
		require.NoError(t, task.Wait(context.Background()))
	})

	t.Run("on a server", func(t *testing.T) {
		deliveries := make(chan tetherhttp.Delivery, 1)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(ctx context.Context) error {
				deliveries <- tetherhttp.DeliveryOf(ctx)
				return nil
			})
			assert.NoError(t, err)
		}))
		tetherhttp.Attach(srv.Config, newRegistry(t, tether.Config{}))
		srv.Start()
		defer srv.Close()
		for range 3 {
			res, err := srv.Client().Get(srv.URL)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			assert.Equal(t, tetherhttp.DeliverySent, <-deliveries)
		}
	})
}

func TestOnlyIf(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
	}{
		"nothing written":   {func(http.ResponseWriter, *http.Request) {}, 200},
		"a body alone":      {writes(5000), 200},
		"an error":          {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) }, 500},
		"the first counts":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202); w.WriteHeader(500) }, 202},
		"hints come before": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(404) }, 404},
		"hints alone":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); writePieces(w, 10) }, 200},
		"switched by hand":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(101) }, 101},
		"hijacked": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				_ = conn.Close()
			}
		}, 101},
		"a time limit": {http.TimeoutHandler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Hour) }), time.Second, "late").ServeHTTP, 503},
	} {
		for _, accepted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, accepted: %v", name, accepted), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asked := 0
					var task *tether.Task
					s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
						var err error
						task, err = tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
						assert.NoError(t, err)
						c.handler(w, r)
					}, tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool {
						asked++
						assert.Equal(t, c.status, status)
						return accepted
					}})
					client := s.rawClient(t, false)
					go client.send(get)
					assert.Contains(t, client.response(http.MethodGet, nil), fmt.Sprint(c.status))
					err := task.Wait(t.Context())
					assert.Equal(t, 1, asked)
					if accepted {
						assert.Equal(t, tether.Succeeded, task.State())
					} else {
						assert.Equal(t, tether.Dropped, task.State())
						require.ErrorIs(t, err, tetherhttp.ErrDiscarded)
					}
				})
			})
		}
	}

	t.Run("streaming works on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			goOn := make(chan struct{})
			s := serveMem(t, func(w http.ResponseWriter, r *http.Request) {
				_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
				assert.NoError(t, err)
				rc := http.NewResponseController(w)
				assert.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Hour)))
				assert.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Hour)))
				assert.NoError(t, rc.EnableFullDuplex())
				_, err = io.WriteString(w, "first")
				assert.NoError(t, err)
				w.(http.Flusher).Flush()
				<-goOn
				_, err = io.WriteString(w, "second")
				assert.NoError(t, err)
				assert.NoError(t, rc.Flush())
				<-goOn
				n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("third"))
				assert.NoError(t, err)
				assert.EqualValues(t, 5, n)
			}, tetherhttp.ReleaserConfig{OnlyIf: func(int) bool { return true }})
			res, err := s.client(t, nil).Get("http://test/")
			require.NoError(t, err)
			p := make([]byte, 6)
			_, err = io.ReadFull(res.Body, p[:5])
			require.NoError(t, err)
			assert.Equal(t, "first", string(p[:5]))
			goOn <- struct{}{}
			_, err = io.ReadFull(res.Body, p)
			require.NoError(t, err)
			assert.Equal(t, "second", string(p))
			goOn <- struct{}{}
			rest, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			assert.Equal(t, "third", string(rest))
			s.drained(t, 1)
		})
	})

	t.Run("a client that goes is noticed", func(t *testing.T) {
		type notifier interface{ CloseNotify() <-chan bool }
		synctest.Test(t, func(t *testing.T) {
			noticed := make(chan bool, 1)
			s := serveMem(t, func(w http.ResponseWriter, _ *http.Request) {
				noticed <- <-w.(notifier).CloseNotify()
			}, tetherhttp.ReleaserConfig{OnlyIf: func(int) bool { return true }})
			c := s.rawClient(t, false)
			c.send(get)
			c.close()
			assert.True(t, <-noticed)
		})
		b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}), tetherhttp.ReleaserConfig{OnlyIf: func(int) bool { return true }})
		b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			assert.Nil(t, w.(notifier).CloseNotify())
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	})

	t.Run("what cannot be done is told", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		asked := 0
		onlyIf := tetherhttp.ReleaserConfig{OnlyIf: func(status int) bool {
			asked = status
			return true
		}}
		tetherhttp.NewReleaser(reg, onlyIf).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			_, _, err := rc.Hijack()
			assert.ErrorIs(t, err, http.ErrNotSupported)
			assert.ErrorIs(t, rc.Flush(), http.ErrNotSupported)
			assert.ErrorIs(t, rc.SetReadDeadline(time.Now()), http.ErrNotSupported)
		})).ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
		assert.Equal(t, http.StatusOK, asked, "the connection is not hijacked")
	})
}

// The server removes the files of an upload, as it does without the middleware.
func TestMultipart(t *testing.T) {
	for name, c := range map[string]struct {
		secure bool
		protos *http.Protocols
		opts   []tetherhttp.ReleaserConfig
	}{
		"HTTP/1":             {},
		"HTTP/1 with OnlyIf": {opts: []tetherhttp.ReleaserConfig{{OnlyIf: func(int) bool { return true }}}},
		"HTTP/2":             {true, protocols("h2"), nil},
		"HTTP/2 unencrypted": {false, protocols("h2c"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			files := func() []os.DirEntry {
				found, err := os.ReadDir(dir)
				require.NoError(t, err)
				return found
			}
			form := new(strings.Builder)
			mw := multipart.NewWriter(form)
			for _, field := range []string{"a", "b"} {
				part, err := mw.CreateFormFile(field, "file.txt")
				require.NoError(t, err)
				_, err = io.WriteString(part, text(100_000))
				require.NoError(t, err)
			}
			require.NoError(t, mw.Close())
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(0)
				srv := network.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
					assert.NoError(t, err)
					assert.NoError(t, r.ParseMultipartForm(1))
					assert.NotEmpty(t, files(), "the upload is in files")
					f, _, err := r.FormFile("b")
					if assert.NoError(t, err) {
						_ = f.Close()
					}
				}))
				srv.Protocols = c.protos
				reg := newRegistry(t, tether.Config{})
				tetherhttp.Attach(srv, reg, c.opts...)
				network.serve(t, srv, c.secure)
				client := network.client(t, c.protos)
				for range 3 {
					res, err := client.Post(network.url(c.secure), mw.FormDataContentType(), strings.NewReader(form.String()))
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
					assert.Equal(t, http.StatusOK, res.StatusCode)
				}
				time.Sleep(time.Second)
				assert.Empty(t, files(), "an upload was left behind")
				assert.EqualValues(t, 3, reg.Stats().Succeeded)
			})
		})
	}
}

// A middleware further out sees what the router has matched.
func TestPattern(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(_ http.ResponseWriter, r *http.Request) { assert.Equal(t, "7", r.PathValue("id")) })
	r := httptest.NewRequest(http.MethodGet, "/users/7", nil)
	tetherhttp.NewReleaser(reg).Handler(mux).ServeHTTP(httptest.NewRecorder(), r)
	assert.Equal(t, "GET /users/{id}", r.Pattern)
}

// Tasks that do not end hold neither the response nor the connection.
func TestBlockedTasks(t *testing.T) {
	for name, c := range map[string]struct {
		secure bool
		protos *http.Protocols
	}{
		"HTTP/1":             {},
		"HTTP/2":             {true, protocols("h2")},
		"HTTP/2 unencrypted": {false, protocols("h2c")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := newMemNet(0)
				goOn := make(chan struct{})
				srv := network.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					for range 5 {
						_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error {
							<-goOn
							return nil
						})
						assert.NoError(t, err)
					}
				}))
				srv.Protocols = c.protos
				dials := 0
				network.onConn = func(net.Conn) { dials++ }
				reg := newRegistry(t, tether.Config{})
				tetherhttp.Attach(srv, reg)
				network.serve(t, srv, c.secure)
				client := network.client(t, c.protos)
				began := time.Now()
				for range 4 {
					res, err := client.Get(network.url(c.secure))
					require.NoError(t, err)
					_, err = io.Copy(io.Discard, res.Body)
					require.NoError(t, err)
					require.NoError(t, res.Body.Close())
				}
				assert.Zero(t, time.Since(began))
				assert.Equal(t, 1, dials)
				time.Sleep(time.Second)
				assert.Equal(t, 20, reg.Stats().Running)
				close(goOn)
			})
		})
	}
}

// A server that is shut down before its registry loses nothing.
func TestShutdownAfterServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Int64
		network := newMemNet(15 * time.Millisecond)
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 2 {
				_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error {
					time.Sleep(time.Second)
					ran.Add(1)
					return nil
				})
				assert.NoError(t, err)
			}
			time.Sleep(time.Second)
			writePieces(w, 5000)
		}))
		reg := newRegistry(t, tether.Config{})
		tetherhttp.Attach(srv, reg)
		done := make(chan error, 1)
		go func() { done <- srv.Serve(network) }()
		synctest.Wait()
		var responses sync.WaitGroup
		for range 20 {
			c := network.rawClient(t, false)
			go c.send(get)
			responses.Go(func() { assert.Contains(t, c.response(http.MethodGet, nil), "200 OK") })
		}
		time.Sleep(500 * time.Millisecond) // the handlers run
		require.NoError(t, srv.Shutdown(t.Context()))
		require.NoError(t, reg.Shutdown(t.Context()))
		assert.EqualValues(t, 40, ran.Load())
		responses.Wait()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
		time.Sleep(time.Minute)
	})
}

// What is noted of a connection goes with it, though the server and the finished
// tasks stay.
func TestConnectionsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet(0)
		var conns []weak.Pointer[memConn]
		network.onConn = func(c net.Conn) { conns = append(conns, weak.Make(c.(*memConn))) }
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/none" {
				return
			}
			_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
			assert.NoError(t, err)
			switch r.URL.Path {
			case "/hijack":
				c, _, err := http.NewResponseController(w).Hijack()
				if assert.NoError(t, err) {
					_ = c.Close()
				}
			case "/panic":
				panic(errTest)
			case "/close":
				w.Header().Set("Connection", "close")
			}
		}))
		srv.Protocols = protocols("h1", "h2c")
		reg := newRegistry(t, tether.Config{})
		b := tetherhttp.Attach(srv, reg, tetherhttp.ReleaserConfig{MaxWait: 1000 * time.Hour}) // a timer that is not stopped keeps its request
		network.serve(t, srv, false)

		for _, path := range []string{"/none", "/", "/close", "/hijack", "/panic"} {
			func() {
				c := network.rawClient(t, false)
				defer c.close()
				go c.send("GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n")
				c.response(http.MethodGet, nil)
			}()
		}
		func() { // and one that does not come to a request
			c := network.rawClient(t, false)
			defer c.close()
			c.send("GET")
		}()
		func() {
			client := network.client(t, protocols("h2c"))
			defer client.CloseIdleConnections()
			res, err := client.Get("http://test/")
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
		}()
		time.Sleep(time.Hour)
		assert.Len(t, conns, 7)
		assert.Zero(t, uncollected(conns), "connections that are still referenced")
		runtime.KeepAlive(b)
		runtime.KeepAlive(srv)
	})
}

// What is noted of a request goes with it, though its connection stays.
func TestRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type value struct{ self *value }
		var values []weak.Pointer[value]
		network := newMemNet(0)
		reg := newRegistry(t, tether.Config{})
		b := tetherhttp.NewReleaser(reg, tetherhttp.ReleaserConfig{MaxWait: 1000 * time.Hour})
		h := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil })
			assert.NoError(t, err)
		}))
		srv := network.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v := new(value)
			v.self = v // or it would share its memory with others
			values = append(values, weak.Make(v))
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), value{}, v)))
		}))
		b.Hooks(srv)
		network.serve(t, srv, false)
		c := network.rawClient(t, false)
		for range 5 {
			go c.send(get)
			require.Contains(t, c.response(http.MethodGet, nil), "200 OK")
		}
		time.Sleep(time.Hour) // the runtime forgets a stopped timer when it sets another
		assert.EqualValues(t, 5, reg.Stats().Succeeded)
		assert.Zero(t, uncollected(values), "requests that are still referenced")
		c.send("GET") // it is still open
	})
}

// uncollected returns how many of these the garbage collector finds in use.
func uncollected[T any](values []weak.Pointer[T]) (n int) {
	for range 10 { // pools of the standard library let go in the second collection
		runtime.GC()
		n = 0
		for _, v := range values {
			if v.Value() != nil {
				n++
			}
		}
		if n == 0 {
			break
		}
	}
	return n
}

// TestStress makes a few thousand requests of all kinds at once, on real sockets: what
// is added runs, or is dropped, once.
func TestStress(t *testing.T) {
	const workers, each = 16, 40
	for name, c := range map[string]struct {
		secure bool
		protos *http.Protocols
	}{
		"HTTP/1":             {false, protocols("h1")},
		"HTTP/1, TLS":        {true, protocols("h1")},
		"HTTP/2":             {true, protocols("h2")},
		"HTTP/2 unencrypted": {false, protocols("h2c")},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var added []*tether.Task   // guarded by mu
			ran := make(map[int64]int) // guarded by mu
			mustRun, mustDrop := 0, 0  // of those added; guarded by mu
			var ids atomic.Int64
			add := func(r *http.Request, count *int) {
				for range 2 {
					id := ids.Add(1)
					task, err := tetherhttp.After(r.Context(), "count", func(ctx context.Context) error {
						mu.Lock()
						defer mu.Unlock()
						ran[id]++
						return nil
					})
					if assert.NoError(t, err) {
						mu.Lock()
						added = append(added, task)
						*count++
						mu.Unlock()
					}
				}
			}
			mux := http.NewServeMux()
			run := func(path string, h http.HandlerFunc) {
				mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
					add(r, &mustRun)
					h(w, r)
				})
			}
			drop := func(path string, h http.HandlerFunc) {
				mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
					add(r, &mustDrop)
					h(w, r)
				})
			}
			run("/small", writes(100))
			run("/big", writes(300_000))
			run("/close", func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor == 1 { // a client of HTTP/2 would wait a second before it tries elsewhere
					w.Header().Set("Connection", "close")
				}
				writePieces(w, 100)
			})
			run("/flush", func(w http.ResponseWriter, r *http.Request) {
				writePieces(w, 100)
				_ = http.NewResponseController(w).Flush()
				writePieces(w, 100)
			})
			run("/gone", func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // HTTP/1 notices that the client has gone only behind it
				select {
				case <-r.Context().Done():
				case <-time.After(time.Minute): // a guard against hanging
				}
			})
			run("/hijack", func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil { // HTTP/2
					return
				}
				_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				_ = rw.Flush()
				_ = conn.Close()
			})
			drop("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			drop("/discard", func(w http.ResponseWriter, r *http.Request) { tetherhttp.Discard(r.Context(), errTest) })

			reg := newRegistry(t, tether.Config{Retain: -1})
			srv := new(memNet).server(mux)
			srv.Protocols = c.protos
			tetherhttp.Attach(srv, reg)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() {
				if c.secure {
					done <- srv.ServeTLS(l, "", "")
				} else {
					done <- srv.Serve(l)
				}
			}()

			tr := &http.Transport{TLSClientConfig: clientTLS(), Protocols: c.protos, MaxIdleConnsPerHost: workers}
			client := &http.Client{Transport: tr}
			url := strings.Replace((&memNet{}).url(c.secure), "test", l.Addr().String(), 1)
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for i := range each {
						path := []string{"small", "big", "close", "flush", "gone", "hijack", "panic", "discard"}[i%8]
						ctx, cancel := context.WithCancel(t.Context())
						req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader("body"))
						assert.NoError(t, err)
						if path == "gone" {
							time.AfterFunc(time.Millisecond, cancel)
						}
						res, err := client.Do(req)
						if err == nil {
							_, _ = io.Copy(io.Discard, res.Body)
							_ = res.Body.Close()
						}
						cancel()
					}
				})
			}
			wg.Wait()
			tr.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a guard against hanging
			defer cancel()
			require.NoError(t, srv.Shutdown(ctx))
			require.ErrorIs(t, <-done, http.ErrServerClosed)
			require.NoError(t, reg.Shutdown(ctx))

			assert.Greater(t, len(added), workers*each) // a client that gives up may do so too early for the server
			assert.Len(t, ran, mustRun)
			for id, n := range ran {
				assert.Equal(t, 1, n, "runs of task %d", id)
			}
			dropped := 0
			for _, task := range added {
				if task.State() == tether.Dropped {
					dropped++
				}
			}
			assert.Equal(t, mustDrop, dropped)
			assert.Len(t, added, len(ran)+dropped)
		})
	}
}

func TestDeliveryString(t *testing.T) {
	for d, want := range []string{"unknown", "sent", "closed", "frame", "hijacked", "timeout", "Delivery(6)"} {
		assert.Equal(t, want, tetherhttp.Delivery(d).String())
	}
}

// record serves one request without a server, and without hooks therefore.
func record(t *testing.T, h http.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	rec := httptest.NewRecorder()
	b := tetherhttp.NewReleaser(newRegistry(t, tether.Config{}))
	b.Handler(h).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	return rec
}

// memServer is an attached server in memory.
type memServer struct {
	*memNet
	reg *tether.Registry
}

// serveMem serves h in clear text; the default handler if it is nil.
func serveMem(t *testing.T, h http.HandlerFunc, cfg ...tetherhttp.ReleaserConfig) memServer {
	t.Helper()
	s := memServer{newMemNet(0), newRegistry(t, tether.Config{})}
	srv := s.server(h)
	if h == nil {
		srv.Handler = nil
	}
	tetherhttp.Attach(srv, s.reg, cfg...)
	s.serve(t, srv, false)
	return s
}

// get makes one request on a connection of its own.
func (s memServer) get(t *testing.T, path string) string {
	t.Helper()
	c := s.rawClient(t, false)
	go c.send("GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n")
	return c.response(http.MethodGet, nil)
}

// drained expects n tasks to have succeeded, and no others, once all is quiet.
func (s memServer) drained(t *testing.T, n int) {
	t.Helper()
	time.Sleep(time.Second)
	stats := s.reg.Stats()
	assert.EqualValues(t, n, stats.Succeeded, "tasks that have run")
	assert.Zero(t, stats.Failed+stats.Panicked+stats.Canceled+stats.Dropped, "tasks that have failed: %+v", stats)
	assert.Zero(t, stats.Held+stats.Queued+stats.Running, "tasks that have not ended: %+v", stats)
}

// memNet is a network in memory: a server's listener and the way to it. It works in
// a bubble, where nothing waits for real and what is stuck is known to be.
type memNet struct {
	slow    time.Duration // what each write of a server takes
	written atomic.Int64  // by servers, to all connections
	onConn  func(net.Conn)

	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemNet(slow time.Duration) *memNet {
	return &memNet{slow: slow, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *memNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *memNet) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *memNet) Addr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "memory" }

// dial is a DialContext of an http.Transport.
func (n *memNet) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	c := &memConn{server, n}
	if n.onConn != nil {
		n.onConn(c)
	}
	select {
	case n.conns <- c:
		return client, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// memConn is a server's end of a connection.
type memConn struct {
	net.Conn
	network *memNet
}

func (c *memConn) Write(p []byte) (int, error) {
	time.Sleep(c.network.slow)
	n, err := c.Conn.Write(p)
	c.network.written.Add(int64(n))
	return n, err
}

// server returns a server that logs nothing.
func (n *memNet) server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: serverTLS()}
}

// serve runs the server until the test ends.
func (n *memNet) serve(t *testing.T, srv *http.Server, secure bool) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		if secure {
			done <- srv.ServeTLS(n, "", "")
		} else {
			done <- srv.Serve(n)
		}
	}()
	synctest.Wait() // Serve has set its part of srv up
	t.Cleanup(func() {
		time.Sleep(24 * time.Hour) // time stops with the test: let all goroutines end
		_ = srv.Close()
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}

// rawClient is a client of one connection. It reads on at all times, and keeps all.
type rawClient struct {
	conn   net.Conn
	parser *bufio.Reader // reads from the client itself

	mu   sync.Mutex
	more *sync.Cond
	data []byte // guarded by mu
	read int    // what the parser has had of it; guarded by mu
	err  error  // guarded by mu
}

func (n *memNet) rawClient(t *testing.T, secure bool) *rawClient {
	t.Helper()
	conn, err := n.dial(context.Background(), "", "")
	require.NoError(t, err)
	if secure {
		c := tls.Client(conn, clientTLS())
		require.NoError(t, c.Handshake()) // now, while no goroutine waits for a lock: time stands still in a bubble meanwhile
		conn = c
	}
	c := &rawClient{conn: conn}
	c.more = sync.NewCond(&c.mu)
	c.parser = bufio.NewReader(c)
	go func() {
		for p := make([]byte, 32<<10); ; {
			n, err := conn.Read(p)
			c.mu.Lock()
			c.data, c.err = append(c.data, p[:n]...), err
			c.mu.Unlock()
			c.more.Broadcast()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(c.close)
	return c
}

func (c *rawClient) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.read == len(c.data) && c.err == nil {
		c.more.Wait()
	}
	n := copy(p, c.data[c.read:])
	c.read += n
	if n == 0 {
		return 0, c.err
	}
	return n, nil
}

func (c *rawClient) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.data)
}

func (c *rawClient) close() { _ = c.conn.Close() }

// send sends s. The server need not want it all.
func (c *rawClient) send(s string) { _, _ = io.WriteString(c.conn, s) }

// response reads one response to its end and returns what it says in short.
func (c *rawClient) response(method string, onContinue func()) string {
	for {
		res, err := http.ReadResponse(c.parser, &http.Request{Method: method})
		switch {
		case err != nil:
			return "no response"
		case res.StatusCode == http.StatusContinue:
			onContinue()
			continue
		case res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols:
			continue
		}
		h := sha256.New()
		n, err := io.Copy(h, res.Body)
		_ = res.Body.Close()
		return fmt.Sprintf("%s, %d bytes, %x, %v, trailer %v", res.Status, n, h.Sum(nil)[:4], err, res.Trailer)
	}
}

// protocols returns a set of protocols.
func protocols(names ...string) *http.Protocols {
	p := new(http.Protocols)
	for _, name := range names {
		switch name {
		case "h1":
			p.SetHTTP1(true)
		case "h2":
			p.SetHTTP2(true)
		case "h2c":
			p.SetUnencryptedHTTP2(true)
		}
	}
	return p
}

// client returns one of net/http's that speaks these protocols, HTTP/1 if p is nil.
func (n *memNet) client(t *testing.T, p *http.Protocols) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: n.dial, TLSClientConfig: clientTLS(), Protocols: p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (n *memNet) url(secure bool) string {
	if secure {
		return "https://test/"
	}
	return "http://test/"
}

// certificate returns one that is good in a bubble too, where it is the year 2000.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"test"},
		NotBefore:    time.Date(1990, time.January, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2200, time.January, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func serverTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate()}, SessionTicketsDisabled: true}
}

func clientTLS() *tls.Config {
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(certificate().Certificate[0])
	if err != nil {
		panic(err)
	}
	roots.AddCert(leaf)
	return &tls.Config{RootCAs: roots, ServerName: "test"}
}

// lineCount counts what is written to it.
type lineCount map[string]int

func (c lineCount) Write(p []byte) (int, error) {
	c[string(p)]++
	return len(p), nil
}

// What After's doc says of the request: the task finds its Body closed, and the files of
// its form removed.
func TestAfterFindsTheRequestClosed(t *testing.T) {
	form := new(strings.Builder)
	mw := multipart.NewWriter(form)
	part, err := mw.CreateFormFile("file", "file.txt")
	require.NoError(t, err)
	_, err = io.WriteString(part, text(1000))
	require.NoError(t, err)
	require.NoError(t, mw.Close())
	overTheNetwork(t, "body and form", func(t *testing.T, n *memNet, version int) {
		t.Setenv("TMPDIR", t.TempDir())
		body, file := make(chan error, 1), make(chan error, 1)
		srv := n.server(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			assert.NoError(t, r.ParseMultipartForm(1))
			header := r.MultipartForm.File["file"][0]
			_, err := tetherhttp.After(r.Context(), "late", func(context.Context) error {
				_, err := r.Body.Read(make([]byte, 1))
				body <- err
				_, err = header.Open()
				file <- err
				return nil
			})
			assert.NoError(t, err)
		}))
		tetherhttp.Attach(srv, newRegistry(t, tether.Config{}))
		n.serve(t, srv, version == 2)
		res, err := clientOf(t, n, version).Do(outbound(t.Context(), "POST", "/", strings.NewReader(form.String()), "Content-Type", mw.FormDataContentType()))
		require.NoError(t, err)
		readAll(t, res)
		assert.Error(t, <-body)
		assert.ErrorIs(t, <-file, os.ErrNotExist)
	})
}

// The tasks after a request have its share, unless they have one of their own.
func TestAfter_Share(t *testing.T) {
	reg := newRegistry(t, tether.Config{})
	var tasks []*tether.Task
	rel := tetherhttp.NewReleaser(reg, tetherhttp.ReleaserConfig{Share: func(r *http.Request) string { return r.Header.Get("Tenant") }})
	h := rel.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for _, opts := range [][]tether.Option{nil, {tether.Share("own")}} {
			task, err := tetherhttp.After(r.Context(), "task", func(context.Context) error { return nil }, opts...)
			assert.NoError(t, err)
			tasks = append(tasks, task)
		}
	}))
	for _, tenant := range []string{"acme", ""} {
		h.ServeHTTP(httptest.NewRecorder(), request("POST", "/", "", "Tenant", tenant))
		assert.Equal(t, tenant, tasks[0].Info().Share)
		assert.Equal(t, "own", tasks[1].Info().Share)
		tasks = nil
	}
}
