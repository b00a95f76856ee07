package durable

import (
	"crypto/rand"
	"encoding/base32"
	"sync"
)

// idSource makes the IDs of a job's messages: 128 random bits, as 26 letters and digits like
// those of crypto/rand.Text. It reads the bytes of many IDs at once, because to read those of
// one takes longer than the rest of the ID.
type idSource struct {
	mu     sync.Mutex
	random [32 * idBytes]byte // guarded by mu
	left   int                // bytes at the end of random that are in no ID; guarded by mu
}

const idBytes = 16

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

func (s *idSource) next() string {
	s.mu.Lock()
	if s.left == 0 {
		_, _ = rand.Read(s.random[:]) // it never fails
		s.left = len(s.random)
	}
	bits := [idBytes]byte(s.random[len(s.random)-s.left:])
	s.left -= idBytes
	s.mu.Unlock()
	var text [(idBytes*8 + 4) / 5]byte
	idEncoding.Encode(text[:], bits[:])
	return string(text[:])
}
