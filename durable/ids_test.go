package durable

import (
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

// IDs are all different, also across the reads of random bytes, and each of their letters may
// be any of the alphabet.
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
	all := make(map[string]bool)
	var letters [idLength]map[byte]bool
	for place := range letters {
		letters[place] = make(map[byte]bool)
	}
	form := regexp.MustCompile(`^[A-Z2-7]{26}$`) // of crypto/rand.Text
	for _, ids := range ids {
		for _, id := range ids {
			all[id] = true
			assert.Regexp(t, form, id)
			for place := range letters {
				letters[place][id[place]] = true
			}
		}
	}
	assert.Len(t, all, goroutines*each)
	for _, found := range letters {
		assert.Len(t, found, 32) // in 4000 IDs one is missing with a probability of 1 in 10^50
	}
}
