package sqlite_test

import (
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/seed-2e639f12/tether/durable/sqlite"
)

// A second queue in the same file, with workers of its own.
func ExampleConfig() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	engine, err := sqlite.Config{Queue: "mails", Logger: slog.Default()}.Open(filepath.Join(dir, "jobs.db"))
	if err != nil {
		log.Fatal(err)
	}
	_ = engine.Store() // for tetherhttp.NewStore, in the same file
	fmt.Println(engine.Support().Engine, engine.Close())
	// Output: sqlite <nil>
}
