// Package tetherhttp connects tether to net/http. It runs tasks after a response has been
// sent, answers slow requests with 202 instead of making them wait, and serves the status of
// such tasks. It works with any router that is an [http.Handler].
//
// # After the response
//
// [Attach] prepares a server. A handler then adds tasks that start when its response has
// been sent. If a task is refused, the handler learns it in time to answer 503:
//
//	srv := &http.Server{Addr: ":8080", Handler: mux}
//	tetherhttp.Attach(srv, reg)
//
//	func handle(w http.ResponseWriter, r *http.Request) {
//		if _, err := tetherhttp.After(r.Context(), "audit log", write); err != nil {
//			http.Error(w, "busy", http.StatusServiceUnavailable)
//			return
//		}
//		w.WriteHeader(http.StatusNoContent)
//	}
//
// [Releaser] defines "sent". The response does not change.
//
// # The 500 ms rule
//
// Work that takes longer than half a second does not belong in a request. [Async] runs it as
// a task and answers with the result if the task ends within that time. Otherwise it answers
// 202 with the URL of the task's status, which [Tasks] serves:
//
//	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", makeReport))
//	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
//
//	func makeReport(ctx context.Context, r *http.Request) (Report, error)
//
// [AsyncHandler] does the same for an existing [http.Handler]. [IdempotencyConfig] collapses
// retries of one request into one task. Return a [*Problem] to control what the client is
// told.
//
// # Several replicas
//
// Behind a load balancer the next request may reach another process. With a [Store], which the
// engines of package durable provide (SQLite, Postgres, Redis), every replica answers for the
// tasks and the Idempotency-Keys of all:
//
//	shared := tetherhttp.NewStore("shop", engine.Store())
//	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", makeReport, tetherhttp.AsyncConfig{Store: shared}))
//	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{Store: shared}))
//
// # Streams and websockets
//
// A handler that streams does not return by itself, and the stop waits for it until its time
// is up. It must end when [tether.Registry.Stopping] is closed, which happens at the signal,
// before the servers stop:
//
//	func stream(w http.ResponseWriter, r *http.Request) {
//		for {
//			select {
//			case event := <-events:
//				fmt.Fprintf(w, "data: %s\n\n", event)
//				http.NewResponseController(w).Flush()
//			case <-reg.Stopping(): // the client reconnects, to another process
//				return
//			case <-r.Context().Done(): // the client has gone
//				return
//			}
//		}
//	}
//
// The event streams and long polls of [Tasks] do that. The server's Shutdown does not wait for
// connections that a handler has taken over, such as websockets, but tasks that such a handler
// added with [After] are held until it returns, and the drain waits for them: select on
// Stopping there too, and send a close frame. The compat directory of this package has an
// example.
//
// # The live page
//
// [Debug] serves a page that shows what has failed or is stuck, the pools, the live tasks and
// those that ended last. Protect it as you would net/http/pprof.
//
//	mux.Handle("/debug/tether/", tetherhttp.Debug(reg))
//
// # The server
//
// [ListenAndServe] attaches and serves any number of servers. On SIGTERM it stops the servers
// and then drains the tasks. [Readiness] and [Liveness] are for Kubernetes' probes.
//
//	err := tetherhttp.ListenAndServe(ctx, reg, tether.RunConfig{
//		PreStop:     3 * time.Second,
//		StopTimeout: 25 * time.Second,
//	}, srv)
//
// PreStop gives the load balancer time to notice the stop. It should be at least the period of
// the load balancer's probe times the failures after which it gives up, plus the time until all
// its nodes know. It ends early when the requests have ceased, see [Server]. The process must
// be given more time than StopTimeout before it is killed.
package tetherhttp
