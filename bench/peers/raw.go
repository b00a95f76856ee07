package peers

import (
	"context"
	"sync"
)

// Go is the go statement, the baseline of most workloads. It has no limit: it is the
// baseline of the pools too, although it does less than they do.
func Go() Candidate {
	unlimited := func() (*System, error) { return &System{Task: spawn, Close: nothing}, nil }
	return Candidate{
		Name: "go", Kind: Baseline, Setting: "`go body()`; a buffered channel for each result; a `WithCancel` context for each task",
		Unlimited: unlimited,
		Limited:   func(int) (*System, error) { return unlimited() },
		Results: func() (*Results, error) {
			return resultsByChannel(func(f func()) error { go f(); return nil }, nothing), nil
		},
		Contexts: goContexts, OwnContexts: goOwnContexts,
	}
}

func spawn(body func()) func() error {
	return func() error { go body(); return nil }
}

// goOwnContexts gives each task what a task of Tether has: the submitter's values but not
// its cancellation, and a cancel function. WithCancelCause would be the exact equivalent.
// WithCancel is cheaper, which favors the go statement.
func goOwnContexts() (*Contexts, error) {
	request, answered := requestContext()
	var tasks sync.WaitGroup
	return &Contexts{
		Task: func(body func(context.Context)) func() error {
			return func() error {
				tasks.Add(1)
				ctx, end := context.WithCancel(context.WithoutCancel(request))
				go func() {
					defer tasks.Done()
					defer end()
					body(ctx)
				}()
				return nil
			}
		},
		Cancel: func() {},
		Close:  func() error { tasks.Wait(); answered(); return nil },
	}, nil
}

type requestKey struct{}

// requestContext returns a context like that of a request: it can be canceled and has a value.
func requestContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	return context.WithValue(ctx, requestKey{}, "value"), cancel
}

// goContexts makes the context of each task a child of one root, which Cancel cancels.
// That is cheaper than a list of cancel functions.
func goContexts() (*Contexts, error) {
	root, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	return &Contexts{
		Task: func(body func(context.Context)) func() error {
			return func() error {
				tasks.Add(1)
				ctx, end := context.WithCancel(root)
				go func() {
					defer tasks.Done()
					defer end()
					body(ctx)
				}()
				return nil
			}
		},
		Cancel: cancel,
		Close:  func() error { tasks.Wait(); cancel(); return nil },
	}, nil
}

// GoSharedContext is the go statement with one context for all tasks: no task can be
// canceled alone.
func GoSharedContext() Candidate {
	return Candidate{
		Name: "go shared ctx", Kind: Baseline, Setting: "`go body(ctx)`, no task can be canceled alone",
		Contexts: func() (*Contexts, error) {
			root, cancel := context.WithCancel(context.Background())
			var tasks sync.WaitGroup
			return &Contexts{
				Task: func(body func(context.Context)) func() error {
					return func() error {
						tasks.Add(1)
						go func() { defer tasks.Done(); body(root) }()
						return nil
					}
				},
				Cancel: cancel,
				Close:  func() error { tasks.Wait(); cancel(); return nil },
			}, nil
		},
	}
}

// Inline has no concurrency: the submitter runs the body.
func Inline() Candidate {
	call := func() (*System, error) {
		return &System{
			Task:  func(body func()) func() error { return func() error { body(); return nil } },
			Close: nothing,
		}, nil
	}
	return Candidate{
		Name: "inline", Kind: Baseline, Setting: "`body()`, on one core",
		Unlimited: call, Limited: func(int) (*System, error) { return call() },
	}
}

// resultsByChannel is the idiom for libraries without results: a channel for each task,
// with room for the value, so that no task waits for its reader.
func resultsByChannel(submit func(func()) error, stop func() error) *Results {
	var wait []chan int
	return &Results{
		Sum: func(n int) (sum int, err error) {
			wait = wait[:0]
			for range n {
				c := make(chan int, 1)
				if err := submit(func() { c <- Answer }); err != nil {
					return 0, err
				}
				wait = append(wait, c)
			}
			for _, c := range wait {
				sum += <-c
			}
			return sum, nil
		},
		Close: stop,
	}
}
