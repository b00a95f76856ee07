package storetest

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// Memory is a [store.Backend] in memory, for tests of several replicas in one process. It
// works in a bubble of package testing/synctest. [NewMemory] makes it.
type Memory struct {
	mu      sync.Mutex
	records map[string]kept           // guarded by mu
	leases  map[string]time.Time      // when the lease of an owner ends; guarded by mu
	fault   func(method string) error // guarded by mu
	calls   map[string]int            // of each method; guarded by mu
}

// kept is a record with its end.
type kept struct {
	store.Record
	until time.Time
}

var _ store.Backend = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{records: make(map[string]kept), leases: make(map[string]time.Time), calls: make(map[string]int)}
}

// Fail makes each call, from now on, begin with a call of fault, which is given the name of the
// method: "Get", "Swap", "Delete" or "Renew". If it returns an error, the call returns it, and
// has done nothing. Nil ends that.
func (m *Memory) Fail(fault func(method string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// Calls returns how often a method was called.
func (m *Memory) Calls(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

// Clear removes all records and leases, as a store does that has lost its data.
func (m *Memory) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.records)
	clear(m.leases)
}

// begin begins a call. If it returns no error, the caller has the lock.
func (m *Memory) begin(ctx context.Context, method string) error {
	m.mu.Lock()
	fault := m.fault
	m.calls[method]++
	m.mu.Unlock()
	if fault != nil {
		if err := fault(method); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	return nil
}

// Get implements [store.Backend].
func (m *Memory) Get(ctx context.Context, keys ...string) ([]store.Record, error) {
	if err := m.begin(ctx, "Get"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var found []store.Record
	for _, key := range keys {
		if r, ok := m.find(key); ok {
			r.Data = bytes.Clone(r.Data)
			r.Orphaned = r.Owner != "" && !m.leases[r.Owner].After(time.Now())
			found = append(found, r)
		}
	}
	return found, nil
}

// find returns a record that exists. The caller has the lock.
func (m *Memory) find(key string) (store.Record, bool) {
	k, ok := m.records[key]
	if ok && !k.until.After(time.Now()) {
		delete(m.records, key)
		return store.Record{}, false
	}
	return k.Record, ok
}

// Swap implements [store.Backend].
func (m *Memory) Swap(ctx context.Context, was string, r store.Record) error {
	if err := m.begin(ctx, "Swap"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if old, ok := m.find(r.Key); ok != (was != "") || old.Tag != was {
		return store.ErrConflict
	}
	r.Data = bytes.Clone(r.Data)
	m.records[r.Key] = kept{r, time.Now().Add(r.Keep)}
	return nil
}

// Delete implements [store.Backend].
func (m *Memory) Delete(ctx context.Context, key, was string) error {
	if err := m.begin(ctx, "Delete"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if old, ok := m.find(key); !ok || old.Tag != was {
		return store.ErrConflict
	}
	delete(m.records, key)
	return nil
}

// Renew implements [store.Backend].
func (m *Memory) Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error) {
	if err := m.begin(ctx, "Renew"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	m.leases[owner] = time.Now().Add(lease)
	for key := range m.records {
		if r, ok := m.find(key); ok && r.Owner == owner && r.Asked {
			asked = append(asked, key)
		}
	}
	return asked, nil
}
