// Package namecache validates names and caches a value for each.
package namecache

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// MaxLen is the most bytes that a name may have.
const MaxLen = 128

// Check returns nil if name is 1 to MaxLen bytes of printable UTF-8: letters, marks,
// digits, punctuation, symbols and the space. The text of the error is printable even
// if name is not.
func Check(name string) error {
	if name == "" {
		return fmt.Errorf("empty name")
	}
	if len(name) > MaxLen {
		return fmt.Errorf("name of %d bytes: at most %d", len(name), MaxLen)
	}
	for i, r := range name {
		// A range yields RuneError for a byte that is not UTF-8, and for the character
		// U+FFFD itself, which is valid and three bytes long.
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(name[i:]); n == 1 {
				return fmt.Errorf("name %q: not UTF-8", name)
			}
		}
		if !unicode.IsPrint(r) {
			return fmt.Errorf("name %q: %q is not printable", name, r)
		}
	}
	return nil
}

// maxCached is the most names of a Cache. Programs use few names; the bound is for
// those that make up a name for each task.
const maxCached = 256

// Cache makes a V for each valid name, and keeps the first maxCached of them. It must
// be initialized by Init. A lookup of a cached name takes no lock.
type Cache[V any] struct {
	make func(name string) *V // written by Init
	// hot holds entries of known, each at a slot that its length and two of its bytes
	// choose. A slot is filled once. It makes a lookup of 17 ns one of 7, which is 3 to
	// 5 % of all that an empty task costs.
	hot   [16]atomic.Pointer[entry[V]]
	known atomic.Pointer[map[string]*V] // the map is never changed, only replaced; nil at first
	mu    sync.Mutex                    // held to replace known
}

type entry[V any] struct {
	name string
	v    *V
}

// Init sets the function that makes the values. It may be called more than once for a
// name, and at the same time, but all callers of Get are given the same value as long
// as the name is cached.
func (c *Cache[V]) Init(make func(name string) *V) { c.make = make }

// Get returns the value of name, or the error of Check. If the cache is full, a name that
// is not in it is given a new value each time.
func (c *Cache[V]) Get(name string) (*V, error) {
	// A name that is cached was checked when it was added: only its length is checked
	// here, because hot is indexed by it.
	n := len(name)
	if n == 0 || n > MaxLen {
		return nil, Check(name)
	}
	hot := &c.hot[(n+int(name[0])+int(name[n-1]))%len(c.hot)]
	if e := hot.Load(); e != nil && e.name == name {
		return e.v, nil
	}
	known := c.known.Load()
	if known != nil {
		if v := (*known)[name]; v != nil {
			// The first name keeps the slot: two that take turns in it would write it
			// at each lookup.
			if hot.Load() == nil {
				hot.Store(&entry[V]{name, v})
			}
			return v, nil
		}
	}
	if err := Check(name); err != nil {
		return nil, err
	}
	// Not under the lock: make may be slow. If it is called by another goroutine as
	// well, add decides which value is cached.
	v := c.make(name)
	if known == nil || len(*known) < maxCached {
		v = c.add(name, v)
	}
	return v, nil
}

// add caches v for name and returns it. If the name is cached already, it returns that
// value. If the cache is full, it returns v.
func (c *Cache[V]) add(name string, v *V) *V {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Copy the map: lookups read the current one without the lock.
	next := make(map[string]*V)
	if known := c.known.Load(); known != nil {
		if cached := (*known)[name]; cached != nil {
			return cached
		}
		if len(*known) >= maxCached {
			return v
		}
		maps.Copy(next, *known)
	}
	next[name] = v
	c.known.Store(&next)
	return v
}
