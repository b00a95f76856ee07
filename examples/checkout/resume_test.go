package main

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was accepted and never started is done by the next start.
func TestResume(t *testing.T) {
	first := openShop(t)
	first.orders.Pause()
	first.imports.Pause()
	first.images.Pause()
	before := first.inStock("tea")
	var orders, uploads []string
	for i := range 20 {
		orders = append(orders, first.post("/orders", orderBy(fmt.Sprint("ann", i))))
	}
	for i := range 3 {
		uploads = append(uploads, first.post("/imports", csvHeader+fmt.Sprintf("jam%d,Jam,%d,100\n", i, i)))
	}
	var picture bytes.Buffer
	require.NoError(t, png.Encode(&picture, samplePicture(100, 50)))
	uploads = append(uploads, first.post("/images?width=10", picture.String()))
	first.kill()

	// Half an upload and half an invoice, as kill -9 leaves them.
	require.NoError(t, os.WriteFile(first.spool.path("half"), []byte("sku"), 0o600))
	require.NoError(t, os.WriteFile(first.invoices.dir+"/half.pdf.1"+partSuffix, []byte("%PDF"), 0o600))

	// The queue is smaller than the backlog: what does not fit waits its turn.
	second := openShop(t, func(c *config) { c.data, c.queue = first.cfg.data, 5 })
	require.NoFileExists(t, second.spool.path("half"))
	require.NoFileExists(t, second.invoices.dir+"/half.pdf.1"+partSuffix)
	_, err := second.reg.Go(context.Background(), "resume", second.resume)
	require.NoError(t, err)
	for _, location := range orders {
		require.Equal(t, "invoiced", second.until(location, decided).State)
	}
	for _, location := range uploads {
		require.Equal(t, "done", second.until(location, done).State)
	}
	require.Equal(t, before-2*20, second.inStock("tea"), "each order once")
	require.Equal(t, int64(2), second.inStock("jam2"))
}
