package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// front is a load balancer, and what the client asks it for.
type front struct {
	name, method, path string
	h2                 bool // the client speaks HTTP/2 over TLS
	fresh              bool // half of the requests have a connection of their own
	command            []string
	config             string
}

const nginx = `
daemon off; pid {{.Dir}}/nginx.pid; error_log {{.Dir}}/nginx.log; worker_processes 1;
events {}
http {
	access_log off;
	client_body_temp_path {{.Dir}}; proxy_temp_path {{.Dir}}; fastcgi_temp_path {{.Dir}};
	uwsgi_temp_path {{.Dir}}; scgi_temp_path {{.Dir}};
	upstream service { server {{.A}}; server {{.B}}; %s }
	server { listen {{.Addr}}; location / { proxy_pass http://service; %s } }
}
`

const haproxy = `
global
	maxconn 1000
defaults
	mode http
	timeout connect 1s
	timeout client 30s
	timeout server 30s
	%s
frontend front
	bind {{.Addr}} %s
	default_backend service
backend service
	balance roundrobin
	option httpchk GET /ready
	server a {{.A}} check inter 500
	server b {{.B}} check inter 500
`

const keepAlive = `proxy_http_version 1.1; proxy_set_header Connection "";`

var (
	runNginx   = []string{"nginx", "-c"}
	runHAProxy = []string{"haproxy", "-f"}

	fronts = []front{
		{name: "nginx, keep-alive", method: "POST", path: "/async", command: runNginx, config: fmt.Sprintf(nginx, "keepalive 16;", keepAlive)},
		{name: "nginx, keep-alive", method: "GET", path: "/after", command: runNginx, config: fmt.Sprintf(nginx, "keepalive 16;", keepAlive)},
		{name: "nginx, HTTP/1.0", method: "POST", path: "/after", command: runNginx, config: fmt.Sprintf(nginx, "", "")},
		{name: "nginx, retries POST and 503", method: "POST", path: "/async", command: runNginx, config: fmt.Sprintf(nginx, "keepalive 16;", keepAlive+" proxy_next_upstream error timeout http_503 non_idempotent;")},
		{name: "HAProxy, /ready every 500 ms", method: "POST", path: "/async", command: runHAProxy, config: fmt.Sprintf(haproxy, "", "")},
		{name: "HAProxy, the client by HTTP/2", method: "POST", path: "/after", h2: true, command: runHAProxy, config: fmt.Sprintf(haproxy, "", "ssl crt {{.Dir}}/cert.pem alpn h2")},
		{name: "HAProxy, option redispatch 1", method: "POST", path: "/async", command: runHAProxy, config: fmt.Sprintf(haproxy, "option redispatch 1", "")},
	}
)

// start starts the front for two addresses.
func (f front) start(dir, a, b string) (cmd *exec.Cmd, url string, err error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	url = "http://" + addr
	if f.h2 {
		url = "https://" + addr
		if err := writeCertificate(filepath.Join(dir, "cert.pem")); err != nil {
			return nil, "", err
		}
	}
	var config bytes.Buffer
	err = template.Must(template.New("").Parse(f.config)).Execute(&config, map[string]string{"Dir": dir, "Addr": addr, "A": a, "B": b})
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(dir, "front.conf")
	if err := os.WriteFile(file, config.Bytes(), 0o600); err != nil {
		return nil, "", err
	}
	cmd = exec.Command(f.command[0], append(f.command[1:], file)...)
	if f.command[0] == "nginx" {
		cmd.Args = append(cmd.Args, "-e", filepath.Join(dir, "nginx.log"))
	}
	return cmd, url, cmd.Start()
}

// writeCertificate writes a certificate and its key.
func writeCertificate(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	return os.WriteFile(file, text, 0o600)
}

// serve is a process of the service. It prints how many tasks were admitted, and how many have
// ended.
func serve(addr string, preStop time.Duration) error {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	var admitted, ended atomic.Int64
	body := func(ctx context.Context) error {
		defer ended.Add(1)
		select {
		case <-time.After(30 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/ready", tetherhttp.Readiness(reg))
	mux.Handle("/async", tetherhttp.Async(reg, "async", func(ctx context.Context, _ *http.Request) (string, error) {
		admitted.Add(1)
		return "done", body(ctx)
	}))
	mux.HandleFunc("/after", func(w http.ResponseWriter, r *http.Request) {
		if _, err := tetherhttp.After(r.Context(), "after", body); err != nil {
			tetherhttp.ProblemOf(err).ServeHTTP(w, r)
			return
		}
		admitted.Add(1)
		_, _ = fmt.Fprintln(w, "accepted")
	})
	err := tetherhttp.ListenAndServe(context.Background(), reg, tether.RunConfig{PreStop: preStop, StopTimeout: max(25*time.Second, 2*preStop)}, &http.Server{Addr: addr, Handler: mux})
	equal := "="
	if admitted.Load() != ended.Load() {
		equal = "≠"
	}
	fmt.Println(admitted.Load(), equal, ended.Load())
	return err
}
