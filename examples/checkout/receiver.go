package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// receiver stands for the program that receives the webhooks, such as a warehouse. It
// checks the signatures and counts. It can be made slow and unreliable.
//
// It has a server of its own: the shop's server stops before the drain, in which the
// webhooks of the last orders still need a response.
type receiver struct {
	signer    signer
	delay     time.Duration // before each answer
	failEvery int           // every n-th request is answered 500; zero means none

	received, refused, failed atomic.Int64

	srv    *http.Server
	url    string
	served chan struct{} // closed when srv has ended
}

// start serves r on a free port of the loopback interface.
func (r *receiver) start() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("webhook receiver: %w", err)
	}
	r.url = "http://" + listener.Addr().String() + "/webhook-receiver"
	mux := http.NewServeMux()
	mux.Handle("POST /webhook-receiver", handler(r.receive))
	r.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	r.served = make(chan struct{})
	go func() {
		defer close(r.served)
		if err := r.srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("webhook receiver ended", "err", err)
		}
	}()
	return nil
}

// stop ends the receiver's server without waiting for its requests, since the drain has
// ended.
func (r *receiver) stop(context.Context) error {
	if r.srv == nil {
		return nil // it was never started
	}
	err := r.srv.Close()
	<-r.served
	return err
}

func (r *receiver) receive(w http.ResponseWriter, req *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64<<10))
	if err != nil {
		return err
	}
	if err := r.signer.verify(req.Header, time.Now(), body); err != nil {
		r.refused.Add(1)
		return problemf(http.StatusUnauthorized, "%s", err)
	}
	if r.delay > 0 {
		slow := time.NewTimer(r.delay)
		defer slow.Stop()
		select {
		case <-slow.C:
		case <-req.Context().Done():
		}
	}
	if n := r.received.Add(1); r.failEvery > 0 && n%int64(r.failEvery) == 0 {
		r.failed.Add(1)
		return problemf(http.StatusInternalServerError, "failed because of -webhook-fail")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// counts shows the numbers of requests.
func (r *receiver) counts(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]int64{
		"received": r.received.Load(), "refused": r.refused.Load(), "failed": r.failed.Load(),
	})
	return nil
}
