package tetherhttp

import (
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
)

// AllowHosts returns a handler that calls next for requests to localhost, to an IP address, or
// to one of hosts, which are names without a port; all others it answers 421. It protects
// servers for operators against DNS rebinding: a web page in an operator's browser whose host
// name has been made to resolve to the server's address can send requests to the server and
// read the answers, but the Host header of these requests is the page's own.
//
// [Debug] does the same by itself for connections to a loopback address.
func AllowHosts(next http.Handler, hosts ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowedHost(r.Host, hosts) {
			refuseHost(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuseHost(w http.ResponseWriter, r *http.Request) {
	newProblem(ProblemHost, "this host name is not allowed; use localhost, an IP address, or a name that the server is configured with").ServeHTTP(w, r)
}

// allowedHost reports whether a Host header is localhost, an IP address, or one of hosts.
func allowedHost(host string, hosts []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	host = strings.TrimSuffix(host, ".")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	for _, allowed := range hosts {
		if strings.EqualFold(host, strings.TrimSuffix(allowed, ".")) && host != "" {
			return true
		}
	}
	return false
}

// onLoopback reports whether a request came over a connection to a loopback address.
func onLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || addr == nil {
		return false
	}
	local, err := netip.ParseAddrPort(addr.String())
	return err == nil && local.Addr().Unmap().IsLoopback()
}

// ForwardedPrefix returns the path prefix that a proxy has stripped from the URL of a request,
// as it says in X-Forwarded-Prefix: empty, or a path such as "/api" without a slash at the end.
// A value that is not such a path is ignored. Use it only behind a proxy that sets or removes
// the header, because a client can send it too.
func ForwardedPrefix(r *http.Request) string {
	values := r.Header.Values("X-Forwarded-Prefix")
	if len(values) != 1 {
		return ""
	}
	prefix := strings.TrimRight(values[0], "/")
	if !strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, "//") || prefix != path.Clean(prefix) {
		return ""
	}
	for i := range len(prefix) {
		switch c := prefix[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/-._~", c) >= 0:
		default:
			return "" // it would have to be escaped, or could be taken for something else
		}
	}
	return prefix
}
