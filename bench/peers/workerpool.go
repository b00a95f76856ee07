package peers

import "github.com/gammazero/workerpool"

// Workerpool is gammazero/workerpool: New, Do (Submit is Do with a panic in the place of
// the error). It always has a limit and an unbounded queue, so it can neither reject tasks
// nor run all of them at once.
func Workerpool() Candidate {
	return Candidate{
		Name: "workerpool", Module: "github.com/gammazero/workerpool", Setting: "`New(limit).Do`", Queues: true,
		Limited: func(limit int) (*System, error) {
			p := workerpool.New(limit)
			return &System{
				Task:  func(body func()) func() error { return func() error { return p.Do(body) } },
				Close: func() error { p.StopWait(); return nil },
			}, nil
		},
	}
}
