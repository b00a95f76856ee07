package tetherhttp_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestProblem(t *testing.T) {
	serve := func(p *tetherhttp.Problem) *asked { return ask(t, p, request("GET", "/", "")) }
	t.Run("as it is sent", func(t *testing.T) {
		w := serve(&tetherhttp.Problem{Type: "https://example.com/t", Title: "Title", Status: 422, Detail: "detail", Instance: "/i", RetryAfter: 1})
		assert.Equal(t, 422, w.Code)
		assert.Equal(t, http.Header{
			"Cache-Control":          {"no-store"},
			"Content-Length":         {fmt.Sprint(w.Body.Len())},
			"Content-Type":           {"application/problem+json"},
			"Retry-After":            {"1"},
			"X-Content-Type-Options": {"nosniff"},
		}, w.Header())
		assert.JSONEq(t, `{"type":"https://example.com/t","title":"Title","status":422,"detail":"detail","instance":"/i"}`, w.Body.String())
	})
	t.Run("the title is the status's if it has none", func(t *testing.T) {
		w := serve(&tetherhttp.Problem{Status: 404})
		assert.JSONEq(t, `{"title":"Not Found","status":404}`, w.Body.String())
		assert.NotContains(t, w.Header(), "Retry-After")
	})
	t.Run("a status that is no error's stands for 500", func(t *testing.T) {
		for _, status := range []int{-1, 0, 99, 200, 399, 600, 1000} {
			p := &tetherhttp.Problem{Status: status}
			w := serve(p)
			assert.Equal(t, 500, w.Code)
			assert.Equal(t, 500, w.problem(t).Status)
			assert.Equal(t, "Internal Server Error", w.problem(t).Title)
			assert.Equal(t, status, p.Status, "it is not changed")
		}
		assert.Equal(t, 400, serve(&tetherhttp.Problem{Status: 400}).Code)
		assert.Equal(t, 599, serve(&tetherhttp.Problem{Status: 599}).Code)
	})
	t.Run("Retry-After is in whole seconds, rounded up", func(t *testing.T) {
		for d, want := range map[time.Duration]string{
			1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90", 24 * time.Hour: "86400",
		} {
			assert.Equal(t, want, serve(&tetherhttp.Problem{Status: 503, RetryAfter: d}).Header().Get("Retry-After"))
		}
	})
	t.Run("it is an error", func(t *testing.T) {
		assert.EqualError(t, &tetherhttp.Problem{Status: 404}, "404 Not Found")
		assert.EqualError(t, &tetherhttp.Problem{Status: 409, Title: "Out of stock", Detail: "none left"}, "409 Out of stock: none left")
	})
}

func TestProblemOf(t *testing.T) {
	own := &tetherhttp.Problem{Status: 418, Detail: "short"}
	for name, test := range map[string]struct {
		err        error
		status     int
		retryAfter time.Duration
		told       bool
	}{
		"a problem":              {own, 418, 0, true},
		"a problem that is nil":  {(*tetherhttp.Problem)(nil), 500, 0, false},
		"a full pool":            {&tether.FullError{RetryAfter: time.Minute}, 503, time.Minute, true},
		"a full pool, very soon": {&tether.FullError{RetryAfter: 1}, 503, time.Second, true},
		"no memory":              {&tether.MemoryError{RetryAfter: time.Second}, 503, time.Second, true},
		"something full":         {tether.ErrFull, 503, time.Second, true},
		"the intake is closed":   {tether.ErrClosed, 503, 5 * time.Second, true},
		"the drain":              {tether.ErrShutdown, 503, 5 * time.Second, true},
		"a timeout":              {tether.ErrTimeout, 504, 0, true},
		"canceled":               {tetherhttp.ErrCanceled, 410, 0, true},
		"the client has gone":    {tetherhttp.ErrClientGone, 503, time.Second, true},
		"too much":               {&http.MaxBytesError{Limit: 7}, 413, 0, true},
		"anything else":          {errTest, 500, 0, false},
		"no error":               {nil, 500, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			errs := []error{test.err}
			if test.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", secret, test.err), errors.Join(errTest, test.err))
			}
			for _, err := range errs {
				p := tetherhttp.ProblemOf(err)
				assert.Equal(t, test.status, p.Status)
				assert.Equal(t, test.retryAfter, p.RetryAfter)
				assert.Equal(t, test.told, p.Detail != "")
				assert.NotContains(t, p.Error(), secret)
			}
		})
	}
	assert.Same(t, own, tetherhttp.ProblemOf(fmt.Errorf("%w", own)))
}
