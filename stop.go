package tether

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stop is Run from the moment that the stop begins.
func (s *serving) stop() error {
	end := s.began.Add(s.cfg.StopTimeout)
	drainEnd := end.Add(-s.cfg.CloseTimeout)
	s.reg.drain.progress.plan(drainEnd)
	s.preStop()

	// The servers stop early enough to leave the tasks time after their cancellation:
	// connections that stay open must not use up the tasks' time.
	s.stopServers(s.servers, drainEnd.Add(-s.reg.lastPart(time.Until(drainEnd))))

	s.drain(drainEnd)

	closers := s.cfg.Closers
	least := leastClosing / time.Duration(len(closers)+1)
	for i, c := range closers {
		rest := time.Duration(len(closers) - i + min(1, len(s.lastServers)))
		share := max(least, time.Until(end)/rest)
		s.fail(s.step("closing "+strconv.Quote(c.Name), time.Now().Add(share), c.Close, nil))
	}
	s.stopServers(s.lastServers, time.Now().Add(max(least, time.Until(end))))
	s.reportCrashes()
	s.reportLost()
	s.reg.flushStopLog(lastRecords)
	return errors.Join(s.errs...)
}

// preStop waits for PreStop to pass, for the servers to be quiet, or for the last of them
// to end.
func (s *serving) preStop() {
	if s.cfg.PreStop == 0 {
		return
	}
	defer s.reg.drain.progress.begin("PreStop", time.Now().Add(s.cfg.PreStop))()
	timer := time.NewTimer(s.cfg.PreStop)
	defer timer.Stop()
	end := make(chan struct{})
	defer close(end)
	quiet := s.watchQuiet(end)
	for s.anyServes() {
		select {
		case <-timer.C:
			return
		case <-quiet:
			s.reg.stopLog(slog.LevelInfo, "stopping: no more requests", slog.Duration("after", time.Since(s.began)))
			return
		case srv := <-s.ended:
			s.serveFailed(srv)
		}
	}
}

// watchQuiet returns a channel that is closed when all servers are quiet, unless end is
// closed before. The goroutine of Run does not call Quiet, which may not return.
func (s *serving) watchQuiet(end <-chan struct{}) <-chan struct{} {
	quiet := make(chan struct{})
	go func() {
		ticker := time.NewTicker(quietPoll)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
			}
			all, err := s.allQuiet()
			if err != nil {
				return // it is logged
			}
			if all {
				close(quiet)
				return
			}
		}
	}()
	return quiet
}

// allQuiet reports whether each server that is left to stop is quiet. The error is that of
// a Quiet that has panicked.
func (s *serving) allQuiet() (all bool, err error) {
	all = true
	for _, srv := range s.servers {
		if !srv.serves() {
			continue
		}
		if srv.Quiet == nil {
			return false, nil
		}
		err = s.reg.contain("Quiet of "+srv.label, func() error {
			all = srv.Quiet(s.began)
			return nil
		})
		if err != nil || !all {
			return false, err
		}
	}
	return all, nil
}

// reportCrashes notes each Serve that has crashed since the stop began. What a Serve
// returns then is expected; a panic is not.
func (s *serving) reportCrashes() {
	for _, srv := range slices.Concat(s.servers, s.lastServers) {
		if srv.reported || srv.done == nil {
			continue
		}
		select {
		case <-srv.done:
			if srv.crashed {
				s.serveFailed(srv)
			}
		default: // its Stop is in errs, if it has one
		}
	}
}

func (s *serving) anyServes() bool { return slices.ContainsFunc(s.servers, (*server).serves) }

// serves reports whether the server is left to stop.
func (srv *server) serves() bool {
	select {
	case <-srv.done:
		return false
	default:
		return srv.Stop != nil
	}
}

// stopServers stops the servers, all at once, and waits for them until the deadline.
func (s *serving) stopServers(servers []*server, deadline time.Time) {
	errs := make([]error, len(servers))
	var stopped sync.WaitGroup
	for i, srv := range servers {
		if srv.Stop == nil {
			continue
		}
		stopped.Go(func() {
			errs[i] = s.step("stopping "+srv.label, deadline, func(ctx context.Context) error {
				if err := srv.Stop(ctx); err != nil || srv.done == nil {
					return err
				}
				select {
				case <-srv.done:
					return nil
				case <-ctx.Done():
					return fmt.Errorf("its Serve has not returned: %w", ctx.Err())
				}
			}, srv.Pending)
		})
	}
	stopped.Wait()
	for _, err := range errs {
		s.fail(err)
	}
}

