package debounce_test

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/debounce"
)

// Two changes of a document, one rebuild of its index: at once, since the stop begins.
func ExampleConfig() {
	reg := tether.New(tether.Config{})
	reindex := debounce.New(reg, "reindex", debounce.Config{
		Wait:    time.Hour,
		MaxWait: 2 * time.Hour,
		Options: []tether.Option{tether.Timeout(time.Minute)},
	})
	for version := range 2 {
		_, err := reindex.Go(context.Background(), "document 5", func(context.Context) error {
			fmt.Println("version", version)
			return nil
		})
		if err != nil {
			panic(err)
		}
	}
	fmt.Println(reg.Shutdown(context.Background()))
	// Output:
	// version 1
	// <nil>
}
