package tetherhttp_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

// Two replicas, of which one answers for the task of the other. In a program the backend is
// the Store of an engine: sqlite, postgres or redis.
func ExampleNewStore() {
	backend := storetest.NewMemory()
	finish := make(chan struct{})
	replica := func() (srv *httptest.Server, stop func()) {
		reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
		shared := tetherhttp.NewStore("shop", backend)
		mux := http.NewServeMux()
		mux.Handle("POST /reports", tetherhttp.Async(reg, "report", func(context.Context, *http.Request) (string, error) {
			<-finish
			return "1,200 orders", nil
		}, tetherhttp.AsyncConfig{Store: shared}))
		mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared}))
		srv = httptest.NewServer(mux)
		return srv, func() { // as Run does, with shared.Close as a Closer
			srv.Close()
			if err := reg.Shutdown(context.Background()); err != nil {
				panic(err)
			}
			if err := shared.Close(context.Background()); err != nil {
				panic(err)
			}
		}
	}
	a, stopA := replica()
	b, stopB := replica()
	defer stopB()

	r, err := http.NewRequest("POST", a.URL+"/reports", strings.NewReader("{}"))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Prefer", "respond-async")
	accepted, err := http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	_ = accepted.Body.Close()
	fmt.Println(accepted.Status)

	close(finish)
	stopA() // the outcome is in the store
	result, err := http.Get(b.URL + accepted.Header.Get("Location") + "/result")
	if err != nil {
		panic(err)
	}
	defer result.Body.Close()
	body, err := io.ReadAll(result.Body)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s", body)
	// Output:
	// 202 Accepted
	// "1,200 orders"
}
