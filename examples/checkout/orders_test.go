package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOrderIsInvoiced(t *testing.T) {
	ts := openShop(t)
	ts.orders.Pause()
	before := ts.inStock("tea")

	a := ts.do("POST", "/orders", `{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":2},{"sku":"mug","quantity":1,"price_cents":1}]}`)
	require.Equal(t, http.StatusAccepted, a.StatusCode, a)
	location := a.Header.Get("Location")
	id := strings.TrimPrefix(location, "/orders/")
	require.JSONEq(t, fmt.Sprintf(`{"id":%q,"state":"pending","url":%q}`, id, location), string(a.body))

	require.Equal(t, "pending", ts.status(location).State)
	ts.do("GET", location+"/invoice.pdf", "").problem(t, http.StatusNotFound)

	ts.orders.Resume()
	ts.until(location, func(s status) bool { return s.State == "invoiced" && s.Webhook.State == "delivered" })
	pdf := ts.do("GET", location+"/invoice.pdf", "")
	require.Equal(t, http.StatusOK, pdf.StatusCode)
	require.Equal(t, "application/pdf", pdf.Header.Get("Content-Type"))
	require.True(t, bytes.HasPrefix(pdf.body, []byte("%PDF-")))
	require.Equal(t, before-2, ts.inStock("tea"))

	shown := ts.do("GET", location, "")
	require.Contains(t, string(shown.body), `"total_cents":2630`, "the price is the shop's, not the client's")
}

func TestOrderThatCannotBe(t *testing.T) {
	ts := openShop(t)
	s := ts.until(ts.post("/orders", `{"customer":"ann@example.com","lines":[{"sku":"unicorn","quantity":1}]}`), decided)
	require.Equal(t, "failed", s.State)
	require.Contains(t, s.Reason, "unicorn")
	require.Equal(t, "none", s.Webhook.State)
}

// A failure of the shop, such as a missing folder, is retried and then shown.
func TestOrderWhoseInvoiceFails(t *testing.T) {
	ts := openShop(t)
	before := ts.inStock("tea")
	ts.invoices.dir += "-gone"
	s := ts.until(ts.post("/orders", orderBy("ann")), decided)
	require.Equal(t, "failed", s.State)
	require.NotEmpty(t, s.Reason)
	require.Equal(t, before, ts.inStock("tea"), "the goods are back")
}

func TestDoubleClick(t *testing.T) {
	ts := openShop(t)
	// clicks submits one order n times at once and returns the different answers.
	clicks := func(t *testing.T, n int, body string, header ...string) map[string]bool {
		t.Helper()
		var (
			wg   sync.WaitGroup
			seen = make([]string, n)
		)
		// None of them is stored before the last has come.
		inside, goOn := make(chan struct{}), make(chan struct{})
		wg.Go(func() {
			_ = ts.store.update(t.Context(), func(*sql.Tx) error {
				close(inside)
				<-goOn
				return nil
			})
		})
		<-inside
		before := ts.arrived.Load()
		for i := range n {
			wg.Go(func() {
				a, err := ts.try("POST", "/orders", strings.NewReader(body), header...)
				if err == nil {
					seen[i] = fmt.Sprint(a.StatusCode, " ", a.Header.Get("Location"))
				}
			})
		}
		require.Eventually(t, func() bool { return ts.arrived.Load() == before+int64(n) }, time.Minute, time.Millisecond)
		close(goOn)
		wg.Wait()
		different := map[string]bool{}
		for _, s := range seen {
			require.Contains(t, s, "202 /orders/")
			different[s] = true
		}
		return different
	}
	orders := func() int { all := ts.tally(); return all.Pending + all.Invoiced + all.Failed }

	t.Run("a hundred at once make one order", func(t *testing.T) {
		before := orders()
		require.Len(t, clicks(t, 100, orderBy("ann")), 1)
		require.Equal(t, before+1, orders())
	})
	t.Run("so do a hundred with one key", func(t *testing.T) {
		before := orders()
		require.Len(t, clicks(t, 100, orderBy("bob"), "Idempotency-Key", "b-1"), 1)
		require.Equal(t, before+1, orders())
	})
	t.Run("the second click after the invoice", func(t *testing.T) {
		first := ts.post("/orders", orderBy("cid"))
		ts.until(first, decided)
		require.Equal(t, first, ts.post("/orders", orderBy("cid")))
	})
	t.Run("the same again later is a new order", func(t *testing.T) {
		first := ts.post("/orders", orderBy("dot"))
		ts.until(first, decided)
		ts.age(first)
		second := ts.post("/orders", orderBy("dot"))
		require.NotEqual(t, first, second)
		require.Equal(t, second, ts.post("/orders", orderBy("dot")))
	})
	t.Run("with a key it is the same forever", func(t *testing.T) {
		first := ts.post("/orders", orderBy("eve"), "Idempotency-Key", "e-1")
		ts.until(first, decided)
		ts.age(first)
		again := ts.do("POST", "/orders", orderBy("eve"), "Idempotency-Key", `"e-1"`)
		require.Equal(t, http.StatusAccepted, again.StatusCode, again)
		require.Equal(t, first, again.Header.Get("Location"))
		require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
		require.NotEqual(t, first, ts.post("/orders", orderBy("eve"), "Idempotency-Key", "e-2"))
	})
	t.Run("one key for two orders is a mistake", func(t *testing.T) {
		ts.post("/orders", orderBy("fay"), "Idempotency-Key", "f-1")
		ts.do("POST", "/orders", orderBy("gus"), "Idempotency-Key", "f-1").problem(t, http.StatusUnprocessableEntity)
	})
	t.Run("a pending order is the same however old", func(t *testing.T) {
		ts.orders.Pause()
		defer ts.orders.Resume()
		first := ts.post("/orders", orderBy("hal"))
		ts.age(first)
		require.Equal(t, first, ts.post("/orders", orderBy("hal")))
	})
}

