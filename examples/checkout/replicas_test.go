package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/tetherhttp"
)

// replicated is a shop of several processes.
type replicated struct {
	*process
	t *testing.T
	*customer
}

var replicaSaid = regexp.MustCompile(`replica (\d+) is process (\d+), live page http://([^/]+)/`)

func startReplicas(t *testing.T, n int, args ...string) *replicated {
	t.Helper()
	p := start(t, append([]string{"-replicas", strconv.Itoa(n), "-addr", "127.0.0.1:0", "-stop-timeout", "60s"}, args...)...)
	require.Eventually(t, func() bool { return len(replicaSaid.FindAllString(p.said(), -1)) == n }, time.Minute, time.Millisecond)
	c := &customer{base: p.base, client: &http.Client{Timeout: time.Minute}, out: io.Discard}
	t.Cleanup(c.client.CloseIdleConnections)
	return &replicated{p, t, c}
}

// find returns the process ID and the -admin address of a replica, as they were said last.
func (r *replicated) find(replica string) (pid int, admin string) {
	r.t.Helper()
	for _, said := range replicaSaid.FindAllStringSubmatch(r.said(), -1) {
		if said[1] == replica {
			pid, _ = strconv.Atoi(said[2])
			admin = said[3]
		}
	}
	require.NotZero(r.t, pid)
	return pid, admin
}

// ask sends a request, again if the store is too slow for it, as on a busy machine.
func (r *replicated) ask(method, path, body string, header ...string) answer {
	r.t.Helper()
	for {
		res, content, err := r.do(r.t.Context(), method, path, body, header...)
		require.NoError(r.t, err)
		if res.StatusCode != http.StatusServiceUnavailable {
			return answer{res, content}
		}
		r.t.Logf("%s %s: %s", method, path, content)
	}
}

// state returns the state of a task, and which replica has said so.
func (r *replicated) state(location string) (state, replica string) {
	r.t.Helper()
	a := r.ask("GET", location, "")
	require.Equal(r.t, http.StatusOK, a.StatusCode, a)
	var s status
	require.NoError(r.t, json.Unmarshal(a.body, &s))
	return s.State, a.Header.Get("X-Replica")
}

// invoicedOrders puts invoiced orders into the store, before a shop is started.
func invoicedOrders(t *testing.T, dir string, n int) {
	t.Helper()
	s, err := openStore(dir)
	require.NoError(t, err)
	for i := range n {
		o := &order{ID: fmt.Sprint("old", i), Customer: "ann@example.com", Lines: []line{{SKU: "tea", Quantity: 1, PriceCents: 690}}, click: fmt.Sprint("old", i), Created: time.Now()}
		require.NoError(t, s.insertOrder(t.Context(), o, nil))
		require.NoError(t, s.invoiceOrder(t.Context(), o.ID))
		require.NoError(t, s.noteWebhook(t.Context(), o.ID, webhookStatus{State: webhookDelivered}))
	}
	require.NoError(t, s.close(context.Background()))
}

// Three replicas behind the proxy: reports, keys and orders are answered by each of them. One
// is killed: the others answer for it, and say that its report is lost; it is started again.
func TestReplicas(t *testing.T) {
	takesLong(t)
	t.Parallel()
	dir := t.TempDir()
	invoicedOrders(t, dir, 100)
	r := startReplicas(t, 3, "-data", dir)

	const key = `Idempotency-Key: "one"`
	first := r.ask("POST", "/reports?rate=1", "", "Prefer: respond-async", key) // it takes more than a minute
	require.Equal(t, http.StatusAccepted, first.StatusCode, first)
	location, owner := first.Header.Get("Location"), first.Header.Get("X-Replica")
	require.Eventually(t, func() bool { // the 202 does not wait for that, and the other replicas are a write behind
		state, by := r.state(location)
		return state == "running" && by != owner
	}, time.Minute, 5*time.Millisecond)
	polled := map[string]int{}
	for range 6 {
		state, by := r.state(location)
		require.Equal(t, "running", state)
		polled[by]++
	}
	require.Len(t, polled, 3, polled)
	order, placed := `{"customer":"eve@example.com","lines":[{"sku":"tea","quantity":2}]}`, map[string]bool{}
	for range 3 {
		again := r.ask("POST", "/reports?rate=1", "", "Prefer: respond-async", key)
		require.Equal(t, http.StatusAccepted, again.StatusCode, again)
		require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
		require.Equal(t, location, again.Header.Get("Location"))
		a := r.ask("POST", "/orders", order, key)
		require.Equal(t, http.StatusAccepted, a.StatusCode, a)
		placed[a.Header.Get("Location")] = true
	}
	require.Len(t, placed, 1)
	for place := range placed {
		_, err := r.follow(t.Context(), place, func(s status) bool { return s.State == "invoiced" })
		require.NoError(t, err)
		for range 3 {
			pdf, err := r.get(t.Context(), place+"/invoice.pdf")
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(pdf), "%PDF-"))
		}
	}

	pid, _ := r.find(owner)
	killed, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, killed.Kill())
	polled = map[string]int{}
	require.Eventually(t, func() bool {
		state, by := r.state(location) // each is answered
		polled[by]++
		require.Contains(t, []string{"running", "lost"}, state)
		return state == "lost"
	}, time.Minute, 20*time.Millisecond)
	for range 6 {
		state, by := r.state(location)
		require.Equal(t, "lost", state)
		polled[by]++
	}
	require.GreaterOrEqual(t, len(polled), 2, polled)
	a := r.ask("GET", location+"/result", "")
	require.Contains(t, string(a.body), tetherhttp.ProblemTaskLost)
	require.Eventually(t, func() bool {
		_, by := r.state(location)
		return by == owner
	}, time.Minute, 20*time.Millisecond, "it is started again")
	anew, _ := r.find(owner)
	require.NotEqual(t, pid, anew)

	report := r.ask("POST", "/reports?rate=1", "", "Prefer: respond-async") // the drain finishes it
	require.Equal(t, http.StatusAccepted, report.StatusCode, report)
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, r.wait(), r.said())
	require.Contains(t, r.said(), "101 orders invoiced, 0 failed, 0 pending")
	require.Contains(t, r.said(), " 1 reports made, 0 canceled")
	require.Equal(t, 3, strings.Count(r.said(), ": drained in "))
}

