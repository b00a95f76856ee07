package tether

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

type familyKey string

// familyObserver gives each body a context of its own, as one that traces does.
type familyObserver struct{ NopObserver }

func (familyObserver) TaskStarted(ctx context.Context, t *Task) context.Context {
	return context.WithValue(ctx, familyKey("span"), t)
}

// member is a task of a family, with what its context must have.
type member struct {
	task *Task
	ctx  context.Context // the body's
	end  chan struct{}
	want map[familyKey]string
}

// In random families, whose members submit each other with their own contexts or with
// derived ones, to registries with and without an observer, and end in any order, each
// living task has all values of the contexts that it was submitted with, and a finished
// one refers to nothing.
func TestT4_ValuesInRandomFamilies(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		regs := []*Registry{New(Config{Logger: quiet}), New(Config{Logger: quiet, Observer: familyObserver{}}), New(Config{Logger: quiet, Observer: familyObserver{}})}
		var live, ended []*member
		submit := func(ctx context.Context, want map[familyKey]string) {
			m := &member{end: make(chan struct{}), want: make(map[familyKey]string)}
			maps.Copy(m.want, want)
			if n := len(live) + len(ended); random.IntN(2) == 0 {
				key, value := familyKey(fmt.Sprint("key ", n)), fmt.Sprint("value ", n)
				ctx = context.WithValue(ctx, key, value)
				m.want[key] = value
			}
			begun := make(chan struct{})
			var err error
			m.task, err = regs[random.IntN(len(regs))].Go(ctx, "member", func(ctx context.Context) error {
				m.ctx = ctx
				close(begun)
				<-m.end
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			<-begun
			live = append(live, m)
		}
		finish := func(i int) {
			m := live[i]
			live = slices.Delete(live, i, i+1)
			ended = append(ended, m)
			close(m.end)
			<-m.task.Done()
		}
		check := func() {
			for _, m := range live {
				for key, value := range m.want {
					if got := m.ctx.Value(key); got != value {
						t.Fatalf("seed %d: %s is %v, want %s", seed, key, got, value)
					}
				}
				if m.task.Registry() != regs[0] && m.ctx.Value(familyKey("span")) != m.task {
					t.Fatalf("seed %d: the span is not the task's", seed)
				}
			}
		}
		for range 120 {
			switch n := random.IntN(10); {
			case len(live) == 0:
				submit(context.Background(), nil)
			case n < 5:
				m := live[random.IntN(len(live))]
				submit(m.ctx, m.want)
			case n == 5 && len(ended) > 0: // by a goroutine that the body has left behind
				submit(ended[random.IntN(len(ended))].ctx, nil)
			default:
				finish(random.IntN(len(live)))
			}
			check()
		}
		for len(live) > 0 {
			finish(random.IntN(len(live)))
			check()
		}
		for _, r := range regs { // a task lets go of others when it is done
			if err := r.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		}
		for _, m := range ended {
			x := m.task.getExtra()
			x.mu.Lock()
			if m.task.values != nil || x.children != 0 || x.holds != nil || x.base != nil || x.baseHolds != nil || x.observed != nil {
				t.Errorf("seed %d: a finished task keeps %v, and is held by %d", seed, m.task.values, x.children)
			}
			x.mu.Unlock()
		}
	}
}