// age makes an order older than any double click.
func (ts *testShop) age(location string) {
	ts.t.Helper()
	require.NoError(ts.t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE orders SET created = created - ? WHERE id = ?`,
			2*doubleClick.Milliseconds(), strings.TrimPrefix(location, "/orders/"))
		return err
	}))
}

func TestBurst(t *testing.T) {
	ts := openShop(t, func(c *config) { c.queue = 5 })
	ts.orders.Pause()
	var accepted []string
	refused := 0
	for i := range 50 {
		a := ts.do("POST", "/orders", orderBy(fmt.Sprint("ann", i)))
		if a.StatusCode == http.StatusAccepted {
			accepted = append(accepted, a.Header.Get("Location"))
			continue
		}
		a.problem(t, http.StatusServiceUnavailable)
		require.Regexp(t, `^[1-9]\d*$`, a.Header.Get("Retry-After"))
		refused++
	}
	require.NotEmpty(t, accepted)
	require.GreaterOrEqual(t, refused, 40)
	require.Equal(t, len(accepted), ts.tally().Pending, "what was refused has left nothing")

	ts.orders.Resume()
	for _, location := range accepted {
		require.Equal(t, "invoiced", ts.until(location, decided).State)
	}
	// The server is as good as before.
	require.Equal(t, "invoiced", ts.until(ts.post("/orders", orderBy("ann49")), decided).State)
}

// A 202 needs both the row and the task: if the row cannot be written, the task
// that was held for it must not stay.
func TestOrderThatCannotBeStored(t *testing.T) {
	ts := openShop(t, func(c *config) { c.queue = 3 })
	fault := `CREATE TRIGGER full BEFORE INSERT ON orders BEGIN SELECT raise(ABORT, 'the disk is full'); END`
	change := func(statement string) {
		require.NoError(t, ts.store.update(context.Background(), func(tx *sql.Tx) error {
			_, err := tx.Exec(statement)
			return err
		}))
	}
	change(fault)
	for i := range 10 { // more than there are places
		ts.do("POST", "/orders", orderBy(fmt.Sprint("ann", i))).problem(t, http.StatusInternalServerError)
	}
	change(`DROP TRIGGER full`)
	ts.until(ts.post("/orders", orderBy("ann")), decided)
	require.Equal(t, tally{Invoiced: 1}, func() tally { all := ts.tally(); all.Undelivered = 0; return all }())
}

func TestBadOrders(t *testing.T) {
	ts := openShop(t)
	for name, bad := range map[string]struct {
		body   string
		status int
	}{
		"nothing":            {"", 400},
		"not JSON":           {"customer=ann", 400},
		"broken JSON":        {`{"customer":"ann@example.com","lines":[{"sku":`, 400},
		"not UTF-8":          {"{\"customer\":\"J\xf6rg <j@example.com>\",\"lines\":[{\"sku\":\"tea\",\"quantity\":1}]}", 400},
		"two orders":         {orderBy("ann") + orderBy("bob"), 400},
		"a list":             {`[]`, 400},
		"a text for lines":   {`{"customer":"ann@example.com","lines":"tea"}`, 400},
		"half a tea":         {`{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":0.5}]}`, 400},
		"null":               {`null`, 422},
		"no lines":           {`{"customer":"ann@example.com"}`, 422},
		"empty lines":        {`{"customer":"ann@example.com","lines":[]}`, 422},
		"no customer":        {`{"lines":[{"sku":"tea","quantity":1}]}`, 422},
		"not an address":     {`{"customer":"ann","lines":[{"sku":"tea","quantity":1}]}`, 422},
		"a customer's trick": {`{"customer":"ann@example.com\r\nBcc: all@example.com","lines":[{"sku":"tea","quantity":1}]}`, 422},
		"no sku":             {`{"customer":"ann@example.com","lines":[{"quantity":1}]}`, 422},
		"no such product":    {`{"customer":"ann@example.com","lines":[{"sku":"flying carpet","quantity":1}]}`, 422},
		"no quantity":        {`{"customer":"ann@example.com","lines":[{"sku":"tea"}]}`, 422},
		"less than nothing":  {`{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":-1}]}`, 422},
		"too much":           {`{"customer":"ann@example.com","lines":[{"sku":"tea","quantity":1000001}]}`, 422},
		"too many lines":     {`{"customer":"ann@example.com","lines":[` + strings.Repeat(`{"sku":"tea","quantity":1},`, 100) + `{"sku":"tea","quantity":1}]}`, 422},
		"too large":          {`{"customer":"` + strings.Repeat("a", orderBytes) + `@example.com"}`, 413},
	} {
		t.Run(name, func(t *testing.T) {
			ts.do("POST", "/orders", bad.body).problem(t, bad.status)
		})
	}
	t.Run("keys", func(t *testing.T) {
		ts.do("POST", "/orders", orderBy("ann"), "Idempotency-Key", "").problem(t, 400)
		ts.do("POST", "/orders", orderBy("ann"), "Idempotency-Key", "a", "Idempotency-Key", "b").problem(t, 400)
		ts.do("POST", "/orders", orderBy("ann"), "Idempotency-Key", strings.Repeat("a", 256)).problem(t, 400)
	})
	require.Equal(t, tally{}, ts.tally(), "none of them is an order")
}

func TestUnknown(t *testing.T) {
	ts := openShop(t)
	for _, path := range []string{"/orders/x", "/orders/x/invoice.pdf", "/imports/x", "/images/x", "/images/x/picture", "/nowhere"} {
		ts.do("GET", path, "").problem(t, http.StatusNotFound)
	}
	a := ts.do("DELETE", "/orders/x", "")
	a.problem(t, http.StatusMethodNotAllowed)
	require.Contains(t, a.Header.Get("Allow"), "GET")
}

// A 10 GB body is refused by its Content-Length, or at the limit if it has none.
func TestHugeBodies(t *testing.T) {
	ts := openShop(t, func(c *config) { c.maxImport = 1 << 20 })
	for path, start := range map[string]string{"/orders": `{"customer":"`, "/imports": csvHeader, "/images": "\x89PNG\r\n\x1a\n"} {
		t.Run("with a length "+path, func(t *testing.T) {
			a, _ := ts.raw(t, path, "Content-Length: 10737418240\r\nExpect: 100-continue\r\n\r\n", "")
			a.problem(t, http.StatusRequestEntityTooLarge)
		})
		t.Run("without a length "+path, func(t *testing.T) {
			chunked := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(start), start)
			a, sent := ts.raw(t, path, chunked, "8\r\nendless,\r\n")
			if path == "/images" { // the first bytes are not those of a picture
				a.problem(t, http.StatusUnsupportedMediaType)
			} else {
				a.problem(t, http.StatusRequestEntityTooLarge)
			}
			require.Less(t, sent, int64(64<<20), "the rest was not read")
		})
	}
	left, err := os.ReadDir(ts.spool.dir)
	require.NoError(t, err)
	require.Empty(t, left, "the spool is tidy")
	ts.until(ts.post("/orders", orderBy("ann")), decided)
}

// raw posts in two directions at once, as a client does that does not look at the
// answer before it has sent 10 GB: the text, then more for as long as it is taken.
func (ts *testShop) raw(t *testing.T, path, text, more string) (a answer, sent int64) {
	t.Helper()
	conn, err := net.Dial("tcp", ts.web.Listener.Addr().String())
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: shop\r\n"+text)
		if more != "" {
			sent, _ = io.Copy(conn, io.LimitReader(&repeater{text: more}, 10<<30)) // until the server has had enough
		}
	})
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	wg.Wait()
	return answer{res, body}, sent
}
