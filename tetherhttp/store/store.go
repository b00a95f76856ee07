// Package store is what a shared store must do, for a service of several replicas in which any
// one answers for a task of any other: see tetherhttp.Store. The engines of package durable have
// one each, except for RabbitMQ, which keeps no state. Another implementation should pass the
// contract of package storetest.
package store

import (
	"context"
	"errors"
	"time"
)

// ErrConflict is the error of [Backend].Swap and Delete if the record is not the one that the
// caller has seen.
var ErrConflict = errors.New("store: the record has changed")

// Backend stores small records, each until its time is over, and the leases of their owners. It
// does not know what the records mean.
//
// All times are measured by the store's own clock, so that the replicas' clocks need not agree.
// A method returns soon after its context is done. After an error other than ErrConflict the
// change may have been made all the same; the caller finds out by the record's Tag. Methods are
// safe for concurrent use, in many processes: each acts as if it happened at one instant.
type Backend interface {
	// Get returns the records with these keys, in any order. A key without a record is left out.
	Get(ctx context.Context, keys ...string) ([]Record, error)
	// Swap stores r, if the record with its key has the tag was, or if there is none and was is
	// empty. Otherwise it returns ErrConflict.
	Swap(ctx context.Context, was string, r Record) error
	// Delete removes the record with this key and the tag was. It returns ErrConflict if there is
	// none.
	Delete(ctx context.Context, key, was string) error
	// Renew makes the owner's lease end after this time, counted from now, whether it has one
	// already or not. It returns the keys of the records of this owner that are Asked.
	Renew(ctx context.Context, owner string, lease time.Duration) (asked []string, err error)
}

// Record is what a [Backend] stores under a key.
type Record struct {
	// Key is valid UTF-8 of 1 to 400 bytes, without control characters.
	Key string
	// Tag is of this version of the record. The caller makes it, and none twice. It has 1 to 64
	// bytes of letters, digits, '-' and '_'; so has an Owner.
	Tag string
	// Owner is the process that the record waits for. It is empty if there is none.
	Owner string
	// Asked is a request to the owner, of whoever has swapped the record.
	Asked bool
	// Version is the format of Data.
	Version int
	// Data is what the record says. A store takes 4 MiB at least.
	Data []byte
	// Keep is how long the record exists, counted from the Swap: it is gone no earlier, and
	// cannot be seen later. Get need not set it.
	Keep time.Duration
	// Orphaned is set by Get, if the record has an owner without a lease that lasts.
	Orphaned bool
}
