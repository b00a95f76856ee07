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
	ending := func() *Task {
		slot, _ := r.shards[0].table.Next()
		task := &Task{queue: r.shards[0], slot: slot, kind: &kind{name: "task"}, end: Succeeded, ended: r.now()}
		task.admit(Running, begun)
		slot.Fill(task)
		return task
	}
	kept, other := ending(), ending()
	for _, task := range []*Task{kept, other} {
		if !r.history.add(task) {
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
