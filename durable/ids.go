package durable

import (
	"crypto/rand"
	"encoding/base32"
	"sync"
)

// idSource makes the IDs of a job's messages: texts like those of crypto/rand.Text, with 130
// random bits. It makes several at once, because it takes long to read the random bytes of one,
// and to allocate it. They are parts of one string of 416 bytes, which stays in memory as long
// as one of them does.
type idSource struct {
	mu   sync.Mutex
	text string // of the next IDs; guarded by mu
}

const (
	idLength  = 26 // letters of base32, 5 bits each
	idsAtOnce = 16
)

func (s *idSource) next() (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" {
		var text [idsAtOnce * idLength]byte
		var random [len(text) * 5 / 8]byte // no bits are left, so there is no padding
		_, _ = rand.Read(random[:])        // it never fails
		base32.StdEncoding.Encode(text[:], random[:])
		s.text = string(text[:])
	}
	id, s.text = s.text[:idLength], s.text[idLength:]
	return id
}
