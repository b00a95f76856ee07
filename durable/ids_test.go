package durable

import (
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

// IDs have nothing in common, also if they are made at once or at the same time, and each of their
// letters may be any.
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
	var letters [idLength]map[byte]bool
	for place := range letters {
		letters[place] = make(map[byte]bool)
	}
	form := regexp.MustCompile(`^[A-Z2-7]{26}$`) // that of crypto/rand.Text
	for _, ids := range ids {
		for _, id := range ids {
			assert.Regexp(t, form, id)
			halves[id[:idLength/2]], halves[id[idLength/2:]] = true, true
			for place := range letters {
				letters[place][id[place]] = true
			}
		}
	}
	assert.Equal(t, 2*goroutines*each, len(halves))
	for _, found := range letters {
		assert.Len(t, found, 32) // of 4000 letters, one is missing with a probability of 1 in 10^50
	}
}
