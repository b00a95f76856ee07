package peers

import "github.com/gammazero/workerpool"

// Workerpool is gammazero/workerpool: New, Do (Submit is Do and a panic instead of
// an error). It has a limit always and a queue without bounds, so that it neither
// rejects nor runs everything at once.
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
