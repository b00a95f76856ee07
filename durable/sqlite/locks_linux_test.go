package sqlite_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process loses its locks on a file when it closes the file anywhere. Another process
// that finds no lock may remove the log that this one writes its jobs to. Only Linux lists
// the locks.
func TestOpenAgainKeepsTheLocks(t *testing.T) {
	path := file(t)
	open(t, path)
	held := func() int {
		info, err := os.Stat(path)
		require.NoError(t, err)
		locks, err := os.ReadFile("/proc/locks")
		require.NoError(t, err)
		stat, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		return strings.Count(string(locks), fmt.Sprintf(":%d ", stat.Ino))
	}
	before := held()
	require.Positive(t, before)
	open(t, path)
	assert.Equal(t, before, held())
}
