package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
)

// tampered is an engine whose Enqueue can be made to fail, and whose outcomes are recorded.
type tampered struct {
	durable.Engine

	mu         sync.Mutex
	fail       func(enqueue func() error) error // guarded by mu, as are those below
	duplicates int
	verdicts   map[durable.Verdict]int
}

func (e *tampered) Enqueue(ctx context.Context, m durable.Message) (durable.Receipt, error) {
	e.mu.Lock()
	fail := e.fail
	e.mu.Unlock()
	if fail != nil {
		return durable.Receipt{}, fail(func() error {
			_, err := e.Engine.Enqueue(ctx, m)
			return err
		})
	}
	receipt, err := e.Engine.Enqueue(ctx, m)
	if receipt.Duplicate {
		e.mu.Lock()
		e.duplicates++
		e.mu.Unlock()
	}
	return receipt, err
}

func (e *tampered) Consume(ctx context.Context, c durable.Consumption) (durable.Consumer, error) {
	handle := c.Handle
	c.Handle = func(ctx context.Context, d durable.Delivery) durable.Outcome {
		out := handle(ctx, d)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.verdicts[out.Verdict]++
		return out
	}
	return e.Engine.Consume(ctx, c)
}

func (e *tampered) failWith(fail func(enqueue func() error) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = fail
}

func (e *tampered) count(v durable.Verdict) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.verdicts[v]
}

// openDurableShop opens a shop with a queue, whose worker is started by work.
func openDurableShop(t *testing.T, change ...func(*config)) (ts *testShop, engine *tampered, work func()) {
	t.Helper()
	queueFile := filepath.Join(t.TempDir(), "jobs.db")
	ts = openShop(t, append([]func(*config){func(c *config) { c.durable = queueFile }}, change...)...)
	engine = &tampered{Engine: ts.queue.engine, verdicts: map[durable.Verdict]int{}}
	ts.queue.engine = engine
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: ts.reg, Concurrency: 2, Pool: "tampered"}, ts.queue.fulfil)
	require.NoError(t, err)
	ts.queue.worker = worker
	return ts, engine, func() {
		t.Helper()
		require.NoError(t, ts.queue.start(t.Context(), func() { t.Error("the worker has lost its engine") }))
	}
}

