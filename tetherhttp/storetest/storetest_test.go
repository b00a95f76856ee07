package storetest_test

import (
	"testing"

	"github.com/seed-2e639f12/tether/tetherhttp/store"
	"github.com/seed-2e639f12/tether/tetherhttp/storetest"
)

func TestMemory(t *testing.T) {
	m := storetest.NewMemory()
	storetest.Contract(t, func(*testing.T) store.Backend { return m })
}
