// Command grpc is a gRPC server that stops in order, whatever its streams do.
//
//	go run ./examples/grpc             # the server
//	go run ./examples/grpc -watch      # a client with an open stream, in a second terminal
//
// Its service is the standard health service, whose Watch is a stream that does not end
// by itself: load balancers keep one open for each connection. Press Ctrl-C in the
// server's terminal: the client receives NOT_SERVING, a second later its stream ends, then
// the tasks of the last calls are finished, and the live page serves until the end.
//
// With -keep-streams nothing ends the stream. grpc.Server.GracefulStop waits for it
// without a limit, so it is cut off when the server's time to stop has passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// options are the flags.
type options struct {
	addr, admin string
	watch       bool
	keepStreams bool
	preStop     time.Duration
	stopTimeout time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.addr, "addr", "localhost:8090", "`address` of the gRPC server")
	flag.StringVar(&o.admin, "admin", "localhost:8091", "`address` of the live page")
	flag.BoolVar(&o.watch, "watch", false, "be a client that watches the server at -addr")
	flag.BoolVar(&o.keepStreams, "keep-streams", false, "do not end open streams when the server is to stop")
	flag.DurationVar(&o.preStop, "pre-stop", time.Second, "time for clients to go elsewhere, between NOT_SERVING and the stop")
	flag.DurationVar(&o.stopTimeout, "stop-timeout", 25*time.Second, "time for all of the stop")
	flag.Parse()
	run := serve
	if o.watch {
		run = watch
	}
	if err := run(context.Background(), o); err != nil {
		log.Fatal("grpc: ", err)
	}
}

// serve runs the servers until a signal comes or ctx is done.
func serve(ctx context.Context, o options) error {
	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	reg := tether.New(tether.Config{})
	admin := http.NewServeMux()
	admin.Handle("/debug/tether/", tetherhttp.Debug(reg))
	admin.Handle("GET /ready", tetherhttp.Readiness(reg))
	live := &http.Server{
		Addr: o.admin, Handler: admin, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(l net.Listener) context.Context { // is called when it listens
			fmt.Printf("grpc: serving %s, live page http://%s/debug/tether/\n", listener.Addr(), l.Addr())
			return context.Background()
		},
	}
	err = reg.Run(ctx, tether.RunConfig{
		Servers:     []tether.Server{newServer(reg, listener, o.keepStreams)},
		LastServers: []tether.Server{tetherhttp.Server("live page", live)},
		PreStop:     o.preStop,
		StopTimeout: o.stopTimeout,
	})
	fmt.Println(reg.Report())
	return err
}

// newServer returns a gRPC server with the health service as a tether.Server.
func newServer(reg *tether.Registry, listener net.Listener, keepStreams bool) tether.Server {
	calls := reg.NewPool("calls", tether.PoolConfig{Workers: 4, Queue: 1000})
	open := &streams{ending: make(chan struct{})}
	srv := grpc.NewServer(grpc.StreamInterceptor(open.intercept), grpc.UnaryInterceptor(noteCalls(calls)))
	service := health.NewServer()
	healthpb.RegisterHealthServer(srv, service)
	go func() {
		<-reg.Stopping()
		service.Shutdown() // sends NOT_SERVING to all watching clients
	}()
	if keepStreams {
		return asServer("grpc", srv, listener, open, func() {})
	}
	return asServer("grpc", srv, listener, open, open.end)
}

// asServer returns a gRPC server as a tether.Server. endStreams is called when it stops.
//
// GracefulStop asks the clients to connect to another server, and then waits without a
// limit for the handlers to return. So it has a goroutine of its own. When ctx is
// done, the connections are closed and the contexts of the handlers are canceled.
func asServer(name string, srv *grpc.Server, listener net.Listener, open *streams, endStreams func()) tether.Server {
	return tether.Server{
		Name:  name,
		Serve: func() error { return srv.Serve(listener) },
		Stop: func(ctx context.Context) error {
			graceful := make(chan struct{})
			go func() {
				defer close(graceful)
				srv.GracefulStop()
			}()
			endStreams()
			select {
			case <-graceful:
				return nil
			case <-ctx.Done():
				left := open.String()
				srv.Stop()
				return fmt.Errorf("cut off %s: %w", left, ctx.Err())
			}
		},
		Pending: open.String,
	}
}

// streams are the open streams of a server.
type streams struct {
	count  atomic.Int64
	ending chan struct{} // closed by end
}

func (s *streams) end()           { close(s.ending) }
func (s *streams) String() string { return fmt.Sprintf("%d open streams", s.count.Load()) }

var errStopping = status.Error(codes.Unavailable, "the server is stopping")

// intercept cancels the context of a stream when end is called, and tells the client why
// the stream has ended. A handler that waits for its client's messages must do so in a
// goroutine of its own: a canceled context does not make RecvMsg return.
func (s *streams) intercept(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	s.count.Add(1)
	defer s.count.Add(-1)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-s.ending:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	err := handle(srv, &streamWithContext{stream, ctx})
	if errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

// streamWithContext is a stream with another context.
type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

// noteCalls submits a task for each unary call. The task has the call's values, and goes
// on when the call has returned. If there is no room for it, the call is refused.
func noteCalls(calls *tether.Pool) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		_, err := calls.Go(ctx, "note call", func(ctx context.Context) error {
			slog.InfoContext(ctx, "called", "method", info.FullMethod)
			return nil
		})
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error()) // full, or stopping: another server may have room
		}
		return handle(ctx, request)
	}
}

// watch is a client. It prints what the server says of itself until the stream ends.
func watch(ctx context.Context, o options) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	conn, err := grpc.NewClient("passthrough:///"+o.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	client := healthpb.NewHealthClient(conn)
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		return err
	}
	stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	for {
		update, err := stream.Recv()
		if err != nil {
			fmt.Println("watch: the stream has ended:", err)
			return nil
		}
		fmt.Println("watch:", update.GetStatus())
	}
}
