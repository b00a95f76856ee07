package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/durable/durabletest"
)

// durably is where processes of the shop have their data and their queue.
type durably struct{ dir, queue string }

func onSQLite(t *testing.T) durably {
	return durably{t.TempDir(), filepath.Join(t.TempDir(), "jobs.db")}
}

// start starts a process in a role: web, worker or both.
func (d durably) start(t *testing.T, role string, args ...string) *process {
	t.Helper()
	return start(t, append([]string{"-role", role, "-addr", "127.0.0.1:0", "-data", d.dir, "-durable", d.queue, "-stop-timeout", "60s"}, args...)...)
}

// kill ends a process as nothing can prevent.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	var died *exec.ExitError
	require.ErrorAs(t, p.wait(), &died)
}

// stop has a process drain.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, p.wait(), p.said())
	require.Contains(t, p.said(), "drained in")
	require.Contains(t, p.said(), " 0 canceled, 0 handed over, 0 never started, 0 abandoned")
}

// order places orders and returns where they are.
func (p *process) order(t *testing.T, n int) (locations []string) {
	t.Helper()
	c := &customer{base: p.base, client: &http.Client{Timeout: time.Minute}, out: io.Discard}
	defer c.client.CloseIdleConnections()
	for i := range n {
		_, err := c.post(t.Context(), "/orders", orderBy(fmt.Sprint("ann", i)))
		require.NoError(t, err)
	}
	return c.accepted
}

// invoices waits until the orders are invoiced, and looks for each PDF.
func (d durably) invoices(t *testing.T, locations []string) {
	t.Helper()
	// An engine may take two minutes to see that a worker was killed.
	require.Eventually(t, func() bool {
		return fates(t, d.dir, locations)[invoiced] == len(locations)
	}, 4*time.Minute, 50*time.Millisecond)
	for _, location := range locations {
		pdf, err := os.ReadFile(filepath.Join(d.dir, "invoices", strings.TrimPrefix(location, "/orders/")+".pdf"))
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(pdf, []byte("%PDF-")))
	}
}

// The web is killed between the 202 and the PDF, when no worker runs.
func testWebKilled(t *testing.T, d durably) {
	web := d.start(t, "web")
	locations := web.order(t, 50)
	web.kill(t)
	require.Equal(t, map[orderState]int{pending: len(locations)}, fates(t, d.dir, locations))
	require.Empty(t, pdfs(t, d.dir))

	worker := d.start(t, "worker") // alone: there is no web that resumes
	d.invoices(t, locations)
	web = d.start(t, "web")
	c := &customer{base: web.base, client: new(http.Client)}
	defer c.client.CloseIdleConnections()
	pdf, err := c.get(t.Context(), locations[0]+"/invoice.pdf")
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(pdf, []byte("%PDF-")))
	web.stop(t)
	worker.stop(t)
}

func pdfs(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "invoices", "*.pdf"))
	require.NoError(t, err)
	return found
}

// A worker is killed in the middle of its work, the next one finishes it.
func testWorkerKilled(t *testing.T, d durably) {
	web := d.start(t, "web")
	locations := web.order(t, 120)
	worker := d.start(t, "worker", "-workers", "2")
	require.Eventually(t, func() bool { return len(pdfs(t, d.dir)) > 10 }, time.Minute, time.Millisecond)
	worker.kill(t)
	left := fates(t, d.dir, locations)
	t.Log("after the end: ", left)
	require.NotZero(t, left[pending])
	require.Equal(t, len(locations), left[pending]+left[invoiced])

	worker = d.start(t, "worker")
	d.invoices(t, locations)
	require.Contains(t, string(livePage(t, worker)), `"name":"orders"`)
	worker.stop(t)
	web.stop(t)
}

