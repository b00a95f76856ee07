package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

var fixture = durabletest.Fixture{
	Server: func(t testing.TB) durabletest.Server { return durabletest.Serverless(t.TempDir()) },
	Open: func(folder, queue string) (durable.Engine, error) {
		// A file of its own: on a shared one other tests' workers would be siblings, and
		// nothing would be rescued at once.
		return sqlite.Config{Queue: queue}.Open(filepath.Join(folder, queue+".db"))
	},
	Store:  func(e durable.Engine) store.Backend { return e.(*sqlite.Engine).Store() },
	Rescue: time.Minute,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		if err := play(role, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	durabletest.Main(m, fixture)
}

func TestContract(t *testing.T)    { durabletest.Contract(t, fixture) }
func BenchmarkEngine(b *testing.B) { durabletest.Benchmarks(b, fixture) }
