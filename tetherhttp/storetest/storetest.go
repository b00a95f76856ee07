// Package storetest is the contract of a [store.Backend] as tests, and such a store in memory.
//
//	func TestStore(t *testing.T) {
//		storetest.Contract(t, func(t *testing.T) store.Backend { return open(t) })
//	}
//
// It takes a few seconds: the shortest times that it uses are those at which a store may be
// asked to forget something.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

const (
	long  = time.Hour              // what ends after the test
	short = 200 * time.Millisecond // what ends during it
	guard = time.Minute            // against hanging
	poll  = 20 * time.Millisecond
)

// Contract tests a store. open is called by each test, and returns the same store each time, as
// a replica of its own if the store can do so; it may leave what others have stored. open closes
// what it has opened at the end of the test.
func Contract(t *testing.T, open func(t *testing.T) store.Backend) {
	for name, test := range map[string]func(*testing.T, *suite){
		"a record is what was stored":                    record,
		"a swap needs the tag that is there":             swap,
		"a record is gone when its time is over":         expiry,
		"many keys at once":                              many,
		"of many that create a record one does":          create,
		"of many that change a record each does once":    change,
		"a record without a lease is orphaned":           leases,
		"an owner is told what it is asked":              asked,
		"what is done is seen by another replica":        replicas,
		"a call ends with its context":                   ends,
		"a large record":                                 large,
		"keys that differ little, and what needs quotes": keys,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), guard)
			t.Cleanup(cancel)
			test(t, &suite{T: t, ctx: ctx, open: open, Backend: open(t)})
		})
	}
}

// suite is one test's view of the store.
type suite struct {
	*testing.T
	ctx  context.Context
	open func(t *testing.T) store.Backend
	store.Backend
}

// random returns a text that no other call has returned.
func random() string { return rand.Text() }

// record returns a record with a key and a tag of its own.
func (s *suite) record() store.Record {
	return store.Record{Key: "test/" + random(), Tag: random(), Version: 1, Data: []byte("{}"), Keep: long}
}

// must ends the test if there is an error.
func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// conflict ends the test if the error is not a conflict.
func (s *suite) conflict(err error) {
	s.Helper()
	if !errors.Is(err, store.ErrConflict) {
		s.Fatalf("%v, and not a conflict", err)
	}
}

// get returns a record.
func (s *suite) get(key string) (store.Record, bool) {
	s.Helper()
	found, err := s.Get(s.ctx, key)
	s.must(err)
	switch {
	case len(found) > 1:
		s.Fatalf("%d records with one key", len(found))
	case len(found) == 1 && found[0].Key != key:
		s.Fatalf("%q was asked for, and is %q", key, found[0].Key)
	case len(found) == 1:
		return found[0], true
	}
	return store.Record{}, false
}

// is checks that a record is stored as it is.
func (s *suite) is(want store.Record) {
	s.Helper()
	got, ok := s.get(want.Key)
	if !ok {
		s.Fatalf("%q does not exist", want.Key)
	}
	got.Keep, got.Orphaned = want.Keep, want.Orphaned
	if got.Key != want.Key || got.Tag != want.Tag || got.Owner != want.Owner || got.Asked != want.Asked ||
		got.Version != want.Version || !bytes.Equal(got.Data, want.Data) {
		s.Fatalf("%+v was stored, and is %+v", want, got)
	}
}

// until waits for something to happen.
func (s *suite) until(what string, happened func() bool) {
	s.Helper()
	for !happened() {
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s: it did not happen", what)
		case <-time.After(poll):
		}
	}
}

func record(t *testing.T, s *suite) {
	r := s.record()
	if _, ok := s.get(r.Key); ok {
		t.Fatal("it exists already")
	}
	r.Owner, r.Asked, r.Version, r.Data = random(), true, 7, []byte("\x00\xff{\"a\":'b'}\n")
	s.must(s.Swap(s.ctx, "", r))
	s.is(r)
	was := r.Tag
	r.Tag, r.Owner, r.Asked, r.Version, r.Data = random(), "", false, 1<<30, nil
	s.must(s.Swap(s.ctx, was, r))
	s.is(r)
	s.must(s.Delete(s.ctx, r.Key, r.Tag))
	if _, ok := s.get(r.Key); ok {
		t.Fatal("it was deleted")
	}
	r.Tag = random()
	s.must(s.Swap(s.ctx, "", r))
	s.is(r)
}

