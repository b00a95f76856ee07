package tetherhttp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestIdempotencyKey(t *testing.T) {
	ok := map[string]string{
		`"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`8e03978e-40d5-43dd-bc93-6894a57f9324`:   "8e03978e-40d5-43dd-bc93-6894a57f9324",
		` "a" `:                                  "a",
		"\ta\t":                                  "a",
		`"a b, c"`:                               "a b, c",
		`"a\"b\\c"`:                              `a"b\c`,
		`a\b`:                                    `a\b`,
		`"a";p=1;q`:                              "a",
		`"a;b";`:                                 "a;b",
		"~!{}":                                   "~!{}",
		`" "`:                                    " ",
		strings.Repeat("x", 255):                 strings.Repeat("x", 255),
		`"` + strings.Repeat("x", 255) + `"`:     strings.Repeat("x", 255),
	}
	for value, want := range ok {
		got, err := tetherhttp.IdempotencyKey(http.Header{"Idempotency-Key": {value}})
		assert.NoError(t, err, value)
		assert.Equal(t, want, got, value)
	}
	malformed := [][]string{
		{""}, {" "}, {`""`}, {`"`}, {`"a`}, {`a"`}, {`"a"b`}, {`"a" "b"`}, {`"a", "b"`}, {`"a" ;p=1`}, {`"a\"`}, {`"a\b"`},
		{"a b"}, {"a,b"}, {"a\tb"}, {"\"a\tb\""}, {"\"a\x7f\""}, {"a\x00"}, {"schlüssel"}, {`"schlüssel"`}, {"a\n"},
		{strings.Repeat("x", 256)}, {`"` + strings.Repeat("x", 256) + `"`},
		{"a", "a"}, {"a", "b"}, {"", "a"},
	}
	for _, values := range malformed {
		got, err := tetherhttp.IdempotencyKey(http.Header{"Idempotency-Key": values})
		assert.Empty(t, got)
		var p *tetherhttp.Problem
		if assert.ErrorAs(t, err, &p, "%q", values) {
			assert.Equal(t, http.StatusBadRequest, p.Status)
		}
	}
	none, err := tetherhttp.IdempotencyKey(http.Header{})
	assert.NoError(t, err)
	assert.Empty(t, none)
}

