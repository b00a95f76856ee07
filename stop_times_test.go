package tether_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// stopTimes are the times of one stop, from the signal.
type stopTimes struct {
	stop     time.Duration   // the deadline of the servers' Stop
	cancel   time.Duration   // contexts are canceled
	drain    time.Duration   // the drain's deadline: the first closer is called
	closers  []time.Duration // the closers' deadlines
	last     time.Duration   // the deadline of the last servers' Stop
	returned time.Duration
}

// measureStop runs and stops a registry in which every step uses up its time: a task that
// does not end, and closers and a last server that return when their contexts are done.
// The servers do so as well, or else return at once.
func measureStop(t *testing.T, cfg tether.RunConfig, cancelBefore time.Duration, slowServers bool) (times stopTimes) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, tether.Config{CancelBefore: cancelBefore})
		began := time.Now()
		release := make(chan struct{})
		start(t, r, "stuck", func(ctx context.Context) error {
			<-ctx.Done()
			times.cancel = time.Since(began)
			<-release
			return nil
		})
		deadline := func(ctx context.Context) time.Duration {
			at, ok := ctx.Deadline()
			assert.True(t, ok)
			return at.Sub(began)
		}
		serving := make(chan struct{})
		cfg.Servers = server(func() error { <-serving; return nil }, func(ctx context.Context) error {
			times.stop = deadline(ctx)
			if slowServers {
				<-ctx.Done()
			}
			close(serving)
			return nil
		})
		cfg.LastServers = []tether.Server{{Name: "admin", Stop: func(ctx context.Context) error {
			times.last = deadline(ctx)
			<-ctx.Done()
			return nil
		}}}
		cfg.Closers = closers(
			func(ctx context.Context) error {
				times.drain = time.Since(began)
				times.closers = append(times.closers, deadline(ctx))
				<-ctx.Done()
				return nil
			},
			func(ctx context.Context) error {
				times.closers = append(times.closers, deadline(ctx))
				<-ctx.Done()
				return nil
			})
		cfg.Signals = noSignals
		err := r.Run(stopNow(), cfg)
		var left *tether.DrainError
		assert.ErrorAs(t, err, &left)
		times.returned = time.Since(began)
		close(release)
	})
	return times
}

// The table in the documentation of RunConfig, and the same for other settings.
func TestD7_TheTimesOfTheStop(t *testing.T) {
	const ms, s, m = time.Millisecond, time.Second, time.Minute
	for name, test := range map[string]struct {
		cfg          tether.RunConfig
		cancelBefore time.Duration
		slowServers  bool
		want         stopTimes
	}{
		"defaults": {want: stopTimes{
			stop: 17500 * ms, cancel: 17500 * ms, drain: 22500 * ms,
			closers: []time.Duration{22500*ms + 2500*ms/3, 22500*ms + 2*2500*ms/3}, last: 25 * s, returned: 25 * s,
		}},
		"defaults, and servers that use up their time": {slowServers: true, want: stopTimes{
			stop: 17500 * ms, cancel: 20 * s, drain: 22500 * ms,
			closers: []time.Duration{22500*ms + 2500*ms/3, 22500*ms + 2*2500*ms/3}, last: 25 * s, returned: 25 * s,
		}},
		"a second": {cfg: tether.RunConfig{StopTimeout: s}, want: stopTimes{ // closers have a sixth of a second each, at least
			stop: 450 * ms, cancel: 450 * ms, drain: 900 * ms,
			closers: []time.Duration{900*ms + 500*ms/3, 900*ms + 2*(500*ms/3)}, last: 900*ms + 3*(500*ms/3), returned: 900*ms + 3*(500*ms/3),
		}},
		"ten seconds": {cfg: tether.RunConfig{StopTimeout: 10 * s}, want: stopTimes{ // half of what there is before the cancellation
			stop: 4500 * ms, cancel: 4500 * ms, drain: 9 * s,
			closers: []time.Duration{9*s + s/3, 9*s + 2*s/3}, last: 10 * s, returned: 10 * s,
		}},
		"Kubernetes, with a pre-stop": {cfg: tether.RunConfig{StopTimeout: 30 * s, PreStop: 5 * s}, want: stopTimes{
			stop: 22 * s, cancel: 22 * s, drain: 27 * s,
			closers: []time.Duration{28 * s, 29 * s}, last: 30 * s, returned: 30 * s,
		}},
		"a minute, with time for the closers": {
			cfg: tether.RunConfig{StopTimeout: m, CloseTimeout: 30 * s, PreStop: 20 * s}, cancelBefore: 2 * s,
			want: stopTimes{
				stop: 28 * s, cancel: 28 * s, drain: 30 * s,
				closers: []time.Duration{40 * s, 50 * s}, last: m, returned: m,
			},
		},
		"ten minutes": {cfg: tether.RunConfig{StopTimeout: 10 * m}, cancelBefore: m, want: stopTimes{ // 10 s for the closers
			stop: 8*m + 50*s, cancel: 8*m + 50*s, drain: 9*m + 50*s,
			closers: []time.Duration{9*m + 50*s + 10*s/3, 9*m + 50*s + 20*s/3}, last: 10 * m, returned: 10 * m,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := measureStop(t, test.cfg, test.cancelBefore, test.slowServers)
			require.Len(t, got.closers, 2)
			for what, pair := range map[string][2]time.Duration{
				"Stop's deadline": {test.want.stop, got.stop}, "cancellation": {test.want.cancel, got.cancel},
				"drain's deadline": {test.want.drain, got.drain}, "first closer's deadline": {test.want.closers[0], got.closers[0]},
				"second closer's deadline": {test.want.closers[1], got.closers[1]}, "last server's deadline": {test.want.last, got.last},
				"return": {test.want.returned, got.returned},
			} {
				assert.InDelta(t, pair[0], pair[1], float64(time.Microsecond), "%s: %v, want %v", what, pair[1], pair[0])
			}
		})
	}
}

// What holds of the times for any setting.
func TestD7_TheTimesOfTheStopAreInOrder(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 25 * time.Second, time.Minute, 10 * time.Minute} {
		for _, closing := range []time.Duration{0, timeout / 100, timeout / 2} {
			for _, pre := range []time.Duration{0, timeout / 5, timeout / 2} {
				for _, cancelBefore := range []time.Duration{0, timeout / 10, timeout} {
					for _, slowServers := range []bool{false, true} {
						name := fmt.Sprintf("StopTimeout %v, CloseTimeout %v, PreStop %v, CancelBefore %v, slow servers %v",
							timeout, closing, pre, cancelBefore, slowServers)
						cfg := tether.RunConfig{StopTimeout: timeout, CloseTimeout: closing, PreStop: pre}
						got := measureStop(t, cfg, cancelBefore, slowServers)
						assert.LessOrEqual(t, pre, got.stop, name)
						assert.LessOrEqual(t, got.stop, got.cancel, name)
						assert.LessOrEqual(t, got.cancel, got.drain, name)
						if len(got.closers) != 2 {
							t.Fatal(name)
						}
						assert.Less(t, got.drain, got.closers[0], name)
						assert.Less(t, got.closers[0], got.closers[1], name)
						assert.Less(t, got.closers[1], got.last, name)
						assert.LessOrEqual(t, got.returned, timeout+time.Second, name)
						if pre < timeout/2 || closing < timeout/2 { // else there is no time in between
							assert.Less(t, pre, got.stop, name)
							assert.Less(t, got.cancel, got.drain, name)
						}
					}
				}
			}
		}
	}
}
