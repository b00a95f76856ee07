package compat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With echo v4: its Start, StartTLS and StartServer overwrite the server's Handler, so
// the two halves of Attach are done apart: the hooks in the server, and the middleware
// in front of the router. Mount it a second time behind Recover, as the guard that
// drops the tasks of a handler that panics. If echo is served with a server of your own,
// Pre is not needed: srv := &http.Server{Handler: e}; tetherhttp.Attach(srv, reg).
//
// An error that a handler returns is for echo to answer; to tetherhttp it is a
// response like any other. The last middleware here discards the tasks for it.
//
// A task must not use c: echo gives it to another request.
func Example_echo4() {
	reg := tether.New(tether.Config{})
	e := echo.New()
	bg := tetherhttp.NewReleaser(reg)
	bg.Hooks(e.Server) // e.TLSServer for StartTLS
	e.Pre(echo.WrapMiddleware(bg.Handler))

	e.Use(middleware.Recover(), echo.WrapMiddleware(bg.Handler), func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			err := next(c)
			if err != nil {
				tetherhttp.Discard(c.Request().Context(), err)
			}
			return err
		}
	})
	e.POST("/orders/:id", func(c echo.Context) error {
		id := c.Param("id") // here, not in the task
		_, err := tetherhttp.After(c.Request().Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", id, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			return echo.ErrServiceUnavailable
		}
		return c.NoContent(http.StatusCreated)
	})

	e.HideBanner, e.HidePort = true, true
	e.Listener, _ = net.Listen("tcp", "127.0.0.1:0")
	postTo(e.Listener.Addr(), func() error { return e.Start("") }, e.Shutdown, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

func (s *site) echo4() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Logger.SetOutput(io.Discard)
	e.Use(middleware.Recover(), echo.WrapMiddleware(s.guard), middleware.Gzip())
	e.Match([]string{"GET", "HEAD"}, "/small", func(c echo.Context) error {
		s.after(c.Request().Context())
		return c.String(http.StatusOK, "hello\n")
	})
	e.GET("/large", func(c echo.Context) error {
		s.after(c.Request().Context())
		for range 8 {
			if _, err := io.WriteString(c.Response(), kilobytes); err != nil {
				return err
			}
		}
		return nil
	})
	e.GET("/flush", func(c echo.Context) error {
		_, _ = io.WriteString(c.Response(), "one\n")
		c.Response().Flush()
		s.after(c.Request().Context())
		_, err := io.WriteString(c.Response(), "two\n")
		return err
	})
	e.GET("/empty", func(c echo.Context) error {
		s.after(c.Request().Context())
		return c.NoContent(http.StatusNoContent)
	})
	e.GET("/error", func(c echo.Context) error {
		s.after(c.Request().Context())
		return echo.ErrInternalServerError // echo answers it when the middlewares have returned
	})
	e.GET("/panic", func(c echo.Context) error {
		s.after(c.Request().Context())
		panic(errTest)
	})
	return e
}

func (s *site) startEcho4(e *echo.Echo) {
	if !s.bare {
		s.bg = tetherhttp.NewReleaser(s.reg, s.opts...)
		s.bg.Hooks(e.Server)
		e.Pre(echo.WrapMiddleware(s.bg.Handler))
	}
	s.configure(e.Server)
	e.Listener = s.listener
	done := make(chan error, 1)
	go func() { done <- e.Start("") }()
	s.t.Cleanup(func() {
		assert.NoError(s.t, e.Close())
		assert.ErrorIs(s.t, <-done, http.ErrServerClosed)
	})
}

func TestEcho4(t *testing.T) {
	conform(t, true, func(s *site) { s.startEcho4(s.echo4()) })
}

func TestEcho4WithAServerOfItsOwn(t *testing.T) {
	conform(t, true, func(s *site) {
		e := s.echo4()
		srv := &http.Server{Handler: e}
		s.attach(srv)
		s.serve(srv)
	})
}

// TestEcho4StartDropsAttach: why the recipe is what it is.
func TestEcho4StartDropsAttach(t *testing.T) {
	var err error
	s := open(t, variant{}, func(s *site) {
		e := s.echo4()
		e.GET("/", func(c echo.Context) error {
			_, err = tetherhttp.After(c.Request().Context(), "after", func(context.Context) error { return nil })
			return nil
		})
		tetherhttp.Attach(e.Server, s.reg)
		s.bare = true // no Pre
		s.startEcho4(e)
	})
	s.twice("GET", "/", "")
	require.ErrorIs(t, err, tetherhttp.ErrNoScope)
}

func TestEcho4ReturnedError(t *testing.T) {
	failed := errors.New("no such order")
	s := open(t, variant{}, func(s *site) {
		e := s.echo4()
		e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				err := next(c)
				if err != nil {
					tetherhttp.Discard(c.Request().Context(), err)
				}
				return err
			}
		})
		e.GET("/fail", func(c echo.Context) error {
			s.after(c.Request().Context())
			return failed
		})
		s.startEcho4(e)
	})
	require.Contains(t, s.twice("GET", "/fail", ""), " 500 ")
	require.Empty(t, s.ran)
	require.Len(t, s.dropped, 2)
	require.ErrorIs(t, s.dropped[0], failed)
	s.twice("GET", "/small", "")
	require.Equal(t, s.deliveries, s.ran, "those of a handler that returns no error")
}