func FuzzIdempotencyKey(f *testing.F) {
	for _, s := range []string{"", `"a"`, "a", `"a\"b"`, `"\`, "\"\x80\"", `" "`, "a b"} {
		f.Add(s, "", false)
		f.Add(s, s, true)
	}
	f.Fuzz(func(t *testing.T, a, b string, two bool) {
		h := http.Header{"Idempotency-Key": {a}}
		if two {
			h.Add("Idempotency-Key", b)
		}
		key, err := tetherhttp.IdempotencyKey(h)
		if err != nil {
			var p *tetherhttp.Problem
			if key != "" || !errors.As(err, &p) || p.Status != http.StatusBadRequest {
				t.Errorf("%q, %v", key, err)
			}
			return
		}
		if two || len(key) < 1 || len(key) > 255 {
			t.Errorf("accepted: %q", h)
		}
		for _, c := range []byte(key) {
			if c < ' ' || c > '~' {
				t.Errorf("accepted: %q", key)
			}
		}
		// In quotes it is the same key.
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := tetherhttp.IdempotencyKey(http.Header{"Idempotency-Key": {quoted}}); err != nil || again != key {
			t.Errorf("%q is %q, %q is %q, %v", h, key, quoted, again, err)
		}
	})
}

// keyed makes a request with a key.
func keyed(key string, header ...string) *http.Request {
	return request("POST", "/orders", "{}", append(header, "Idempotency-Key", key)...)
}

// replayed reports whether an answer says that it is one.
func replayed(t testing.TB, w *asked) bool {
	t.Helper()
	values := w.Header().Values("Idempotency-Replayed")
	if len(values) == 0 {
		return false
	}
	return assert.Equal(t, []string{"true"}, values)
}

// counting returns a body that numbers its runs.
func counting(runs *atomic.Int32, d time.Duration) func(context.Context, *http.Request) (string, error) {
	return func(ctx context.Context, _ *http.Request) (string, error) {
		n := runs.Add(1)
		return fmt.Sprint("run ", n), pass(ctx, d)
	}
}

func TestIdempotent(t *testing.T) {
	bubble(t, "a thousand double clicks are one run, and the others are told to wait", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 400*time.Millisecond), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		answers := make(chan *asked)
		for range 1000 {
			go func() { answers <- ask(t, h, keyed("k")) }()
		}
		conflicts := 0
		for range 1000 {
			switch w := <-answers; w.Code {
			case http.StatusOK:
				assert.Equal(t, "\"run 1\"\n", w.Body.String())
				assert.False(t, replayed(t, w))
			case http.StatusConflict:
				conflicts++
				w.problem(t)
				assert.Equal(t, "1", w.Header().Get("Retry-After"))
				assert.False(t, replayed(t, w))
			default:
				t.Error("status", w.Code)
			}
		}
		assert.Equal(t, 999, conflicts)
		assert.EqualValues(t, 1, runs.Load())
		w := ask(t, h, keyed("k"))
		assert.Equal(t, "\"run 1\"\n", w.Body.String())
		assert.True(t, replayed(t, w))
	})
	bubble(t, "with Join all of them have the answer", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 400*time.Millisecond), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		began := time.Now()
		answers := make(chan *asked)
		for range 1000 {
			go func() { answers <- ask(t, h, keyed("k")) }()
		}
		first := 0
		for range 1000 {
			w := <-answers
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
			if !replayed(t, w) {
				first++
			}
		}
		assert.Equal(t, 400*time.Millisecond, time.Since(began))
		assert.Equal(t, 1, first)
		assert.EqualValues(t, 1, runs.Load())
		assert.EqualValues(t, 1, reg.Stats().Submitted)
	})
	t.Run("the same without a bubble, for the race detector", func(t *testing.T) {
		for _, join := range []bool{false, true} {
			reg := newRegistry(t, tether.Config{})
			var runs, ok atomic.Int32
			h := tetherhttp.Async(reg, "order", func(context.Context, *http.Request) (string, error) {
				runtime.Gosched()
				return fmt.Sprint("run ", runs.Add(1)), nil
			}, tetherhttp.AsyncConfig{Inline: time.Hour, Idempotency: &tetherhttp.IdempotencyConfig{Join: join}})
			var wg sync.WaitGroup
			for key := range 20 {
				for range 50 {
					wg.Go(func() {
						switch w := ask(t, h, keyed(fmt.Sprint(key))); {
						case w.Code == http.StatusOK:
							ok.Add(1)
						case w.Code != http.StatusConflict || join:
							t.Error("status", w.Code)
						}
					})
				}
			}
			wg.Wait()
			assert.EqualValues(t, 20, runs.Load())
			assert.GreaterOrEqual(t, ok.Load(), int32(20))
		}
	})
	bubble(t, "requests without a key have nothing to do with each other", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		for i := range 3 {
			w := ask(t, h, request("POST", "/orders", "{}"))
			assert.Equal(t, fmt.Sprintf("\"run %d\"\n", i+1), w.Body.String())
		}
		assert.Empty(t, slices.Collect(reg.Finished()))
	})
	bubble(t, "what is refused before it is looked for", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Required: true}, MaxBody: 10})
		none := request("POST", "/orders", "{}")
		twice := keyed("a")
		twice.Header.Add("Idempotency-Key", "a")
		for name, r := range map[string]*http.Request{"none": none, "malformed": keyed("a b"), "empty": keyed(""), "long": keyed(strings.Repeat("a", 256)), "twice": twice} {
			p := ask(t, h, r).problem(t)
			assert.Equal(t, http.StatusBadRequest, p.Status, name)
			assert.Contains(t, p.Detail, "Idempotency-Key")
		}
		r := request("POST", "/orders", strings.Repeat("x", 11), "Idempotency-Key", "a")
		assert.Equal(t, http.StatusRequestEntityTooLarge, ask(t, h, r).Code)
		assert.Zero(t, runs.Load())
		w := ask(t, h, keyed("a"))
		assert.Equal(t, "\"run 1\"\n", w.Body.String())
		assert.False(t, replayed(t, w))
	})
	bubble(t, "another request with the same key is refused, at any time", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, time.Minute), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		key := []string{"Idempotency-Key", "k", "Content-Type", "a/b"}
		go ask(t, h, request("POST", "/orders?a=1", "body", key...))
		synctest.Wait()
		check := func() {
			t.Helper()
			for name, r := range map[string]*http.Request{
				"body":         request("POST", "/orders?a=1", "body2", key...),
				"no body":      request("POST", "/orders?a=1", "", key...),
				"query":        request("POST", "/orders?a=2", "body", key...),
				"content type": request("POST", "/orders?a=1", "body", "Idempotency-Key", "k", "Content-Type", "a/c"),
				"shifted":      request("POST", "/orders?a=1a/b", "body", "Idempotency-Key", "k"),
			} {
				assert.Equal(t, http.StatusUnprocessableEntity, ask(t, h, r).problem(t).Status, name)
			}
		}
		check()
		time.Sleep(time.Second) // the first was told to look elsewhere
		check()
		time.Sleep(time.Hour / 2)
		check()
		same := request("POST", "/orders?a=1", "body", "Idempotency-Key", `"k"`, "Content-Type", "a/b", "X-Other", "1", "Prefer", "wait=1")
		assert.True(t, replayed(t, ask(t, h, same)))
		assert.EqualValues(t, 1, runs.Load())
	})
	bubble(t, "also if a middleware has read the form", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		send := func(form string) *asked {
			r := request("POST", "/orders", form, "Idempotency-Key", "k", "Content-Type", "application/x-www-form-urlencoded")
			require.NoError(t, r.ParseForm())
			return ask(t, h, r)
		}
		assert.False(t, replayed(t, send("book=1")))
		assert.True(t, replayed(t, send("book=1")))
		assert.Equal(t, http.StatusUnprocessableEntity, send("book=2").Code)
	})
	bubble(t, "each principal, method and path has keys of its own", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		twice := request("POST", "/orders", "", "Idempotency-Key", "k", "Authorization", "me")
		twice.Header.Add("Authorization", "you")
		for i, r := range []*http.Request{
			request("POST", "/orders", "", "Idempotency-Key", "k"),
			request("POST", "/orders", "", "Idempotency-Key", "k", "Authorization", "me"),
			request("POST", "/orders", "", "Idempotency-Key", "k", "Authorization", "you"),
			twice,
			request("PUT", "/orders", "", "Idempotency-Key", "k"),
			request("POST", "/orders/1", "", "Idempotency-Key", "k"),
			request("POST", "/orders/a%2Fb", "", "Idempotency-Key", "k"),
			request("POST", "/orders/a/b", "", "Idempotency-Key", "k"),
			request("POST", "/orders", "", "Idempotency-Key", "K"),
		} {
			for again := range 2 {
				w := ask(t, h, r.Clone(t.Context()))
				assert.Equal(t, fmt.Sprintf("\"run %d\"\n", i+1), w.Body.String())
				assert.Equal(t, again == 1, replayed(t, w))
			}
		}
	})
	bubble(t, "a principal may be told by something else", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{
			Principal: func(r *http.Request) string { return r.Header.Get("X-User") },
		}})
		for i, user := range []string{"me", "you", "me"} {
			w := ask(t, h, keyed("k", "X-User", user, "Authorization", fmt.Sprint("token ", i)))
			assert.Equal(t, i == 2, replayed(t, w))
		}
		assert.EqualValues(t, 2, runs.Load())
	})
	bubble(t, "two sessions that are told apart by a cookie alone are refused, and never mixed up", func(t *testing.T) {
		var book logbook
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		for _, session := range []string{"session=alice", "session=bob"} {
			w := ask(t, h, book.of(keyed("k", "Cookie", session)))
			assert.Equal(t, http.StatusInternalServerError, w.problem(t).Status)
		}
		assert.Zero(t, runs.Load())
		assert.Len(t, book.about("needs IdempotencyConfig.Principal"), 2)
		assert.Equal(t, http.StatusOK, ask(t, h, request("POST", "/", "", "Cookie", "session=alice")).Code, "without a key there is nothing to mix up")
		for i, user := range []string{"alice", "bob"} {
			w := ask(t, h, keyed("k", "Cookie", "session=x", "Authorization", user))
			assert.Equal(t, fmt.Sprintf("\"run %d\"\n", i+2), w.Body.String())
		}
	})
	bubble(t, "two sessions that Principal tells apart by their cookie", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{
			Principal: func(r *http.Request) string {
				session, err := r.Cookie("session")
				if err != nil {
					return ""
				}
				return session.Value
			},
		}})
		for i, session := range []string{"alice", "bob", "alice"} {
			w := ask(t, h, keyed("k", "Cookie", fmt.Sprintf("seen=%d; session=%s", i, session)))
			assert.Equal(t, i == 2, replayed(t, w), "other cookies may change")
		}
		assert.EqualValues(t, 2, runs.Load())
	})
	bubble(t, "two clients that are told apart by their certificates", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		for i, raw := range []string{"alice", "bob", "alice"} {
			r := keyed("k", "Cookie", "a=b")
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(raw)}}}
			assert.Equal(t, i == 2, replayed(t, ask(t, h, r)))
		}
	})
	bubble(t, "each handler has keys of its own, though they share the configuration", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		opt := tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}}
		for range 2 {
			assert.False(t, replayed(t, ask(t, tetherhttp.Async(reg, "order", counting(&runs, 0), opt), keyed("k"))))
		}
	})
	bubble(t, "after a 202 the same 202, and then the answer", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, time.Minute), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		first := make(chan *asked, 1)
		go func() { first <- ask(t, h, keyed("k")) }()
		synctest.Wait()
		assert.Equal(t, http.StatusConflict, ask(t, h, keyed("k")).Code, "it waits for its answer still")
		w := <-first
		task := accepted(t, reg, w)
		again := ask(t, h, keyed("k"))
		assert.Same(t, task, accepted(t, reg, again))
		assert.True(t, replayed(t, again))
		assert.Equal(t, []string{"Prefer"}, again.Header().Values("Vary"))
		began := time.Now()
		w = ask(t, h, keyed("k", "Prefer", "respond-async"))
		assert.Same(t, task, accepted(t, reg, w))
		assert.Zero(t, time.Since(began))
		w = ask(t, h, keyed("k", "Prefer", "wait=10"))
		assert.Same(t, task, accepted(t, reg, w))
		assert.Equal(t, 10*time.Second, time.Since(began))
		require.NoError(t, task.Wait(t.Context()))
		for range 2 {
			w = ask(t, h, keyed("k"))
			assert.Equal(t, http.StatusOK, w.Code)
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
			assert.True(t, replayed(t, w))
		}
	})
	bubble(t, "a failure is replayed like a success", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		runs := 0
		for _, end := range []error{errTest, &tetherhttp.Problem{Status: 402, Detail: "no money"}, fmt.Errorf("%w", tether.ErrFull)} {
			h := tetherhttp.Async(reg, "order", func(context.Context, *http.Request) (string, error) {
				runs++
				return "", end
			}, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
			first, second := ask(t, h, keyed("k")), ask(t, h, keyed("k"))
			assert.Equal(t, first.Code, second.Code)
			assert.Equal(t, first.Body.String(), second.Body.String())
			assert.False(t, replayed(t, first))
			assert.True(t, replayed(t, second))
		}
		assert.Equal(t, 3, runs)
	})
	bubble(t, "a panic is replayed", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		runs := 0
		h := tetherhttp.AsyncHandler(reg, "order", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			runs++
			panic("test panic")
		}), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		for range 2 {
			assert.Equal(t, 500, ask(t, h, keyed("k")).Code)
		}
		assert.Equal(t, 1, runs)
	})
	bubble(t, "an answer is there to be replayed when the registry has forgotten the task", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, time.Second), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		assert.Equal(t, http.StatusAccepted, ask(t, h, keyed("k")).Code)
		time.Sleep(time.Minute)
		assert.Equal(t, "\"run 1\"\n", ask(t, h, keyed("k")).Body.String())
	})
	bubble(t, "a result answered inline stays to be found", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		ask(t, tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}}), keyed("k"))
		assert.Len(t, slices.Collect(reg.Finished()), 1)
	})
	bubble(t, "a client that goes leaves its task behind, and finds it when it asks again", func(t *testing.T) {
		for _, join := range []bool{false, true} {
			reg := newRegistry(t, tether.Config{})
			var runs atomic.Int32
			h := tetherhttp.Async(reg, "order", counting(&runs, time.Minute), tetherhttp.AsyncConfig{Inline: 2 * time.Minute, Idempotency: &tetherhttp.IdempotencyConfig{Join: join}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			ask(t, h, keyed("k").WithContext(ctx))
			cancel()
			task := live(t, reg)
			assert.Equal(t, tether.Running, task.State())
			w := ask(t, h, keyed("k"))
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
			assert.True(t, replayed(t, w))
			assert.Equal(t, tether.Succeeded, task.State())
		}
	})
	bubble(t, "one that goes while it joins takes nothing with it", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, time.Minute), tetherhttp.AsyncConfig{Inline: 2 * time.Minute, Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		first := make(chan *asked, 1)
		go func() { first <- ask(t, h, keyed("k")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ask(t, h, keyed("k").WithContext(ctx))
		assert.Equal(t, "\"run 1\"\n", (<-first).Body.String())
	})
	bubble(t, "over a task that is canceled, its end is what is replayed", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		h := tetherhttp.Async(reg, "order", until(nil), tetherhttp.AsyncConfig{Inline: -1, Idempotency: &tetherhttp.IdempotencyConfig{}})
		task := accepted(t, reg, ask(t, h, keyed("k")))
		synctest.Wait()
		task.Cancel(tetherhttp.ErrCanceled)
		synctest.Wait()
		w := ask(t, h, keyed("k"))
		assert.Equal(t, http.StatusGone, w.problem(t).Status)
		assert.True(t, replayed(t, w))
	})
	bubble(t, "a refusal does not use the key", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Limit: 1})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		blocker := start(t, reg, untilCanceled)
		for range 2 {
			w := ask(t, h, keyed("k"))
			assert.Equal(t, http.StatusServiceUnavailable, w.problem(t).Status)
			assert.False(t, replayed(t, w))
		}
		blocker.Cancel(nil)
		_ = blocker.Wait(t.Context())
		w := ask(t, h, keyed("k"))
		assert.Equal(t, http.StatusOK, w.Code)
		assert.False(t, replayed(t, w))
		assert.EqualValues(t, 1, runs.Load())
	})
	bubble(t, "nor does a task that was dropped", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Queue: 1, Overflow: tether.OverflowDropOldest})
		blocker := start(t, p, untilCanceled)
		synctest.Wait()
		var runs atomic.Int32
		h := tetherhttp.Async(p, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Inline: time.Hour, Idempotency: &tetherhttp.IdempotencyConfig{}})
		first := make(chan *asked, 1)
		go func() { first <- ask(t, h, keyed("k")) }()
		synctest.Wait()
		newer := start(t, p, succeed)
		assert.Equal(t, http.StatusServiceUnavailable, (<-first).Code)
		blocker.Cancel(nil)
		require.NoError(t, newer.Wait(t.Context()))
		w := ask(t, h, keyed("k"))
		assert.Equal(t, "\"run 1\"\n", w.Body.String())
		assert.False(t, replayed(t, w))
		assert.True(t, replayed(t, ask(t, h, keyed("k"))))
	})
	bubble(t, "requests that join a refused one try for themselves", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock}) // it blocks
		blocker := start(t, p, untilCanceled)
		synctest.Wait()
		var runs atomic.Int32
		h := tetherhttp.Async(p, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Inline: time.Hour, Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		ctx, cancel := context.WithCancel(t.Context())
		first, others := make(chan *asked, 1), make(chan *asked, 10)
		go func() { first <- ask(t, h, keyed("k").WithContext(ctx)) }()
		synctest.Wait()
		for range 10 {
			go func() { others <- ask(t, h, keyed("k")) }()
		}
		synctest.Wait()
		cancel() // it waits for room
		assert.Equal(t, http.StatusServiceUnavailable, (<-first).Code)
		synctest.Wait()
		blocker.Cancel(nil)
		new := 0
		for range 10 {
			w := <-others
			assert.Equal(t, "\"run 1\"\n", w.Body.String())
			if !replayed(t, w) {
				new++
			}
		}
		assert.Equal(t, 1, new)
		assert.EqualValues(t, 1, runs.Load())
	})
	bubble(t, "one that goes before the first is admitted", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		p := reg.NewPool("p", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
		blocker := start(t, p, untilCanceled)
		synctest.Wait()
		var runs atomic.Int32
		h := tetherhttp.Async(p, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Inline: time.Hour, Idempotency: &tetherhttp.IdempotencyConfig{Join: true}})
		first := make(chan *asked, 1)
		go func() { first <- ask(t, h, keyed("k")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.Equal(t, http.StatusServiceUnavailable, ask(t, h, keyed("k").WithContext(ctx)).problem(t).Status)
		blocker.Cancel(nil)
		assert.Equal(t, "\"run 1\"\n", (<-first).Body.String())
	})
	bubble(t, "a submission that does not return frees the key", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		crash := true
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		tetherhttp.AfterSubmit(h, func(*tether.Task) {
			if crash {
				panic("test panic")
			}
		})
		assert.Panics(t, func() { ask(t, h, keyed("k")) })
		crash = false
		assert.Equal(t, 200, ask(t, h, keyed("k")).Code)
	})
}

func TestIdempotentMemory(t *testing.T) {
	bubble(t, "keys are kept for an hour", func(t *testing.T) {
		for keep, want := range map[time.Duration]time.Duration{0: time.Hour, time.Minute: time.Minute} {
			reg := newRegistry(t, tether.Config{})
			var runs atomic.Int32
			h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: keep}})
			ask(t, h, keyed("k"))
			time.Sleep(want - 1)
			assert.True(t, replayed(t, ask(t, h, keyed("k"))))
			time.Sleep(1 * time.Nanosecond)
			assert.False(t, replayed(t, ask(t, h, keyed("k"))), "and no longer, however often they are used")
			assert.EqualValues(t, 2, runs.Load())
			assert.True(t, replayed(t, ask(t, h, keyed("k"))))
		}
	})
	bubble(t, "and as long as their task lives", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, time.Hour), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: time.Minute}})
		task := accepted(t, reg, ask(t, h, keyed("k")))
		time.Sleep(59 * time.Minute)
		ask(t, h, keyed("other"))
		assert.Same(t, task, accepted(t, reg, ask(t, h, keyed("k"))))
		require.NoError(t, task.Wait(t.Context()))
		assert.False(t, replayed(t, ask(t, h, keyed("k"))))
	})
	bubble(t, "the oldest that have ended give way, those that live do not", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{})
		release := make(chan struct{})
		h := tetherhttp.Async(reg, "order", func(_ context.Context, r *http.Request) (string, error) {
			if r.Header.Get("X-Long") != "" {
				<-release
			}
			return "", nil
		}, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{MaxKeys: 10}})
		long := func(i int) *http.Request { return keyed(fmt.Sprint("long-", i), "X-Long", "1") }
		short := func(i int) *http.Request { return keyed(fmt.Sprint("short-", i)) }
		for i := range 5 {
			assert.Equal(t, http.StatusAccepted, ask(t, h, long(i)).Code)
		}
		for i := range 100 {
			assert.False(t, replayed(t, ask(t, h, short(i))))
		}
		for i := 95; i < 100; i++ {
			assert.True(t, replayed(t, ask(t, h, short(i))), i)
		}
		for i := range 5 {
			assert.True(t, replayed(t, ask(t, h, long(i))))
		}
		assert.False(t, replayed(t, ask(t, h, short(94))), "it was forgotten")
		for i := 5; i < 20; i++ { // more than there may be, and all live
			assert.False(t, replayed(t, ask(t, h, long(i))))
		}
		for i := range 20 {
			assert.True(t, replayed(t, ask(t, h, long(i))))
		}
		close(release)
		synctest.Wait()
		for i := range 30 { // now they give way to those that come
			ask(t, h, short(100+i))
		}
		for i := range 20 {
			assert.False(t, replayed(t, ask(t, h, long(i))))
		}
	})
	bubble(t, "the result is dropped with the key, without a request", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		type result struct{ Text *string } // a pointer, so that it does not share its place in memory with others
		results := make(chan weak.Pointer[result], 3)
		h := tetherhttp.Async(reg, "order", func(context.Context, *http.Request) (*result, error) {
			r := new(result)
			results <- weak.Make(r)
			return r, nil
		}, tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{RetainFor: time.Minute}})
		ask(t, h, keyed("a"))
		time.Sleep(30 * time.Second)
		ask(t, h, keyed("b"))
		ask(t, h, keyed("c"))
		a, b, c := <-results, <-results, <-results
		time.Sleep(time.Minute - 30*time.Second - 1)
		runtime.GC()
		assert.NotNil(t, a.Value(), "else this test shows nothing")
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		runtime.GC()
		assert.Nil(t, a.Value())
		assert.NotNil(t, b.Value())
		time.Sleep(30 * time.Second)
		synctest.Wait()
		runtime.GC()
		assert.Nil(t, b.Value())
		assert.Nil(t, c.Value())
		runtime.KeepAlive(h)
	})
	bubble(t, "10,000 by default", func(t *testing.T) {
		reg := newRegistry(t, tether.Config{Retain: -1})
		var runs atomic.Int32
		h := tetherhttp.Async(reg, "order", counting(&runs, 0), tetherhttp.AsyncConfig{Idempotency: &tetherhttp.IdempotencyConfig{}})
		r := request("POST", "/orders", "")
		with := func(key string) *http.Request {
			r.Header["Idempotency-Key"] = []string{key}
			return r
		}
		for i := range 10_000 {
			h.ServeHTTP(nowhere{}, with(fmt.Sprint(i)))
		}
		require.EqualValues(t, 10_000, runs.Load())
		assert.True(t, replayed(t, ask(t, h, with("0"))))
		ask(t, h, with("more"))
		assert.False(t, replayed(t, ask(t, h, with("0"))))
		assert.True(t, replayed(t, ask(t, h, with("9"))))
	})
}

// nowhere is a ResponseWriter that discards its response.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
