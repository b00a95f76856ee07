// Package tetherhttptest helps to test handlers that use package tetherhttp, without a
// server.
package tetherhttptest

import (
	"net/http"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// Handler returns a handler that calls next so that [tetherhttp.After] and its variants work
// without a server, for tests that call ServeHTTP with an [net/http/httptest.ResponseRecorder].
// In place of [tetherhttp.Attach] it prepares the handler alone:
//
//	reg := tethertest.New(t)
//	h := tetherhttptest.Handler(reg, newApp(reg))
//	h.ServeHTTP(recorder, httptest.NewRequest("POST", "/users", nil))
//	// The response is in the recorder, and the tasks after it have ended.
//
// Tasks start when next has returned, with the delivery [tetherhttp.DeliveryUnknown]. ServeHTTP
// returns when the tasks that it has started on reg have ended, or when the request's
// context is done. The outcomes do not count as awaited: a task that fails is reported by
// the registry as usual. If next panics, its tasks are dropped with
// [tetherhttp.ErrDiscarded], and ServeHTTP panics with the same value.
//
// cfg is as for [tetherhttp.Attach]. Handler panics if reg is nil, which is a programming
// error.
func Handler(reg *tether.Registry, next http.Handler, cfg ...tetherhttp.ReleaserConfig) http.Handler {
	releaser := tetherhttp.NewReleaser(reg, cfg...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The tasks of this request are among the held ones when next returns, and are
		// held no longer when the Releaser returns.
		var held []*tether.Task
		releaser.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			for t := range reg.Tasks() {
				if t.State() == tether.Held {
					held = append(held, t)
				}
			}
		})).ServeHTTP(w, r)
		for _, t := range held {
			if t.State() == tether.Held {
				continue
			}
			for range t.Watch(r.Context()) { // unlike Done, it does not mark the outcome as awaited
			}
		}
	})
}
