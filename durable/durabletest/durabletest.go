// Package durabletest is the contract of the engines of package durable, as tests that run on
// the engine itself, with real processes that are really killed.
//
// Another engine runs it like this, in a file of its package's tests:
//
//	var fixture = durabletest.Fixture{
//		Server: func(t testing.TB) durabletest.Server { return durabletest.Serverless(t.TempDir()) },
//		Open:   func(address, queue string) (durable.Engine, error) { return mine.Open(address, queue) },
//		Rescue: time.Minute,
//	}
//
//	func TestMain(m *testing.M)        { durabletest.Main(m, fixture) }
//	func TestContract(t *testing.T)    { durabletest.Contract(t, fixture) }
//	func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }
//
// TestMain is required: the contract starts the test binary again, as the worker that it
// kills, and [Main] is the main function of that process too. It runs on Unix.
//
// What an engine's [durable.Support] excludes is not tried, but must be refused with
// [durable.ErrUnsupported]. The contract waits for events and has no timing thresholds: its only
// limits are guards against hanging, of some minutes. It takes about a minute, and as long again
// as the engine takes to detect that a worker was killed or stands still; -short leaves most of
// that out. The log, which go test -v shows, has what an engine does beyond its promises: when
// jobs run again after a crash, how many run twice, whether an interruption uses an attempt. The
// environment variable TETHER_DURABLETEST_ROUNDS makes it kill workers for more rounds.
//
// An engine's own tests start its server with [Redis] and the like. [RefusedAddress] returns the
// address of a server that is not there.
package durabletest

import (
	"flag"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// Fixture is an engine under test.
type Fixture struct {
	// Server starts what the engine needs, or skips the test, loudly, where that is not
	// installed. It is called by each test that needs one; see [Redis] and [Serverless].
	Server func(t testing.TB) Server
	// Open opens the engine on a server's address, on a queue of its own: what another
	// queue's name holds is never seen. It is called in child processes as well, and more
	// than once for the same queue. A queue's name is of at most 20 characters a-z and 0-9,
	// and begins with a letter.
	Open func(address, queue string) (durable.Engine, error)
	// Store, if non-nil, returns the engine's Store, for [durable.Tracked]. If it is nil, the
	// contract has one in memory beside the engine.
	Store func(e durable.Engine) store.Backend
	// Rescue bounds how long after a kill -9 of the only worker its jobs start again, once
	// there is another. Their Timeout is longer.
	Rescue time.Duration
	// MayLose is how many jobs that were enqueued without an error a kill -9 of the server may
	// lose, as the engine's documentation says. Zero means none.
	MayLose int
	// NoKill, if not empty, is why the contract does not kill the server.
	NoKill string
	// Hasten, if non-nil, hands back the jobs of a queue whose processes have all ended, as the
	// engine itself would do later: for tests in which many processes are killed.
	Hasten func(address, queue string) error
}

// Server is a running server of which each test process starts at most one of a kind.
type Server interface {
	Address() string
	// Stop ends it in an orderly way, and Start starts it again at the same address with
	// the same data. A server-less engine's does nothing and says so by Restarts.
	Stop(t testing.TB)
	Start(t testing.TB)
	Restarts() bool
	// Kill ends it as kill -9 does.
	Kill(t testing.TB)
}

// Serverless is the Server of an engine that needs none: an address, say a folder.
func Serverless(address string) Server { return serverless(address) }

type serverless string

func (s serverless) Address() string { return string(s) }
func (serverless) Stop(testing.TB)   {}
func (serverless) Start(testing.TB)  {}
func (serverless) Kill(testing.TB)   {}
func (serverless) Restarts() bool    { return false }

// Main is for TestMain. It runs the tests, ends the servers that they have started, fails
// if a goroutine is left, and exits. In a process that the contract has started it does
// what is asked of that process instead. A package that tests no engine, and only needs the
// servers, has an empty Fixture.
func Main(m *testing.M, f Fixture) {
	if encoded := os.Getenv(childEnv); encoded != "" {
		os.Exit(act(encoded, f))
	}
	if f.Open != nil {
		// The contract waits more than it works. The command line overrides this.
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	stopServers()
	var leaked error
	for range 5 {
		if leaked = goleak.Find(); leaked == nil {
			break
		}
	}
	if leaked != nil {
		fmt.Fprintln(os.Stderr, "durabletest:", leaked)
		code = max(code, 1)
	}
	os.Exit(code)
}

// RefusedAddress returns a TCP address of the loopback interface that refuses connections until
// the test ends. It is the local address of a connection, so that no program listens on it
// meanwhile. The address of a listener that was closed is not sure to refuse: another program
// may get it, and a process that is just being started still has the listener.
func RefusedAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}
