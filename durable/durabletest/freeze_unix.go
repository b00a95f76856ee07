//go:build unix

package durabletest

import (
	"syscall"

	"github.com/stretchr/testify/require"
)

// freeze makes the process stand still, and thaw lets it go on.
func (p *process) freeze() {
	p.lab.Helper()
	require.NoError(p.lab, p.cmd.Process.Signal(syscall.SIGSTOP))
}

func (p *process) thaw() {
	p.lab.Helper()
	require.NoError(p.lab, p.cmd.Process.Signal(syscall.SIGCONT))
}
