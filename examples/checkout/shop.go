package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// shop is the program: the store, the pools for its background work, and the handlers that
// accept the work.
type shop struct {
	cfg      config
	member   *membership
	store    *store
	invoices invoices
	pictures pictures
	spool    spool
	audit    auditLog
	webhooks webhooks
	receiver *receiver // nil if the webhooks go to -webhook
	seen     *instruments

	reg     *tether.Registry
	orders  *tether.Pool      // stock and invoices; nil with a queue
	queue   *queue            // the orders with -durable; otherwise nil
	shared  *tetherhttp.Store // the reports of all replicas; nil without -replicas
	hooks   *tether.Pool      // webhooks; a slow receiver must not delay orders
	imports *tether.Pool
	images  *tether.Pool
	reports *tether.Pool

	accepted atomic.Int64 // number of orders since the start
}

// webhookWorkers is the number of webhooks that are sent at once.
const webhookWorkers = 16

// newShop opens the shop in the folder cfg.data. The folder may have unfinished work of an
// earlier process, which resume continues.
func newShop(cfg config) (_ *shop, err error) {
	s := &shop{
		cfg:      cfg,
		invoices: invoices{filepath.Join(cfg.data, "invoices")},
		pictures: pictures{filepath.Join(cfg.data, "pictures")},
		spool:    spool{filepath.Join(cfg.data, "spool")},
	}
	for _, dir := range []string{cfg.data, s.invoices.dir, s.pictures.dir, s.spool.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	}
	sign, err := newSigner(cfg.webhookSecret)
	if err != nil {
		return nil, err
	}
	if s.member, err = join(context.Background(), filepath.Join(cfg.data, "processes"), cfg.serves(), cfg.replica); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.Background()))
		}
	}()
	if s.store, err = openStore(cfg.data); err != nil {
		return nil, err
	}
	if err := s.tidy(context.Background()); err != nil {
		return nil, err
	}
	if err := s.member.admitNext(); err != nil {
		return nil, err
	}
	if cfg.serves() {
		if s.audit, err = openAuditLog(filepath.Join(cfg.data, "audit.jsonl")); err != nil {
			return nil, err
		}
	}
	url := cfg.webhook
	if url == "" && cfg.works() {
		s.receiver = &receiver{signer: sign, delay: cfg.webhookDelay, failEvery: cfg.webhookFail}
		if err := s.receiver.start(); err != nil {
			return nil, err
		}
		url = s.receiver.url
	}
	s.webhooks = newWebhooks(url, sign, cfg.webhookAttempts, cfg.webhookBackoff)

	if s.seen, err = newInstruments(cfg.traces); err != nil {
		return nil, err
	}
	observer, err := s.seen.observer()
	if err != nil {
		return nil, err
	}

	// Limit bounds the tasks that are on no pool: the clicks that are being accepted.
	// Of the finished tasks only reports are looked up.
	s.reg = tether.New(tether.Config{
		Limit:  cfg.queue + auditQueue + 4096,
		Retain: reportsKept, RetainFor: reportsKeptFor,
		Observer: observer, StuckAfter: cfg.stuck,
	})
	s.seen.metrics.Watch(s.reg)
	if cfg.durable != "" {
		if err := s.openQueue(context.Background()); err != nil {
			return nil, err
		}
	} else {
		s.orders = s.reg.NewPool("orders", tether.PoolConfig{Workers: cfg.workers, Queue: cfg.queue, Overflow: tether.OverflowReject})
	}
	if cfg.works() {
		s.hooks = s.reg.NewPool("webhooks", tether.PoolConfig{Workers: webhookWorkers, Queue: 64, Overflow: tether.OverflowReject})
	}
	if !cfg.serves() {
		return s, nil
	}
	s.imports = s.reg.NewPool("imports", tether.PoolConfig{Workers: 1, Queue: 7, Overflow: tether.OverflowReject})
	s.images = s.reg.NewPool("images", tether.PoolConfig{Queue: 100, Capacity: imageMemory, Overflow: tether.OverflowReject})
	s.reports = s.reg.NewPool("reports", tether.PoolConfig{Workers: 2, Queue: 8, Overflow: tether.OverflowReject}) // the store has 4 readers
	s.audit.pool = s.reg.NewPool("audit", tether.PoolConfig{Workers: 1, Queue: auditQueue, Overflow: tether.OverflowReject})
	return s, nil
}

// closers close what newShop has opened, when the drain has ended.
func (s *shop) closers() []tether.Closer {
	var closers []tether.Closer
	if s.shared != nil {
		closers = append(closers, tether.Closer{Name: "status store", Close: s.shared.Close})
	}
	closers = append(closers, tether.Closer{Name: "queue", Close: s.queue.close})
	if s.receiver != nil {
		closers = append(closers, tether.Closer{Name: "webhook receiver", Close: s.receiver.stop})
	}
	if s.webhooks.client != nil {
		closers = append(closers, tether.Closer{Name: "webhook client", Close: func(context.Context) error {
			s.webhooks.client.CloseIdleConnections()
			return nil
		}})
	}
	if s.seen != nil {
		closers = append(closers, tether.Closer{Name: "traces", Close: s.seen.close})
	}
	closers = append(closers, tether.Closer{Name: "audit log", Close: func(context.Context) error { return s.audit.close() }})
	if s.store != nil {
		closers = append(closers, tether.Closer{Name: "store", Close: s.store.close})
	}
	return append(closers, tether.Closer{Name: "data folder", Close: func(context.Context) error { return s.member.leave() }})
}

