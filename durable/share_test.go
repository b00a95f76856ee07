package durable

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// The share of a job is a field of its arguments, if that can be a share's key.
func TestShareOf(t *testing.T) {
	reg := tether.New(tether.Config{})
	for _, c := range []struct{ args, field, share string }{
		{`{"tenant":"acme"}`, "tenant", "acme"},
		{`{"tenant":42}`, "tenant", "42"},
		{`{"tenant":-1.5e3}`, "tenant", "-1.5e3"},
		{`{"tenant":"\u00e4"}`, "tenant", "ä"},
		{`{"tenant":"acme"}`, "", ""},
		{`{"tenant":"acme"}`, "customer", ""},
		{`{"tenant":""}`, "tenant", ""},
		{`{"tenant":null}`, "tenant", ""},
		{`{"tenant":true}`, "tenant", ""},
		{`{"tenant":["acme"]}`, "tenant", ""},
		{`{"tenant":{"id":1}}`, "tenant", ""},
		{`{"tenant":"two\nlines"}`, "tenant", ""},
		{`{"tenant":"` + strings.Repeat("x", 200) + `"}`, "tenant", ""},
		{`["acme"]`, "tenant", ""},
		{`null`, "tenant", ""},
		{`{"tenant"`, "tenant", ""},
		{``, "tenant", ""},
	} {
		task, err := reg.Go(context.Background(), "task", func(context.Context) error { return nil }, shareOf(json.RawMessage(c.args), c.field))
		require.NoError(t, err, c.args)
		assert.Equal(t, c.share, task.Info().Share, c.args)
	}
	require.NoError(t, reg.Shutdown(context.Background()))
}
