package opaqueid_test

import (
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/opaqueid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestRoundTrip(t *testing.T) {
	k := opaqueid.NewKey()
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)
	seen := make(map[string]bool)
	for _, g := range []uint32{0, 1, 2, 77, math.MaxUint32} {
		for _, n := range []uint64{0, 1, 2, 31, 32, 1 << 32, 1<<63 - 1, math.MaxUint64} {
			id := k.Seal(g, n)
			assert.Regexp(t, form, id)
			assert.Len(t, id, opaqueid.Len)
			assert.Equal(t, id, k.Seal(g, n), "the same one each time")
			assert.False(t, seen[id], "two of one spelling")
			seen[id] = true
			group, num, ok := k.Open(id)
			require.True(t, ok)
			assert.Equal(t, g, group)
			assert.Equal(t, n, num)
		}
	}
}

func TestOpenIsStrict(t *testing.T) {
	k := opaqueid.NewKey()
	id := k.Seal(3, 12345)
	refuse := func(text, why string) {
		t.Helper()
		g, n, ok := k.Open(text)
		assert.False(t, ok, why)
		assert.Zero(t, g)
		assert.Zero(t, n)
	}
	for i := range id {
		for _, c := range alphabet {
			if other := id[:i] + string(c) + id[i+1:]; other != id {
				refuse(other, "one character is another")
			}
		}
		for _, c := range "+/= \n\x00\xff.é" {
			refuse(id[:i]+string(c)+id[i+1:], "a character of another alphabet")
		}
		refuse(id[:i]+id[i+1:], "a character is missing")
		refuse(id[:i]+"\n"+id[i:], "a line break that a decoder might skip")
	}
	refuse("", "nothing")
	refuse(id+"A", "a character more")
	refuse(id+"==", "padding")
	refuse(" "+id, "a space before")
	refuse(strings.ToUpper(id), "upper case")
	_, _, ok := opaqueid.NewKey().Open(id)
	assert.False(t, ok, "another key's")
	_, _, ok = opaqueid.NewKey().Open(strings.Repeat("A", opaqueid.Len))
	assert.False(t, ok, "zeros")
}

// Consecutive numbers have nothing in common that a stranger could see: each bit of
// an identifier is set in about half of them, and flips from one to the next in
// about half of the cases.
func TestDistribution(t *testing.T) {
	k := opaqueid.NewKey()
	const n = 20_000
	values := make(map[rune]int)
	for i, c := range alphabet {
		values[c] = i
	}
	var set, flips [opaqueid.Len * 6]int
	seen := make(map[string]bool)
	var last string
	for i := range uint64(n) {
		id := k.Seal(0, i)
		require.False(t, seen[id])
		seen[id] = true
		for at, c := range id {
			for bit := range 6 {
				if values[c]>>bit&1 == 1 {
					set[at*6+bit]++
				}
				if last != "" && (values[c]^values[rune(last[at])])>>bit&1 == 1 {
					flips[at*6+bit]++
				}
			}
		}
		last = id
	}
	// Seven standard deviations: one run in 10^12 fails by chance.
	tolerance := 7 * math.Sqrt(n) / 2
	for i := range set {
		if i/6 == opaqueid.Len-1 && i%6 < 4 {
			assert.Zero(t, set[i], "16 bytes leave 4 bits of the last character unused")
			continue
		}
		assert.InDelta(t, n/2, set[i], tolerance, "bit %d", i)
		assert.InDelta(t, n/2, flips[i], tolerance, "bit %d from one to the next", i)
	}
}

func TestKeysDiffer(t *testing.T) {
	assert.NotEqual(t, opaqueid.NewKey().Seal(0, 0), opaqueid.NewKey().Seal(0, 0))
}

// Nothing but what was sealed opens.
func FuzzOpen(f *testing.F) {
	k := opaqueid.NewKey()
	for _, s := range []string{"", strings.Repeat("A", opaqueid.Len), k.Seal(1, 2), k.Seal(1, 2) + "\n", "AAAAAAAAAAAAAAAAAAAAAB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if g, n, ok := k.Open(s); ok && k.Seal(g, n) != s {
			t.Errorf("%q opens as (%d, %d), which is sealed as %q", s, g, n, k.Seal(g, n))
		}
	})
}
