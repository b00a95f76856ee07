package compat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With echo v5: attach to the server that StartConfig is about to start, or to one of
// your own.
//
// An error that a handler returns is for echo to answer; to tetherhttp it is a
// response like any other. The first middleware here discards the tasks for it; since
// Recover makes an error of a panic, it is the guard for panics too.
//
// A task must not use c: echo gives it to another request.
func Example_echo5() {
	reg := tether.New(tether.Config{})
	e := echo.New()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			err := next(c)
			if err != nil {
				tetherhttp.Discard(c.Request().Context(), err)
			}
			return err
		}
	}, middleware.Recover())
	e.POST("/orders/:id", func(c *echo.Context) error {
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
	start := echo.StartConfig{
		Address: "127.0.0.1:0",
		BeforeServeFunc: func(srv *http.Server) error {
			tetherhttp.Attach(srv, reg)
			return nil
		},
	}

	start.HideBanner, start.HidePort = true, true
	start.Listener, _ = net.Listen("tcp", start.Address)
	ctx, stop := context.WithCancel(context.Background())
	postTo(start.Listener.Addr(), func() error { return start.Start(ctx, e) },
		func(context.Context) error { stop(); return nil }, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

func (s *site) echo5() *echo.Echo {
	e := echo.New()
	e.Use(middleware.Recover(), echo.WrapMiddleware(s.guard), middleware.Gzip())
	e.Match([]string{"GET", "HEAD"}, "/small", func(c *echo.Context) error {
		s.after(c.Request().Context())
		return c.String(http.StatusOK, "hello\n")
	})
	e.GET("/large", func(c *echo.Context) error {
		s.after(c.Request().Context())
		for range 8 {
			if _, err := io.WriteString(c.Response(), kilobytes); err != nil {
				return err
			}
		}
		return nil
	})
	e.GET("/flush", func(c *echo.Context) error {
		_, _ = io.WriteString(c.Response(), "one\n")
		if err := http.NewResponseController(c.Response()).Flush(); err != nil {
			return err
		}
		s.after(c.Request().Context())
		_, err := io.WriteString(c.Response(), "two\n")
		return err
	})
	e.GET("/empty", func(c *echo.Context) error {
		s.after(c.Request().Context())
		return c.NoContent(http.StatusNoContent)
	})
	e.GET("/error", func(c *echo.Context) error {
		s.after(c.Request().Context())
		return echo.ErrInternalServerError // echo answers it when the middlewares have returned
	})
	e.GET("/panic", func(c *echo.Context) error {
		s.after(c.Request().Context())
		panic(errTest)
	})
	return e
}

func (s *site) startEcho5(e *echo.Echo) {
	start := echo.StartConfig{
		HideBanner: true,
		HidePort:   true,
		Listener:   s.listener,
		BeforeServeFunc: func(srv *http.Server) error {
			s.configure(srv)
			s.attach(srv)
			return nil
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- start.Start(ctx, e) }()
	s.t.Cleanup(func() {
		stop()
		assert.NoError(s.t, <-done)
	})
}

func TestEcho5(t *testing.T) {
	conform(t, true, func(s *site) {
		e := s.echo5()
		s.startEcho5(e)
	})
}

func TestEcho5WithAServerOfItsOwn(t *testing.T) {
	conform(t, true, func(s *site) {
		e := s.echo5()
		srv := &http.Server{Handler: e}
		s.attach(srv)
		s.serve(srv)
	})
}

func TestEcho5ReturnedError(t *testing.T) {
	failed := errors.New("no such order")
	s := open(t, variant{unguarded: true}, func(s *site) {
		e := echo.New()
		e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c *echo.Context) error {
				err := next(c)
				if err != nil {
					tetherhttp.Discard(c.Request().Context(), err)
				}
				return err
			}
		}, middleware.Recover())
		for path, h := range map[string]echo.HandlerFunc{
			"/fail":  func(*echo.Context) error { return failed },
			"/panic": func(*echo.Context) error { panic(failed) },
			"/fine":  func(*echo.Context) error { return nil },
		} {
			e.GET(path, func(c *echo.Context) error {
				s.after(c.Request().Context())
				return h(c)
			})
		}
		s.startEcho5(e)
	})
	for _, path := range []string{"/fail", "/panic"} {
		s.dropped = nil
		require.Contains(t, s.twice("GET", path, ""), " 500 ")
		require.Empty(t, s.ran, path)
		require.Len(t, s.dropped, 2, path)
		require.ErrorIs(t, s.dropped[0], failed)
	}
	s.twice("GET", "/fine", "")
	require.Equal(t, s.deliveries, s.ran, "those of a handler that returns no error")
}
