package redis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// persist is a hook of go-redis that repeats a command that stores the outcome of a job
// until its context ends, while Redis is away. asynq calls these commands, which are
// scripts, with the deadline of the job's lease, and no others with a deadline. Its own
// repetition does nothing in v0.26.0: the syncer repeats a command with a context that was
// canceled when the first try ended, so that each job that ended while Redis restarted
// would run again, minutes later.
//
// Only scripts are repeated. go-redis sets a new connection up with the same context and
// the same hooks: a HELLO that failed would be repeated on a connection that is lost, until
// the lease has ended, where a new connection is needed.
//
// persist also waits when Redis refuses another command, because its memory or its disk is
// full: asynq asks for the next job again at once, some ten thousand times a second.
type persist struct{}

const persistAgain = 100 * time.Millisecond

// pause waits before a command is repeated, and reports false if ctx ends first.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(persistAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (persist) DialHook(next goredis.DialHook) goredis.DialHook {
	return next
}

func (persist) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (persist) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if _, ok := ctx.Deadline(); !ok || !strings.HasPrefix(cmd.Name(), "eval") {
			if isRefused(err) {
				pause(ctx)
			}
			return err
		}
		for isAway(err) && pause(ctx) {
			err = next(ctx, cmd)
		}
		return err
	}
}

// away has the first words of the replies of a Redis that is starting, or that is being
// replaced by a replica.
var away = []string{"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "UNBLOCKED "}

// isAway reports whether Redis did not answer, or answered that it cannot serve yet.
func isAway(err error) bool {
	if err == nil || errors.Is(err, goredis.ErrClosed) {
		return false
	}
	var reply goredis.Error // may be wrapped
	return !errors.As(err, &reply) || slices.ContainsFunc(away, func(a string) bool { return strings.HasPrefix(reply.Error(), a) })
}

// isRefused reports whether Redis answered that it does not carry the command out.
func isRefused(err error) bool {
	var reply goredis.Error
	return errors.As(err, &reply) && !errors.Is(err, goredis.Nil) && !strings.HasPrefix(err.Error(), "NOSCRIPT ")
}