// close is for a shop that does not get as far as Run, which calls the closers itself.
func (s *shop) close(ctx context.Context) error {
	var errs []error
	for _, c := range s.closers() {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// handler returns the routes of the shop. The addresses are for the front page.
func (s *shop) handler(at addresses) http.Handler {
	const (
		short = 30 * time.Second
		long  = 5 * time.Minute // for responses that a client waits for or watches
	)
	mux := http.NewServeMux()
	quick := func(pattern string, h handler) { mux.Handle(pattern, within(short, h)) }
	quick("GET /{$}", s.getFront(at))
	quick("POST /orders", s.postOrder)
	quick("GET /orders/{id}", s.getOrder)
	quick("GET /orders/{id}/invoice.pdf", s.getInvoice)
	mux.Handle("POST /imports", uploading(s.postImport))
	quick("GET /imports/{id}", s.getImport)
	mux.Handle("POST /images", uploading(s.postImage))
	quick("GET /images/{id}", s.getImage)
	quick("GET /images/{id}/picture", s.getPicture)
	quick("GET /sample.png", s.getSample)
	mux.Handle("POST /reports", within(long, s.salesReports()))
	mux.Handle("/tasks/", within(long, s.reportTasks()))
	quick("GET /audit", s.getAudit)
	mux.Handle("GET /ready", within(short, tetherhttp.Readiness(s.reg)))
	mux.Handle("GET /healthz", within(short, tetherhttp.Liveness()))
	if s.receiver != nil {
		quick("POST /webhook-receiver", s.receiver.receive)
		quick("GET /webhook-receiver", s.receiver.counts)
	}
	return s.seen.traced(s.asReplica(problems(mux)))
}

// within bounds the time for reading a request and writing its response. It is set for each
// route, since uploads must not have such a bound.
func within(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		deadline := time.Now().Add(d)
		// A recorder in a test does not support deadlines.
		_ = control.SetReadDeadline(deadline)
		_ = control.SetWriteDeadline(deadline)
		h.ServeHTTP(w, r)
	})
}

// uploading is for uploads, which may take as long as the client's connection needs (see
// uploadBody). When one is refused, the rest of it is not read: without "Connection: close"
// net/http would read on before it sends the response.
func uploading(h handler) http.Handler {
	return handler(func(w http.ResponseWriter, r *http.Request) error {
		control := http.NewResponseController(w)
		err := h(w, r)
		if err != nil {
			w.Header().Set("Connection", "close")
			_ = control.SetReadDeadline(time.Now()) // a recorder in a test does not support it
		}
		return err
	})
}

// serve serves until a signal comes or ctx is done, and then stops. In the role worker
// listener is nil, and the only server is that for operators. summary is called when the
// drain has ended, before the store is closed.
func (s *shop) serve(ctx context.Context, listener, adminListener net.Listener, out io.Writer, summary func(context.Context) error) error {
	srv := &http.Server{
		Handler:           s.handler(addresses{cmp.Or(s.cfg.public, urlOf(listener)), urlOf(adminListener)}),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	err := s.queue.start(ctx, end)
	if err == nil {
		_, err = s.reg.Go(ctx, "resume", s.resume)
	}
	if err != nil && ctx.Err() == nil { // otherwise the stop has begun, and Run performs it
		return errors.Join(fmt.Errorf("start: %w", err), shut(listener, adminListener), s.close(ctx))
	}
	admin := s.seen.admin(s.reg, s.cfg.admin)
	live := tetherhttp.Server("admin", admin)
	live.Serve = func() error { return admin.Serve(adminListener) }
	// Its requests are not waited for: the live page has shown the drain by then.
	live.Stop = func(context.Context) error { return admin.Close() }
	cfg := tether.RunConfig{
		PreStop:     s.cfg.preStop,
		StopTimeout: s.cfg.stopTimeout,
		Closers:     append([]tether.Closer{{Name: "summary", Close: summary}}, s.closers()...),
		LastServers: []tether.Server{live},
	}
	if s.cfg.replica != 0 {
		cfg.Signals = replicaSignals
	}
	if listener != nil {
		tetherhttp.Attach(srv, s.reg)
		public := tetherhttp.Server("shop", srv)
		public.Serve = func() error { return srv.Serve(listener) }
		stop := public.Stop
		public.Stop = func(ctx context.Context) error {
			// A client that reads its answer slowly can use up a part of the time for the
			// stop, but not all of it: the drain needs the rest.
			ctx, cancel := context.WithTimeout(ctx, s.cfg.stopTimeout/4)
			defer cancel()
			if err := stop(ctx); err != nil {
				slog.WarnContext(ctx, "slow clients were cut off", "err", err)
			}
			return nil
		}
		cfg.Servers = []tether.Server{public}
	}
	go s.sayStopping(out)
	return s.reg.Run(ctx, cfg)
}

// sayStopping prints what the stop waits for, when it begins.
func (s *shop) sayStopping(out io.Writer) {
	<-s.reg.Stopping()
	var waits []string
	for p := range s.reg.Pools() {
		if stats := p.Stats(); stats.Held+stats.Queued+stats.Running > 0 {
			waits = append(waits, fmt.Sprintf("%d %s", stats.Held+stats.Queued+stats.Running, p.Name()))
		}
	}
	if len(waits) == 0 {
		waits = []string{"no task"}
	}
	fmt.Fprintf(out, "checkout: stopping, waiting for %s; to stop at once, press Ctrl-C again after a second or more: "+
		"what is unfinished stays in %s\n", strings.Join(waits, ", "), s.cfg.data)
}