// The replicas end when the process that has started them is killed.
func TestReplicasEndWithTheirParent(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, "-data", t.TempDir())
	require.NoError(t, r.cmd.Process.Kill())
	for _, replica := range []string{"1", "2"} {
		_, admin := r.find(replica)
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", admin)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		}, time.Minute, 5*time.Millisecond)
	}
	_ = r.wait()
}

// A replica that cannot start ends all.
func TestReplicasThatDoNotStart(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "-replicas", "2", "-addr", "127.0.0.1:0", "-data", t.TempDir(), "-durable", "redis://127.0.0.1:1/x/y")
	require.Error(t, p.wait())
	require.Equal(t, 1, p.cmd.ProcessState.ExitCode())
}

// openReplica opens a replica in this process.
func openReplica(t *testing.T, dir string, n int) *testShop {
	t.Helper()
	return openShop(t, func(cfg *config) {
		cfg.data, cfg.durable, cfg.replica = dir, filepath.Join(dir, "jobs.db"), n
	})
}

// An order that is sent to two replicas at once is one order.
func TestReplicasOrderOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shops := []*testShop{openReplica(t, dir, 1), openReplica(t, dir, 2)}
	for round := range 20 {
		var wg sync.WaitGroup
		answers := make([]answer, 2)
		for i, s := range shops {
			wg.Go(func() {
				answers[i], _ = s.try("POST", "/orders", strings.NewReader(orderBy(fmt.Sprint("ann", round))), "Idempotency-Key", fmt.Sprint("key", round))
			})
		}
		wg.Wait()
		for i, a := range answers {
			require.NotNil(t, a.Response)
			require.Equal(t, http.StatusAccepted, a.StatusCode, a)
			require.Equal(t, strconv.Itoa(i+1), a.Header.Get("X-Replica"))
		}
		require.Equal(t, answers[0].Header.Get("Location"), answers[1].Header.Get("Location"))
	}
}

// An order that another replica has confirmed is not withdrawn, one that was withdrawn is
// not confirmed.
func TestReplicasWithdraw(t *testing.T) {
	t.Parallel()
	s := openReplica(t, t.TempDir(), 1)
	place := func(id string) *order {
		o := &order{ID: id, Customer: "ann@example.com", click: id, Created: time.Now(), State: pending}
		require.NoError(t, s.store.insertOrder(t.Context(), o, nil))
		return o
	}
	require.ErrorIs(t, s.store.insertOrder(t.Context(), &order{ID: "other", click: place("kept").click}, nil), errClickTaken)
	require.NoError(t, s.store.confirmOrder(t.Context(), "kept"))
	withdrawn, err := s.store.withdrawOrder(t.Context(), "kept")
	require.NoError(t, err)
	require.False(t, withdrawn)

	gone := place("gone")
	withdrawn, err = s.store.withdrawOrder(t.Context(), "gone")
	require.NoError(t, err)
	require.True(t, withdrawn)
	require.Error(t, s.acceptAgain(t.Context(), gone), "its 202 must not be repeated")
}

// A replica that starts works on the uploads of those that have ended, and leaves those of
// the others alone, and what they receive.
func TestReplicasUploads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := openReplica(t, dir, 1)
	held := func(name string) (ids []string) {
		uploads, err := first.store.pendingUploads(t.Context(), name)
		require.NoError(t, err)
		for _, u := range uploads {
			ids = append(ids, u.ID)
		}
		return ids
	}
	for _, holder := range []string{"web-1", "web-2"} {
		require.NoError(t, first.store.insertUpload(t.Context(), &upload{ID: "of-" + holder, Kind: anImport, Created: time.Now()}, holder))
	}
	require.NoError(t, os.WriteFile(first.spool.path("receiving"), nil, 0o600))
	openReplica(t, dir, 3)
	require.Equal(t, []string{"of-web-1"}, held("web-1"))
	require.Equal(t, []string{"of-web-2"}, held("web-3"))
	require.FileExists(t, first.spool.path("receiving"))

	_, err := newShop(config{data: dir, webhookSecret: newSecret(), role: "both"})
	require.ErrorContains(t, err, "another process serves this shop", "one that is no replica")
	_, err = newShop(config{data: dir, webhookSecret: newSecret(), role: "both", replica: 3})
	require.ErrorContains(t, err, "another process serves this shop")
}
