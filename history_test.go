package tether

import (
	"context"
	"log/slog"
	"slices"
	"testing"
)

// Keep comes between the moment at which a task is retained and that at which it is done,
// when it is in the ring of those that were not kept.
func TestKeep_BetweenRetentionAndTheEnd(t *testing.T) {
	r := New(Config{Retain: 2, Logger: slog.New(slog.DiscardHandler)})
	kept, other := ending(r), ending(r)
	for _, task := range []*Task{kept, other} {
		if r.history.add(task) == nil {
			t.Fatal("it is not retained")
		}
	}
	if !kept.Keep() {
		t.Error("Keep returned false for a task that has not ended")
	}
	for range 2 { // which evict both
		task, err := r.Go(context.Background(), "evicts", func(context.Context) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		<-task.Done()
	}
	kept.finishState()
	other.finishState()
	if found, err := r.Find(kept.ID()); found != kept || err != nil {
		t.Errorf("Find returns %v, %v for a kept task", found, err)
	}
	if !slices.Contains(slices.Collect(r.Finished()), kept) {
		t.Error("Finished does not have a kept task")
	}
	if _, err := r.Find(other.ID()); err != ErrExpired {
		t.Errorf("Find returns %v for an evicted task", err)
	}
	if other.Keep() {
		t.Error("Keep returned true for a task that is forgotten")
	}
	if !kept.Forget() || kept.Forget() {
		t.Error("Forget does not return true once")
	}
}

// A submission finds a Unique key whose task is done, but has not given the key back yet.
func TestT10_TheKeyOfATaskThatIsDoneIsFree(t *testing.T) {
	r := New(Config{Logger: slog.New(slog.DiscardHandler)})
	submit := func(opts ...Option) *Task {
		task, err := r.Go(context.Background(), "task", func(context.Context) error { return nil }, append(opts, Unique("key"))...)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	first := submit(Hold())
	if submit() != first {
		t.Fatal("the key is held")
	}
	first.end = Succeeded
	first.finishState() // what finish does before it frees the key
	second := submit(OnDuplicate(func(*Task) { t.Error("OnDuplicate was called with a task that is done") }), Hold())
	if second == first {
		t.Fatal("a submission joined a task that is done")
	}
	r.unique.free("key", first.startOptions().holder) // late: the key is the second one's
	if submit() != second {
		t.Error("the key was taken away from the second task")
	}
}

// The same, and the task is done before anything evicts it: it is retained with those that
// were kept, and by no more than there is room for.
func TestKeep_BetweenRetentionAndTheEndIsSettled(t *testing.T) {
	r := New(Config{Retain: 1, Logger: slog.New(slog.DiscardHandler)})
	var kept []*Task
	for range 2 {
		task := ending(r)
		ring := r.history.add(task)
		if !task.Keep() {
			t.Error("Keep returned false for a task that has not ended")
		}
		task.finishState()
		r.history.settle(task, ring)
		kept = append(kept, task)
	}
	if got := slices.Collect(r.Finished()); !slices.Equal(got, kept[1:]) {
		t.Errorf("retained: %v, want the last task alone", got)
	}
}

// ending returns a task that is about to end.
func ending(r *Registry) *Task {
	slot, _ := r.shards[0].table.Next()
	task := &Task{queue: r.shards[0], slot: slot, kind: &kind{name: "task"}, end: Succeeded, ended: r.now()}
	task.admit(Running, begun)
	slot.Fill(task)
	return task
}
