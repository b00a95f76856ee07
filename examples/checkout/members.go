package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// membership is this process's place among those that use a data folder. Each holds the
// lock of a file of its own for as long as it lives. The system releases the lock however
// the process ends, so a process that was killed does not count as live.
type membership struct {
	name   string
	others []string // the live processes when this one joined
	lock   *flock.Flock
	entry  *flock.Flock // held while this process tidies up, so that one joins at a time
}

// theWeb is the name of the process that serves the customers. There is one, or there are the
// replicas of -replicas, whose names are web-1, web-2 and so on. Each works on its own uploads.
const theWeb = "web"

const lockSuffix = ".lock"

// join makes the process a member. replica is its number with -replicas, otherwise zero. The
// next process can join after admitNext.
func join(ctx context.Context, dir string, serves bool, replica int) (_ *membership, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	m := &membership{name: "worker-" + rand.Text(), entry: flock.New(filepath.Join(dir, "door"))}
	switch {
	case replica != 0:
		m.name = fmt.Sprint(theWeb, "-", replica)
	case serves:
		m.name = theWeb
	}
	m.lock = flock.New(filepath.Join(dir, m.name+lockSuffix))
	defer func() {
		if err != nil {
			err = fmt.Errorf("data folder: %w", errors.Join(err, m.leave()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := m.entry.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("another process does not finish its start: %w", err)
	}
	switch free, err := m.lock.TryLock(); {
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
		if name == m.name {
			continue
		}
		lock := flock.New(path)
		free, err := lock.TryLock()
		if err != nil {
			return nil, err
		}
		if !free {
			m.others = append(m.others, name)
			if isReplica := strings.HasPrefix(name, theWeb+"-"); serves && (name == theWeb || isReplica && replica == 0) {
				return nil, errors.New("another process serves this shop")
			}
			continue
		}
		// That process has ended. No other looks at the file: it would have to join first.
		if err := errors.Join(lock.Unlock(), os.Remove(path)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// colleagues reports whether other processes serve customers, too.
func (m *membership) colleagues() bool {
	return slices.ContainsFunc(m.others, func(name string) bool { return strings.HasPrefix(name, theWeb) })
}

// alone reports whether there were no other members, so that unfinished files are in use by
// none.
func (m *membership) alone() bool { return len(m.others) == 0 }

// admitNext lets the next process join.
func (m *membership) admitNext() error { return m.entry.Unlock() }

// leave is called at the end of the process. The file stays, for the next process to remove.
func (m *membership) leave() error { return errors.Join(m.lock.Unlock(), m.entry.Unlock()) }
