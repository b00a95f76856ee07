package tetherhttp_test

import (
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// A web page that has its own host name resolve to a loopback address does not get at the
// live page.
func TestForeignHosts(t *testing.T) {
	hosts := map[string]bool{
		"localhost": true, "LocalHost:8080": true, "localhost.": true, "127.0.0.1": true, "127.0.0.1:80": true, "10.1.2.3:80": true,
		"[::1]:80": true, "[::1]": true, "::1": true, "admin.example": true, "ADMIN.example:8080": true, "admin.example.": true,
		"evil.example": false, "evil.example:80": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false,
		"admin.example.evil.example": false, "notlocalhost": false, "": false, ".": false, ":80": false, "[::1": true,
	}
	from := func(host string, local net.Addr) *http.Request {
		r := request("GET", "/", "")
		r.Host = host
		if local != nil {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
		}
		return r
	}
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	t.Run("AllowHosts refuses them on any connection", func(t *testing.T) {
		h := tetherhttp.AllowHosts(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), "admin.example", "")
		for host, allowed := range hosts {
			w := ask(t, h, from(host, nil))
			if allowed {
				assert.Equal(t, 204, w.Code, host)
			} else {
				assert.Equal(t, 421, w.problem(t).Status, host)
			}
		}
	})
	reg := newRegistry(t, tether.Config{})
	t.Run("Debug refuses them on loopback connections", func(t *testing.T) {
		h := tetherhttp.Debug(reg, tetherhttp.DebugConfig{Hosts: []string{"admin.example"}, AllowCancel: true})
		for host, allowed := range hosts {
			for _, local := range []net.Addr{loopback, &net.TCPAddr{IP: net.IPv6loopback, Port: 80}, &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1")}} {
				for _, path := range []string{"/", "/debug.js", "/cancel", "/?format=json"} {
					r := from(host, local)
					r.URL.Path, r.RequestURI = path, path
					assert.Equal(t, !allowed, ask(t, h, r).Code == 421, "%s over %v", host, local)
				}
			}
		}
	})
	t.Run("on other connections only if hosts are configured", func(t *testing.T) {
		for _, local := range []net.Addr{nil, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80}, &net.UnixAddr{Name: "/run/admin"}} {
			assert.Equal(t, 200, ask(t, tetherhttp.Debug(reg), from("shop.example", local)).Code)
			named := tetherhttp.Debug(reg, tetherhttp.DebugConfig{Hosts: []string{"admin.example"}})
			assert.Equal(t, 421, ask(t, named, from("shop.example", local)).Code)
			assert.Equal(t, 200, ask(t, named, from("admin.example", local)).Code)
		}
	})
	t.Run("on a real connection", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		srv := &http.Server{Handler: tetherhttp.Debug(reg)}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		for host, want := range map[string]int{"": 200, "evil.example": 421} {
			r := outbound(t.Context(), "GET", "http://"+l.Addr().String()+"/", nil)
			r.Host = host
			res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
			require.NoError(t, err)
			readAll(t, res)
			assert.Equal(t, want, res.StatusCode)
		}
		require.NoError(t, srv.Close())
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}
