package tether

import "slices"

// order is the order in which the tasks of a queue start: first in, first out, with two
// exceptions. A task steps aside while its Serial key is at its bound. A task that is too heavy for what is left of the capacity stops the order until
// there is room, so that light tasks do not overtake it forever.
//
// All of it is guarded by the queue's lock. Another rule, such as priorities or fair
// shares, is a change of this file.
type order struct {
	// Written once, and read by submitters: kept off the cache lines that are written.
	_        [64]byte
	capacity int64 // of weight; 0 means no bound
	perKey   int   // tasks of one Serial key that may run at once
	_        [64]byte

	head, tail   *node                 // the tasks that are next, linked by next
	keys         map[string]*serialKey // of live tasks
	weight, used int64                 // of live tasks, and of those that run
	aborted      int                   // aborted tasks that are listed still; an estimate, since it only decides when to sweep
}

// serialKey is the state of one Serial key.
type serialKey struct {
	live    int     // tasks that reserved a place and have not ended
	active  int     // tasks that run, or wait for their next attempt
	waiting []*Task // tasks that stepped aside, oldest first
}

// weightOf returns what a task with these options weighs.
func (o *order) weightOf(opts *options) int64 {
	switch {
	case o.capacity == 0:
		return 0
	case opts == nil || !opts.weighted:
		return 1
	}
	return opts.weight
}

// couldStart reports whether nothing but a free worker is missing for a task with these
// options, as far as its weight and key are concerned.
func (o *order) couldStart(opts *options) bool {
	if o.capacity > 0 && o.weightOf(opts) > o.capacity-o.weight {
		return false
	}
	if opts == nil || opts.serial == "" {
		return true
	}
	k := o.keys[opts.serial]
	return k == nil || k.live < o.perKey
}

// reserve counts a task that is about to be submitted.
func (o *order) reserve(opts *options) {
	o.weight += o.weightOf(opts)
	if opts == nil || opts.serial == "" {
		return
	}
	k := o.keys[opts.serial]
	if k == nil {
		if o.keys == nil {
			o.keys = make(map[string]*serialKey)
		}
		k = new(serialKey)
		o.keys[opts.serial] = k
	}
	k.live++
}

// unreserve undoes reserve when a task has ended, or was not made. If that lets tasks of
// its key start, they are listed again.
func (o *order) unreserve(opts *options) {
	o.weight -= o.weightOf(opts)
	if opts == nil || opts.serial == "" {
		return
	}
	k := o.keys[opts.serial]
	k.live--
	if opts.active {
		opts.active = false
		k.active--
	}
	for len(k.waiting) > 0 && k.active < o.perKey {
		t := k.waiting[0]
		k.waiting[0], k.waiting = nil, k.waiting[1:]
		if t.has(aborting) {
			o.aborted--
			continue
		}
		t.opts().active = true
		k.active++
		o.insert(t)
	}
	if k.live == 0 {
		delete(o.keys, opts.serial)
	}
}

// push appends a chain of tasks, linked by next.
func (o *order) push(first, last *node) {
	if o.tail == nil {
		o.head = first
	} else {
		o.tail.next = first
	}
	o.tail = last
}

// insert puts a task that stepped aside in front of the first one that was submitted
// after it: it has waited longer than most.
func (o *order) insert(t *Task) {
	at := &o.head
	for *at != nil && (*at).slot.Number() <= t.slot.Number() {
		at = &(*at).next
	}
	t.next, *at = *at, (*node)(t)
	if t.next == nil {
		o.tail = (*node)(t)
	}
}

// pop removes the first task from the list; nil if there is none.
func (o *order) pop() *Task {
	n := o.head
	if n == nil {
		return nil
	}
	o.head, n.next = n.next, nil // or a finished task would keep all later ones alive
	if o.head == nil {
		o.tail = nil
	}
	return (*Task)(n)
}

// next removes the next task from the list and counts it as running. It returns nil and
// false if there is none, nil and true if the first one has to wait for room.
func (o *order) next() (t *Task, stalled bool) {
	for o.head != nil {
		t := (*Task)(o.head)
		if t.has(aborting) {
			o.pop()
			o.aborted--
			continue
		}
		if o.capacity == 0 && t.extra.Load() == nil {
			return o.pop(), false // it has neither a weight nor a key
		}
		opts := t.opts()
		weight := o.weightOf(opts)
		if weight > o.capacity-o.used {
			return nil, true
		}
		o.pop()
		if opts.serial != "" && !opts.active {
			k := o.keys[opts.serial]
			if k.active >= o.perKey {
				k.waiting = append(k.waiting, t)
				continue
			}
			k.active++
			opts.active = true
		}
		o.used += weight
		return t, false
	}
	return nil, false
}

// ran counts a task that next has returned as no longer running.
func (o *order) ran(opts *options) { o.used -= o.weightOf(opts) }

// oldest removes the task that was listed first and can be aborted, those that stepped
// aside included; nil if there is none.
func (o *order) oldest() *Task {
	front := o.pop()
	for front != nil && !front.abortable() {
		o.aborted--
		front = o.pop()
	}
	var first *serialKey
	for _, k := range o.keys {
		k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool { return !t.abortable() })
		if len(k.waiting) > 0 && (first == nil || k.waiting[0].slot.Number() < first.waiting[0].slot.Number()) {
			first = k
		}
	}
	if first == nil || front != nil && front.slot.Number() < first.waiting[0].slot.Number() {
		return front
	}
	if front != nil {
		front.next, o.head = o.head, (*node)(front)
		if front.next == nil {
			o.tail = (*node)(front)
		}
	}
	t := first.waiting[0]
	first.waiting = slices.Delete(first.waiting, 0, 1)
	return t
}

// sweep removes aborted tasks, of which the list could otherwise hold any number while
// nothing is taken from it.
func (o *order) sweep() {
	o.aborted = 0
	var kept order
	for t := o.pop(); t != nil; t = o.pop() {
		if !t.has(aborting) {
			kept.push((*node)(t), (*node)(t))
		}
	}
	o.head, o.tail = kept.head, kept.tail
	for _, k := range o.keys {
		k.waiting = slices.DeleteFunc(k.waiting, func(t *Task) bool { return t.has(aborting) })
	}
}