func swap(_ *testing.T, s *suite) {
	r := s.record()
	s.conflict(s.Swap(s.ctx, random(), r))
	s.conflict(s.Delete(s.ctx, r.Key, r.Tag))
	s.must(s.Swap(s.ctx, "", r))
	other := r
	other.Tag, other.Data = random(), []byte("other")
	s.conflict(s.Swap(s.ctx, "", other))
	s.conflict(s.Swap(s.ctx, random(), other))
	s.conflict(s.Delete(s.ctx, r.Key, random()))
	s.conflict(s.Delete(s.ctx, r.Key, ""))
	s.is(r)
	s.must(s.Swap(s.ctx, r.Tag, other))
	s.conflict(s.Swap(s.ctx, r.Tag, r)) // again, as after an answer that was lost
	s.conflict(s.Delete(s.ctx, r.Key, r.Tag))
	s.is(other)
}

func expiry(t *testing.T, s *suite) {
	r, stays := s.record(), s.record()
	r.Keep = short
	s.must(s.Swap(s.ctx, "", r))
	s.must(s.Swap(s.ctx, "", stays))
	s.until("the record's end", func() bool { _, there := s.get(r.Key); return !there })
	s.conflict(s.Swap(s.ctx, r.Tag, r))
	s.conflict(s.Delete(s.ctx, r.Key, r.Tag))
	was := r.Tag
	r.Tag, r.Keep = random(), long
	s.conflict(s.Swap(s.ctx, was, r))
	s.must(s.Swap(s.ctx, "", r))
	s.is(r)
	s.is(stays)

	// A swap begins the time again, and may shorten it.
	was = stays.Tag
	stays.Tag, stays.Keep = random(), short
	s.must(s.Swap(s.ctx, was, stays))
	s.until("the record's new end", func() bool { _, there := s.get(stays.Key); return !there })
	s.is(r)
	if found, err := s.Get(s.ctx, stays.Key, r.Key); err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
}

func many(t *testing.T, s *suite) {
	want := make(map[string]string)
	var all []string
	for range 150 {
		r := s.record()
		s.must(s.Swap(s.ctx, "", r))
		want[r.Key] = r.Tag
		all = append(all, r.Key, "test/none-"+random())
	}
	found, err := s.Get(s.ctx, all...)
	s.must(err)
	if len(found) != len(want) {
		t.Fatalf("%d records of %d", len(found), len(want))
	}
	for _, r := range found {
		if want[r.Key] != r.Tag {
			t.Errorf("%q is %+v", r.Key, r)
		}
	}
	if found, err := s.Get(s.ctx); err != nil || len(found) != 0 {
		t.Fatalf("without a key: %v, %v", found, err)
	}
}

func create(t *testing.T, s *suite) {
	for range 5 {
		first := s.record()
		var mu sync.Mutex
		var won []string
		var racers sync.WaitGroup
		for range 10 {
			racers.Go(func() {
				r := first
				r.Tag = random()
				switch err := s.Swap(s.ctx, "", r); {
				case err == nil:
					mu.Lock()
					won = append(won, r.Tag)
					mu.Unlock()
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
				}
			})
		}
		racers.Wait()
		if len(won) != 1 {
			t.Fatalf("%d have created it", len(won))
		}
		first.Tag = won[0]
		s.is(first)
	}
}

