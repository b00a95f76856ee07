//go:build unix

package durabletest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Redis returns a redis-server of this test process, Postgres a PostgreSQL server, and
// RabbitMQ a rabbitmq-server. It is started by the first call, on a free port of the
// loopback interface and with data of its own, and serves until the process ends; what
// the tests of one process leave there, the others find, so each needs a queue of its own.
//
// Where the server is not installed the test is skipped, and fails if the environment
// variable CI is "true". Debian has them as redis-server, postgresql and rabbitmq-server.
func Redis(t testing.TB) Server {
	t.Helper()
	return redisServer.use(t)
}

// Postgres is described at [Redis]. The user may create databases.
func Postgres(t testing.TB) Server {
	t.Helper()
	return postgresServer.use(t)
}

// PgBouncer is described at [Redis]: a pooler in transaction mode before the server of
// [Postgres], with the same databases.
func PgBouncer(t testing.TB) Server {
	t.Helper()
	postgresServer.use(t)
	return pgbouncerServer.use(t)
}

// RabbitMQ is described at [Redis]. It takes about ten seconds to start.
func RabbitMQ(t testing.TB) Server {
	t.Helper()
	return rabbitServer.use(t)
}

var (
	redisServer    = &server{name: "redis-server", url: "redis://127.0.0.1:%d/0", launch: launchRedis}
	postgresServer = &server{name: "postgresql", url: "postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", launch: launchPostgres}
	rabbitServer   = &server{name: "rabbitmq-server", url: "amqp://guest:guest@127.0.0.1:%d/", launch: launchRabbitMQ}
)

var pgbouncerServer = &server{name: "pgbouncer", url: "postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", launch: launchPgBouncer}

// stopServers ends all servers of this process and removes their data.
func stopServers() {
	for _, s := range []*server{redisServer, pgbouncerServer, postgresServer, rabbitServer} {
		s.mu.Lock()
		s.end()
		os.RemoveAll(s.dir) // "" is nothing
		s.dir, s.port = "", 0
		s.mu.Unlock()
	}
}

// Guards against hanging.
const (
	startGuard = 2 * time.Minute
	stopGuard  = time.Minute
	serverPoll = 10 * time.Millisecond
)

// server is a server program with data of its own.
type server struct {
	name   string // Debian's package
	url    string // of the port
	launch func(*server) (ready func() bool, err error)

	mu     sync.Mutex // guards what follows; held while it starts and stops
	dir    string     // "": never started
	port   int
	procs  []*program // in the order in which they were started; none: it is stopped
	warned bool
	killed bool // and not started since
}

// notInstalled is what a server lacks.
type notInstalled struct{ what string }

func (e *notInstalled) Error() string { return e.what + " is not installed" }

func (s *server) use(t testing.TB) Server {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.begin()
	if missing, ok := err.(*notInstalled); ok {
		message := fmt.Sprintf("SKIPPED: %v; .ci/run installs %s", missing, s.name)
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		if !s.warned {
			s.warned = true
			fmt.Fprintln(os.Stderr, message)
		}
		t.Skip(message)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf(s.url, s.port)
}

func (s *server) Restarts() bool { return true }

func (s *server) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.end() {
		t.Fatalf("%s had to be killed: it did not end within %v", s.name, stopGuard)
	}
}

func (s *server) Kill(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // with all that it has started
		p.ask = syscall.SIGKILL
	}
	s.end()
	s.killed = true
}

func (s *server) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.begin()
	for late := time.Now().Add(stopGuard); err != nil && s.killed && time.Now().Before(late); err = s.begin() {
		time.Sleep(serverPoll) // Postgres does not start while a process of the killed one is left
	}
	if err != nil {
		t.Fatal(err)
	}
	s.killed = false
}

// begin starts the server if it does not run, with new data if it has none yet.
func (s *server) begin() error {
	if len(s.procs) > 0 {
		return nil
	}
	if s.dir != "" {
		return s.try()
	}
	// A free port may be taken by another program before the server has it.
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "durabletest-"+s.name+"-")
		if err != nil {
			return err
		}
		s.dir, s.port = dir, port
		if err = s.try(); err == nil {
			return nil
		}
		os.RemoveAll(dir)
		s.dir, s.port = "", 0
		if _, missing := err.(*notInstalled); missing || attempt == 3 {
			return err
		}
	}
}

