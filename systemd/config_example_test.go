package systemd_test

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/systemd"
)

// A service that is ready when its cache is loaded. Without systemd all of it does nothing.
func ExampleConfig() {
	reg := tether.New(tether.Config{})
	notifier := systemd.Server(reg, systemd.Config{
		Ready: func(context.Context) error {
			_, err := systemd.Notify("STATUS=loading the cache")
			return err
		},
		Extend: time.Minute, // the default is 30 s
	})
	// In a service: tether.RunConfig{LastServers: []tether.Server{notifier}}
	fmt.Println(notifier.Name)
	// Output: systemd
}