func change(t *testing.T, s *suite) {
	r := s.record()
	r.Data = nil
	s.must(s.Swap(s.ctx, "", r))
	const racers, rounds = 5, 4
	var all sync.WaitGroup
	for i := range racers {
		all.Go(func() {
			for range rounds {
				for {
					found, err := s.Get(s.ctx, r.Key)
					if err != nil || len(found) != 1 {
						t.Error(found, err)
						return
					}
					now := found[0]
					was := now.Tag
					now.Tag, now.Keep, now.Data = random(), long, append(now.Data, byte('a'+i))
					if err = s.Swap(s.ctx, was, now); err == nil {
						break
					}
					if !errors.Is(err, store.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	now, _ := s.get(r.Key)
	for i := range racers {
		if n := strings.Count(string(now.Data), string(rune('a'+i))); n != rounds {
			t.Errorf("%d of %d changes of %d are there: %s", n, rounds, i, now.Data)
		}
	}
}

func leases(t *testing.T, s *suite) {
	owner := random()
	r, free := s.record(), s.record()
	r.Owner = owner
	s.must(s.Swap(s.ctx, "", r))
	s.must(s.Swap(s.ctx, "", free))
	if now, _ := s.get(r.Key); !now.Orphaned {
		t.Error("its owner never had a lease")
	}
	_, err := s.Renew(s.ctx, owner, long)
	s.must(err)
	if now, _ := s.get(r.Key); now.Orphaned {
		t.Error("its owner has a lease")
	}
	if now, _ := s.get(free.Key); now.Orphaned {
		t.Error("it has no owner")
	}
	_, err = s.Renew(s.ctx, owner, short) // the last one counts
	s.must(err)
	s.until("the lease's end", func() bool { now, _ := s.get(r.Key); return now.Orphaned })
	s.is(r)
	_, err = s.Renew(s.ctx, owner, long)
	s.must(err)
	if now, _ := s.get(r.Key); now.Orphaned {
		t.Error("its owner has a lease again")
	}
	was := r.Tag
	r.Tag, r.Owner = random(), random()
	s.must(s.Swap(s.ctx, was, r))
	if now, _ := s.get(r.Key); !now.Orphaned {
		t.Error("its new owner has no lease")
	}
}

func asked(t *testing.T, s *suite) {
	owner, other := random(), random()
	is := func(owner string, want ...string) {
		t.Helper()
		got, err := s.Renew(s.ctx, owner, long)
		s.must(err)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("it is told of %q, and not %q", got, want)
		}
	}
	is(owner)
	a, b, c := s.record(), s.record(), s.record()
	a.Owner, b.Owner, c.Owner = owner, owner, other
	b.Asked, c.Asked = true, true
	for _, r := range []store.Record{a, b, c} {
		s.must(s.Swap(s.ctx, "", r))
	}
	is(owner, b.Key)
	is(owner, b.Key) // until it is no longer asked
	is(other, c.Key)
	ask := func(r *store.Record, asked bool) {
		was := r.Tag
		r.Tag, r.Asked = random(), asked
		s.must(s.Swap(s.ctx, was, *r))
	}
	ask(&a, true)
	is(owner, a.Key, b.Key)
	ask(&b, false)
	is(owner, a.Key)
	was := a.Tag
	a.Tag, a.Owner = random(), other // asked still
	s.must(s.Swap(s.ctx, was, a))
	is(owner)
	is(other, a.Key, c.Key)
	s.must(s.Delete(s.ctx, a.Key, a.Tag))
	is(other, c.Key)
	was = c.Tag
	c.Tag, c.Keep = random(), short
	s.must(s.Swap(s.ctx, was, c))
	s.until("the record's end", func() bool { _, there := s.get(c.Key); return !there })
	is(other)
	is(random())
}

func replicas(t *testing.T, s *suite) {
	other := &suite{T: t, ctx: s.ctx, open: s.open, Backend: s.open(t)}
	r := s.record()
	r.Owner = random()
	s.must(s.Swap(s.ctx, "", r))
	other.is(r)
	if now, _ := other.get(r.Key); !now.Orphaned {
		t.Error("no lease")
	}
	_, err := other.Renew(other.ctx, r.Owner, long)
	s.must(err)
	if now, _ := s.get(r.Key); now.Orphaned {
		t.Error("it has a lease")
	}
	was := r.Tag
	r.Tag, r.Data = random(), []byte("other")
	s.must(other.Swap(other.ctx, was, r))
	s.is(r)
	s.conflict(s.Delete(s.ctx, r.Key, was))
	s.must(s.Delete(s.ctx, r.Key, r.Tag))
	other.conflict(other.Delete(other.ctx, r.Key, r.Tag))
}

func ends(t *testing.T, s *suite) {
	r := s.record()
	s.must(s.Swap(s.ctx, "", r))
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	other := r
	other.Tag = random()
	_, getErr := s.Get(ctx, r.Key)
	_, renewErr := s.Renew(ctx, random(), long)
	for call, err := range map[string]error{
		"Get": getErr, "Renew": renewErr, "Swap": s.Swap(ctx, r.Tag, other), "Delete": s.Delete(ctx, r.Key, r.Tag),
	} {
		if err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v", call, err)
		}
	}
	s.is(r) // nothing was sent
}

func large(_ *testing.T, s *suite) {
	r := s.record()
	r.Data = bytes.Repeat([]byte("\x00\x01\x02\xff"), 1<<20)
	s.must(s.Swap(s.ctx, "", r))
	s.is(r)
	was := r.Tag
	r.Tag, r.Data = random(), []byte("small")
	s.must(s.Swap(s.ctx, was, r))
	s.is(r)
}

func keys(_ *testing.T, s *suite) {
	var all []store.Record
	base := random()
	for i, key := range []string{
		"a", "A", "a ", " a", "ä", "a\u0308", "a'b", `a"b`, `a\b`, "a%", "a_", "a*", "a?", "{a}", "a:b", "a;--", strings.Repeat("x", 360),
	} {
		r := s.record()
		r.Key, r.Data = base+key, fmt.Append(nil, i)
		s.must(s.Swap(s.ctx, "", r))
		all = append(all, r)
	}
	for _, r := range all {
		s.is(r)
	}
}
