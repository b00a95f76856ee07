// Package snippet has what the snippets of the guide take for granted. Each declaration
// declares one name, so that a snippet can declare it instead.
package snippet

import (
	"context"
	"database/sql"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
)

var metrics tether.Observer

var ctx context.Context

var name string

var fn tether.Func

var err error

var cfg tether.Config

var reg *tether.Registry

var mails *tether.Pool

var invoices *tether.Pool

var images *tether.Pool

var mux *http.ServeMux

var admin *http.ServeMux

var srv *http.Server

var h http.Handler

var w http.ResponseWriter

var r *http.Request

var db *sql.DB

var logger *slog.Logger

var t *testing.T

type User struct {
	ID    int
	Email string
}

var user User

var users []User

func send(ctx context.Context, user User) error { return nil }

func sendWelcomeMail(ctx context.Context) error { return nil }

func audit(ctx context.Context) error { return nil }

func makeReport(ctx context.Context, r *http.Request) (any, error) { return nil, nil }

type InvoiceArgs struct{ Order int }

var args InvoiceArgs

func makeInvoice(ctx context.Context, args InvoiceArgs) error { return nil }

var invoice *durable.Job[InvoiceArgs]

var engine *sqlite.Engine

func handle(ctx context.Context, event string) error { return nil }

func cleanUp(ctx context.Context) error { return nil }

var interval time.Duration

func flush(ctx context.Context) error { return nil }

func saveProgress(ctx context.Context, i int) error { return nil }

var events chan string

var listener net.Listener

func consume() error { return nil }

func stopConsuming(ctx context.Context) error { return nil }

var adminServer *http.Server

func newApp(reg *tether.Registry) http.Handler { return nil }

func export(ctx context.Context) error { return nil }

var tenant string

func transcode(ctx context.Context) error { return nil }
