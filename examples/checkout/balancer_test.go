package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable/durabletest"
)

// balanced returns a balancer in front of a replica that answers with the request's body, and
// others with these URLs before it.
func balanced(t *testing.T, others ...string) *balancer {
	t.Helper()
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	t.Cleanup(good.Close)
	b := newBalancer(len(others) + 1)
	b.turn = len(others) // the next one is the first
	for i, base := range append(others, good.URL) {
		b.set(i+1, base)
	}
	t.Cleanup(b.transport.CloseIdleConnections)
	return b
}

func send(t *testing.T, b *balancer, method, body string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://shop", nil)
	require.NoError(t, err)
	if body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	res, err := b.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(got), nil
}

// A replica that refuses connections is passed by, with the body of the request.
func TestBalancerRefused(t *testing.T) {
	t.Parallel()
	b := balanced(t, "http://"+durabletest.RefusedAddress(t))
	for range 4 {
		got, err := send(t, b, "POST", "an order")
		require.NoError(t, err)
		require.Equal(t, "an order", got)
	}
	b.set(2, "")
	_, err := send(t, b, "POST", "an order")
	require.ErrorIs(t, err, errNoReplica)
	require.Equal(t, http.StatusServiceUnavailable, proxyProblem(err).Status)
	b.set(1, "")
	_, err = send(t, b, "GET", "")
	require.ErrorIs(t, err, errNoReplica)
}

// A replica that ends in the middle of a request: the next one gets it, if it is a GET.
func TestBalancerBroken(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_ = conn.Close()
		}
	}()
	for _, c := range []struct {
		method, body string
		repeated     bool
	}{{"GET", "", true}, {"HEAD", "", true}, {"POST", "", false}, {"DELETE", "", false}, {"GET", "a body", false}} {
		b := balanced(t, "http://"+listener.Addr().String())
		_, err := send(t, b, c.method, c.body)
		if c.repeated {
			require.NoError(t, err, c)
			continue
		}
		require.Error(t, err, c)
		require.Equal(t, http.StatusBadGateway, proxyProblem(err).Status)
	}
}

// The replicas take turns, one that does not serve has none.
func TestBalancerTurns(t *testing.T) {
	t.Parallel()
	b := newBalancer(3)
	require.Empty(t, b.next())
	b.set(1, "http://a")
	b.set(3, "http://c")
	require.Equal(t, []string{"c", "a"}, b.next())
	require.Equal(t, []string{"a", "c"}, b.next())
	b.set(2, "http://b")
	require.Equal(t, []string{"b", "c", "a"}, b.next())
	require.Equal(t, []string{"c", "a", "b"}, b.next())
}
