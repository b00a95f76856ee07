//go:build !unix

package durabletest

import "testing"

// Redis, Postgres and RabbitMQ run on Unix only.
func Redis(t testing.TB) Server     { return onUnix(t) }
func Postgres(t testing.TB) Server  { return onUnix(t) }
func RabbitMQ(t testing.TB) Server  { return onUnix(t) }
func PgBouncer(t testing.TB) Server { return onUnix(t) }

func onUnix(t testing.TB) Server {
	t.Helper()
	t.Skip("SKIPPED: the servers are started on Unix only")
	return nil
}

func stopServers() {}
