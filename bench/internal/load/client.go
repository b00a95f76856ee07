package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/bench/internal/tick"
)

// Connections is how many are open before the first request of those that count.
const Connections = 16

const maxConnections = 1024 // that a slow server can make the client open

// serve is the process: it opens connections, writes a line, waits for one, sends the
// requests and writes the result.
func serve(config string, in io.Reader, out io.Writer) error {
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: maxConnections, DisableCompression: true,
	}}
	defer client.CloseIdleConnections()
	if err := warmUp(client, cfg.Warmup); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return nil // it is not wanted anymore
	}
	res, err := generate(client, cfg)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(res)
}

// warmUp opens the connections: the server keeps each request of them until all are
// there.
func warmUp(client *http.Client, url string) error {
	errs := make(chan error, Connections)
	for range Connections {
		go func() { errs <- post(client, url, -1) }()
	}
	var first error
	for range Connections {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// generate sends a request at each tick, in a goroutine of its own, and makes up for
// ticks that it has missed.
func generate(client *http.Client, cfg Config) (res Result, err error) {
	ticks, err := tick.New(cfg.Gap)
	if err != nil {
		return res, err
	}
	defer ticks.Close()
	times, errs := make([]time.Duration, cfg.N), make([]error, cfg.N)
	var all sync.WaitGroup
	began := time.Now()
	for sent := 0; sent < cfg.N; {
		due, err := ticks.Wait()
		if err != nil {
			return res, err
		}
		for ; due > 0 && sent < cfg.N; due-- {
			i := sent
			sent++
			all.Go(func() {
				errs[i] = post(client, cfg.URL, cfg.Size)
				times[i] = time.Since(began) - time.Duration(i+1)*cfg.Gap
			})
		}
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			if res.Failed == 0 {
				res.Failure = err.Error()
			}
			res.Failed++
		}
	}
	slices.Sort(times)
	res.P50, res.P99 = times[(cfg.N-1)/2], times[(cfg.N-1)*99/100]
	return res, nil
}

// post wants a response of that many bytes; of any size if it is negative. A POST is not
// sent twice when its connection breaks.
func post(client *http.Client, url string, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the response is %s", resp.Status)
	case size >= 0 && n != int64(size):
		return fmt.Errorf("the response has %d bytes and not %d", n, size)
	}
	return nil
}
