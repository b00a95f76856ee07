package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is the program itself when a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("WRAP_AS_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the program in a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	says *bufio.Scanner
	said []string
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), "WRAP_AS_PROGRAM=1")
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.says = bufio.NewScanner(stdout)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { // for a test that has failed half-way
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// hear waits for a line that begins like this and returns the rest of it.
func (p *process) hear(beginning string) string {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
		if rest, ok := strings.CutPrefix(p.says.Text(), beginning); ok {
			return rest
		}
	}
	require.FailNow(p.t, "never said: "+beginning, "%v", p.said)
	return ""
}

// end waits for the process to end well and returns all that it has said.
func (p *process) end() string {
	p.t.Helper()
	for p.says.Scan() {
		p.said = append(p.said, p.says.Text())
	}
	require.NoError(p.t, p.cmd.Wait())
	return strings.Join(p.said, "\n")
}

// The work takes an hour: SIGTERM comes in the middle of it.
func TestSIGTERM(t *testing.T) {
	p := start(t, "-addr", "127.0.0.1:0", "-work", "1h")
	base := p.hear("wrap: serving ")
	for _, route := range []string{"/before", "/after"} {
		res, err := http.Get(base + route)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusAccepted, res.StatusCode)
		p.hear(route + ": working")
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	said := p.end()
	require.Contains(t, said, "/after: done")
	require.NotContains(t, said, "/before: done")
	require.Contains(t, said, " 0 canceled, 0 handed over, 0 never started, 0 abandoned")
}

// What is not interrupted is done in either case.
func TestUninterrupted(t *testing.T) {
	p := start(t, "-addr", "127.0.0.1:0", "-work", "0s")
	base := p.hear("wrap: serving ")
	for _, route := range []string{"/before", "/after"} {
		res, err := http.Get(base + route)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		p.hear(route + ": done")
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.end()
}

func TestDemo(t *testing.T) {
	said := start(t, "-demo", "-work", "1h").end()
	for _, line := range []string{"GET /before: 202 Accepted", "GET /after: 202 Accepted", "SIGTERM", "/after: done", " 0 never started, 0 abandoned"} {
		require.Contains(t, said, line)
	}
	require.NotContains(t, said, "/before: done")
}
