package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/seed-2e639f12/tether"
)

// TestMain is the program itself when a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("GRPC_AS_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the program in a process of its own.
type process struct {
	t           *testing.T
	cmd         *exec.Cmd
	says        *bufio.Scanner
	said        []string
	addr, admin string
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0], append([]string{"-addr", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)...)}
	p.cmd.Env = append(os.Environ(), "GRPC_AS_PROGRAM=1")
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	p.says = bufio.NewScanner(out)
	require.NoError(t, p.cmd.Start())
	_, err = fmt.Sscanf(p.hear("grpc: serving "), "%s live page %s", &p.addr, &p.admin)
	require.NoError(t, err)
	p.addr = strings.TrimSuffix(p.addr, ",")
	return p
}

// hear waits for a line that contains the text, and returns what follows it.
func (p *process) hear(text string) string {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
		if _, rest, ok := strings.Cut(p.says.Text(), text); ok {
			return rest
		}
	}
	require.FailNow(p.t, "never said: "+text, "%v", p.said)
	return ""
}

// end waits for the process to end and returns all that it has said, and its status.
func (p *process) end() (said string, exit int) {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
	}
	_ = p.cmd.Wait()
	return strings.Join(p.said, "\n"), p.cmd.ProcessState.ExitCode()
}

func dial(t *testing.T, addr string, opts ...grpc.DialOption) healthpb.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

// openStream opens a stream that lasts until the server ends it.
func openStream(t *testing.T, client healthpb.HealthClient) grpc.ServerStreamingClient[healthpb.HealthCheckResponse] {
	t.Helper()
	stream, err := client.Watch(context.Background(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	update, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, update.GetStatus())
	return stream
}

// lastOf reads a stream to its end, and returns the last message and why it has ended.
func lastOf(stream grpc.ServerStreamingClient[healthpb.HealthCheckResponse]) (last *healthpb.HealthCheckResponse, err error) {
	for {
		update, err := stream.Recv()
		if err != nil {
			return last, err
		}
		last = update
	}
}

func TestSIGTERM(t *testing.T) {
	p := start(t, "-pre-stop", "0")
	client := dial(t, p.addr)
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	stream := openStream(t, client)
	page, err := http.Get(p.admin)
	require.NoError(t, err)
	body, err := io.ReadAll(page.Body)
	require.NoError(t, err)
	require.NoError(t, page.Body.Close())
	require.Contains(t, string(body), "calls", "the pool")

	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	_, err = lastOf(stream)
	require.Equal(t, codes.Unavailable, status.Code(err), err)
	require.ErrorContains(t, err, "the server is stopping")
	said, exit := p.end()
	require.Zero(t, exit, said)
	require.Contains(t, said, "called")
	require.Contains(t, said, "drained in ")
}

// A stream that does not end is cut off, and the process says so.
func TestSIGTERM_KeepStreams(t *testing.T) {
	p := start(t, "-keep-streams", "-pre-stop", "0", "-stop-timeout", "500ms")
	stream := openStream(t, dial(t, p.addr))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	last, err := lastOf(stream)
	require.Equal(t, codes.Unavailable, status.Code(err), err)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, last.GetStatus())
	said, exit := p.end()
	require.Equal(t, 1, exit, said)
	require.Contains(t, said, `stopping server "grpc": cut off 1 open streams: context deadline exceeded`)
	require.Contains(t, said, "drained in ", "the drain follows all the same")
}

// While the server waits for a stream the live page serves. The stream's end is the
// process's.
func TestSIGTERM_LivePage(t *testing.T) {
	p := start(t, "-keep-streams", "-pre-stop", "0", "-stop-timeout", "1h")
	ctx, endStream := context.WithCancel(t.Context())
	stream, err := dial(t, p.addr).Watch(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	ready := strings.TrimSuffix(p.admin, "/debug/tether/") + "/ready"
	require.Eventually(t, func() bool {
		res, err := http.Get(ready)
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusServiceUnavailable
	}, time.Minute, time.Millisecond)
	endStream()
	said, exit := p.end()
	require.Zero(t, exit, said)
}

// The order of events, and their times. The connection is in memory: all waiting is
// that of the bubble.
func TestOrder(t *testing.T) {
	for name, test := range map[string]struct {
		keepStreams, stubborn bool
		took                  time.Duration
		err                   string
	}{
		"streams end":          {false, false, time.Second, ""},
		"streams are kept":     {true, false, 17500 * time.Millisecond, `stopping server "grpc": cut off 1 open streams`},
		"a handler never ends": {false, true, 17500 * time.Millisecond, `stopping server "grpc": cut off 1 open streams`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
				listener := bufconn.Listen(1 << 16)
				server := newServer(reg, listener, test.keepStreams)
				release := make(chan struct{})
				if test.stubborn {
					server = stubbornServer(listener, release)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ran := make(chan error)
				go func() {
					ran <- reg.Run(ctx, tether.RunConfig{
						Servers: []tether.Server{server}, PreStop: time.Second, StopTimeout: 25 * time.Second,
						Signals: []os.Signal{}, // their goroutine would outlive the bubble
					})
				}()
				client := dial(t, "memory", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return listener.DialContext(ctx)
				}))
				stream := openStream(t, client)

				began := time.Now()
				cancel()
				if !test.stubborn {
					update, err := stream.Recv()
					require.NoError(t, err)
					require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, update.GetStatus())
					require.Zero(t, time.Since(began), "the client is told at once")
					require.False(t, reg.Ready())
				}
				_, err := lastOf(stream)
				require.Equal(t, codes.Unavailable, status.Code(err), err)
				require.Equal(t, test.took, time.Since(began))
				err = <-ran
				require.Equal(t, test.took, time.Since(began))
				if test.err == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, test.err)
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				close(release)
			})
		})
	}
}

// stubborn is a service whose handler ignores its context.
type stubborn struct {
	healthpb.UnimplementedHealthServer
	release chan struct{}
}

func (s stubborn) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	err := stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING})
	<-s.release
	return err
}

func stubbornServer(listener net.Listener, release chan struct{}) tether.Server {
	open := &streams{ending: make(chan struct{})}
	srv := grpc.NewServer(grpc.StreamInterceptor(open.intercept))
	healthpb.RegisterHealthServer(srv, stubborn{release: release})
	return asServer("grpc", srv, listener, open, open.end)
}

// A call that cannot be noted is refused.
func TestCallWithoutRoom(t *testing.T) {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	note := noteCalls(reg.NewPool("calls", tether.PoolConfig{}))
	require.NoError(t, reg.Shutdown(t.Context()))
	_, err := note(t.Context(), nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) {
		t.Error("the call is handled")
		return nil, nil
	})
	require.Equal(t, codes.Unavailable, status.Code(err))
}
