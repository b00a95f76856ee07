//go:build unix

package rabbitmq_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/durabletest"
	"github.com/seed-2e639f12/tether/durable/rabbitmq"
)

// poisonEnv holds the role of a child process, as JSON.
const poisonEnv = "TETHER_RABBITMQ_POISON"

// poisonRole is what a child process works on.
type poisonRole struct {
	Address, Queue string
	MaxAttempts    int
	Together       bool // all jobs are in flight when the poisonous one ends the process
}

type poisonArgs struct{ Poison bool }

// poisonJob is a job that ends its process, or one that never fails.
func poisonJob(maxAttempts int, handle func(context.Context, poisonArgs) error) *durable.Job[poisonArgs] {
	return durable.Define("job", handle, durable.JobConfig{
		Timeout: time.Minute, MaxAttempts: maxAttempts, Backoff: func(int, error) time.Duration { return 10 * time.Millisecond },
	})
}

const poisonJobs = 10

// poisoned is the main function of a child process. It never returns.
func poisoned(encoded string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	var r poisonRole
	if err := json.Unmarshal([]byte(encoded), &r); err != nil {
		fail(err)
	}
	engine, err := rabbitmq.Config{Queue: r.Queue}.Dial(r.Address)
	if err != nil {
		fail(err)
	}
	var begun sync.WaitGroup
	begun.Add(poisonJobs)
	job := poisonJob(r.MaxAttempts, func(ctx context.Context, args poisonArgs) error {
		if r.Together {
			begun.Done()
			begun.Wait()
		}
		switch {
		case args.Poison:
			os.Exit(7)
		case r.Together:
			select {}
		}
		meta, _ := durable.MetaFrom(ctx)
		fmt.Println(meta.ID)
		return nil
	})
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	reg := tether.New(tether.Config{Logger: logger})
	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Concurrency: poisonJobs, Logger: logger}, job)
	if err != nil {
		fail(err)
	}
	if err := worker.Start(context.Background()); err != nil {
		fail(err)
	}
	select {}
}

func TestMain(m *testing.M) {
	if encoded := os.Getenv(poisonEnv); encoded != "" {
		poisoned(encoded)
	}
	durabletest.Main(m, fixture)
}

// One job ends the process each time. Nine are in flight at its first two crashes, and never
// fail. All nine are done, and the one is dead after its attempts.
func TestNeighborsOfAPoisonousJobSurvive(t *testing.T) {
	r := newRig(t)
	attempts := 3
	if n, err := strconv.Atoi(os.Getenv("POISON_ATTEMPTS")); err == nil {
		attempts = n
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*guard)
	defer cancel()
	job := poisonJob(attempts, func(context.Context, poisonArgs) error { return nil })
	poison, innocent := "", make(map[string]bool)
	for n := range poisonJobs {
		receipt, err := job.Enqueue(ctx, r.engine, poisonArgs{Poison: n == 4})
		require.NoError(t, err)
		if n == 4 {
			poison = receipt.ID
		} else {
			innocent[receipt.ID] = true
		}
	}
	executable, err := os.Executable()
	require.NoError(t, err)
	channel := r.channel()
	dead := func() bool {
		q, err := channel.QueueDeclarePassive(r.queue+".dead", true, false, false, false, amqp.Table{})
		require.NoError(t, err)
		return q.Messages > 0
	}
	done, crashes := make(map[string]int), 0
	var log bytes.Buffer
	for over := false; !over; {
		encoded, err := json.Marshal(poisonRole{r.server.Address(), r.queue, attempts, crashes < 2})
		require.NoError(t, err)
		child, stop := context.WithCancel(ctx)
		cmd := exec.CommandContext(child, executable)
		var out output
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), poisonEnv+"="+string(encoded)), &out, &log
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for gone := false; !gone; {
			select {
			case <-ended:
				gone = true
			case <-time.After(50 * time.Millisecond):
				if over = dead() && len(done)+lines(&out) >= poisonJobs-1; over {
					stop()
					<-ended
					gone = true
				}
			}
		}
		stop()
		require.NoError(t, ctx.Err(), "%s", log.String())
		for id := range strings.Lines(out.String()) {
			done[strings.TrimSpace(id)]++
		}
		if over {
			break
		}
		require.Equal(t, 7, cmd.ProcessState.ExitCode(), "%s", log.String())
		crashes++
	}
	for id := range innocent {
		assert.Positive(t, done[id], "innocent job %s", id)
	}
	d := r.get(channel, r.queue+".dead")
	assert.Equal(t, poison, d.MessageId)
	assert.Contains(t, d.Headers["tether-error"], "the process ended while it ran")
	assert.Contains(t, log.String(), `msg="durable: job failed for good" job=job id=`+poison)
	assert.Equal(t, 2+attempts, crashes, "two beside others, and its attempts")
	t.Logf("%d attempts: %d crashes, then the poisonous job was dead and the others were done", attempts, crashes)
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// lines returns the number of lines.
func lines(o *output) int { return strings.Count(o.String(), "\n") }
