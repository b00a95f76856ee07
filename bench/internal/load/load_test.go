package load

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Main()
	goleak.VerifyTestMain(m)
}

func server(t *testing.T, handler http.HandlerFunc) (url string) {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func TestGenerator(t *testing.T) {
	var warm, counted atomic.Int64
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, http.MethodPost, r.Method)
		if r.URL.Path == "/warm-up" {
			warm.Add(1)
			return
		}
		counted.Add(1)
		w.Write([]byte("1234"))
	})
	g, err := Start(Config{URL: url, Warmup: url + "/warm-up", Gap: 100 * time.Microsecond, N: 50, Size: 4})
	require.NoError(t, err)
	assert.EqualValues(t, Connections, warm.Load())
	assert.Zero(t, counted.Load(), "it waits for Run")
	res, err := g.Run()
	require.NoError(t, err)
	assert.Zero(t, res.Failed, res.Failure)
	assert.EqualValues(t, 50, counted.Load())
	assert.Positive(t, res.P50)
	assert.GreaterOrEqual(t, res.P99, res.P50)
	require.NoError(t, g.Close())
}

// A generator that is not used ends with Close, and so does one that cannot begin.
func TestGeneratorCloses(t *testing.T) {
	url := server(t, func(http.ResponseWriter, *http.Request) {})
	g, err := Start(Config{URL: url, Warmup: url, Gap: time.Hour, N: 1})
	require.NoError(t, err)
	require.NoError(t, g.Close())
	_, err = Start(Config{Warmup: "no URL", Gap: time.Millisecond, N: 1})
	assert.ErrorContains(t, err, "has not begun")
}

func TestStartNeedsMain(t *testing.T) {
	mainCalled = false
	defer func() { mainCalled = true }()
	_, err := Start(Config{})
	assert.ErrorContains(t, err, "Main")
}

// A server that answers late must not slow the client down.
func TestLoopIsOpen(t *testing.T) {
	const n = 40
	var waiting atomic.Int64
	all := make(chan struct{})
	url := server(t, func(http.ResponseWriter, *http.Request) {
		if waiting.Add(1) == n {
			close(all)
		}
		<-all
	})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := generate(client, Config{URL: url, Gap: time.Millisecond, N: n})
	require.NoError(t, err)
	assert.Zero(t, res.Failed, res.Failure)
	assert.Greater(t, res.P50, 10*time.Millisecond, "what the first ones waited for the last ones counts")
}

func TestFailuresAreCounted(t *testing.T) {
	for path, want := range map[string]string{"/status": "404 Not Found", "/size": "3 bytes and not 4", "/abort": "EOF"} {
		url := server(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/status":
				w.WriteHeader(http.StatusNotFound)
			case "/size":
				w.Write([]byte("123"))
			default:
				panic(http.ErrAbortHandler)
			}
		})
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		res, err := generate(client, Config{URL: url + path, Gap: time.Millisecond, N: 2, Size: 4})
		require.NoError(t, err)
		assert.Equal(t, 2, res.Failed)
		assert.Contains(t, res.Failure, want)
	}
}

func TestServeRefuses(t *testing.T) {
	assert.Error(t, serve("{", strings.NewReader(""), new(bytes.Buffer)))
	text, err := json.Marshal(Config{Warmup: "http://127.0.0.1:1/"})
	require.NoError(t, err)
	assert.Error(t, serve(string(text), strings.NewReader("\n"), new(bytes.Buffer)))
	_, set := os.LookupEnv(environment)
	assert.False(t, set)
}
