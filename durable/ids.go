package durable

import (
	"crypto/rand"
	"sync"
)

// idSource makes the IDs of a job's messages: texts as crypto/rand.Text makes them, of 130
// random bits. It reads the bytes of many IDs at once, because to read those of one takes
// longer than the rest of the ID.
type idSource struct {
	mu     sync.Mutex
	random [32 * idLength]byte // guarded by mu
	left   int                 // bytes of random that no ID has, at its end; guarded by mu
}

const (
	idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // of base32, RFC 4648
	idLength   = 26                                 // 5 bits each
)

func (s *idSource) next() string {
	var text [idLength]byte
	s.mu.Lock()
	if s.left == 0 {
		_, _ = rand.Read(s.random[:]) // it never fails
		s.left = len(s.random)
	}
	copy(text[:], s.random[len(s.random)-s.left:])
	s.left -= idLength
	s.mu.Unlock()
	for i, b := range text {
		text[i] = idAlphabet[b%byte(len(idAlphabet))]
	}
	return string(text[:])
}
