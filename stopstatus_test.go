package tether_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// statusText is a StopStatus in seconds after a time.
func statusText(r *tether.Registry, since time.Time) string {
	s, stopping := r.StopStatus()
	if !stopping {
		return "not stopping"
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return fmt.Sprint(t.Sub(since).Round(time.Millisecond))
	}
	text := []string{"began " + at(s.Began), "cancel " + at(s.CancelAt)}
	if s.Canceled {
		text = append(text, "canceled")
	}
	for _, step := range s.Steps {
		text = append(text, fmt.Sprintf("%s from %s to %s", step.Name, at(step.Began), at(step.Deadline)))
	}
	return strings.Join(text, "; ")
}

func TestStopStatus(t *testing.T) {
	t.Run("of Run, in each step", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			began := time.Now()
			end := make(chan struct{})
			task := start(t, r, "import", until(end))
			ctx, stop := context.WithCancel(t.Context())
			slow := func(context.Context) error { time.Sleep(3 * time.Second); return nil }
			done := make(chan error, 1)
			go func() {
				done <- r.Run(ctx, tether.RunConfig{
					Servers: server(nil, slow),
					PreStop: 2 * time.Second,
					Closers: closers(slow),
					Signals: []os.Signal{},
				})
			}()
			synctest.Wait()
			assert.Equal(t, "not stopping", statusText(r, began))
			stop()
			synctest.Wait()
			assert.Equal(t, "began 0s; cancel 17.5s; PreStop from 0s to 2s", statusText(r, began))
			time.Sleep(3 * time.Second)
			assert.Equal(t, `began 0s; cancel 17.5s; stopping server "public" from 2s to 17.5s`, statusText(r, began))
			time.Sleep(3 * time.Second)
			assert.Equal(t, "began 0s; cancel 17.5s; drain from 5s to 22.5s", statusText(r, began))
			time.Sleep(12 * time.Second)
			assert.Equal(t, "began 0s; cancel 17.5s; canceled; drain from 5s to 22.5s", statusText(r, began))
			close(end)
			require.NoError(t, wait(task))
			synctest.Wait()
			assert.Equal(t, `began 0s; cancel 17.5s; canceled; closing "1" from 18s to 25s`, statusText(r, began))
			require.NoError(t, <-done)
			assert.Equal(t, "began 0s; cancel 17.5s; canceled", statusText(r, began), "nothing is waited for any more")
		})
	})
	t.Run("of Shutdown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRegistry(t, tether.Config{})
			began := time.Now()
			task := start(t, r, "task", untilCanceled)
			forever, giveUp := context.WithCancel(t.Context())
			returned := make(chan error, 2)
			go func() { returned <- r.Shutdown(forever) }()
			synctest.Wait()
			assert.Equal(t, "began 0s; cancel never; drain from 0s to never", statusText(r, began))
			time.Sleep(time.Second)
			bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			go func() { returned <- r.Shutdown(bounded) }()
			synctest.Wait()
			assert.Equal(t, "began 0s; cancel 56s; drain from 0s to never; drain from 1s to 1m1s", statusText(r, began))
			time.Sleep(time.Second)
			giveUp()
			require.Error(t, wait(task))
			<-returned
			<-returned
			assert.Equal(t, "began 0s; cancel 2s; canceled", statusText(r, began), "contexts were canceled earlier")
		})
	})
}
