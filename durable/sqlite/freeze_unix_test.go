//go:build unix

package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable"
)

// failOnSignal is a worker whose attempt fails when it gets SIGUSR1.
func failOnSignal(ctx context.Context, consume func(handle) (durable.Consumer, error)) error {
	proceed := make(chan os.Signal, 1)
	signal.Notify(proceed, syscall.SIGUSR1)
	_, err := consume(func(_ context.Context, d durable.Delivery) durable.Outcome {
		fmt.Println(d.ID, d.Attempt)
		<-proceed
		return durable.Outcome{Verdict: durable.Retry, Err: errors.New("too late")}
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// A process that stood still, and wakes up when its job was taken over, does not overwrite
// what has become of the job since.
func TestAFrozenWorkerStoresNothing(t *testing.T) {
	t.Parallel()
	path := file(t)
	e := open(t, path)
	put(t, e, message("job"))
	frozen := spawn(t, "fail on signal", path)
	require.Equal(t, "job 1", receive(t, frozen.said))
	exec := func(query string) {
		_, err := e.DB().Exec(query)
		require.NoError(t, err)
	}
	for {
		require.NoError(t, frozen.cmd.Process.Signal(syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := e.DB().ExecContext(ctx, `UPDATE tether_worker SET seen = seen - 1`)
		cancel()
		if err == nil {
			break
		}
		// It was stopped while it wrote, and holds the lock of the file.
		require.NoError(t, frozen.cmd.Process.Signal(syscall.SIGCONT))
	}
	h, said, release := parked(t)
	consume(t, e, h)
	exec(`UPDATE tether_worker SET since = since - 1`) // so that the test need not wait
	exec(`UPDATE river_job SET attempted_at = datetime('now', 'subsec', '-1 hour')`)
	require.Equal(t, "job 2", receive(t, said))

	require.NoError(t, frozen.cmd.Process.Signal(syscall.SIGUSR1))
	require.NoError(t, frozen.cmd.Process.Signal(syscall.SIGCONT))
	for line := ""; !strings.Contains(line, "outcomes are not stored"); line = receive(t, frozen.said) {
	}
	now := rows(t, e)["job"]
	assert.Equal(t, "running", now.state)
	assert.Equal(t, 2, now.attempt)
	assert.NotContains(t, now.errors, "too late")
	release()
	require.Eventually(t, func() bool { return rows(t, e)["job"].state == "completed" }, guard, 10*time.Millisecond)
}
