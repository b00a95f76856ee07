package redis

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

func TestVersionsBefore62AreTooOld(t *testing.T) {
	assert.Equal(t, "7.0.15", versionOf("# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:00000000\r\n"))
	assert.Empty(t, versionOf(""))
	for version, old := range map[string]bool{
		"": false, "x": false, "7": false, "2.8.19": true, "6.0.16": true, "6.2.0": false, "6.10.1": false, "7.0.15": false, "10.0": false,
	} {
		assert.Equal(t, old, tooOld(version), version)
	}
}

func TestAsynqCannotEndTheProcess(t *testing.T) {
	var out bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.Debug("a", 1)
	l.Info("b")
	l.Warn("c")
	l.Error("d")
	l.Fatal("e")
	assert.Equal(t, 5, bytes.Count(out.Bytes(), []byte("\n")))
	assert.Contains(t, out.String(), "level=ERROR msg=\"durable: asynq\" message=e")
	assert.Contains(t, out.String(), "message=a1")
}

func TestAsynqSaysTheSameOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLogger(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func() int { return bytes.Count(out.Bytes(), []byte("\n")) }
		for range 10 {
			l.Error("cannot forward")
			l.Error("cannot dequeue")
		}
		assert.Equal(t, 2, lines())
		time.Sleep(logAgain)
		l.Error("cannot forward")
		assert.Equal(t, 3, lines())
		for i := range 10 * logKept {
			l.Error("task", i)
		}
		assert.Equal(t, 3+10*logKept, lines())
		assert.LessOrEqual(t, len(l.last), logKept)
	})
}

type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

// asynq asks for a job again at once, however often it is refused.
func TestWhatRedisRefusesIsNotAskedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for answer, pause := range map[error]time.Duration{
			nil: 0, goredis.Nil: 0, reply("NOSCRIPT No matching script"): 0, errors.New("connection refused"): 0, // go-redis waits itself
			reply("OOM command not allowed"): persistAgain, reply("MISCONF Redis is configured to save"): persistAgain, reply("NOPERM"): persistAgain,
		} {
			began := time.Now()
			err := persist{}.ProcessHook(func(context.Context, goredis.Cmder) error { return answer })(context.Background(), goredis.NewCmd(context.Background(), "evalsha"))
			assert.Equal(t, answer, err)
			assert.Equal(t, pause, time.Since(began), "%v", answer)
		}
	})
}

// Only outcomes have a deadline, that of the job's lease.
func TestOutcomesAreRepeatedWhileRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		try := func(command string, answer error, back time.Duration) (took time.Duration, err error) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			err = persist{}.ProcessHook(func(context.Context, goredis.Cmder) error {
				if time.Since(began) < back {
					return answer
				}
				return nil
			})(ctx, goredis.NewCmd(ctx, command))
			return time.Since(began), err
		}
		for _, answer := range []error{
			errors.New("connection refused"), reply("LOADING Redis is loading"), reply("READONLY You can't write against a read only replica."),
			reply("MASTERDOWN Link with MASTER is down"), reply("CLUSTERDOWN The cluster is down"),
		} {
			took, err := try("evalsha", answer, 10*time.Second)
			assert.NoError(t, err, "%v", answer)
			assert.Equal(t, 10*time.Second, took)
			took, err = try("evalsha", answer, time.Hour)
			assert.Equal(t, answer, err)
			assert.Equal(t, 30*time.Second, took, "the lease is over: another worker may have the job")
		}
		for _, answer := range []error{goredis.ErrClosed, reply("OOM command not allowed"), reply("NOT FOUND")} {
			took, err := try("evalsha", answer, time.Hour)
			assert.Equal(t, answer, err)
			assert.Zero(t, took)
		}
		for _, command := range []string{"hello", "client", "select"} { // that set a new connection up
			took, err := try(command, errors.New("connection reset by peer"), time.Hour)
			assert.Error(t, err)
			assert.Zero(t, took, command)
		}
		took, err := try("eval", errors.New("connection reset by peer"), time.Second)
		assert.NoError(t, err, "a script that Redis has forgotten is sent in full")
		assert.Equal(t, time.Second, took)
	})
}
