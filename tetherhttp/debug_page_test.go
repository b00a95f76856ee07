package tetherhttp

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

func TestDebugLook(t *testing.T) {
	t.Run("is fresh from its end on, the longer the longer it took", func(t *testing.T) {
		began := time.Now()
		for took, fresh := range map[time.Duration]time.Duration{
			0: time.Second, 100 * time.Millisecond: time.Second, 200 * time.Millisecond: 2 * time.Second, 3 * time.Second: 30 * time.Second,
		} {
			s := &snapshot{time: began, ended: began.Add(took)}
			assert.True(t, s.fresh(s.ended.Add(fresh-1)), took)
			assert.False(t, s.fresh(s.ended.Add(fresh)), took)
		}
	})
	synctestRun := func(name string, f func(t *testing.T, h *debug)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := tether.New(tether.Config{})
				f(t, Debug(reg).(*debug))
				require.NoError(t, reg.Shutdown(t.Context()))
			})
		})
	}
	synctestRun("one that took long is kept until another is due", func(t *testing.T, h *debug) {
		s := h.look(t.Context())
		s.ended = s.time.Add(5 * time.Second) // as if
		for range 5 {
			time.Sleep(11 * time.Second) // the history's timer comes in between
			if s.fresh(time.Now()) {
				assert.Same(t, s, h.look(t.Context()))
			}
		}
		assert.NotSame(t, s, h.look(t.Context()))
	})
	synctestRun("a request waits for one no longer than it lasts", func(t *testing.T, h *debug) {
		h.looking <- struct{}{} // a snapshot is being taken
		get := func(query string) int {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/debug/"+query, nil))
			return w.Code
		}
		assert.Equal(t, http.StatusServiceUnavailable, get(""))
		assert.Equal(t, http.StatusNotFound, get("?task=x"), "of one task there is no look")
		<-h.looking
		assert.Equal(t, http.StatusOK, get(""))
	})
}
