package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// A replica is a process that -replicas has started. It is the shop on a port of its own, and
// differs from a shop without replicas in this:
//
//   - Its standard input is a pipe from the process that has started it. The line stopLine
//     begins the stop. If the pipe ends, that process has gone, and the replica ends at once,
//     as after a kill -9, on any operating system.
//   - It ignores Ctrl-C, which a terminal sends to all processes.
//   - Its reports, and their Idempotency-Keys, are in the store that all replicas share.
//   - Each of its answers has the header X-Replica.

const (
	replicaVariable = "CHECKOUT_REPLICA" // its number, from 1
	publicVariable  = "CHECKOUT_PUBLIC"  // the URL of the proxy
	stopLine        = "stop"

	// replicaServes is the line that a replica prints first: its number, URL and -admin URL.
	replicaServes = "replica %d serves %s %s"
)

// replicaSignals begin the stop of a replica.
var replicaSignals = []os.Signal{syscall.SIGTERM}

// replicaNumber returns the number of this process among the replicas, zero if it is none.
func replicaNumber() (int, error) {
	text := os.Getenv(replicaVariable)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s: %q is not the number of a replica", replicaVariable, text)
	}
	return n, nil
}

// stopContext returns a context that is done when the stop should begin.
func stopContext() (context.Context, context.CancelFunc) {
	if os.Getenv(replicaVariable) == "" {
		return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	}
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.Background(), replicaSignals...)
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if lines.Text() == stopLine {
				stop()
			}
		}
		slog.Error("the process that has started this replica has gone")
		os.Exit(1)
	}()
	return ctx, stop
}

// asReplica says in each answer which replica it is of. The address of the client is the one
// that the proxy has seen.
func (s *shop) asReplica(next http.Handler) http.Handler {
	if s.cfg.replica == 0 {
		return next
	}
	number := strconv.Itoa(s.cfg.replica)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Replica", number)
		if client := r.Header.Get("X-Forwarded-For"); client != "" {
			r.RemoteAddr = client
		}
		next.ServeHTTP(w, r)
	})
}
