// Package riverui tests that River UI shows durable's jobs and makes dead ones run again. It is
// a module of its own, so that no other has River UI's dependencies.
package riverui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"riverqueue.com/riverui"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
)

func TestRiverUI(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	engine, err := sqlite.Config{Logger: quiet}.Open(filepath.Join(t.TempDir(), "jobs.db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, engine.Close()) })
	client, err := river.NewClient(riversqlite.New(engine.DB()), &river.Config{Logger: quiet})
	require.NoError(t, err)
	handler, err := riverui.NewHandler(&riverui.HandlerOpts{Endpoints: riverui.NewEndpoints(client, nil), Logger: quiet})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, handler.Start(ctx))
	ui := httptest.NewServer(handler)
	defer ui.Close()

	attempts := make(chan int, 10)
	invoice := durable.Define("invoice", func(ctx context.Context, order int) error {
		m, _ := durable.MetaFrom(ctx)
		attempts <- m.Attempt
		if m.Attempt < 3 {
			return errors.New("the printer is on fire")
		}
		return nil
	}, durable.JobConfig{Timeout: time.Minute, MaxAttempts: 2, Backoff: func(int, error) time.Duration { return 0 }})
	reg := tether.New(tether.Config{Logger: quiet})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Logger: quiet}, invoice)
	require.NoError(t, err)
	require.NoError(t, worker.Start(ctx))
	t.Cleanup(func() { assert.NoError(t, worker.Stop(context.Background())) })
	_, err = invoice.Enqueue(ctx, engine, 5)
	require.NoError(t, err)

	type job struct {
		ID     json.RawMessage
		Kind   string
		State  string
		Errors []struct{ Error string }
	}
	listed := func(state string) (jobs struct{ Data []job }) {
		res, err := http.Get(ui.URL + "/api/jobs?state=" + state)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, string(body))
		require.NoError(t, json.Unmarshal(body, &jobs))
		return jobs
	}
	require.Eventually(t, func() bool { return len(listed("discarded").Data) == 1 }, time.Minute, 10*time.Millisecond)
	dead := listed("discarded").Data[0]
	assert.Equal(t, "invoice", dead.Kind)

	res, err := http.Post(ui.URL+"/api/jobs/retry", "application/json", bytes.NewReader([]byte(`{"ids":[`+string(dead.ID)+`]}`)))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Eventually(t, func() bool { return len(listed("completed").Data) == 1 }, time.Minute, 10*time.Millisecond)
	assert.Equal(t, []int{1, 2, 3}, []int{<-attempts, <-attempts, <-attempts})
}
