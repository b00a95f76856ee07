package compat_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// With gorilla/mux: attach to the server, and mount the middleware a second time
// behind the RecoveryHandler, as the guard that drops the tasks of a handler that
// panics.
func Example_gorillaMux() {
	reg := tether.New(tether.Config{})
	r := mux.NewRouter()
	srv := &http.Server{Handler: r}
	bg := tetherhttp.Attach(srv, reg)

	r.Use(handlers.RecoveryHandler(), bg.Handler)
	r.HandleFunc("/orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged: order", mux.Vars(r)["id"], tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}).Methods("POST")

	post(srv, reg, "/orders/7")
	// Output:
	// logged: order 7 sent
	// answered: 201 Created
}

func TestGorillaMux(t *testing.T) {
	conform(t, true, func(s *site) {
		r := mux.NewRouter()
		srv := &http.Server{Handler: r}
		s.attach(srv)
		r.Use(
			func(next http.Handler) http.Handler { return handlers.LoggingHandler(io.Discard, next) },
			handlers.RecoveryHandler(handlers.RecoveryLogger(log.New(io.Discard, "", 0))),
			s.guard,
			handlers.CompressHandler,
		)
		s.routes(func(path string, h http.HandlerFunc) { r.HandleFunc(path, h) })
		s.serve(srv)
	})
}
