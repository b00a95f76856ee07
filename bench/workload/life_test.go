package workload

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether/bench/peers"
)

func TestInvoice(t *testing.T) {
	text, err := invoiceOf(orderJSON())
	require.NoError(t, err)
	var in invoice
	require.NoError(t, json.Unmarshal(text, &in))
	assert.Equal(t, 995+2*1095+3*1195, in.Total)
	assert.Len(t, in.Order.Lines, 3)
	assert.Contains(t, in.HTML, `<p>Müller &amp; Daughters<br>12 &lt;Old&gt; Bridge Street<br>1010 Vienna</p>`)
	assert.Contains(t, in.HTML, `<td><a href="/items?name=Item%20no.%202%2c%20%22large%22">Item no. 2, &#34;large&#34;</a><td>3<td>3585</tr>`)
}

func TestLifeTaskIsChecked(t *testing.T) {
	assert.NoError(t, lifeTask())
	assert.ErrorContains(t, bill([]byte(`{"id":"another"}`)), "SHA-256")
	assert.Error(t, bill([]byte(`{`)))
}

func TestOneByOne(t *testing.T) {
	const n = 20
	errWork := errors.New("not done")
	for _, c := range []peers.Candidate{peers.Go(), peers.Tether(), peers.Ants()} {
		var done atomic.Int64
		m := &meter{t: t, metrics: map[string]float64{}}
		run := oneByOne(unlimited, time.Microsecond, func() error {
			if done.Add(1) == n {
				return errWork
			}
			return nil
		})
		assert.ErrorIs(t, run(m, c, n), errWork)
		assert.EqualValues(t, n, done.Load())
		assert.Positive(t, m.metrics[P50])
		assert.GreaterOrEqual(t, m.metrics[P99], m.metrics[P50])
	}
}

// A candidate that refuses a task has no figures.
func TestOneByOneRefused(t *testing.T) {
	errFull := errors.New("full")
	submitted := 0
	c := peers.Candidate{Unlimited: func() (*peers.System, error) {
		return &peers.System{
			Task: func(body func()) func() error {
				return func() error {
					if submitted++; submitted > 3 {
						return errFull
					}
					go body()
					return nil
				}
			},
			Close: func() error { return nil },
		}, nil
	}}
	m := &meter{t: t, metrics: map[string]float64{}}
	assert.ErrorIs(t, oneByOne(unlimited, time.Microsecond, lifeTask)(m, c, 10), errFull)
}