// drain is Shutdown with a log record while it is slow.
func (s *serving) drain(deadline time.Time) {
	ctx, cancel := context.WithDeadline(s.ctx, deadline)
	defer cancel()
	defer s.logWhileSlow("drain", deadline, s.reg.pendingTasks)()
	s.fail(s.reg.drainTasks(ctx))
}

// step calls fn with a context that is done at the deadline, and returns its error,
// named. If fn has not returned then, step abandons it: fn has a goroutine of its own.
func (s *serving) step(what string, deadline time.Time, fn func(context.Context) error, pending func() string) error {
	ctx, cancel := context.WithDeadline(s.ctx, deadline)
	defer cancel()
	defer s.reg.drain.progress.begin(what, deadline)()
	defer s.logWhileSlow(what, deadline, pending)()
	share := time.Until(deadline)
	result := make(chan error, 1)
	go func() {
		err := ErrGoexit // unless fn returns
		defer func() { result <- named(what, err) }()
		err = s.reg.contain(what, func() error { return fn(ctx) })
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	// A step with little time has little time to be late, too: there may be many of them.
	late := time.NewTimer(min(lateReturn, max(share/10, min(share/2, 10*time.Millisecond))))
	defer late.Stop()
	select {
	case err := <-result:
		return err
	case <-late.C:
		return named(what, fmt.Errorf("did not return within %v: %w", share.Round(time.Millisecond), context.DeadlineExceeded))
	}
}

// logWhileSlow logs that a step is slow, and what it waits for: after two seconds, and
// again whenever its time has doubled, until the returned function is called.
func (s *serving) logWhileSlow(step string, deadline time.Time, pending func() string) (end func()) {
	done := make(chan struct{})
	began := time.Now()
	go func() {
		timer := time.NewTimer(slowStep)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
			}
			took := time.Since(began)
			attrs := []slog.Attr{
				slog.String("step", step),
				slog.Duration("took", took),
				slog.Duration("left", max(0, time.Until(deadline))),
			}
			if pending != nil {
				attrs = append(attrs, slog.String("waiting_for", s.pending(step, pending, done)))
			}
			select {
			case <-done:
				return // pending was slow itself
			default:
				s.reg.stopLog(slog.LevelWarn, "stop: slow step", attrs...)
			}
			timer.Reset(took)
		}
	}()
	return func() { close(done) }
}

// pending returns what the function of that name says, or that it does not return.
func (s *serving) pending(step string, fn func() string, done <-chan struct{}) string {
	text := make(chan string, 1)
	go func() {
		said := "unknown: Pending failed"
		defer func() { text <- said }() // also if fn panics or ends this goroutine
		_ = s.reg.contain("Pending of "+step, func() error { said = fn(); return nil })
	}()
	timer := time.NewTimer(pendingTimeout)
	defer timer.Stop()
	select {
	case said := <-text:
		return said
	case <-done:
		return ""
	case <-timer.C:
		return "unknown: Pending has not returned"
	}
}

// pendingTasks describes the live tasks: how many there are of each name, for the
// five most frequent names.
func (r *Registry) pendingTasks() string {
	counts := make(map[string]int)
	for t := range r.Tasks() {
		counts[t.Name()]++
	}
	type count struct {
		name string
		n    int
	}
	var sorted []count
	for name, n := range counts {
		sorted = append(sorted, count{name, n})
	}
	slices.SortFunc(sorted, func(a, b count) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name)) })
	var text strings.Builder
	for i, c := range sorted {
		if i == 5 {
			fmt.Fprintf(&text, ", and %d other names", len(sorted)-i)
			break
		}
		fmt.Fprintf(&text, "%s%d %s", [...]string{"", ", "}[min(i, 1)], c.n, c.name)
	}
	return text.String()
}
