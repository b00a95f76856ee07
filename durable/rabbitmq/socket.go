package rabbitmq

import (
	"bufio"
	"net"
	"sync"
)

// heldMost is the number of bytes that a socket holds.
const heldMost = 32 << 10

// socket is a connection to the broker. The client writes each message by itself. A write
// costs more than the message, and so does a confirmation: messages that arrive together are
// confirmed together. So the writes between hold and release are gathered.
type socket struct {
	net.Conn

	mu   sync.Mutex    // held during a write, so that what is written keeps its order
	held bool          // nothing is written before release, unless out is full; guarded by mu
	out  *bufio.Writer // to Conn; empty unless held; guarded by mu
}

func newSocket(conn net.Conn) *socket {
	return &socket{Conn: conn, out: bufio.NewWriterSize(conn, heldMost)}
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.out.Write(p)
	if err == nil && !s.held {
		err = s.out.Flush()
	}
	return n, err
}

// hold gathers what is written until release. One goroutine at a time may hold a socket: the
// publisher, or the one that sends acknowledgements. It must not wait for the broker meanwhile.
// Another goroutine that needs what it writes to be sent calls flush.
func (s *socket) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// release ends hold, and writes what was gathered.
func (s *socket) release() {
	s.mu.Lock()
	s.held = false
	s.mu.Unlock()
	s.flush()
}

// flush writes what was gathered so far. If that fails, the client finds the connection closed.
func (s *socket) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.Flush() != nil {
		s.Close()
	}
}
