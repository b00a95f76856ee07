package namecache_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed-2e639f12/tether/internal/namecache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheck(t *testing.T) {
	good := []string{
		"a", "0", "-", " ", "send welcome mail", "<b>&amp;\"'", "a/b:c.d_e", "Grüße", "日本語", "مهمة", "🚀", "e\u0301", "\ufffd",
		strings.Repeat("x", namecache.MaxLen), strings.Repeat("é", namecache.MaxLen/2),
	}
	for _, name := range good {
		assert.NoError(t, namecache.Check(name), "%q", name)
	}
	bad := []struct{ name, why string }{
		{"", "empty"},
		{strings.Repeat("x", namecache.MaxLen+1), "129 bytes"},
		{strings.Repeat("é", namecache.MaxLen/2) + "x", "129 bytes"},
		{"a\x00b", "not printable"},
		{"line\nline", "not printable"},
		{"\r", "not printable"},
		{"tab\t", "not printable"},
		{"\x1b[31mred", "not printable"},
		{"\x7f", "not printable"},
		{"\u0085", "not printable"},
		{"\u2028", "not printable"},
		{"no\u00a0break", "not printable"},
		{"zero\u200bwidth", "not printable"},
		{"\u202egnp.exe", "not printable"},
		{"\ufeffbom", "not printable"},
		{"\ue000", "not printable"},
		{"\xff", "not UTF-8"},
		{"ok\xc3", "not UTF-8"},
		{"\xed\xa0\x80", "not UTF-8"},
		{"\xc0\xaf", "not UTF-8"},
	}
	for _, c := range bad {
		err := namecache.Check(c.name)
		if assert.Error(t, err, "%q", c.name) {
			assert.ErrorContains(t, err, c.why)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, name := range []string{"", "a", "send mail", "\xff", "a\nb", "\u202e", "日本語", strings.Repeat("x", 200)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		printable := func(s string) bool {
			return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
		}
		good := len(name) >= 1 && len(name) <= 128 && utf8.ValidString(name) && printable(name)
		err := namecache.Check(name)
		if good != (err == nil) {
			t.Fatalf("Check(%q) = %v", name, err)
		}
		if err != nil {
			// The text goes to logs: it must not carry what it complains about.
			if text := err.Error(); !utf8.ValidString(text) || !printable(text) {
				t.Errorf("Check(%q): the error itself is not printable: %q", name, text)
			}
		}
	})
}

// cacheLimit is how many names a Cache keeps at the most.
const cacheLimit = 256

type value struct{ name string }

func TestCache(t *testing.T) {
	newCache := func() (*namecache.Cache[value], *atomic.Int32) {
		c, made := new(namecache.Cache[value]), new(atomic.Int32)
		c.Init(func(name string) *value {
			made.Add(1)
			return &value{name}
		})
		return c, made
	}
	t.Run("makes one value for each name", func(t *testing.T) {
		c, made := newCache()
		a, err := c.Get("a")
		require.NoError(t, err)
		b, err := c.Get("b")
		require.NoError(t, err)
		again, err := c.Get("a")
		require.NoError(t, err)
		assert.Equal(t, value{"a"}, *a)
		assert.Equal(t, value{"b"}, *b)
		assert.Same(t, a, again)
		assert.EqualValues(t, 2, made.Load())
	})
	t.Run("makes none for a bad name", func(t *testing.T) {
		c, made := newCache()
		for range 2 {
			v, err := c.Get("a\nb")
			assert.Error(t, err)
			assert.Nil(t, v)
		}
		assert.Zero(t, made.Load())
	})
	t.Run("one value for a name that many ask for at once", func(t *testing.T) {
		for range 100 {
			c := new(namecache.Cache[value])
			c.Init(func(name string) *value {
				for range 10 { // has others ask meanwhile
					runtime.Gosched()
				}
				return &value{name}
			})
			var wg sync.WaitGroup
			var got [16]*value
			for p := range got {
				wg.Go(func() { got[p], _ = c.Get("a") })
			}
			wg.Wait()
			for _, v := range got {
				require.Same(t, got[0], v)
			}
		}
	})
	// kept counts how many of the names 0 to n-1 are kept.
	kept := func(c *namecache.Cache[value], n int) (kept int) {
		for i := range n {
			a, _ := c.Get(fmt.Sprint(i))
			b, _ := c.Get(fmt.Sprint(i))
			if a == b {
				kept++
			}
		}
		return kept
	}
	t.Run("keeps the first few", func(t *testing.T) {
		c, _ := newCache()
		for i := range 3 * cacheLimit {
			v, err := c.Get(fmt.Sprint(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), v.name)
		}
		assert.Equal(t, cacheLimit, kept(c, 3*cacheLimit))
	})
	t.Run("and no more however many ask at once", func(t *testing.T) {
		for range 20 {
			c, _ := newCache()
			for i := range cacheLimit - 1 {
				c.Get(fmt.Sprint(i))
			}
			const askers = 64
			var wg sync.WaitGroup
			start := make(chan struct{})
			for p := range askers {
				wg.Go(func() {
					<-start
					c.Get(fmt.Sprint(cacheLimit + p))
				})
			}
			close(start)
			wg.Wait()
			require.LessOrEqual(t, kept(c, cacheLimit+askers), cacheLimit)
		}
	})
}
