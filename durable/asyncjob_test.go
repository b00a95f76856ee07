package durable_test

import (
	"context"
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

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func noRows(context.Context, order) (map[string]int, error) { return nil, nil }

// unknown checks that a job has no status.
func (s *tracked) unknown(id string) {
	s.Helper()
	_, err := s.stores[0].Find(s.Context(), id)
	assert.ErrorIs(s, err, tether.ErrNotFound)
}

func TestAsyncJob(t *testing.T) {
	bubble(t, "a wait that the client asks for", func(t *testing.T) {
		s := track(t, func(context.Context, order) (map[string]int, error) { return map[string]int{"n": 1}, nil }, options)
		c := s.newWorker(tetherhttp.StoreConfig{})
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() { answer <- s.do(0, "POST", "/reports", "Prefer", "wait=5") }()
		time.Sleep(time.Second)
		assert.Equal(t, durable.Outcome{}, got(t, c.deliver(1)))
		w := <-answer
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "wait=5", w.Header().Get("Preference-Applied"))
		assert.JSONEq(t, `{"n":1}`, w.Body.String())

		began := time.Now()
		w = s.do(0, "POST", "/reports", "Prefer", "wait=5")
		assert.Equal(t, http.StatusAccepted, w.Code)
		assert.Equal(t, 5*time.Second, time.Since(began))
		assert.Contains(t, w.Body.String(), "queued")
	})
	bubble(t, "one key at once, and again: one job", func(t *testing.T) {
		s := track(t, noRows, options)
		var mu sync.Mutex
		at := make(map[string]int)
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				w := s.do(i%2, "POST", "/reports", "Idempotency-Key", `"k"`)
				mu.Lock()
				defer mu.Unlock()
				at[fmt.Sprint(w.Code, w.Header().Get("Location"))]++
			})
		}
		all.Wait()
		synctest.Wait()
		require.Len(t, s.engine.taken(), 1)
		first := s.do(1, "POST", "/reports", "Idempotency-Key", `"k"`)
		assert.Equal(t, http.StatusAccepted, first.Code)
		assert.Equal(t, "true", first.Header().Get("Idempotency-Replayed"))
		where := first.Header().Get("Location")
		delete(at, "409")
		delete(at, "202"+where)
		assert.Empty(t, at, "other answers")

		assert.Equal(t, durable.Outcome{}, got(t, s.newWorker(tetherhttp.StoreConfig{}).deliver(1)))
		w := s.do(0, "POST", "/reports", "Idempotency-Key", `"k"`, "Prefer", "wait=1")
		assert.Equal(t, http.StatusOK, w.Code, w.Body.String())
		assert.Equal(t, "null\n", w.Body.String())
		assert.Equal(t, http.StatusUnprocessableEntity, s.do(0, "POST", "/reports?other", "Idempotency-Key", `"k"`).Code)
		time.Sleep(61 * time.Minute)
		w = s.do(0, "POST", "/reports", "Idempotency-Key", `"k"`)
		assert.Equal(t, http.StatusGone, w.Code)
		assert.Len(t, s.engine.taken(), 1)
	})
	bubble(t, "a job that is not enqueued has no status, and does not use the key", func(t *testing.T) {
		s := track(t, noRows, options)
		var id string
		s.engine.enqueue = func(_ context.Context, m durable.Message) error { id = m.ID; return errTest }
		w := s.do(0, "POST", "/reports", "Idempotency-Key", `"k"`)
		assert.Equal(t, http.StatusInternalServerError, w.Code)
		assert.NotContains(t, w.Body.String(), errTest.Error())
		s.unknown(id)
		s.engine.enqueue = func(context.Context, durable.Message) error {
			return &tetherhttp.Problem{Status: 429, Detail: "your quota"}
		}
		synctest.Wait() // the key is released
		w = s.do(1, "POST", "/reports", "Idempotency-Key", `"k"`)
		assert.Equal(t, 429, w.Code, w.Body.String())
		synctest.Wait()
		s.engine.enqueue = nil
		assert.Equal(t, http.StatusAccepted, s.do(1, "POST", "/reports", "Idempotency-Key", `"k"`).Code)
	})
	bubble(t, "the engine is away", func(t *testing.T) {
		s := track(t, noRows, options)
		s.engine.enqueue = func(context.Context, durable.Message) error { return durable.ErrUnavailable }
		began := time.Now()
		w := s.do(0, "POST", "/reports")
		assert.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body.String())
		assert.NotEmpty(t, w.Header().Get("Retry-After"))
		assert.Equal(t, 10*time.Second, time.Since(began))
	})
	bubble(t, "the store is away: nothing is enqueued", func(t *testing.T) {
		s := track(t, noRows, options)
		s.lines[0].set(func(l *line) { l.cut = true })
		for _, header := range [][]string{nil, {"Idempotency-Key", `"k"`}} {
			w := s.do(0, "POST", "/reports", header...)
			assert.Equal(t, http.StatusServiceUnavailable, w.Code)
			assert.Contains(t, w.Body.String(), tetherhttp.ProblemStoreUnavailable)
		}
		assert.Empty(t, s.engine.taken())
	})
	bubble(t, "the store goes away when the job was enqueued: it is a 202", func(t *testing.T) {
		s := track(t, noRows, options)
		s.engine.enqueue = func(context.Context, durable.Message) error {
			s.lines[0].set(func(l *line) { l.cut = true })
			return nil
		}
		at := s.post()
		s.lines[0].set(func(l *line) { l.cut = false })
		assert.Equal(t, "queued", s.status(at).State)
	})
	bubble(t, "the answer of the store is lost: 503, and nothing stays", func(t *testing.T) {
		s := track(t, noRows, options)
		s.lines[0].set(func(l *line) { l.lost = true })
		assert.Equal(t, http.StatusServiceUnavailable, s.do(0, "POST", "/reports").Code)
		assert.Empty(t, s.engine.taken())
		assert.Equal(t, 1, s.memory.Calls("Swap"))
		s.lines[0].set(func(l *line) { l.lost = false })
		time.Sleep(2 * time.Minute)
		assert.NotZero(t, s.memory.Calls("Delete"))
	})
	bubble(t, "enqueue is at fault", func(t *testing.T) {
		s := track(t, noRows, options)
		for name, enqueue := range map[string]func(context.Context, *http.Request) (string, error){
			"not tracked": func(ctx context.Context, _ *http.Request) (string, error) {
				receipt, err := s.job.Enqueue(ctx, s.engine, order{1})
				return receipt.ID, err
			},
			"no ID":   func(context.Context, *http.Request) (string, error) { return "", nil },
			"a claim": func(context.Context, *http.Request) (string, error) { return strings.Repeat("x", 500), nil },
		} {
			h := tetherhttp.AsyncJob("report", enqueue, tetherhttp.AsyncConfig{Store: s.stores[0], Idempotency: &tetherhttp.IdempotencyConfig{}})
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
			assert.Equal(t, http.StatusInternalServerError, w.Code, name)
		}
		h := tetherhttp.AsyncJob("report", func(context.Context, *http.Request) (string, error) { panic("no") },
			tetherhttp.AsyncConfig{Store: s.stores[0], Idempotency: &tetherhttp.IdempotencyConfig{}})
		for range 2 { // the key is not used
			r := httptest.NewRequest("POST", "/", nil)
			r.Header.Set("Idempotency-Key", `"p"`)
			assert.PanicsWithValue(t, "no", func() { h.ServeHTTP(httptest.NewRecorder(), r) })
			synctest.Wait()
		}
		assert.Panics(t, func() { tetherhttp.AsyncJob("report", nil, tetherhttp.AsyncConfig{Store: s.stores[0]}) })
		assert.Panics(t, func() {
			tetherhttp.AsyncJob("report", func(context.Context, *http.Request) (string, error) { return "", nil }, tetherhttp.AsyncConfig{})
		})
	})
	bubble(t, "invalid options", func(t *testing.T) {
		s := track(t, noRows, options)
		for _, o := range []durable.EnqueueOption{
			durable.Tracked(nil), durable.Label("job", "x"), durable.Label("attempt", "x"), durable.Label("", "x"),
		} {
			_, err := s.job.Enqueue(t.Context(), s.engine, order{1}, o)
			assert.ErrorIs(t, err, durable.ErrInvalid)
		}
		_, err := s.job.Enqueue(noContext, s.engine, order{1}, durable.Tracked(s.stores[0].Tracker()))
		assert.ErrorIs(t, err, durable.ErrInvalid)
		_, err = s.job.Enqueue(t.Context(), nil, order{1}, durable.Tracked(s.stores[0].Tracker()))
		assert.ErrorIs(t, err, durable.ErrInvalid)
		assert.Zero(t, s.memory.Calls("Swap"))
		assert.Panics(t, func() { durable.DefineResult[order, int]("x", nil, options) })
	})
	bubble(t, "a message made by hand may have any labels", func(t *testing.T) {
		s := track(t, noRows, options)
		s.post()
		m := s.engine.taken()[0]
		m.Labels = map[string]string{"": "x", "job": "other", "ok": "y"}
		c := s.newWorker(tetherhttp.StoreConfig{})
		assert.Equal(t, durable.Outcome{}, got(t, c.hand(durable.Delivery{Message: m, Attempt: 1})))
		assert.Equal(t, map[string]string{"job": m.ID, "attempt": "1", "ok": "y"}, c.info(t).Labels)
		m.ID = "../x"
		assert.Equal(t, durable.Outcome{}, got(t, c.hand(durable.Delivery{Message: m, Attempt: 1})))
		assert.Len(t, c.book.about("cannot be tracked"), 1)
	})
}