// try starts the server and waits until it answers.
func (s *server) try() error {
	ready, err := s.launch(s)
	for late := time.Now().Add(startGuard); err == nil; time.Sleep(serverPoll) {
		switch last := len(s.procs) - 1; {
		case s.procs[last].exited():
			err = fmt.Errorf("%s ended at once", s.name)
		case ready():
			return nil
		case time.Now().After(late):
			err = fmt.Errorf("%s does not answer within %v", s.name, startGuard)
		}
	}
	if _, missing := err.(*notInstalled); !missing {
		log, _ := os.ReadFile(s.path("log"))
		err = fmt.Errorf("%w\n%s", err, log[max(0, len(log)-4000):])
	}
	s.end()
	return err
}

// end stops the server, in an orderly way if it can be had: that is what it reports.
func (s *server) end() (orderly bool) {
	orderly = true
	for _, p := range slices.Backward(s.procs) {
		orderly = p.end() && orderly
	}
	s.procs = nil
	return orderly
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

// program is a process of a server, and its watchdog.
type program struct {
	cmd    *exec.Cmd
	ask    syscall.Signal // to end
	gone   bool           // has been waited for
	alive  io.Closer      // keeps the watchdog waiting
	keeper *exec.Cmd
}

// watchdog ends a process when its standard input ends, which it does when the test
// process does in whatever way: killed by the timeout of go test, say, when nothing of
// its own can run any more. The arguments are the signal, the pid, and what is to be removed.
const watchdog = `
while read -r _; do :; done
kill -s "$1" "$2" 2>/dev/null
i=0
while kill -0 "$2" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
kill -s KILL -- "-$2" 2>/dev/null
rm -rf "$3"`

// run starts a process that writes to the server's log. It is the head of a process
// group, which has whatever it starts itself.
func (s *server) run(ask syscall.Signal, as *syscall.Credential, env []string, name string, args ...string) error {
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := &program{cmd: exec.Command(name, args...), ask: ask}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.dir, log, log
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.procs = append(s.procs, p)

	r, w, err := os.Pipe() // closed in the children, as all that Go opens
	if err != nil {
		return err
	}
	defer r.Close()
	p.alive = w
	p.keeper = exec.Command("/bin/sh", "-c", watchdog, "watchdog", strconv.Itoa(int(ask)), strconv.Itoa(p.cmd.Process.Pid), s.dir)
	p.keeper.Stdin, p.keeper.SysProcAttr = r, &syscall.SysProcAttr{Setpgid: true}
	return p.keeper.Start()
}

// exited reports whether the process has ended. It polls, so that no goroutine waits that a
// test for leaks would find.
func (p *program) exited() bool {
	if !p.gone {
		pid, err := syscall.Wait4(p.cmd.Process.Pid, nil, syscall.WNOHANG, nil)
		p.gone = pid == p.cmd.Process.Pid || err == syscall.ECHILD
	}
	return p.gone
}

// end ends the process and all that it has started: then no port is held any more. RabbitMQ's
// process is a shell, which may end before the Erlang that listens.
func (p *program) end() (orderly bool) {
	if !p.exited() {
		_ = syscall.Kill(p.cmd.Process.Pid, p.ask)
	}
	late := time.Now().Add(stopGuard)
	for !p.exited() && time.Now().Before(late) {
		time.Sleep(serverPoll)
	}
	orderly = p.exited()
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	for !p.exited() {
		time.Sleep(serverPoll)
	}
	late = time.Now().Add(stopGuard) // an init that reaps nothing must not stop the tests
	for syscall.Kill(-p.cmd.Process.Pid, 0) == nil && time.Now().Before(late) {
		time.Sleep(serverPoll)
	}
	_ = p.cmd.Process.Release()
	if p.keeper != nil && p.keeper.Process != nil {
		_ = syscall.Kill(-p.keeper.Process.Pid, syscall.SIGKILL) // before its input ends
		_ = p.keeper.Wait()
	}
	if p.alive != nil {
		p.alive.Close()
	}
	return orderly
}

// freePort returns a port of the loopback interface that no program listens on. It is below
// the ports that systems give to connections, so that none takes it while the server is stopped.
func freePort() (int, error) {
	var err error
	for range 100 {
		var l net.Listener
		port := 10_000 + rand.IntN(20_000)
		if l, err = net.Listen("tcp", loopback(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// findProgram returns the path of a program: of the highest version in folders, which are
// patterns, else the one in PATH.
func findProgram(name string, folders ...string) (string, error) {
	for _, folder := range folders {
		found, _ := filepath.Glob(filepath.Join(folder, name))
		slices.SortFunc(found, func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b) // 9 is before 15
			}
			return strings.Compare(a, b)
		})
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &notInstalled{name}
	}
	return path, nil
}

// answers reports whether the program on a port answers a greeting like this.
func answers(port int, greeting, with string) bool {
	conn, err := net.DialTimeout("tcp", loopback(port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, greeting); err != nil {
		return false
	}
	// One piece, which it is on this interface; it may also say that it is not ready yet.
	buf := make([]byte, 4096)
	n, _ := conn.Read(buf)
	return bytes.Contains(buf[:n], []byte(with))
}

func launchRedis(s *server) (func() bool, error) {
	path, err := findProgram("redis-server")
	if err != nil {
		return nil, err
	}
	return func() bool { return answers(s.port, "PING\r\n", "+PONG\r\n") },
		s.run(syscall.SIGTERM, nil, nil, path, "--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir,
			"--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
}

func launchPostgres(s *server) (func() bool, error) {
	programs := make(map[string]string)
	for _, name := range []string{"initdb", "postgres", "pg_isready"} {
		path, err := findProgram(name, "/usr/lib/postgresql/*/bin")
		if err != nil {
			return nil, err
		}
		programs[name] = path
	}
	as, err := asPostgres(s.dir)
	if err != nil {
		return nil, err
	}
	data := s.path("data")
	if _, err := os.Stat(data); err != nil {
		initdb := exec.Command(programs["initdb"], "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync")
		initdb.Dir, initdb.SysProcAttr = s.dir, &syscall.SysProcAttr{Credential: as}
		if out, err := initdb.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("initdb: %w\n%s", err, out)
		}
	}
	return func() bool {
			return exec.Command(programs["pg_isready"], "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)).Run() == nil
		},
		// SIGINT is the fast shutdown; SIGTERM would wait for all clients to go.
		s.run(syscall.SIGINT, as, nil, programs["postgres"], "-D", data, "-c", "listen_addresses=127.0.0.1",
			"-c", "port="+strconv.Itoa(s.port), "-c", "unix_socket_directories=")
}

// asPostgres returns the user postgres, to whom it gives the folder, if this process is
// root's: neither Postgres nor PgBouncer runs as root.
func asPostgres(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, &notInstalled{"a user postgres"}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func launchPgBouncer(s *server) (func() bool, error) {
	path, err := findProgram("pgbouncer", "/usr/sbin")
	if err != nil {
		return nil, err
	}
	ready, err := findProgram("pg_isready", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 10
`, postgresServer.port, s.port)
	if err := os.WriteFile(s.path("pgbouncer.ini"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	as, err := asPostgres(s.dir)
	if err != nil {
		return nil, err
	}
	return func() bool {
			return exec.Command(ready, "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)).Run() == nil
		},
		s.run(syscall.SIGINT, as, nil, path, s.path("pgbouncer.ini"))
}

func launchRabbitMQ(s *server) (func() bool, error) {
	// The one in Debian's PATH would change to a user of its own.
	path, err := findProgram("rabbitmq-server", "/usr/lib/rabbitmq/bin")
	if err != nil {
		return nil, err
	}
	epmd, err := findProgram("epmd")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path("rabbitmq.conf"), []byte("listeners.tcp.default = "+loopback(s.port)+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path("enabled_plugins"), []byte("[].\n"), 0o600); err != nil {
		return nil, err
	}
	epmdPort, err := freePort()
	if err != nil {
		return nil, err
	}
	distPort, err := freePort()
	if err != nil {
		return nil, err
	}
	env := []string{
		"HOME=" + s.dir, // with the cookie
		"RABBITMQ_NODENAME=durabletest-" + strconv.Itoa(s.port) + "@localhost",
		"RABBITMQ_MNESIA_BASE=" + s.path("mnesia"),
		"RABBITMQ_LOG_BASE=" + s.path("logs"),
		"RABBITMQ_CONFIG_FILE=" + s.path("rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE=" + os.DevNull,
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + s.path("enabled_plugins"),
		"RABBITMQ_PID_FILE=" + s.path("pid"),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(distPort),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"ERL_EPMD_PORT=" + strconv.Itoa(epmdPort),
		"ERL_EPMD_ADDRESS=127.0.0.1",
	}
	// Were there no epmd, Erlang would start one that outlives it.
	if err := s.run(syscall.SIGTERM, nil, env, epmd, "-port", strconv.Itoa(epmdPort), "-address", "127.0.0.1"); err != nil {
		return nil, err
	}
	for late := time.Now().Add(startGuard); ; time.Sleep(serverPoll) {
		if conn, err := net.Dial("tcp", loopback(epmdPort)); err == nil {
			conn.Close()
			break
		}
		if s.procs[0].exited() || time.Now().After(late) {
			return nil, fmt.Errorf("epmd does not answer")
		}
	}
	return func() bool { return answers(s.port, "AMQP\x00\x00\x09\x01", "cluster_name") },
		s.run(syscall.SIGTERM, nil, env, path)
}
