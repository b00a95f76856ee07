//go:build unix

package durabletest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestServers(t *testing.T) {
	for name, get := range map[string]func(testing.TB) Server{"redis": Redis, "postgres": Postgres, "rabbitmq": RabbitMQ} {
		t.Run(name, func(t *testing.T) {
			if name == "rabbitmq" && testing.Short() {
				t.Skip("takes half a minute")
			}
			began := time.Now()
			s := get(t).(*server)
			if get(t) != s {
				t.Fatal("a second server was started")
			}
			defer stopServers()
			at, port, dir := s.Address(), s.port, s.dir
			t.Logf("%s after %v", at, time.Since(began).Round(time.Millisecond))
			first := pids(s)
			listens(t, port, true)
			runs(t, first, true)

			s.Stop(t)
			s.Stop(t) // again is nothing
			listens(t, port, false)
			gone(t, first)

			if name == "redis" { // which starts in no time
				if get(t) != s {
					t.Fatal("the next test must have the same server, started again")
				}
				s.Stop(t)
			}
			s.Start(t)
			s.Start(t)
			if s.Address() != at || s.dir != dir {
				t.Fatalf("%s at %s, before %s at %s", s.Address(), s.dir, at, dir)
			}
			listens(t, port, true)
			second := pids(s)
			runs(t, second, true)

			stopServers()
			listens(t, port, false)
			gone(t, second)
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Fatalf("data is left in %s: %v", dir, err)
			}
		})
	}
}

// A test process that is killed, by the timeout of go test say, leaves no server behind.
func TestServers_processKilled(t *testing.T) {
	const env = "DURABLETEST_SERVERS_CHILD"
	if os.Getenv(env) != "" {
		s := Redis(t).(*server)
		fmt.Println("server", s.procs[0].cmd.Process.Pid, s.procs[0].keeper.Process.Pid, s.dir)
		select {}
	}
	defer stopServers()
	Redis(t) // or skips
	child := exec.Command(os.Args[0], "-test.run=^TestServers_processKilled$")
	child.Env = append(os.Environ(), env+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pids := make([]int, 2)
	var dir string
	_, err = fmt.Fscan(out, new(string), &pids[0], &pids[1], &dir)
	_ = child.Process.Kill()
	_ = child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	runs(t, pids, false)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("data is left in %s: %v", dir, err)
	}
}

// pids returns the process groups of a server and its watchdogs.
func pids(s *server) (groups []int) {
	for _, p := range s.procs {
		groups = append(groups, p.cmd.Process.Pid, p.keeper.Process.Pid)
	}
	return groups
}

// gone fails unless all the process groups are gone now.
func gone(t *testing.T, groups []int) {
	t.Helper()
	for _, pid := range groups {
		if syscall.Kill(-pid, 0) == nil {
			t.Fatalf("of the process group %d is something left", pid)
		}
	}
}

func runs(t *testing.T, groups []int, want bool) {
	t.Helper()
	if len(groups) == 0 {
		t.Fatal("no process")
	}
	for _, pid := range groups {
		// What was killed with its group may be there a moment longer.
		late := time.Now().Add(time.Minute)
		for (syscall.Kill(-pid, 0) == nil) != want {
			if time.Now().After(late) {
				t.Fatalf("process group %d: runs is not %v", pid, want)
			}
			time.Sleep(serverPoll)
		}
	}
}

func listens(t *testing.T, port int, want bool) {
	t.Helper()
	conn, err := net.Dial("tcp", loopback(port))
	if err == nil {
		conn.Close()
	}
	if (err == nil) != want {
		t.Fatalf("listens on %d: not %v (%v)", port, want, err)
	}
}

// What a server's process has started may outlive it: it holds the server's port until it has
// ended too.
func TestServers_outlived(t *testing.T) {
	s := &server{name: "outlived", dir: t.TempDir()}
	err := s.run(syscall.SIGTERM, nil, nil, "/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & echo >up; wait")
	groups := pids(s)
	for late := time.Now().Add(time.Minute); err == nil && time.Now().Before(late); time.Sleep(serverPoll) {
		if _, up := os.Stat(s.path("up")); up == nil {
			break
		}
	}
	if !s.end() || err != nil {
		t.Fatalf("no orderly end (%v)", err)
	}
	gone(t, groups)
}

func TestRefusedAddress(t *testing.T) {
	address := RefusedAddress(t)
	if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("not refused: %v %v", conn, err)
	}
	if l, err := net.Listen("tcp", address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("another program may listen on it: %v %v", l, err)
	}
}
