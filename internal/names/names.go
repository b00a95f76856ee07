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
	known atomic.Pointer[map[string]*V] // never changed, only replaced
	mu    sync.Mutex                    // held to replace it
}

// Init gives the cache the function that makes the Vs.
func (c *Cache[V]) Init(make func(name string) *V) { c.make = make }

// Get returns the name's V, or what is wrong with the name.
func (c *Cache[V]) Get(name string) (*V, error) {
	known := c.known.Load()
	if known != nil {
		if v := (*known)[name]; v != nil {
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
