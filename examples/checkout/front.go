package main

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
)

//go:embed front.html
var frontHTML string

var frontPage = template.Must(template.New("front").Parse(frontHTML))

// tryLines are shell commands to try the shop with. Each can be run any number of
// times: the key of the first makes every order a new one, which would otherwise be
// taken for a second click on the last.
func tryLines(base string) []string {
	return []string{
		fmt.Sprintf(`curl -i %s/orders -H "Idempotency-Key: $(date +%%s)-$RANDOM" -d '{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":2}]}'`, base),
		fmt.Sprintf(`printf 'sku,name,quantity,price_cents\ncup,Cup,10,450\nsaucer,Saucer,many,250\n' | curl -i --data-binary @- %s/imports`, base),
		fmt.Sprintf(`curl -s %[1]s/sample.png | curl -i --data-binary @- '%[1]s/images?width=200'`, base),
		fmt.Sprintf(`curl -i -X POST %s/reports`, base),
		fmt.Sprintf(`curl -i -X POST '%s/reports?format=csv&rate=1' -H 'Prefer: respond-async'`, base),
		fmt.Sprintf(`curl -s %s/audit`, base),
	}
}

// addresses are where the shop is, as its front page shows them.
type addresses struct{ shop, admin string }

// getFront says what this is and what to try.
func (s *shop) getFront(at addresses) handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		var page bytes.Buffer
		nonce := rand.Text()
		err := frontPage.Execute(&page, struct {
			Nonce, Live string
			Lines       []string
		}{nonce, at.admin + "/debug/tether/", tryLines(at.shop)})
		if err != nil {
			return fmt.Errorf("front page: %w", err)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store") // the nonce is for one answer
		w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "+
			"frame-ancestors 'none'; style-src 'nonce-"+nonce+"'; script-src 'nonce-"+nonce+"'")
		_, _ = page.WriteTo(w) // an error means that the client has gone
		return nil
	}
}

// urlOf is the URL of a listener, for a browser on the same machine.
func urlOf(listener net.Listener) string {
	if listener == nil {
		return ""
	}
	at, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil || !at.Addr().IsUnspecified() {
		return "http://" + listener.Addr().String()
	}
	return fmt.Sprintf("http://localhost:%d", at.Port())
}

// warnIfPublic warns if other machines can reach the admin address.
func warnIfPublic(admin net.Listener) {
	at, err := netip.ParseAddrPort(admin.Addr().String())
	if err == nil && at.Addr().IsLoopback() {
		return
	}
	slog.Warn("other machines may reach the -admin address, which has no authentication: "+
		"they can read what every task does, cancel tasks, and take profiles", "address", admin.Addr().String())
}
