// Package tetherhttp brings tether's tasks to net/http: after the response, in its
// place, and behind a URL that shows them.
//
// # After the response
//
// [Attach] prepares a server; then a handler adds tasks that start when its response
// has been sent, and that it can still refuse with a 503:
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
package tetherhttp
