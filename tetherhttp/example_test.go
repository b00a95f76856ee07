package tetherhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// A task that starts when the client has its answer.
func ExampleAfter() {
	reg := tether.New(tether.Config{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := tetherhttp.After(r.Context(), "audit log", func(ctx context.Context) error {
			fmt.Println("logged:", r.URL.Path, tetherhttp.DeliveryOf(ctx))
			return nil
		})
		if err != nil { // full, or shutting down
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "hello")
	}))
	tetherhttp.Attach(srv.Config, reg)
	srv.Start()

	res, err := http.Get(srv.URL + "/greeting")
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	srv.Close()
	if err := reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	// Output: logged: /greeting sent
}
