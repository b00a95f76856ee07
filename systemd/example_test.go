package systemd_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/systemd"
)

// A service of Type=notify, and what it tells systemd.
func ExampleServer() {
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		panic(err)
	}
	defer func() { _ = socket.Close() }()
	if err := os.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String()); err != nil { // which systemd does
		panic(err)
	}
	message := func() string {
		b := make([]byte, 1024)
		n, err := socket.Read(b)
		if err != nil {
			panic(err)
		}
		return string(b[:n])
	}

	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background()) // or a signal
	done := make(chan error, 1)
	go func() {
		done <- reg.Run(ctx, tether.RunConfig{LastServers: []tether.Server{systemd.Server(reg)}})
	}()
	fmt.Println(message())
	stop()
	fmt.Println(message())
	fmt.Println(<-done)
	// Output:
	// READY=1
	// STOPPING=1
	// STATUS=stopping: 0 tasks left
	// EXTEND_TIMEOUT_USEC=30000000
	// <nil>
}
