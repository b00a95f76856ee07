package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

func newLoad(url string, f front) *load {
	l := &load{url: url, f: f, failed: make(map[string]int)}
	l.limit.Store(math.MaxInt64)
	l.ctx, l.stop = context.WithCancel(context.Background())
	transport := &http.Transport{
		MaxIdleConnsPerHost: 100, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Protocols: new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(!f.h2)
	transport.Protocols.SetHTTP2(f.h2)
	l.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return l
}

// run sends requests at a rate, from a number of goroutines, until stop is called or the limit
// is reached. A request that is late does not delay the others' times.
func (l *load) run(rate, clients int) {
	began := time.Now()
	for range clients {
		l.ended.Go(func() {
			for {
				n := l.sent.Add(1)
				if n > l.limit.Load() {
					return
				}
				due := time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate)))
				select {
				case <-l.ctx.Done():
					return
				case <-time.After(due):
				}
				l.one(n)
			}
		})
	}
	l.ended.Wait()
	l.client.CloseIdleConnections()
}

// one sends a request. Every second one of a load of fresh connections has one of its own.
func (l *load) one(n int64) {
	r, err := http.NewRequest(l.f.method, l.url+l.f.path, nil)
	if err != nil {
		panic(err)
	}
	r.Close = l.f.fresh && n%2 == 0
	sent := time.Now()
	l.last.Store(sent.UnixNano())
	res, err := l.client.Do(r)
	what := ""
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusAccepted {
			what = res.Status
		}
	}
	if err != nil {
		what = "no answer: " + err.Error()[strings.LastIndex(err.Error(), ": ")+2:]
	}
	took := int64(time.Since(sent))
	for {
		slowest := l.slowest.Load()
		if took <= slowest || l.slowest.CompareAndSwap(slowest, took) {
			break
		}
	}
	if what == "" {
		l.good.Add(1)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed[what]++
}

func (l *load) bad() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, count := range l.failed {
		n += int64(count)
	}
	return n
}

// errors describes what has failed.
func (l *load) errors() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for what, n := range l.failed {
		all = append(all, fmt.Sprintf("**%d** × %s", n, what))
	}
	if len(all) == 0 {
		return "0"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// await waits until a URL answers 200.
func await(url string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	var last error
	for range 200 {
		res, err := client.Get(url)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", url, res.Status)
		}
		last = err
		time.Sleep(50 * time.Millisecond)
	}
	return last
}

// freeAddr returns an address that is free now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
