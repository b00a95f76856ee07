package peers

import "sync"

const channelQueue = 1024

// Channel is a pool written by hand: a buffered channel and limit goroutines that read it.
// They are started with the pool, outside the measured time. It contains no panics and
// cannot list its tasks. A larger buffer changed nothing.
func Channel() Candidate {
	return Candidate{
		Name: "channel", Kind: Baseline, Setting: "a channel of 1024 and its readers; `select` with `default` to reject",
		Limited: func(limit int) (*System, error) {
			queue, stop := readers(limit, channelQueue)
			return &System{
				Task:  func(body func()) func() error { return func() error { queue <- body; return nil } },
				Close: stop,
			}, nil
		},
		Rejecting: func(limit, size int) (*Rejecting, error) {
			queue, stop := readers(limit, size)
			return &Rejecting{
				Queues: true,
				Task: func(body func()) func() bool {
					return func() bool {
						select {
						case queue <- body:
							return true
						default:
							return false
						}
					}
				},
				Close: stop,
			}, nil
		},
	}
}

func readers(n, size int) (queue chan func(), stop func() error) {
	queue = make(chan func(), size)
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() {
			for body := range queue {
				body()
			}
		})
	}
	return queue, func() error { close(queue); workers.Wait(); return nil }
}
