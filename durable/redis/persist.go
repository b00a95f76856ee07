package redis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// persist is a hook of go-redis that repeats a command which has a deadline until then,
// while Redis is away. asynq gives one, that of the job's lease, to the commands alone that
// store what came of a job. What it does itself when these fail is in vain in v0.26.0: its
// syncer repeats them with a context that was cancelled when the first try ended, so that
// each job that ends while Redis restarts would run again, minutes later.
//
// It also takes its time when Redis refuses another command, since its memory or its disk
// is full, say: asynq asks for the next job again at once, some ten thousand times a second.
type persist struct{}

const persistAgain = 100 * time.Millisecond

func (persist) DialHook(next goredis.DialHook) goredis.DialHook {
	return next
}

func (persist) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (persist) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if _, ok := ctx.Deadline(); !ok {
			if isRefused(err) {
				select {
				case <-ctx.Done():
				case <-time.After(persistAgain):
				}
			}
			return err
		}
		for isAway(err) {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(persistAgain):
			}
			err = next(ctx, cmd)
		}
		return err
	}
}

// away begins the replies of a Redis that starts, or in which another one takes over.
var away = []string{"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN "}

// isAway tells whether Redis has not answered, or only that it cannot yet.
func isAway(err error) bool {
	if err == nil || errors.Is(err, goredis.ErrClosed) {
		return false
	}
	var reply goredis.Error
	return !errors.As(err, &reply) || slices.ContainsFunc(away, func(a string) bool { return strings.HasPrefix(err.Error(), a) })
}

// isRefused tells whether Redis has answered that it does not do it.
func isRefused(err error) bool {
	var reply goredis.Error
	return errors.As(err, &reply) && !errors.Is(err, goredis.Nil) && !strings.HasPrefix(err.Error(), "NOSCRIPT ")
}
