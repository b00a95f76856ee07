// Command webhooks delivers webhooks to ten endpoints, of which one is slow, and then answers
// 429. It shows what that does to the other nine, before and after the deliveries have shares:
//
//	go run ./examples/webhooks
//
// Before, the deliveries wait in one queue, and the slow endpoint occupies every worker. After,
// each endpoint is a share: it has at most a quarter of the workers, is told to wait when it
// answers 429, and a delivery that has waited too long is dropped instead of made too late.
// Press Ctrl-C, or send SIGTERM, to stop: what has begun is finished, and the rest is reported.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
)

var (
	seconds = flag.Int("seconds", 5, "how long each of the two rounds takes")
	slow    = flag.Duration("slow", 500*time.Millisecond, "how long the slow endpoint takes")
)

const endpoints = 10

func main() {
	flag.Parse()
	reg := tether.New(tether.Config{Retain: 1 << 14})
	at, closeServer, err := serve()
	if err != nil {
		log.Fatal("webhooks: ", err)
	}
	defer closeServer()
	before := reg.NewPool("before", tether.PoolConfig{Workers: 8, Queue: 10_000})
	after := reg.NewPool("after", tether.PoolConfig{
		Workers: 8, Queue: 10_000,
		ShareWorkers: 2,               // one endpoint cannot have more
		ShareLimit:   500,             // beyond that, an endpoint's webhooks are refused, and nothing else is
		MaxWait:      2 * time.Second, // what is older is not worth the call
	})

	// The rounds are a server of the stop: they end at the signal, and the drain follows.
	err = reg.Run(context.Background(), tether.RunConfig{
		Servers: []tether.Server{{Name: "rounds", Serve: func() error {
			round(reg, before, func(string) []tether.Option { return nil }, at)
			round(reg, after, func(url string) []tether.Option { return []tether.Option{tether.Share(url)} }, at)
			return errDone
		}, Stop: func(context.Context) error { return nil }}},
		StopTimeout: 10 * time.Second,
	})
	if err != nil && !errors.Is(err, errDone) {
		log.Fatal("webhooks: ", err)
	}
	fmt.Println(reg.Report())
}

// errDone ends the program without a signal.
var errDone = errors.New("both rounds are done")

// round delivers a webhook to each endpoint every 20 ms, and prints how long those of the
// quick endpoints have waited.
func round(reg *tether.Registry, pool *tether.Pool, options func(url string) []tether.Option, at string) {
	var tasks [endpoints][]*tether.Task
	refused := 0
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for range *seconds * 50 {
		select {
		case <-reg.Stopping():
			return
		case <-ticker.C:
		}
		for n := range endpoints {
			url := at + "/" + strconv.Itoa(n)
			task, err := pool.Go(context.Background(), "webhook", deliver(url), options(url)...)
			if err != nil {
				refused++
				continue
			}
			tasks[n] = append(tasks[n], task)
		}
	}
	var waits []time.Duration
	late := 0
	for _, task := range slices.Concat(tasks[1:]...) {
		if submitted, started, _ := task.Times(); !started.IsZero() {
			waits = append(waits, started.Sub(submitted))
		} else {
			late++
		}
	}
	slices.Sort(waits)
	fmt.Printf("%s: of the webhooks of nine quick endpoints, %d were begun, %d not yet or never; ", pool.Name(), len(waits), late)
	if len(waits) > 0 {
		fmt.Printf("the median waited %v, the 99th percentile %v; ", waits[len(waits)/2].Round(time.Millisecond), waits[len(waits)*99/100].Round(time.Millisecond))
	}
	fmt.Printf("%d were refused, %d dropped as too old\n", refused, pool.Stats().Overdue)
	for _, s := range pool.Shares(1) { // none, before
		fmt.Printf("%s: the largest share is %s: %d waiting, %d running\n", pool.Name(), s.Share, s.Queued, s.Running)
	}
	// What the round has left is dropped, so that the next one begins with free workers.
	for _, task := range slices.Concat(tasks[:]...) {
		task.Cancel(nil)
	}
}

// deliver returns the body of a task that calls an endpoint. If the endpoint says when to come
// back, its share sleeps until then, and no worker with it.
func deliver(url string) tether.Func {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		task, _ := tether.FromContext(ctx)
		if resp.StatusCode == http.StatusTooManyRequests && task.Info().Share != "" { // or all endpoints would wait
			if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
				return tether.PauseShare(ctx, time.Now().Add(time.Duration(after)*time.Second))
			}
		}
		return nil
	}
}

// serve serves the endpoints. Number 0 is slow, and answers every fifth call with 429.
func serve() (at string, closeServer func() error, err error) {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return "", nil, err
	}
	var calls atomic.Int64
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/0" {
			return
		}
		time.Sleep(*slow)
		if calls.Add(1)%5 == 0 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})}
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), server.Close, nil
}
