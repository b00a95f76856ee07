package peers

import (
	"context"
	"sync"
)

// Go is the go statement, the baseline of most workloads. It has no limit: among
// the pools it is there only as what the ratios are to.
func Go() Candidate {
	unlimited := func() (*System, error) { return &System{Task: spawn, Close: nothing}, nil }
	return Candidate{
		Name: "go", Kind: Baseline, Setting: "`go body()`; a result comes by a channel of its own with room for one; a context is `WithCancel`, one for each task",
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

// goOwnContexts gives each task what Tether's has: the submitter's values, but not
// its cancellation, and a cancel of its own. WithCancelCause would be the equal;
// WithCancel is cheaper, which is in favour of this side.
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

// requestContext is what a handler has: it can be cancelled, and has a value.
func requestContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	return context.WithValue(ctx, requestKey{}, "value"), cancel
}

// goContexts makes each task's context a child of one that is cancelled for all:
// cheaper than a list of them.
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

// GoSharedContext is the go statement with one context for all: what can be
// cancelled is all of it or nothing.
func GoSharedContext() Candidate {
	return Candidate{
		Name: "go shared ctx", Kind: Baseline, Setting: "`go body(ctx)`, no task can be cancelled alone",
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

// Inline has no concurrency at all: the submitter runs the body.
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

// resultsByChannel is what one writes where a library has no results: a channel for
// each task, with room for the value so that no task waits for its reader.
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
