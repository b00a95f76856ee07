package compat_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With gin: serve the engine with a server of your own, not with engine.Run, and mount
// the middleware a second time behind gin.Recovery, as the guard that drops the tasks
// of a handler that panics.
//
// Give After the context of c.Request, never c: the task has the values of the context
// that it was submitted with, and gin gives c to another request when the handler has
// returned. For that same reason a task must not use c, but what it has copied from it
// before, or a c.Copy().
func Example_gin() {
	reg := tether.New(tether.Config{})
	engine := gin.New()
	srv := &http.Server{Handler: engine}
	bg := tetherhttp.Attach(srv, reg)

	guard := func(c *gin.Context) {
		bg.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.Next() })).ServeHTTP(c.Writer, c.Request)
	}
	engine.Use(gin.Recovery(), guard)
	engine.POST("/orders/:id", func(c *gin.Context) {
		cp := c.Copy()
		_, err := tetherhttp.After(c.Request.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", cp.Param("id"), tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			c.String(http.StatusServiceUnavailable, "busy")
			return
		}
		c.Status(http.StatusCreated)
	})

	post(srv, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

// ginGuard is the guard of the example.
func (s *site) ginGuard(c *gin.Context) {
	s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.Next() })).ServeHTTP(c.Writer, c.Request)
}

func (s *site) ginRoutes(engine *gin.Engine) {
	engine.Match([]string{"GET", "HEAD"}, "/small", func(c *gin.Context) {
		s.after(c.Request.Context())
		c.String(http.StatusOK, "hello\n")
	})
	engine.GET("/large", func(c *gin.Context) {
		s.after(c.Request.Context())
		for range 8 {
			_, _ = c.Writer.WriteString(kilobytes)
		}
	})
	engine.GET("/flush", func(c *gin.Context) {
		_, _ = c.Writer.WriteString("one\n")
		c.Writer.Flush()
		s.after(c.Request.Context())
		_, _ = c.Writer.WriteString("two\n")
	})
	engine.GET("/empty", func(c *gin.Context) {
		s.after(c.Request.Context())
		c.Status(http.StatusNoContent)
	})
	engine.GET("/error", func(c *gin.Context) {
		s.after(c.Request.Context())
		c.AbortWithStatusJSON(http.StatusInternalServerError, gin.H{"error": "broken"})
	})
	engine.GET("/panic", func(c *gin.Context) {
		s.after(c.Request.Context())
		panic(errTest)
	})
}

func TestGin(t *testing.T) {
	conform(t, true, func(s *site) {
		engine := gin.New()
		srv := &http.Server{Handler: engine}
		s.attach(srv)
		engine.Use(gin.LoggerWithWriter(io.Discard), gin.RecoveryWithWriter(io.Discard), s.ginGuard)
		s.ginRoutes(engine)
		s.serve(srv)
	})
}

func TestGinContext(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		t.Run(fmt.Sprint("fallback is ", fallback), func(t *testing.T) {
			var err error
			s := open(t, variant{}, func(s *site) {
				engine := gin.New()
				engine.ContextWithFallback = fallback
				srv := &http.Server{Handler: engine}
				s.attach(srv)
				engine.GET("/", func(c *gin.Context) {
					// Of a body that does not use its context: see the example.
					_, err = tetherhttp.After(c, "with gin's context", func(context.Context) error { return nil })
				})
				s.serve(srv)
			})
			s.http2("/")
			if fallback {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, tetherhttp.ErrNoScope, "gin's context without its fallback has no values but its own")
			}
		})
	}
}

// TestGinStream: gin's Stream asks the writer for CloseNotify, and panics if it has none.
func TestGinStream(t *testing.T) {
	start := func(s *site) {
		engine := gin.New()
		srv := &http.Server{Handler: engine}
		s.attach(srv)
		engine.GET("/", func(c *gin.Context) {
			s.after(c.Request.Context())
			step := 0
			c.Stream(func(w io.Writer) bool {
				step++
				_, _ = fmt.Fprintln(w, "step", step)
				return step < 3
			})
		})
		s.serve(srv)
	}
	want := open(t, variant{bare: true}, start).twice("GET", "/", "")
	require.Contains(t, want, "step 3")
	for _, v := range []variant{{}, {opts: []tetherhttp.ReleaserConfig{anyStatus}}} {
		s := open(t, v, start)
		sameBytes(t, want, s.twice("GET", "/", ""))
		require.Equal(t, s.deliveries, s.ran)
	}
}
