// Package opaqueid turns numbers into opaque identifiers and back.
//
// An identifier is one AES block under a random key. The block holds the number, its
// group and 32 zero bits. An identifier cannot be guessed without the key, and tells
// neither how many there are nor when it was made. With the key, an identifier is told
// from any other text without a memory of the identifiers that were made.
package opaqueid

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
)

// Len is the length of an identifier: 16 bytes in base64 without padding.
const Len = 22

// encoding is strict, so that an identifier has one spelling.
var encoding = base64.RawURLEncoding.Strict()

// Key makes and opens identifiers. It is made by NewKey and safe for concurrent use.
type Key struct{ block cipher.Block }

// NewKey returns a random key.
func NewKey() Key {
	var k [16]byte
	rand.Read(k[:]) // never returns an error, as documented
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // cannot happen: 16 bytes are an AES-128 key
	}
	return Key{block}
}

// Seal returns the identifier of number n in group g. It is Len bytes long and consists
// of letters, digits, '-' and '_'.
func (k Key) Seal(g uint32, n uint64) string {
	var b [aes.BlockSize]byte // n, g, 32 zero bits
	binary.BigEndian.PutUint64(b[0:], n)
	binary.BigEndian.PutUint32(b[8:], g)
	k.block.Encrypt(b[:], b[:])
	return encoding.EncodeToString(b[:])
}

// Open returns the group and the number of an identifier. It reports false for a text
// that Seal under this key has not returned, except for one in 2^32 texts of the right
// form, whose group and number are random: the caller must know both to exist.
func (k Key) Open(id string) (g uint32, n uint64, ok bool) {
	if len(id) != Len {
		return 0, 0, false
	}
	var b [aes.BlockSize]byte
	// The decoder skips line breaks, so the length must be checked as well.
	if m, err := encoding.Decode(b[:], []byte(id)); err != nil || m != len(b) {
		return 0, 0, false
	}
	k.block.Decrypt(b[:], b[:])
	if binary.BigEndian.Uint32(b[12:]) != 0 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[0:]), true
}
