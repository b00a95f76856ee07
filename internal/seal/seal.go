// Package seal makes opaque identifiers out of numbers.
//
// An identifier is one AES block under a random key: the number, its group, and
// zeros. A stranger can neither guess one nor learn from one how many there are
// or when it was made, and the key's owner can tell one of its own from anything
// else without remembering any.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
)

// Len is the length of an identifier: 16 bytes in base64 without padding.
const Len = 22

var encoding = base64.RawURLEncoding.Strict() // Strict: one spelling per identifier

// Key seals and opens. It may be used by many goroutines at once.
type Key struct{ block cipher.Block }

// NewKey returns a random key.
func NewKey() Key {
	var k [16]byte
	rand.Read(k[:]) // never fails: crypto/rand
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // 16 bytes are an AES-128 key
	}
	return Key{block}
}

// Seal returns the identifier of number n in group g. It has Len bytes, all of
// them letters, digits, '-' or '_'.
func (k Key) Seal(g uint32, n uint64) string {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[0:], n)
	binary.BigEndian.PutUint32(b[8:], g)
	k.block.Encrypt(b[:], b[:])
	return encoding.EncodeToString(b[:])
}

// Open returns what was sealed. It reports false for any text that Seal under
// this key has not returned: 32 zero bits, and a group and a number that the
// caller knows to exist, are what a forger would have to hit.
func (k Key) Open(id string) (g uint32, n uint64, ok bool) {
	if len(id) != Len {
		return 0, 0, false
	}
	var b [aes.BlockSize]byte
	if m, err := encoding.Decode(b[:], []byte(id)); err != nil || m != len(b) {
		return 0, 0, false
	}
	k.block.Decrypt(b[:], b[:])
	if binary.BigEndian.Uint32(b[12:]) != 0 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[0:]), true
}
