package readme

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The steps of docs/start.md apply one after the other, each result compiles, and the last
// one does what the page says: its lines run, and what was accepted is done after SIGTERM.
func TestStart(t *testing.T) {
	c := newChecker(t)
	var program, lines string
	steps := 0
	for _, b := range blocksOf(t, "docs/start.md") {
		switch b.info {
		case "go main.go":
			program = b.code
		case "diff main.go":
			program = patch(t, b, program)
			steps++
		case "sh":
			lines += b.code
			continue
		}
		require.NoError(t, c.check(b.String(), program), "after %v", b)
	}
	require.Equal(t, 5, steps)

	public, live := freeAddress(t), freeAddress(t)
	here := strings.NewReplacer("localhost:8080", public, "localhost:8081", live, "2 * time.Second", "200 * time.Millisecond")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(here.Replace(program)), 0o600))
	run(t, ".", nil, "go", "build", "-o", filepath.Join(dir, "service"), filepath.Join(dir, "main.go"))

	service := exec.CommandContext(t.Context(), filepath.Join(dir, "service"))
	service.Stderr = os.Stderr
	out, err := service.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, service.Start())
	log := newLog(out)
	for _, address := range []string{public, live} {
		require.Eventually(t, func() bool { return listens(address) }, time.Minute, 10*time.Millisecond)
	}
	got, err := exec.CommandContext(t.Context(), "bash", "-ec", here.Replace(lines)).CombinedOutput()
	require.NoError(t, err, "%s", got)
	assert.Contains(t, string(got), "HTTP/1.1 200 OK")
	assert.Contains(t, string(got), "welcome, user20@example.com")
	assert.Contains(t, string(got), `"state":"serving"`)

	require.NoError(t, service.Process.Signal(syscall.SIGTERM))
	text := log.wait() // before Wait, which closes the pipe
	require.NoError(t, service.Wait())
	assert.Contains(t, text, "sent to ann@example.com")
	for i := range 20 {
		assert.Contains(t, text, fmt.Sprintf("sent to user%d@example.com", i+1))
	}
}

// patch applies a diff. Each hunk begins with a line "@@"; what it replaces is in the text
// exactly once.
func patch(t *testing.T, diff block, text string) string {
	t.Helper()
	hunks := strings.Split(diff.code, "@@\n")[1:]
	require.NotEmpty(t, hunks, "%v", diff)
	for _, hunk := range hunks {
		before, after := "", ""
		for line := range strings.Lines(hunk) {
			switch line[0] {
			case '-':
				before += line[1:]
			case '+':
				after += line[1:]
			case ' ':
				before, after = before+line[1:], after+line[1:]
			default:
				t.Fatalf("%v: %q is not a line of a diff", diff, line)
			}
		}
		require.Equal(t, 1, strings.Count(text, before), "%v: in\n%s\nthere should be one\n%s", diff, text, before)
		text = strings.Replace(text, before, after, 1)
	}
	return text
}

func TestPatch(t *testing.T) {
	diff := block{code: "@@\n a\n-b\n+c\n@@\n+x\n e\n"}
	assert.Equal(t, "a\nc\nd\nx\ne\n", patch(t, diff, "a\nb\nd\ne\n"))
}

// freeAddress returns an address that no server listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// output is what a process writes, read until it ends.
type output struct {
	wg   sync.WaitGroup
	text strings.Builder
}

func newLog(r io.Reader) *output {
	o := new(output)
	o.wg.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			o.text.WriteString(lines.Text() + "\n")
		}
	})
	return o
}

func (o *output) wait() string {
	o.wg.Wait()
	return o.text.String()
}

// Shell lines are on pages whose tests run them; what cannot run is marked as text.
func TestShell(t *testing.T) {
	for _, page := range pages(t)[1:] {
		for _, b := range blocksOf(t, page) {
			if b.info == "sh" {
				assert.Contains(t, []string{"docs/start.md", "docs/clients.md"}, page, "no test runs %v", b)
			}
		}
	}
}
