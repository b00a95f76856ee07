package tether

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// A task that was admitted in time, and is not in the table yet when the time of a
// Shutdown is up, may be in the hands of an observer soon after that, which never returns.
func TestD9_ATaskThatComesAfterTheReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Logger: slog.New(slog.DiscardHandler)})
		q := r.shards[0]
		slot, ok := q.table.Next() // as a submitter does that stands still here
		if !ok {
			t.Fatal("the table is closed")
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		result := make(chan error, 1)
		go func() { result <- r.Shutdown(ctx) }()
		synctest.Wait()
		late := &Task{queue: q, slot: slot, kind: &kind{name: "late"}}
		late.admit(Queued, parked|notifying)
		slot.Fill(late) // and nothing more: the observer hangs
		err := <-result
		var left *DrainError
		if !errors.As(err, &left) || len(left.Report.Abandoned) != 1 || left.Report.Abandoned[0].Name != "late" {
			t.Errorf("Shutdown returned %v", err)
		}
	})
}

// A task may be canceled while its submitter is between making it known and pushing it.
func TestP8_ATaskThatIsCanceledBeforeItIsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Logger: slog.New(slog.DiscardHandler)})
		p := r.NewPool("pool", PoolConfig{Queue: 10, ShareLimit: 10})
		q := &p.queue
		if room := q.tryReserve(nil); room != reserved {
			t.Fatal(room)
		}
		slot, _ := q.table.Next()
		kind, _ := p.kinds.Get("task")
		task := &Task{queue: q, slot: slot, kind: kind, submitted: r.now()}
		task.admit(Queued, 0)
		slot.Fill(task)
		task.Cancel(nil)
		q.workers.Push((*node)(task))
		synctest.Wait()
		q.workers.Lock()
		plain, all, live := q.order.plain.waiting, q.order.turns.waiting, q.order.plain.live
		q.workers.Unlock()
		if plain != 0 || all != 0 || live != 0 {
			t.Errorf("%d tasks wait, %d in all shares, and %d are live", plain, all, live)
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The alarm of a pool may ring while a submitter is between reserving a place and making the
// task known, and nothing is live.
func TestP10_TheAlarmRingsBeforeATaskHasItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Logger: slog.New(slog.DiscardHandler)})
		p := r.NewPool("pool", PoolConfig{Queue: 10, MaxWait: time.Second})
		p.Pause()
		q := &p.queue
		if room := q.tryReserve(nil); room != reserved {
			t.Fatal(room)
		}
		time.Sleep(1500 * time.Millisecond)
		slot, _ := q.table.Next()
		kind, _ := p.kinds.Get("task")
		task := &Task{queue: q, slot: slot, kind: kind, submitted: r.now()}
		task.admit(Queued, 0)
		slot.Fill(task)
		q.workers.Push((*node)(task))
		time.Sleep(time.Minute)
		if task.State() != Dropped {
			t.Errorf("the task is %v", task.State())
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
