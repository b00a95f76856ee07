package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/bench/workload"
)

// TestMain lets the test binary be the process that Ask starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-child" {
		if err := Serve(os.Args[2], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The ants package starts a pool when it is imported and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func TestServe(t *testing.T) {
	serve := func(req Request) (answer Answer) {
		text, err := json.Marshal(req)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, Serve(string(text), &out))
		require.NoError(t, json.Unmarshal(out.Bytes(), &answer))
		return answer
	}
	answer := serve(Request{"W4/100k/no-limit", "tether", 100})
	assert.Positive(t, answer.Sample[workload.NsPerOp])
	assert.True(t, serve(Request{"W4/100k/no-limit", "workerpool", 100}).Lacks)
	assert.ErrorContains(t, Serve(`{"Workload":"W4"}`, new(bytes.Buffer)), "W4")
	assert.Error(t, Serve(`W4`, new(bytes.Buffer)))
}

func TestAsk(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	s, err := Ask(t.Context(), self, Request{"W1/producers=1", "tether", 100})
	require.NoError(t, err)
	assert.Positive(t, s[workload.NsPerOp])
	_, err = Ask(t.Context(), self, Request{"W1/producers=1", "workerpool", 100})
	assert.ErrorIs(t, err, workload.ErrLacks)
	_, err = Ask(t.Context(), self, Request{"W99", "tether", 100})
	assert.ErrorIs(t, err, ErrUnknown)
	_, err = Ask(t.Context(), self, Request{"W1/producers=1", "nobody", 100})
	assert.ErrorIs(t, err, ErrUnknown)
	_, err = Ask(t.Context(), "no/such/program", Request{})
	assert.Error(t, err)
	assert.NotErrorIs(t, err, ErrUnknown)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Ask(canceled, self, Request{"W1/producers=1", "tether", 100})
	assert.ErrorIs(t, err, context.Canceled)
}