func TestDurableOrder(t *testing.T) {
	ts, _, work := openDurableShop(t)
	before := ts.inStock("tea")
	location := ts.post("/orders", orderBy("ann"))
	require.Equal(t, "pending", ts.status(location).State)
	require.Equal(t, location, ts.post("/orders", orderBy("ann")), "a double click")

	work()
	ts.until(location, func(s status) bool { return s.State == "invoiced" && s.Webhook.State == "delivered" })
	require.Equal(t, http.StatusOK, ts.do("GET", location+"/invoice.pdf", "").StatusCode)
	require.Equal(t, before-2, ts.inStock("tea"))

	t.Run("that cannot be", func(t *testing.T) {
		s := ts.until(ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"unicorn","quantity":1}]}`), decided)
		require.Equal(t, "failed", s.State)
		require.Contains(t, s.Reason, "unicorn")
	})
}

// More orders than the queue in memory would hold are no reason for a 503.
func TestDurableBurst(t *testing.T) {
	ts, _, work := openDurableShop(t, func(c *config) { c.queue = 1 })
	var accepted []string
	for i := range 50 {
		accepted = append(accepted, ts.post("/orders", orderBy(fmt.Sprint("ann", i))))
	}
	work()
	for _, location := range accepted {
		require.Equal(t, "invoiced", ts.until(location, decided).State)
	}
}

// A failure of the shop is retried by the engine, and shown after the last attempt.
func TestDurableOrderWhoseInvoiceFails(t *testing.T) {
	ts, engine, work := openDurableShop(t)
	before := ts.inStock("tea")
	ts.invoices.dir += "-gone"
	location := ts.post("/orders", orderBy("ann"))
	work()
	s := ts.until(location, decided)
	require.Equal(t, "failed", s.State)
	require.Equal(t, "the invoice could not be made", s.Reason)
	require.Equal(t, before, ts.inStock("tea"), "the goods are back")
	require.Eventually(t, func() bool { return engine.count(durable.Dead) == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, durableAttempts-1, engine.count(durable.Retry))
}

func TestDurableQueueIsAway(t *testing.T) {
	lost := errors.New("connection lost")

	t.Run("nothing is there", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		work()
		engine.failWith(func(func() error) error { return lost })
		a := ts.do("POST", "/orders", orderBy("ann"))
		a.problem(t, http.StatusServiceUnavailable)
		require.NotEmpty(t, a.Header.Get("Retry-After"))
		require.NotContains(t, string(a.body), lost.Error())
		require.Equal(t, tally{}, ts.tally(), "it has left no trace")
		require.Zero(t, ts.accepted.Load())

		engine.failWith(nil)
		require.Equal(t, "invoiced", ts.until(ts.post("/orders", orderBy("ann")), decided).State)
	})
	t.Run("the work is there and comes too late", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		engine.failWith(func(enqueue func() error) error { return errors.Join(enqueue(), lost) })
		ts.do("POST", "/orders", orderBy("ann")).problem(t, http.StatusServiceUnavailable)
		require.Equal(t, tally{}, ts.tally())

		engine.failWith(nil)
		work()
		require.Eventually(t, func() bool { return engine.count(durable.Dead) == 1 }, time.Minute, time.Millisecond)
		require.Zero(t, engine.count(durable.Retry), "no further attempt finds an order")
		require.Equal(t, "invoiced", ts.until(ts.post("/orders", orderBy("ann")), decided).State)
	})
	t.Run("the work is there and is done", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		work()
		engine.failWith(func(enqueue func() error) error {
			err := enqueue()
			for ts.tally().Invoiced == 0 && t.Context().Err() == nil {
				time.Sleep(time.Millisecond)
			}
			return errors.Join(err, lost)
		})
		require.Equal(t, "invoiced", ts.status(ts.post("/orders", orderBy("ann"))).State)
		require.Equal(t, int64(1), ts.accepted.Load())
	})
	t.Run("and the order cannot be withdrawn", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		work()
		change := func(statement string) {
			require.NoError(t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
				_, err := tx.Exec(statement)
				return err
			}))
		}
		change(`CREATE TRIGGER full BEFORE DELETE ON orders BEGIN SELECT raise(ABORT, 'the disk is full'); END`)
		engine.failWith(func(func() error) error { return lost })
		ts.do("POST", "/orders", orderBy("ann")).problem(t, http.StatusServiceUnavailable)
		ts.do("POST", "/orders", orderBy("ann")).problem(t, http.StatusServiceUnavailable)
		engine.failWith(nil)
		require.Equal(t, "invoiced", ts.until(ts.post("/orders", orderBy("ann")), decided).State, "a 202 has its work")
		require.Equal(t, 1, ts.tally().Invoiced, "it is the same order")
	})
}

// What a process has stored when it is killed before the work is on the queue.
func TestDurableOrderWithoutWork(t *testing.T) {
	half := func(ts *testShop, customer string) *order {
		o, err := decodeOrder(strings.NewReader(orderBy(customer)))
		require.NoError(t, err)
		o.click, err = click(http.Header{}, o.fingerprint)
		require.NoError(t, err)
		require.NoError(t, ts.store.insertOrder(t.Context(), o, nil))
		return o
	}
	t.Run("the next start enqueues it", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		for i := range 20 {
			half(ts, fmt.Sprint("ann", i))
		}
		ts.post("/orders", orderBy("bob"))
		require.NoError(t, ts.resume(t.Context()))
		require.Equal(t, 1, engine.duplicates, "bob's is there already")
		require.NoError(t, ts.resume(t.Context()))
		require.Equal(t, 22, engine.duplicates)
		work()
		require.Eventually(t, func() bool { return ts.tally().Invoiced == 21 }, time.Minute, 5*time.Millisecond)
	})
	t.Run("so does a second click", func(t *testing.T) {
		ts, engine, work := openDurableShop(t)
		work()
		o := half(ts, "ann")
		engine.failWith(func(func() error) error { return errors.New("connection lost") })
		ts.do("POST", "/orders", orderBy("ann")).problem(t, http.StatusServiceUnavailable)
		engine.failWith(nil)
		location := ts.post("/orders", orderBy("ann"))
		require.Equal(t, "/orders/"+o.ID, location)
		require.Equal(t, "invoiced", ts.until(location, decided).State)
	})
}

// Processes on one data folder.
func TestRoles(t *testing.T) {
	dir, jobs := t.TempDir(), filepath.Join(t.TempDir(), "jobs.db")
	as := func(role string) func(*config) {
		return func(c *config) { c.data, c.durable, c.role = dir, jobs, role }
	}
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	web := openShop(t, as("web"))
	first := openShopFor(t, hangs, as("worker"))
	require.NoError(t, first.queue.start(t.Context(), func() {}))
	location := web.post("/orders", orderBy("ann"))
	web.until(location, func(s status) bool { return s.Webhook.State == "sending" })
	half := web.invoices.dir + "/half.pdf.1" + partSuffix
	require.NoError(t, writeWhole(half, []byte("%PDF")))
	require.NoError(t, writeWhole(web.spool.path("half"), []byte("sku")))

	for _, role := range []string{"web", "both", ""} {
		_, err := newShop(config{data: dir, durable: jobs, role: role, workers: 1, queue: 1, webhookSecret: newSecret()})
		require.ErrorContains(t, err, "another process serves this shop")
	}
	sending := func() {
		t.Helper()
		require.Equal(t, "sending", web.status(location).Webhook.State)
	}
	sending() // the refused process has changed nothing
	require.FileExists(t, web.spool.path("half"))

	var told sync.Map
	receives := func(_ http.ResponseWriter, r *http.Request) { told.Store(r.Header.Get("Webhook-Id"), true) }
	second := openShopFor(t, receives, as("worker"))
	require.NoError(t, second.resume(t.Context()))
	sending() // by the first
	require.FileExists(t, half, "it may be about to be whole")
	require.FileExists(t, web.spool.path("half"), "it is the web's")

	web.end()
	web = openShop(t, as("web"))
	sending()
	require.FileExists(t, half)
	require.NoFileExists(t, web.spool.path("half"))

	// The first worker goes without an answer, and one that comes then takes its webhook.
	first.kill()
	sending()
	third := openShopFor(t, receives, as("worker"))
	require.NoError(t, third.resume(t.Context()))
	web.until(location, func(s status) bool { return s.Webhook.State == "delivered" })
	_, ok := told.Load("order-" + strings.TrimPrefix(location, "/orders/"))
	require.True(t, ok)

	second.end()
	third.end()
	web.end()
	openShop(t, as("both"))
	require.NoFileExists(t, half, "a process that is alone tidies up")
}

// A store that was made before there were workers.
func TestStoreWithoutClaimants(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	require.NoError(t, err)
	require.NoError(t, s.insertOrder(t.Context(), &order{ID: "one", click: "c", Created: time.Now()}, nil))
	require.NoError(t, s.update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE orders SET state = 'invoiced', webhook = 'sending'; ALTER TABLE orders DROP COLUMN claimant`)
		return err
	}))
	require.NoError(t, s.close(t.Context()))

	s, err = openStore(dir)
	require.NoError(t, err)
	require.NoError(t, s.unclaimWebhooks(t.Context(), nil))
	o, err := s.claimWebhook(t.Context(), "me")
	require.NoError(t, err)
	require.Equal(t, "one", o.ID)
	require.NoError(t, s.unclaimWebhooks(t.Context(), []string{"you", "me"}))
	_, err = s.claimWebhook(t.Context(), "you")
	require.ErrorIs(t, err, errNoRow)
	require.NoError(t, s.unclaimWebhooks(t.Context(), []string{"you"}))
	_, err = s.claimWebhook(t.Context(), "you")
	require.NoError(t, err)
	require.NoError(t, s.close(t.Context()))
}
