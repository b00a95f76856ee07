package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// roll is who works in a data folder: each process holds the lock of a file of its own
// there for as long as it lives. The system takes the lock back however the process ends,
// so nobody who was killed is taken for one who works.
type roll struct {
	me     string
	others []string // who was there when this process came
	lock   *flock.Flock
	door   *flock.Flock // held while this process tidies up: one comes at a time
}

// theWeb is the name of the process that serves the customers. There is one: what it
// receives, and writes to the audit log, no other may touch.
const theWeb = "web"

const lockSuffix = ".lock"

// enter has the process in the folder; the next one comes in after settled.
func enter(ctx context.Context, dir string, serves bool) (_ *roll, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	r := &roll{me: "worker-" + rand.Text(), door: flock.New(filepath.Join(dir, "door"))}
	if serves {
		r.me = theWeb
	}
	r.lock = flock.New(filepath.Join(dir, r.me+lockSuffix))
	defer func() {
		if err != nil {
			err = fmt.Errorf("data folder: %w", errors.Join(err, r.leave()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := r.door.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("another process does not finish its start: %w", err)
	}
	switch free, err := r.lock.TryLock(); {
	case err != nil:
		return nil, err
	case !free:
		return nil, errors.New("another process serves this shop")
	}
	locks, err := filepath.Glob(filepath.Join(dir, "*"+lockSuffix))
	if err != nil {
		return nil, err
	}
	for _, path := range locks {
		name := strings.TrimSuffix(filepath.Base(path), lockSuffix)
		if name == r.me {
			continue
		}
		lock := flock.New(path)
		free, err := lock.TryLock()
		if err != nil {
			return nil, err
		}
		if !free {
			r.others = append(r.others, name)
			continue
		}
		// It has gone. Nobody else looks at the file: he would have to come in first.
		if err := errors.Join(lock.Unlock(), os.Remove(path)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// alone reports whether nobody else was there, so that whatever lies about is nobody's.
func (r *roll) alone() bool { return len(r.others) == 0 }

// settled lets the next process in.
func (r *roll) settled() error { return r.door.Unlock() }

// leave is for the end of the process. The file stays: to remove it is the next one's.
func (r *roll) leave() error { return errors.Join(r.lock.Unlock(), r.door.Unlock()) }