// livePage is what a process shows at its -admin address.
func livePage(t *testing.T, p *process) []byte {
	t.Helper()
	c := &customer{base: p.admin, client: new(http.Client)}
	defer c.client.CloseIdleConnections()
	for _, probe := range []string{"/ready", "/healthz"} {
		_, err := c.get(t.Context(), probe)
		require.NoError(t, err)
	}
	page, err := c.get(t.Context(), "/debug/tether/?format=json")
	require.NoError(t, err)
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, page))
	return compact.Bytes()
}

// takesLong is for tests of whole processes: with the race detector SQLite, which is Go
// here, takes ten times as long in each of them.
func takesLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
}

func TestDurableWebKilled(t *testing.T) {
	t.Parallel()
	testWebKilled(t, onSQLite(t))
}

func TestDurableWorkerKilled(t *testing.T) {
	takesLong(t)
	t.Parallel()
	testWorkerKilled(t, onSQLite(t))
}

// The servers are started once for all tests: each engine has one queue there, except for
// the databases of Redis.
func TestDurableOnServers(t *testing.T) {
	takesLong(t)
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		url := strings.TrimSuffix(durabletest.Redis(t).Address(), "/0")
		testWebKilled(t, durably{t.TempDir(), url + "/1"})
		// What ran when the worker was killed starts again after one or two minutes.
		testWorkerKilled(t, durably{t.TempDir(), url + "/2"})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		testWebKilled(t, durably{t.TempDir(), durabletest.Postgres(t).Address()})
	})
	t.Run("rabbitmq", func(t *testing.T) { // which has no unique keys
		t.Parallel()
		testWebKilled(t, durably{t.TempDir(), durabletest.RabbitMQ(t).Address()})
	})
}

// The web and the worker in one, under load: killed, or with no time to drain.
func TestDurableCutShort(t *testing.T) {
	takesLong(t)
	t.Parallel()
	for name, end := range map[string]func(*os.Process) error{
		"no time to drain": func(p *os.Process) error { return p.Signal(syscall.SIGTERM) },
		"kill -9":          func(p *os.Process) error { return p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := onSQLite(t)
			p := d.start(t, "both", "-stop-timeout", "10ms")
			accepted, enough := p.orderUntil(8, 200)
			<-enough
			require.NoError(t, end(p.cmd.Process))
			locations := accepted()
			_ = p.wait() // not with 0
			left := fates(t, d.dir, locations)
			t.Log("after the end: ", left)
			require.Equal(t, len(locations), left[pending]+left[invoiced])

			again := d.start(t, "both")
			require.Eventually(t, func() bool {
				return fates(t, d.dir, locations)[invoiced] == len(locations)
			}, 2*time.Minute, 50*time.Millisecond)
			again.stop(t)
		})
	}
}

// SIGTERM under load, with a backlog: what runs is finished, what waits is the next one's.
func TestDurableTerminated(t *testing.T) {
	takesLong(t)
	t.Parallel()
	d := onSQLite(t)
	web := d.start(t, "web")
	accepted, enough := web.orderUntil(4, 200)
	worker := d.start(t, "worker", "-workers", "2")
	other := d.start(t, "worker", "-workers", "2")
	<-enough
	require.Eventually(t, func() bool { return len(pdfs(t, d.dir)) > 10 }, time.Minute, time.Millisecond)
	worker.stop(t)
	web.stop(t)
	locations := accepted()
	other.stop(t)
	left := fates(t, d.dir, locations)
	t.Log("after the drains: ", left)
	require.Equal(t, len(locations), left[pending]+left[invoiced])

	last := d.start(t, "worker")
	d.invoices(t, locations)
	last.stop(t)
}

func TestDurableDemo(t *testing.T) {
	takesLong(t)
	t.Parallel()
	p := start(t, "-demo", "-durable", filepath.Join(t.TempDir(), "jobs.db"))
	require.NoError(t, p.wait(), p.said())
	for _, seen := range []string{"orders wait on sqlite", "bytes of PDF", "event: succeeded 33/33", "SIGTERM", "drained in"} {
		require.Contains(t, p.said(), seen)
	}
}
