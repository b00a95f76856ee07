package main

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is the program itself when a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SIGNUP_AS_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the program in a process of its own.
type process struct {
	t          *testing.T
	cmd        *exec.Cmd
	says       *bufio.Scanner
	said       []string
	base, live string
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0], append([]string{"-addr", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...)...)}
	p.cmd.Env = append(os.Environ(), "SIGNUP_AS_PROGRAM=1")
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	p.says = bufio.NewScanner(out)
	require.NoError(t, p.cmd.Start())
	for p.base == "" || p.live == "" {
		line := p.hear("signup: ")
		if at, ok := strings.CutPrefix(line, "serving "); ok {
			p.base = at
		}
		if at, ok := strings.CutPrefix(line, "live page "); ok {
			p.live = at
		}
	}
	return p
}

// hear waits for a line that contains the text, and returns what follows it.
func (p *process) hear(text string) string {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
		if _, rest, ok := strings.Cut(p.says.Text(), text); ok {
			return rest
		}
	}
	require.FailNow(p.t, "never said: "+text, "%v", p.said)
	return ""
}

// end waits for the process to end and returns all that it has said, and its status.
func (p *process) end() (said string, exit int) {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
	}
	_ = p.cmd.Wait()
	return strings.Join(p.said, "\n"), p.cmd.ProcessState.ExitCode()
}

func (p *process) signup(address string) *http.Response {
	p.t.Helper()
	res, err := http.PostForm(p.base+"/signup", url.Values{"email": {address}})
	require.NoError(p.t, err)
	require.NoError(p.t, res.Body.Close())
	return res
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
	return string(body)
}

// What was answered 202 is done, also what still waits at the signal: there are two
// workers for three mails. The loop ends at the signal, and the schedule has runs no more.
func TestSIGTERM(t *testing.T) {
	p := start(t, "-work", "100ms", "-every", "50ms")
	require.Equal(t, http.StatusAccepted, p.signup("nobody@example.invalid").StatusCode)
	p.hear("nobody@example.invalid: bounced")
	p.hear("sent so far: 1")
	require.Contains(t, get(t, p.live), "bounces")
	require.Contains(t, get(t, p.base), "curl -i "+p.base+"/signup")
	require.Equal(t, http.StatusBadRequest, p.signup("nobody").StatusCode)
	for _, who := range []string{"ann", "bob", "cid"} {
		require.Equal(t, http.StatusAccepted, p.signup(who+"@example.com").StatusCode)
	}
	require.Contains(t, get(t, p.live), "welcome mail")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.hear("bounces: disconnected")
	said, exit := p.end()
	require.Zero(t, exit, said)
	for _, who := range []string{"ann", "bob", "cid"} {
		require.Contains(t, said, who+"@example.com: sent")
	}
	require.Contains(t, said, "drained in ")
	require.Contains(t, said, " 0 canceled, 0 handed over, 0 never started, 0 abandoned")
}

// Two mails are being sent and ten wait; the next is refused. When the time for the
// stop is almost over those that are being sent are canceled, and the report names all.
func TestFull(t *testing.T) {
	p := start(t, "-work", "1h", "-stop-timeout", "500ms")
	for range 12 {
		require.Equal(t, http.StatusAccepted, p.signup("ann@example.com").StatusCode)
	}
	refused := p.signup("ann@example.com")
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	said, exit := p.end()
	require.Zero(t, exit, said)
	require.Contains(t, said, " 2 canceled, 0 handed over, 10 never started, 0 abandoned")
	require.NotContains(t, said, ": sent")
}
