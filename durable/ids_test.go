package durable

import (
	"encoding/base32"
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// IDs have nothing in common, also across the reads of random bytes, and each of their bits may
// be either.
func TestIDs(t *testing.T) {
	const goroutines, each = 4, 1000
	var source idSource
	var ids [goroutines][each]string
	var group sync.WaitGroup
	for g := range ids {
		group.Go(func() {
			for i := range ids[g] {
				ids[g][i] = source.next()
			}
		})
	}
	group.Wait()
	halves := make(map[string]bool)
	form := regexp.MustCompile(`^[A-Z2-7]{26}$`) // that of crypto/rand.Text
	var ones [128]int
	for _, ids := range ids {
		for _, id := range ids {
			require.Regexp(t, form, id)
			bits, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(id)
			require.NoError(t, err)
			require.Len(t, bits, len(ones)/8)
			halves[string(bits[:8])], halves[string(bits[8:])] = true, true
			for i := range ones {
				ones[i] += int(bits[i/8] >> (i % 8) & 1)
			}
		}
	}
	assert.Len(t, halves, 2*goroutines*each)
	for i, n := range ones {
		// Nine standard deviations: a random bit is outside with a probability of 1 in 10^18.
		assert.InDelta(t, goroutines*each/2, n, 285, "bit %d", i)
	}
}
