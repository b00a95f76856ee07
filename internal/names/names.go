// Package names checks names and keeps what is made for each of them.
package names

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// MaxLen is how many bytes a name may have.
const MaxLen = 128

// Check returns nil for a name of 1 to MaxLen bytes of printable UTF-8: letters,
// marks, digits, punctuation, symbols, and the space.
func Check(name string) error {
	if name == "" {
		return fmt.Errorf("empty name")
	}
	if len(name) > MaxLen {
		return fmt.Errorf("name of %d bytes: at most %d", len(name), MaxLen)
	}
	for i, r := range name {
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

// maxCached bounds a Cache: programs use few names, and what a program makes up
// for each task must not pile up.
const maxCached = 256

// Cache makes a V for each valid name, and keeps the first few. Lookups take no
// lock.
type Cache[V any] struct {
	make  func(name string) *V
	hot   [16]atomic.Pointer[entry[V]]  // some of known, in front of the map
	known atomic.Pointer[map[string]*V] // never changed, only replaced
	mu    sync.Mutex                    // held to replace it
}

type entry[V any] struct {
	name string
	v    *V
}

// Init gives the cache the function that makes the Vs. More than one may be made
// for a name, but only one is kept.
func (c *Cache[V]) Init(make func(name string) *V) { c.make = make }

// Get returns the name's V, or what is wrong with the name.
func (c *Cache[V]) Get(name string) (*V, error) {
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
			if hot.Load() == nil { // the first stays: two that take turns would only write
				hot.Store(&entry[V]{name, v})
			}
			return v, nil
		}
	}
	if err := Check(name); err != nil {
		return nil, err
	}
	v := c.make(name)
	if known == nil || len(*known) < maxCached {
		v = c.add(name, v)
	}
	return v, nil
}

// add returns what is kept for the name: v, unless there is one or no room.
func (c *Cache[V]) add(name string, v *V) *V {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := make(map[string]*V)
	if known := c.known.Load(); known != nil {
		if kept := (*known)[name]; kept != nil {
			return kept
		}
		if len(*known) >= maxCached {
			return v
		}
		maps.Copy(more, *known)
	}
	more[name] = v
	c.known.Store(&more)
	return v
}
