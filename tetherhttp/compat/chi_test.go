package compat_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With chi: attach to the server, and mount the middleware a second time behind
// Recoverer, as the guard that drops the tasks of a handler that panics.
func Example_chi() {
	reg := tether.New(tether.Config{})
	r := chi.NewRouter()
	srv := &http.Server{Handler: r}
	bg := tetherhttp.Attach(srv, reg)

	r.Use(middleware.Recoverer, bg.Handler)
	r.Post("/orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := chi.URLParam(r, "id") // here, not in the task: chi uses its context again
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", id, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})

	post(srv, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

func TestChi(t *testing.T) {
	conform(t, true, func(s *site) {
		r := chi.NewRouter()
		srv := &http.Server{Handler: r}
		s.attach(srv)
		r.Use(middleware.RequestLogger(quiet{}), middleware.Recoverer, s.guard, middleware.Timeout(hang), middleware.Compress(5))
		s.routes(func(path string, h http.HandlerFunc) { r.Handle(path, h) })
		s.serve(srv)
	})
}

// quiet logs nothing. Without a log, chi's Recoverer would print the stack.
type quiet struct{}

func (quiet) NewLogEntry(*http.Request) middleware.LogEntry   { return quiet{} }
func (quiet) Write(int, int, http.Header, time.Duration, any) {}
func (quiet) Panic(any, []byte)                               {}
