package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFrontPage(t *testing.T) {
	ts := openShop(t)
	page := ts.do("GET", "/", "")
	require.Equal(t, http.StatusOK, page.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", page.Header.Get("Content-Type"))
	for _, text := range []string{
		`href="http://admin.example/debug/tether/"`, `data-try="order"`, `data-try="image"`, `data-try="report"`,
		"curl -i " + ts.web.URL + "/orders",
	} {
		require.Contains(t, string(page.body), text)
	}
	nonce := regexp.MustCompile(`script-src 'nonce-(\w+)'`).FindStringSubmatch(page.Header.Get("Content-Security-Policy"))
	require.NotNil(t, nonce)
	require.Contains(t, string(page.body), `<script nonce="`+nonce[1]+`">`)
	require.NotContains(t, string(ts.do("GET", "/", "").body), nonce[1])
	ts.do("GET", "/nothing", "").problem(t, http.StatusNotFound)
}

// The lines that the program prints do the same when they are pasted once more, and
// an order is a new order each time.
func TestTryLines(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ts := openShop(t)
	locations := map[string]bool{}
	for range 2 {
		for _, line := range tryLines(ts.web.URL) {
			// As bash, which has RANDOM: in a shell that has not, the key is the second.
			cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
			answer, err := cmd.Output()
			require.NoError(t, err, line)
			if strings.HasSuffix(line, "/audit") {
				require.Contains(t, string(answer), `"what":"POST /orders"`)
				continue
			}
			require.Regexp(t, `^HTTP/1.1 20[02] `, string(answer), line)
			if location := regexp.MustCompile(`(?m)^Location: (\S+)`).FindStringSubmatch(string(answer)); location != nil {
				require.False(t, locations[location[1]], "%s: the same again", line)
				locations[location[1]] = true
				require.Equal(t, http.StatusOK, ts.do("GET", location[1], "").StatusCode)
			}
		}
	}
	require.GreaterOrEqual(t, len(locations), 2*3, "orders, imports and pictures")
}

func TestURLOf(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1:0": "http://127.0.0.1:", ":0": "http://localhost:", "0.0.0.0:0": "http://localhost:"} {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		require.Contains(t, urlOf(listener), want, address)
		require.NoError(t, listener.Close())
	}
	require.Empty(t, urlOf(nil))
}

func TestWarnIfPublic(t *testing.T) {
	for address, warns := range map[string]bool{"127.0.0.1:0": false, "localhost:0": false, ":0": true, "0.0.0.0:0": true} {
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		warnIfPublic(listener)
		slog.SetDefault(before)
		require.NoError(t, listener.Close())
		require.Equal(t, warns, strings.Contains(log.String(), "no authentication"), address)
	}
}

// Help that was asked for is not an error; wrong arguments are, and end with another
// status than a failure.
func TestExit(t *testing.T) {
	for name, test := range map[string]struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		"help":                 {[]string{"-help"}, 0, "-webhook-delay", ""},
		"a wrong flag":         {[]string{"-nonsense"}, 2, "", "checkout: flag provided but not defined: -nonsense; -help lists the flags\n"},
		"a wrong value":        {[]string{"-queue", "many"}, 2, "", `invalid value "many" for flag -queue`},
		"a value too small":    {[]string{"-queue", "0"}, 2, "", "must be positive"},
		"an argument":          {[]string{"serve"}, 2, "", `unexpected argument "serve"`},
		"a bad address":        {[]string{"-addr", "256.0.0.1:0"}, 1, "", "-addr: "},
		"a folder that is not": {[]string{"-addr", "127.0.0.1:0", "-data", "/dev/null/shop"}, 1, "", "data folder: "},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, test.status, exit(run(context.Background(), test.args, &stdout), &stderr))
			require.Contains(t, stdout.String(), test.stdout)
			require.Contains(t, stderr.String(), test.stderr)
			if test.status == 0 {
				require.Empty(t, stderr.String())
			} else {
				require.Empty(t, stdout.String())
			}
		})
	}
}

// A temporary folder is removed if nothing in it is needed any more, and named if not.
func TestTemporaryFolder(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		left int
		says string
	}{
		"nothing is pending":   {nil, 0, "the temporary folder is removed"},
		"a webhook is pending": {[]string{"-webhook", "http://127.0.0.1:1/"}, 1, "start with -data "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			p := start(t, append([]string{"-addr", "127.0.0.1:0", "-stop-timeout", "5s"}, test.args...)...)
			c := &customer{base: p.base, client: new(http.Client), out: new(bytes.Buffer)}
			defer c.client.CloseIdleConnections()
			location, err := c.post(t.Context(), "/orders", orderBy("ann"))
			require.NoError(t, err)
			_, err = c.follow(t.Context(), location, func(s status) bool { return s.Webhook.State != string(webhookNone) })
			require.NoError(t, err)
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
			require.NoError(t, p.wait(), p.said())
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, test.left)
			require.Contains(t, p.said(), test.says)
			for _, folder := range left {
				require.Contains(t, p.said(), "start with -data "+dir+"/"+folder.Name())
			}
		})
	}
}
