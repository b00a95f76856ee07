// Package tetherhttp brings tether's tasks to net/http: after the response, in its
// place, and behind a URL that shows them. It works with any router that is an
// [http.Handler].
//
// # After the response
//
// [Attach] prepares a server; then a handler adds tasks that start when its response
// has been sent, and learns in time if they are refused:
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
// [Background] says what "sent" means. Nothing about the response changes.
//
// # The 500 ms rule
//
// Work that takes longer than half a second does not belong in a request. [Async]
// runs it as a task and answers with its result if that comes in time; if not, it
// answers 202 with the URL of the task's status, which [Tasks] serves:
//
//	mux.Handle("POST /reports", tetherhttp.Async(reg, "report", makeReport))
//	mux.Handle("/tasks/", tetherhttp.Tasks(reg))
//
//	func makeReport(ctx context.Context, r *http.Request) (Report, error)
//
// [AsyncHandler] does the same for a handler as it is; [Idempotent] makes one task of
// the same request sent twice. [Problem] is how an error tells the client something.
//
// # The live page
//
// [Debug] shows people what the tasks do: what has failed or is stuck, the pools, the live
// tasks and those that have ended. Protect it as you would net/http/pprof.
//
//	mux.Handle("/debug/tether/", tetherhttp.Debug(reg))
//
// # The server
//
// [ListenAndServe] attaches, serves, and on SIGTERM stops the server and drains the
// tasks, in this order; [Readiness] and [Liveness] are for Kubernetes' probes.
package tetherhttp
