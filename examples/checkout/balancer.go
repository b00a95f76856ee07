package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// balancer sends each request to the next replica in turn. If that one cannot be connected to,
// or if it ends before it has answered a GET, the next one gets the request: it has done
// nothing, or nothing that must not be done twice. Other requests are not repeated. A client
// may do that, with an Idempotency-Key.
type balancer struct {
	transport *http.Transport

	mu    sync.Mutex // guards the fields below
	hosts []string   // of each replica, empty while it does not serve
	turn  int        // the index of the replica that had the last request
}

// errNoReplica is the error of a request for which no replica was there.
var errNoReplica = errors.New("no replica can be reached")

func newBalancer(replicas int) *balancer {
	return &balancer{hosts: make([]string, replicas), transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       30 * time.Second, // less than the replicas' own
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // it is the client's business
	}}
}

// set sets the URL of a replica, which is empty while it does not serve.
func (b *balancer) set(n int, base string) {
	host := ""
	if at, err := url.Parse(base); err == nil {
		host = at.Host
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hosts[n-1] = host
}

// next returns the hosts of the replicas that serve, the one whose turn it is first.
func (b *balancer) next() (hosts []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := b.turn
	for i := range b.hosts {
		at := (start + 1 + i) % len(b.hosts)
		if b.hosts[at] == "" {
			continue
		}
		if len(hosts) == 0 {
			b.turn = at
		}
		hosts = append(hosts, b.hosts[at])
	}
	return hosts
}

// RoundTrip implements [http.RoundTripper].
func (b *balancer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }()
	}
	err := errNoReplica
	for _, host := range b.next() {
		try := req.Clone(req.Context())
		try.URL.Host = host
		if req.Body != nil {
			try.Body = io.NopCloser(req.Body) // a failed connection must not close it
		}
		var res *http.Response
		if res, err = b.transport.RoundTrip(try); err == nil {
			return res, nil
		}
		var op *net.OpError
		switch refused := errors.As(err, &op) && op.Op == "dial"; {
		case req.Context().Err() != nil:
			return nil, err
		case refused:
			err = errNoReplica
		case req.Body != nil || req.Method != http.MethodGet && req.Method != http.MethodHead:
			return nil, err
		}
	}
	return nil, err
}
