package main

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// openShopFor opens a shop that sends its webhooks to a receiver of the test.
func openShopFor(t *testing.T, receive http.HandlerFunc, change ...func(*config)) *testShop {
	t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // net/http notices that a client has gone once its body is read
		receive(w, r)
	}))
	t.Cleanup(receiver.Close)
	return openShop(t, append(change, func(c *config) { c.webhook = receiver.URL })...)
}

func settled(s status) bool { return s.Webhook.State == "delivered" || s.Webhook.State == "failed" }

func TestWebhookIsSignedAndArrives(t *testing.T) {
	ts := openShop(t)
	location := ts.post("/orders", orderBy("ann"))
	ts.until(location, func(s status) bool { return s.Webhook.State == "delivered" })
	require.JSONEq(t, `{"received":1,"refused":0,"failed":0}`, string(ts.do("GET", "/webhook-receiver", "").body))

	t.Run("one that is not signed is refused", func(t *testing.T) {
		ts.do("POST", "/webhook-receiver", `{"type":"order.invoiced"}`).problem(t, http.StatusUnauthorized)
	})
}

func TestWebhookRetries(t *testing.T) {
	for name, test := range map[string]struct {
		answers  []int // the last one is repeated
		state    string
		attempts int64
	}{
		"trouble that passes": {[]int{500, 429, 204}, "delivered", 3},
		"trouble that stays":  {[]int{503}, "failed", 4},
		"refused for good":    {[]int{400}, "failed", 1},
		"sent elsewhere":      {[]int{302}, "failed", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var (
				n   atomic.Int64
				ids sync.Map
			)
			ts := openShopFor(t, func(w http.ResponseWriter, r *http.Request) {
				ids.Store(r.Header.Get("Webhook-Id"), true)
				i := min(n.Add(1), int64(len(test.answers)))
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.answers[i-1])
			})
			location := ts.post("/orders", orderBy("ann"))
			s := ts.until(location, settled)
			require.Equal(t, "invoiced", s.State, "whatever became of the webhook")
			require.Equal(t, test.state, s.Webhook.State)
			require.Equal(t, test.attempts, n.Load())
			require.Contains(t, string(ts.do("GET", location, "").body), fmt.Sprintf(`"attempts":%d`, test.attempts))
			different := 0
			ids.Range(func(any, any) bool { different++; return true })
			require.Equal(t, 1, different, "the receiver can tell a repetition")
		})
	}
	t.Run("no receiver", func(t *testing.T) {
		ts := openShop(t, func(c *config) { c.webhook = "http://127.0.0.1:1/" })
		s := ts.until(ts.post("/orders", orderBy("ann")), settled)
		require.Equal(t, "invoiced", s.State)
		require.Equal(t, "failed", s.Webhook.State)
		require.NotEmpty(t, s.Webhook.Reason)
	})
}

// A receiver that answers nothing holds no order up, and nothing is lost when more
// wait for it than the pool can hold.
func TestSlowReceiver(t *testing.T) {
	answer := make(chan struct{})
	ts := openShopFor(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	}, func(c *config) { c.webhookAttempts = math.MaxInt32 })
	const n = 120 // more than 16 that run and 64 that wait
	var locations []string
	for i := range n {
		locations = append(locations, ts.post("/orders", orderBy(fmt.Sprint("ann", i))))
	}
	for _, location := range locations {
		require.Equal(t, "invoiced", ts.until(location, decided).State)
	}
	require.Equal(t, n, ts.tally().Undelivered)
	close(answer)
	require.Eventually(t, func() bool { return ts.tally().Undelivered == 0 }, time.Minute, 5*time.Millisecond)
}

// What the pool could not hold at the end is delivered by the next start.
func TestOutboxGoesOnAfterARestart(t *testing.T) {
	first := openShopFor(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	const n = 100
	for i := range n {
		first.post("/orders", orderBy(fmt.Sprint("ann", i)))
	}
	require.Eventually(t, func() bool { return first.tally().Invoiced == n }, time.Minute, 5*time.Millisecond)
	first.kill()

	var seen sync.Map
	second := openShopFor(t, func(_ http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Webhook-Id"), true)
	}, func(c *config) { c.data = first.cfg.data })
	require.NoError(t, second.resume(t.Context()))
	require.Eventually(t, func() bool { return second.tally().Undelivered == 0 }, time.Minute, 5*time.Millisecond)
	different := 0
	seen.Range(func(any, any) bool { different++; return true })
	require.Equal(t, n, different)
}
