package rabbitmq

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// written is a connection that keeps each write.
type written struct {
	net.Conn
	all    []string
	err    error
	closed bool
}

func (w *written) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.all = append(w.all, string(p))
	return len(p), nil
}

func (w *written) Close() error {
	w.closed = true
	return nil
}

func write(t *testing.T, s *socket, text string) {
	t.Helper()
	n, err := s.Write([]byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
}

func TestSocket(t *testing.T) {
	w := new(written)
	s := newSocket(w)
	write(t, s, "at once")
	require.Equal(t, []string{"at once"}, w.all)

	s.hold()
	write(t, s, "a")
	write(t, s, "b")
	require.Len(t, w.all, 1)
	s.flush()
	require.Equal(t, []string{"at once", "ab"}, w.all)
	write(t, s, "c")
	require.Len(t, w.all, 2, "it is still held")
	s.release()
	write(t, s, "d")
	s.release()
	require.Equal(t, []string{"at once", "ab", "c", "d"}, w.all)
}

// A socket holds a bounded number of bytes, and keeps their order.
func TestSocketFull(t *testing.T) {
	w := new(written)
	s := newSocket(w)
	s.hold()
	var all bytes.Buffer
	for _, text := range []string{"a", strings.Repeat("b", heldMost), "c", strings.Repeat("d", 3*heldMost)} {
		write(t, s, text)
		all.WriteString(text)
		assert.LessOrEqual(t, all.Len()-len(strings.Join(w.all, "")), heldMost)
	}
	s.release()
	assert.True(t, all.String() == strings.Join(w.all, ""), "the bytes, in order")
}

// The client has been told that what a socket holds is written. If it cannot be, the client
// must find out, since it waits for confirmations.
func TestSocketFails(t *testing.T) {
	w := new(written)
	s := newSocket(w)
	s.hold()
	write(t, s, "a")
	w.err = errors.New("broken")
	s.release()
	assert.True(t, w.closed)
	_, err := s.Write([]byte("b"))
	require.ErrorIs(t, err, w.err)
}
