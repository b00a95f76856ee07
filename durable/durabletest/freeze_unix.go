//go:build unix

package durabletest

import (
	"context"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// freeze makes the process stand still, and thaw lets it go on. It stands still where it holds
// nothing that others need to store a job: SQLite's lock of the file is held by a process
// that is stopped while it writes.
func (p *process) freeze() {
	l := p.lab
	l.Helper()
	plain, _, _ := childJobs(role{}, nil)
	patience := l.context()
	for {
		require.NoError(l, p.cmd.Process.Signal(syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(patience, 5*time.Second)
		_, err := plain.Enqueue(ctx, l.engine, work{})
		cancel()
		if err == nil {
			return
		}
		require.NoError(l, patience.Err(), "a job is not stored beside a process that stands still: %v", err)
		p.thaw()
	}
}

func (p *process) thaw() {
	p.lab.Helper()
	require.NoError(p.lab, p.cmd.Process.Signal(syscall.SIGCONT))
}
